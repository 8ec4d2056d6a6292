"""A compiled graph of ``torch.compile``: it is compiled again when sizes or weights leave what it was made for."""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy
import torch
from torch.utils._python_dispatch import _disable_current_modes

from engine.capture.captured import Captured
from engine.capture.inputs import Range, range_of, unbounded
from engine.capture.pipeline import capture
from engine.compiled.module import CompiledModule
from engine.distributed.agreement import Agreement, told_if_failed
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError, RefitError
from engine.observers import CompileEvent, observed, raised_by_observer
from engine.pipeline.compilation import Choose, Compilation
from engine.process.pytorch_modes import apart
from engine.refitting.refit import refit
from engine.report import Report
from engine.settings import CompilationSettings
from engine.sizes import Int
from engine.torch_compile.functional_graph import FunctionalGraph, weight_name
from engine.torch_compile.growing_sizes import room_to_grow

_LOG = logging.getLogger("engine.torch_compile.backend")


@dataclass(frozen=True)
class Build:
    """What one build made, and the calls that it is right for.

    Attributes:
        graph: what was built.
        compiled: the engines.
        has_constants: some arguments are constants of ``compiled``, which checks them.
        weights, counted, versions: the constants of the engines, those and the tensors that hold them whose writes
            PyTorch counts (not so what was made in inference mode), and how often each of these had been written to.
        sizes: (position of an argument, dim, None for the argument itself) -> its size, as it was captured.
        bounds: position, dim, smallest and largest size, of everything that may change.
        ranges: symbol of ``sizes`` -> what it may be.
    """

    graph: FunctionalGraph
    compiled: CompiledModule
    has_constants: bool
    weights: tuple[torch.Tensor, ...]
    counted: tuple[torch.Tensor, ...]
    versions: list[int]
    sizes: dict[tuple[int, int | None], Int]
    bounds: tuple[tuple[int, int | None, int, int], ...]
    ranges: dict[sympy.Symbol, Range]

    @cached_property
    def run(self) -> Callable[..., Sequence[Any]]:
        """Takes the graph's arguments without the weights.

        Dynamo guards what a compiled module checks, but constants and CUDA graphs are its own matter.
        """
        checked = self.has_constants or self.compiled.cuda_graphs is not None
        return self.compiled if checked else self.compiled.graph_module

    def has(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the weights it was made with, unchanged."""
        return all(map(operator.is_, weights, self.weights)) and self.versions == _versions(self.counted)

    def outside(self, inputs: Sequence[Any]) -> tuple[int, int | None, int] | None:
        """Position, dim and size of the first input that is out of range; None where all are in."""
        for position, dim, low, high in self.bounds:
            size = _size_of(inputs, position, dim)
            if not low <= size <= high:
                return position, dim, size
        return None


class CompiledGraph:
    """One graph of Dynamo as engines; called with the list of all its arguments, weights among them.

    Dynamo guards everything but these, which are looked at in every call:

    - a size without an upper bound: engines are built for up to about twice the size that was seen, and built again
      for more when a larger one comes;
    - the weights, which are constants of the engines: a parameter that was replaced or changed in place (a step of
      an optimizer, ``load_state_dict``) leads to a new build;
    - buffers that are replaced again and again, by models that assign their state: they become inputs.

    Args:
        graph: the functional graph; its weights are replaced when they change.
        name: for messages.
        fallback: told the name and a reason when a later build fails; those calls then run in PyTorch.
        agreement: with the ranks that run the graph together with this one.
        choose: finds what was measured to be the fastest way, see :meth:`Compilation.lowered`.

    Raises:
        EngineError: the graph cannot be compiled.
    """

    def __init__(
        self,
        graph: FunctionalGraph,
        *,
        name: str,
        settings: CompilationSettings,
        rules: RuleSet,
        runtime: str,
        fallback: Callable[[str, str], None],
        agreement: Agreement,
        choose: Choose | None = None,
    ) -> None:
        self._graph = graph
        self._choose = choose
        self._name = name
        self._settings = settings
        self._rules = rules
        self._runtime = runtime
        self._fallback = fallback
        self._lock = threading.RLock()
        self._refused: set[Any] = set()
        self._replaced: set[int] = set()
        self.report: Report
        self._groups: tuple[str, ...] = ()
        self._current = self._build({}, agreement)

    # -------------------------------------------------------------------------------- calling

    def __call__(self, arguments: list[Any]) -> Sequence[Any]:
        """Run the graph; the list is emptied, as AOTAutograd expects."""
        current = self._current
        graph = current.graph
        inputs = graph.inputs_of(arguments)
        run: Callable[..., Sequence[Any]] = current.run
        if not current.has(graph.weights_of(arguments)) or current.outside(inputs) is not None:
            run, graph = self._other(arguments)
            inputs = graph.inputs_of(arguments)
        arguments.clear()
        # Views first, as they may be of something that is computed from what the graph writes to.
        views = None if graph.views is None else graph.views(*inputs)
        outputs = run(*inputs)
        if views is not None:
            outputs = [out if view is None else view for out, view in zip(outputs, views, strict=True)]
        # What was written to is returned as its own new value, which AOTAutograd then has nothing to copy of.
        return [*(inputs[position] for position in graph.written), *outputs] if graph.written else outputs

    def _in_pytorch(self, *inputs: Any) -> Sequence[Any]:
        outputs = self._graph.module(*inputs)
        count = len(outputs) - len(self._graph.written)
        for position, value in zip(self._graph.written, outputs[count:], strict=True):
            inputs[position].copy_(value)
        return outputs[:count]  # type: ignore[no-any-return]

    def _other(self, arguments: list[Any]) -> tuple[Callable[..., Sequence[Any]], FunctionalGraph]:
        """What runs a call that the current build is not right for, and the graph that says how it is called."""
        with self._lock:
            if self._assigned(self._graph.weights_of(arguments)):
                self._rebuild(self._current.ranges, ("inputs", *self._graph.weights), "buffers are assigned in calls")
            inputs, weights = self._graph.inputs_of(arguments), self._graph.weights_of(arguments)
            if self._current.graph is not self._graph or not self._current.has(weights):
                self._set_weights(weights)
                if self._current.graph is not self._graph or not self._refit():
                    self._rebuild(
                        self._current.ranges,
                        ("weights", *map(id, weights), *_versions(_counted(self._graph))),
                        "its weights changed",
                    )
            outside = self._current.outside(inputs)
            if outside is not None:
                position, dim, size = outside
                name = self._graph.names[position]
                ranges = self._widened(inputs)
                why = f"{name} is {size}" if dim is None else f"dim {dim} of {name} is {size}"
                self._rebuild(ranges, ("sizes", position, dim, ranges is None), why)
            current = self._current
            fits = current.graph is self._graph and current.has(weights) and current.outside(inputs) is None
            return current.run if fits else self._in_pytorch, self._graph

    def _assigned(self, weights: Sequence[torch.Tensor]) -> bool:
        """Make inputs of buffers that were replaced by other tensors for the second time; whether there are such."""
        replaced = {
            position
            for (position, known), now in zip(self._graph.weights.items(), weights, strict=True)
            if now is not known and not isinstance(now, torch.nn.Parameter)
        }
        again = replaced & self._replaced
        self._replaced |= replaced
        if again and self._graph.with_inputs is not None:
            graph = self._graph.with_inputs(sorted(again))
            graph.run, self._graph = self._graph.run, graph
        return bool(again)

    # -------------------------------------------------------------------------------- building

    def _refit(self) -> bool:
        """Put the graph's weights into the engines; False where those are not refittable."""
        current = self._current
        if current.compiled.weight_plan is None:
            return False
        weights = tuple(self._graph.weights.values())
        counted = _counted(self._graph)
        versions = _versions(counted)
        named = {weight_name(position): weight.detach() for position, weight in self._graph.weights.items()}
        try:
            with apart(), _disable_current_modes():
                compiled = refit(current.compiled, named, strict=False)
        except RefitError as error:
            _LOG.info("%s could not be refitted: %s", self._name, error)
            return False
        self._current = replace(current, compiled=compiled, weights=weights, counted=counted, versions=versions)
        _LOG.info("%s: refitted, because its weights changed", self._name)
        return True

    def _rebuild(self, ranges: dict[sympy.Symbol, Range] | None, key: Any, why: str) -> None:
        """Build for other ranges or weights; where that fails, say so, and do not try the same again."""
        if key in self._refused:
            return
        started = time.perf_counter()
        try:
            if ranges is None:
                raise EngineError("no range of sizes that an engine can have holds it")
            agreement = Agreement(self._settings.distributed_timeout, self._groups)
            with told_if_failed(agreement):
                self._current = self._build(ranges, agreement)
        except Exception as error:
            if raised_by_observer(error):
                raise
            self._refused.add(key)
            self._fallback(
                self._name, f"{why}, and the graph could not be compiled for that: {type(error).__name__}: {error}"
            )
            return
        _LOG.info("%s: compiled again in %.1f s, because %s", self._name, time.perf_counter() - started, why)

    def _set_weights(self, weights: Sequence[torch.Tensor]) -> None:
        self._graph.weights = dict(zip(self._graph.weights, weights, strict=True))
        for part in (self._graph.module, self._graph.views):
            for position, weight in self._graph.weights.items():
                if part is not None and hasattr(part, weight_name(position)):
                    setattr(part, weight_name(position), weight.detach())

    def _widened(self, inputs: Sequence[Any]) -> dict[sympy.Symbol, Range] | None:
        """Ranges that have room for the sizes of these inputs; None where there are none."""
        current = self._current
        ranges = dict(current.ranges)
        found = {(position, dim): _size_of(inputs, position, dim) for position, dim, _, _ in current.bounds}
        # Sizes that are symbols come first: others are mostly those of one that an operator needs to be equal.
        for place in sorted(found, key=lambda place: not isinstance(current.sizes[place], sympy.Symbol)):
            size = found[place]
            expected = current.sizes[place]
            ends = _ends(expected, ranges)
            if ends[0] <= size <= ends[1]:
                continue
            solved = _solved(expected, size)
            if solved is None or solved[1] < 1:
                return None
            symbol, value = solved
            known = ranges[symbol]
            most = known.max if value <= known.max else unbounded(value)
            ranges[symbol] = Range(min(known.min, value), known.opt, most)
        for place, size in found.items():
            low, high = _ends(current.sizes[place], ranges)
            if not low <= size <= high:
                return None
        return ranges

    def _build(self, ranges: Mapping[sympy.Symbol, Range], agreement: Agreement) -> Build:
        report = Report(model=self._name)
        weights = tuple(self._graph.weights.values())
        counted = _counted(self._graph)
        versions = _versions(counted)  # before the build: a write while it goes on is noticed
        with observed("compile", CompileEvent, self._name) as event, apart(), _disable_current_modes():
            if event is not None:
                event.report = report
            placeholders = [node.name for node in self._graph.module.graph.nodes if node.op == "placeholder"]
            captured = capture(
                self._graph.module,
                settings=self._settings,
                timings=report.timings,
                guarded=True,
                values=True,
                written=[placeholders[position] for position in self._graph.written],
                room=room_to_grow(self._graph.module),
            )
            captured.ranges.update(ranges)
            compilation = Compilation.lowered(captured, self._rules, self._settings, report, choose=self._choose)
            compilation.join(agreement)
            self._groups = agreement.groups
            compilation.place()
            self.report = report
            compiled = compilation.build(self._runtime)
            compilation.settle(agreement)
        sizes = _sizes(captured)
        return Build(
            graph=self._graph,
            compiled=compiled,
            has_constants=any(argument.is_constant for argument in captured.arguments),
            weights=weights,
            counted=counted,
            versions=versions,
            sizes=sizes,
            bounds=tuple(
                (position, dim, *_ends(size, captured.ranges))
                for (position, dim), size in sizes.items()
                if not isinstance(size, int)
            ),
            ranges=dict(captured.ranges),
        )


def _counted(graph: FunctionalGraph) -> tuple[torch.Tensor, ...]:
    """The tensors that hold the weights and whose writes PyTorch counts."""
    return tuple(tensor for tensor in (*graph.weights.values(), *graph.wholes) if not tensor.is_inference())


def _versions(counted: Sequence[torch.Tensor]) -> list[int]:
    return [tensor._version for tensor in counted]


def _sizes(captured: Captured) -> dict[tuple[int, int | None], Int]:
    """Position among the arguments and dim (None: the argument itself) -> size, as it was captured."""
    found: dict[tuple[int, int | None], Int] = {}
    for position, argument in enumerate(captured.arguments):
        if argument.shape is not None:
            found.update({(position, dim): size for dim, size in enumerate(argument.shape)})
        elif argument.symbol is not None:
            found[position, None] = argument.symbol
    return found


def _size_of(inputs: Sequence[Any], position: int, dim: int | None) -> int:
    return inputs[position] if dim is None else inputs[position].shape[dim]  # type: ignore[no-any-return]


def _solved(expression: Int, size: int) -> tuple[sympy.Symbol, int] | None:
    """The only symbol of an expression, and its value where the expression is a size; None where there is no such."""
    if isinstance(expression, int) or len(expression.free_symbols) != 1:
        return None
    (symbol,) = expression.free_symbols
    if expression == symbol:
        return symbol, size
    roots = [root for root in sympy.solve(expression - size, symbol) if root.is_Integer]
    return (symbol, int(roots[0])) if roots else None


def _ends(size: Int, ranges: Mapping[sympy.Symbol, Range]) -> tuple[int, int]:
    ends = range_of(size, ranges)
    return ends.min, ends.max


__all__ = ["CompiledGraph"]

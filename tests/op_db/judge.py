"""Running calls through the compiler, many in one engine, and judging each."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.utils import _pytree as pytree

import engine
from engine.errors import CaptureError
from engine.graph.marks import BOUNDARY_CAST
from tests.op_db.agreement import but_for_nan, disagreement
from tests.op_db.operands import LookedAt, Operands, results_of
from tests.op_db.outcome import BETWEEN_CASTS, CONSTANT, PASSED, Outcome, plain
from tests.op_db.samples import Batch, Call

# Layers of an engine, about, and calls at most.  A build of TensorRT's takes more than twice as long for twice the
# layers: 0.3 s for 116 layers of max pooling, 2.4 s for 449, 70 s for 1,169.  Calls that turn out to need more were
# captured in vain, which costs more than another engine does: few in an engine are of entries not seen before.
LAYERS = 160
TOGETHER = 48
UNKNOWN = 8
SETTINGS = engine.CompilationSettings.from_kwargs(min_block_size=1)


class Judged(NamedTuple):
    """The outcome of a call, and the ops that it was captured as if it passed, with the dtypes that these work on."""

    outcome: Outcome
    operands: Operands


def judge(
    calls: Sequence[Call],
    rules: engine.RuleSet,
    device: str = "cpu",
    settings: engine.CompilationSettings = SETTINGS,
    alone: Collection[int] = (),
) -> list[Judged]:
    """What becomes of each call; ``device="cuda"`` runs the engines themselves, not the interpreter.

    Args:
        alone: numbers of calls that would spoil an engine for others: they would have to be looked for.
    """
    run = _Run(calls, rules, device, settings)
    fit = []
    for index, call in enumerate(calls):
        unfit = _unfit(call)
        if unfit is None:
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    # Some ops write to their operands after all.
                    run.wanted[index] = call(copy.deepcopy(call.tensors))
            except Exception as error:
                unfit = f"PyTorch rejects it: {plain(str(error))}"
            else:
                unfit = _unfit_result(run.wanted[index])
        if unfit is None:
            fit.append(index)
        else:
            run.judged[index] = Judged(Outcome("not captured", unfit), {})
    for index in alone:
        if index in fit:
            fit.remove(index)
            run.together([index])
    while fit:
        most = run.portion(fit)
        now, fit = fit[:most], fit[most:]
        run.together(now)
    return [run.judged[index] for index in range(len(calls))]


def _unfit(call: Call) -> str | None:
    for tensor in call.tensors:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return "a tensor that is not dense"
    return None


def _unfit_result(leaves: Sequence[Any]) -> str | None:
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return "the result is no tensor"
    if any(isinstance(leaf, torch.Tensor) and leaf.layout is not torch.strided for leaf in leaves):
        return "a tensor that is not dense"
    return None


class _Run:
    def __init__(
        self, calls: Sequence[Call], rules: engine.RuleSet, device: str, settings: engine.CompilationSettings
    ) -> None:
        self.calls, self.rules, self.device, self.settings = calls, rules, device, settings
        self.wanted: dict[int, list[Any]] = {}
        self.judged: dict[int, Judged] = {}
        self.layers: dict[str, int] = {}  # that a call of an entry needed at most so far

    def portion(self, waiting: Sequence[int]) -> int:
        """How many of these calls, which are at least one, the next engine gets."""
        room, unknown = LAYERS, 0
        for taken, index in enumerate(waiting[:TOGETHER]):
            entry = self.calls[index].entry
            unknown += entry not in self.layers
            room -= self.layers.get(entry, 0)
            if taken and (unknown > UNKNOWN or room < 0):
                return taken
        return min(TOGETHER, len(waiting))

    def together(self, indices: Sequence[int]) -> None:
        """Judge calls in one engine, or several if it gets too large; what goes wrong is looked for by halves."""
        if not indices:
            return
        batch = Batch([self.calls[index] for index in indices])
        # Copies, because some calls write to their operands.  Within a call what shares memory does, but samples of an
        # entry that share a tensor get one each: a model must not write to what another of its inputs is.
        copies = [copy.deepcopy(self.calls[index].tensors) for index in indices]
        inputs = [tensor.to(self.device) for tensors in copies for tensor in tensors]
        runtime = "interpreter" if self.device == "cpu" else "python"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                looking = LookedAt.start(batch, inputs, None, None, [self.rules], self.settings)
                looking.place()
                counts = [len(self.wanted[index]) for index in indices]
                if self._split(indices, looking.planned_layers(counts)):
                    return
                compiled = looking.build(runtime)
                found = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, compiled(*inputs))
        except Exception as error:
            if len(indices) > 1:
                self._halves(indices)
            elif isinstance(error, CaptureError) or "canonical graph" in str(error):
                self.judged[indices[0]] = Judged(Outcome("not captured", plain(str(error))), {})
            else:
                failed = Outcome("failed", f"{type(error).__name__}: {plain(str(error))}")
                self.judged[indices[0]] = Judged(failed, {})
            return
        again = []
        slices = results_of(compiled.report.decisions.mirror.graph, counts)
        reasons = {fallback.node: f"{fallback.op}: {plain(fallback.reason)}" for fallback in compiled.report.fallbacks}
        for index, leaves, nodes, ops in zip(indices, found, slices, looking.operands(counts), strict=True):
            outcome = self._outcome(index, leaves, nodes, reasons)
            # TensorRT may refuse many tiles for the fault of one, and results may be wrong only beside others.
            if len(indices) > 1 and (outcome.kind == "failed" or "TensorRT rejected it" in outcome.reason):
                again.append(index)
            else:
                self.judged[index] = Judged(outcome, ops if outcome.kind == "passed" else {})
        if len(again) < len(indices):
            self.together(again)
        else:
            self._halves(again)

    def _split(self, indices: Sequence[int], layers: Sequence[int]) -> bool:
        """Several engines instead of one with so many layers, of each call; whether it was too many."""
        for index, needed in zip(indices, layers, strict=True):
            entry = self.calls[index].entry
            self.layers[entry] = max(needed, self.layers.get(entry, 0))
        if len(indices) == 1 or sum(layers) <= 3 * LAYERS:
            return False
        engines: list[list[int]] = [[]]
        room = 2 * LAYERS
        for index, needed in zip(indices, layers, strict=True):
            if needed > room and engines[-1]:
                engines.append([])
                room = 2 * LAYERS
            engines[-1].append(index)
            room -= needed
        for together in engines:
            self.together(together)
        return True

    def _halves(self, indices: Sequence[int]) -> None:
        middle = len(indices) // 2
        self.together(indices[:middle])
        self.together(indices[middle:])

    def _outcome(self, index: int, leaves: list[Any], nodes: list[fx.Node], reasons: dict[str, str]) -> Outcome:
        wrong = disagreement(self.wanted[index], leaves, self.calls[index])
        casts = {node for node in nodes if BOUNDARY_CAST in node.meta}
        outside = [reasons[node.name] for node in nodes if node.name in reasons and node not in casts]
        drawn = next((node for node in nodes if node.name in reasons and _draws(node)), None)
        if drawn is not None:
            return self._drawn(index, leaves, drawn)
        if wrong is not None and not outside and but_for_nan(self.wanted[index], leaves, self.calls[index]):
            return Outcome("passed", "but for nan")
        if wrong is not None:
            return Outcome("failed", plain(wrong))
        if outside:
            return Outcome("in PyTorch", outside[0])
        if not any(node.op == "call_function" and node not in casts for node in nodes):
            return CONSTANT
        return BETWEEN_CASTS if casts else PASSED

    def _drawn(self, index: int, leaves: list[Any], node: fx.Node) -> Outcome:
        """Of random numbers only shapes and dtypes can be compared."""
        for want, have in zip(self.wanted[index], leaves, strict=True):
            if (want.shape, want.dtype) != (have.shape, have.dtype):
                return Outcome("failed", f"{have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}")
        return Outcome("in PyTorch", f"draws random numbers ({node.target})")


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())

"""Running calls through the compiler, many in one engine, and judging each."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

import engine
from engine.errors import CaptureError
from tests.op_db.agreement import but_for_nan, disagreement
from tests.op_db.outcome import CONSTANT, PASSED, Outcome, plain
from tests.op_db.samples import Batch, Call

TOGETHER = 32


def judge(
    op: Callable[..., Any], calls: Sequence[Call], rules: engine.RuleSet, name: str, device: str = "cpu"
) -> list[Outcome]:
    """The outcome of each call; ``device="cuda"`` runs the engines themselves, not the interpreter."""
    outcomes: dict[int, Outcome] = {}
    wanted: dict[int, list[Any]] = {}
    for index, call in enumerate(calls):
        unfit = _unfit(call)
        if unfit is None:
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    # Some ops write to their operands after all.
                    wanted[index] = call(op, copy.deepcopy(call.tensors))
            except Exception as error:
                unfit = f"PyTorch refuses it: {plain(str(error))}"
            else:
                unfit = _unfit_result(wanted[index])
        if unfit is not None:
            outcomes[index] = Outcome("not captured", unfit)
    run = _Run(op, calls, rules, wanted, outcomes, name, device)
    fit = [index for index in range(len(calls)) if index not in outcomes]
    for start in range(0, len(fit), TOGETHER):
        run.together(fit[start : start + TOGETHER])
    return [outcomes[index] for index in range(len(calls))]


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
        self,
        op: Callable[..., Any],
        calls: Sequence[Call],
        rules: engine.RuleSet,
        wanted: dict[int, list[Any]],
        outcomes: dict[int, Outcome],
        name: str,
        device: str,
    ) -> None:
        self.op, self.calls, self.rules, self.wanted, self.outcomes = op, calls, rules, wanted, outcomes
        self.name, self.device = name, device

    def together(self, indices: Sequence[int]) -> None:
        """Judge calls in one engine; what goes wrong is looked for by halves."""
        if not indices:
            return
        batch = Batch(self.op, [self.calls[index] for index in indices])
        inputs = [tensor.to(self.device) for tensor in batch.inputs]
        runtime = "interpreter" if self.device == "cpu" else "python"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled = engine.compile(batch, inputs, rules=[self.rules], min_block_size=1, runtime=runtime)
                found = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, compiled(*inputs))
        except Exception as error:
            if len(indices) > 1:
                self._halves(indices)
            elif isinstance(error, CaptureError) or "canonical graph" in str(error):
                self.outcomes[indices[0]] = Outcome("not captured", plain(str(error)))
            else:
                self.outcomes[indices[0]] = Outcome("failed", f"{type(error).__name__}: {plain(str(error))}")
            return
        again = []
        slices = _slices(compiled, [len(self.wanted[index]) for index in indices])
        reasons = {fallback.node: f"{fallback.op}: {plain(fallback.reason)}" for fallback in compiled.report.fallbacks}
        for index, leaves, nodes in zip(indices, found, slices, strict=True):
            outcome = self._outcome(index, leaves, nodes, reasons)
            # TensorRT may refuse many tiles for the fault of one, and results may be wrong only beside others.
            if len(indices) > 1 and (outcome.kind == "failed" or "TensorRT refused it" in outcome.reason):
                again.append(index)
            else:
                self.outcomes[index] = outcome
        if len(again) < len(indices):
            self.together(again)
        else:
            self._halves(again)

    def _halves(self, indices: Sequence[int]) -> None:
        middle = len(indices) // 2
        self.together(indices[:middle])
        self.together(indices[middle:])

    def _outcome(self, index: int, leaves: list[Any], nodes: list[fx.Node], reasons: dict[str, str]) -> Outcome:
        wrong = disagreement(self.wanted[index], leaves, self.calls[index], self.name, self.op)
        outside = [reasons[node.name] for node in nodes if node.name in reasons]
        drawn = next((node for node in nodes if node.name in reasons and _draws(node)), None)
        if drawn is not None:
            return self._drawn(index, leaves, drawn)
        if wrong is not None and not outside and but_for_nan(self.wanted[index], leaves, self.calls[index], self.name):
            return Outcome("passed", "but for nan")
        if wrong is not None:
            return Outcome("failed", plain(wrong))
        if outside:
            return Outcome("in PyTorch", outside[0])
        return PASSED if any(node.op == "call_function" for node in nodes) else CONSTANT

    def _drawn(self, index: int, leaves: list[Any], node: fx.Node) -> Outcome:
        """Of random numbers only shapes and dtypes can be compared."""
        for want, have in zip(self.wanted[index], leaves, strict=True):
            if (want.shape, want.dtype) != (have.shape, have.dtype):
                return Outcome("failed", f"{have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}")
        return Outcome("in PyTorch", f"draws random numbers ({node.target})")


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _slices(compiled: Any, counts: Sequence[int]) -> list[list[fx.Node]]:
    """The nodes that the results of each call depend on, in graph order."""
    graph: fx.Graph = compiled._mirror.graph
    order = {node: position for position, node in enumerate(graph.nodes)}
    results = list(next(reversed(order)).args[0])
    found = []
    for count in counts:
        mine, results = results[:count], results[count:]
        pending, seen = [item for item in mine if isinstance(item, fx.Node)], set()
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending.extend(node.all_input_nodes)
        found.append(sorted(seen, key=order.__getitem__))
    return found

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
from tests.op_db.operands import LookedAt, Operands, add, results_of
from tests.op_db.outcome import CONSTANT, PASSED, Outcome, plain
from tests.op_db.samples import Batch, Call

# Layers of an engine, about, and calls at most.  A build of TensorRT's takes more than twice as long for twice the
# layers: 0.3 s for 116 layers of max pooling, 2.4 s for 449, 70 s for 1,169.
LAYERS = 160
TOGETHER = 64
SETTINGS = engine.CompilationSettings.from_kwargs(min_block_size=1)


def judge(
    op: Callable[..., Any],
    calls: Sequence[Call],
    rules: engine.RuleSet,
    name: str,
    device: str = "cpu",
    operands: Operands | None = None,
) -> list[Outcome]:
    """The outcome of each call; ``device="cuda"`` runs the engines themselves, not the interpreter.

    Args:
        operands: where the ops of calls that pass are noted, with the dtypes of their operands.
    """
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
    run = _Run(op, calls, rules, wanted, outcomes, name, device, {} if operands is None else operands)
    fit = [index for index in range(len(calls)) if index not in outcomes]
    while fit:
        now, fit = fit[: run.most], fit[run.most :]
        run.together(now)
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
        operands: Operands,
    ) -> None:
        self.op, self.calls, self.rules, self.wanted, self.outcomes = op, calls, rules, wanted, outcomes
        self.name, self.device, self.operands = name, device, operands
        self.most = 8  # calls in the next engine, by the layers of the one before

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
                looking = LookedAt.start(batch, inputs, None, None, [self.rules], SETTINGS)
                looking.place()
                compiled = looking.build(runtime)
                found = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, compiled(*inputs))
        except Exception as error:
            if len(indices) > 1:
                self._halves(indices)
            elif isinstance(error, CaptureError) or "canonical graph" in str(error):
                self.outcomes[indices[0]] = Outcome("not captured", plain(str(error)))
            else:
                self.outcomes[indices[0]] = Outcome("failed", f"{type(error).__name__}: {plain(str(error))}")
            return
        layers = sum(segment.layers for segment in compiled.report.segments)
        self.most = max(1, min(TOGETHER, LAYERS * len(indices) // max(1, layers)))
        again = []
        counts = [len(self.wanted[index]) for index in indices]
        slices = results_of(compiled._mirror.graph, counts)
        reasons = {fallback.node: f"{fallback.op}: {plain(fallback.reason)}" for fallback in compiled.report.fallbacks}
        for index, leaves, nodes, ops in zip(indices, found, slices, looking.operands(counts), strict=True):
            outcome = self._outcome(index, leaves, nodes, reasons)
            # TensorRT may refuse many tiles for the fault of one, and results may be wrong only beside others.
            if len(indices) > 1 and (outcome.kind == "failed" or "TensorRT refused it" in outcome.reason):
                again.append(index)
            else:
                self.outcomes[index] = outcome
                if outcome.kind == "passed":
                    add(self.operands, ops)
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

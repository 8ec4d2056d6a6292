"""Running cases, many in one engine, and saying what is wrong with each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

import engine
from engine.capture import capture
from engine.errors import CaptureError, InputError
from engine.pipeline.compilation import Compilation, load_rules
from engine.report import Report
from tests.comparison import TOLERANCE
from tests.dynamic.case import MODES, SIZES, USUAL, Calls, Case, points


def faults(cases: Mapping[str, Case], mode: str, device: str = "cpu") -> dict[str, str]:
    """What is wrong with cases in a mode, by name; those without a dynamic size in it are left out.

    Args:
        device: where the engines run, ``cpu`` by the interpreter; on a GPU only cases that are whole in one.
    """
    fit = [name for name, each in cases.items() if any(size in MODES[mode] for o in each.operands for size in o.shape)]
    found: dict[str, str] = {}
    if device != "cpu":
        fit = [name for name in fit if not cases[name].outside and mode not in cases[name].fixed]
    for name in fit:
        if mode in cases[name].fixed:
            wrong = _captured_after_all(cases[name], mode)
            if wrong:
                found[name] = wrong
    free = [name for name in fit if mode not in cases[name].fixed]
    _together({name: cases[name] for name in free}, mode, device, found)
    return found


def _captured_after_all(each: Case, mode: str) -> str | None:
    """Why a case that PyTorch is said to fix is wrong about that."""
    model = Calls([each])
    try:
        captured = capture(model, _inputs(model), dynamic_shapes={"tensors": model.dims(mode)})
    except CaptureError:
        return None
    try:
        for sizes in points(mode):
            captured.bind(model.tensors(sizes))
    except InputError:
        return None
    return "it was captured for all sizes after all"


def _inputs(model: Calls) -> list[torch.Tensor]:
    return model.tensors({name: values[USUAL] for name, values in SIZES.items()})


def _together(cases: Mapping[str, Case], mode: str, device: str, found: dict[str, str]) -> None:
    """Judge cases in one engine; an error is looked for by halves."""
    if not cases:
        return
    try:
        _judge(cases, mode, device, found)
    except Exception as error:
        if len(cases) == 1:
            found[next(iter(cases))] = f"{type(error).__name__}: {error}"
            return
        names = list(cases)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            _together({name: cases[name] for name in half}, mode, device, found)


def _judge(cases: Mapping[str, Case], mode: str, device: str, found: dict[str, str]) -> None:
    model = Calls(list(cases.values())).eval()
    settings = engine.CompilationSettings.from_kwargs(min_block_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = [len(leaves) for leaves in model(*_inputs(model))]
        captured = capture(model, _inputs(model), dynamic_shapes={"tensors": model.dims(mode)}, settings=settings)
        reached = [{_name(node) for node in part} for part in parts(captured.graph, counts)]
        compilation = Compilation.lowered(captured, load_rules(()), settings, Report("calls"))
        compilation.place()
        compiled = compilation.build("interpreter" if device == "cpu" else "auto")
    reasons = {fallback.node: f"{fallback.op}: {fallback.reason}" for fallback in compiled.report.fallbacks}
    for (name, each), ops, nodes in zip(cases.items(), reached, parts(compilation.mirror.graph, counts), strict=True):
        missing = [op for op in each.ops if op not in ops]
        outside = [reasons[node.name] for node in nodes if node.name in reasons]
        if missing:
            found[name] = f"the graph has no {', '.join(missing)}, but {', '.join(sorted(ops))}"
        elif not each.outside and outside:
            found[name] = f"in PyTorch: {'; '.join(outside)}"
        elif each.outside and not (outside and all(each.outside in reason for reason in outside)):
            found[name] = f"not in PyTorch for the reason given, but {outside or 'in an engine'}"
    for sizes in points(mode):
        tensors = model.tensors(sizes)
        with torch.no_grad():
            wanted, got = model(*tensors), compiled(*(tensor.to(device) for tensor in tensors))
        for (name, each), want, have in zip(cases.items(), wanted, got, strict=True):
            text = _difference(want, have, each.unwritten, device)
            if text is not None:
                found.setdefault(name, f"at {sizes}: {text}")


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.")


def parts(graph: fx.Graph, counts: Sequence[int]) -> list[list[fx.Node]]:
    """The nodes that each of several groups of results depends on."""
    results = list(next(node for node in reversed(graph.nodes) if node.op == "output").args[0])
    found = []
    for count in counts:
        mine, results = results[:count], results[count:]
        pending = [item for item in mine if isinstance(item, fx.Node)]
        seen: dict[fx.Node, None] = {}
        while pending:
            node = pending.pop()
            if node not in seen:
                seen[node] = None
                pending.extend(node.all_input_nodes)
        found.append(list(seen))
    return found


def _difference(wanted: Sequence[Any], found: Sequence[Any], unwritten: bool, device: str) -> str | None:
    for index, (want, have) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(want, torch.Tensor):
            if want != have:
                return f"result {index} is {have!r}, not {want!r}"
            continue
        if unwritten:
            want, have = torch.zeros_like(want), torch.zeros_like(have)
        near = TOLERANCE[device]
        # In TF32 a sum of products is as exact as its largest terms are.
        far = near if device == "cpu" else near * _scale(want)
        try:
            torch.testing.assert_close(have.cpu(), want, rtol=near, atol=far, equal_nan=True, check_stride=False)
        except AssertionError as error:
            return f"result {index}: {' '.join(str(error).split())}"
    return None


def _scale(tensor: torch.Tensor) -> float:
    finite = tensor[tensor.isfinite()].double().abs() if tensor.is_floating_point() else tensor.new_zeros(0)
    return max(1.0, float(finite.max())) if finite.numel() else 1.0


__all__ = ["faults"]

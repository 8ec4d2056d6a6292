"""One model in one form: compiled, run at all its sizes, and compared with the model in float64."""

from __future__ import annotations

import copy
import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import engine
from tests.model_table.forms import Form
from tests.model_table.subject import Call, Made, Point, Subject, points
from tests.zoo.forms import exported
from tests.zoo.request import Built

__all__ = ["OUTCOMES", "Row", "judged", "refuse_memory", "words"]

# What can become of a model, and how the page says it.
OUTCOMES = {
    "whole": "one engine, right at every size",
    "multiples": "one engine, right for multiples; for other sizes the model's own code decides something else",
    "parts": "right at every size, with nodes that stay in PyTorch or in several engines",
    "wrong": "values, shapes or dtypes differ from the model's",
    "failed": "compiled, and ends in an error at some size",
    "refused": "`engine.compile` raises",
    "not exported": "`engine.compile` raises, and so does PyTorch's own `torch.export`",
    "no eager": "PyTorch itself does not run the model in this form",
    "one size": "the model's own code takes one size",
    "no batch": "the model takes no batch",
    "over time": "longer than the limit",
    "over memory": "more than the limit",
    "crashed": "the process ended",
}

# Right is what is no farther from float64 than this many times eager's own distance, or this many units in the last
# place of the largest magnitude.
_TIMES_EAGER, _UNITS = 8, 32
_ALONE = 1e-4  # where no reference in float64 can be had
_ROOT = Path(__file__).parents[2]
# Of what is raised, the first lines and characters, and the line of the model.
_LINES, _LONGEST = 2, 400


@dataclass
class Row:
    """What became of a model in a form.

    Attributes:
        outcome: key of ``OUTCOMES``.
        coverage: share of nodes in engines.
        engines: how many.
        reason: the first reason why it is not whole, or what was raised.
        sizes: batch and sizes that the compiled model was run with.
        step: what the sizes are multiples of.
        error: largest distance from the model in float64, over the largest magnitude of that output.
        eager: the same of eager PyTorch in this dtype; None where the model does not run in float64, and ``error`` is
            the distance from eager.
        seconds: of processor time, to compile.
    """

    outcome: str
    coverage: float | None = None
    engines: int | None = None
    reason: str = ""
    sizes: list[list[int]] = field(default_factory=list)
    step: int = 1
    error: float | None = None
    eager: float | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what is not known."""
        known = {key: value for key, value in asdict(self).items() if value not in (None, "", [])}
        return known | {key: float(f"{known[key]:.3g}") for key in ("error", "eager") if key in known}


def judged(subject: Subject, made: Made, form: Form, phase: Callable[[str], None]) -> Row:
    """Compile a model in a form and compare it; ``made`` is in float32 and is not changed.

    ``phase`` is told what is done next, for the words of a process that was stopped.
    """
    if form.dynamic != "static" and subject.dynamic is None:
        return Row("no batch")
    if form.dynamic == "sizes" and not made.ranges:
        return Row("one size", reason="sizes are not varied for this model")
    phase("in eager PyTorch")
    model = _copied(subject, made)
    nn.Module.to(model, form.dtype)
    try:
        step, sizes = _chosen(subject, made, model, form)
    except Exception as error:
        refuse_memory(error)
        return Row("no eager" if form.dynamic != "sizes" else "one size", reason=words(error))
    row = _compiled(subject, made, model, form, step, sizes, phase)
    if form.dynamic == "sizes" and row.outcome in ("refused", "not exported", "failed"):
        for other in subject.steps:
            if other > step and _several(made, other):
                again = _compiled(subject, made, model, form, other, points(made.ranges, other, subject.most), phase)
                if again.outcome == "whole":
                    again.outcome, again.reason = "multiples", row.reason
                    return again
    return row


def _copied(subject: Subject, made: Made) -> nn.Module:
    try:
        return copy.deepcopy(made.model)
    except RuntimeError:
        # ``weight_norm`` keeps a weight that has a gradient until the model first runs without one.
        _run(made.model, subject.call(Point(2, made.usual)))
        return copy.deepcopy(made.model)


def _compiled(
    subject: Subject,
    made: Made,
    model: nn.Module,
    form: Form,
    step: int,
    sizes: list[Point],
    phase: Callable[[str], None],
) -> Row:
    phase("while it compiled")
    # The example is neither the least nor the greatest.
    example = sizes[len(sizes) // 2]
    args, kwargs = _cast(form.dtype, subject.call(example))
    dynamic = None
    if form.dynamic != "static":
        assert subject.dynamic is not None
        dynamic = subject.dynamic(made.ranges, step if form.dynamic == "sizes" else None)
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = engine.compile(model, args, kwargs, dynamic_shapes=dynamic, runtime="interpreter")
    except Exception as error:
        refuse_memory(error)
        phase("in torch.export")
        outcome = "not exported" if exported(Built(model, args, kwargs, dynamic)) else "refused"
        return Row(outcome, reason=words(error), step=step)
    seconds = round(time.process_time() - start, 1)
    report = compiled.report
    engines = sum(segment.backend == "tensorrt" for segment in report.segments)
    whole = report.coverage == 1.0 and len(report.segments) == engines == 1
    # Of an engine that was too small to keep, the reason is what cut it off.
    left = sorted(report.fallbacks, key=lambda fallback: "smaller than min_block_size" in fallback.reason)
    reason = next((f"{f.op}: {f.reason}" for f in left), "" if whole else f"{engines} engines")
    row = Row(
        "whole" if whole else "parts", round(report.coverage, 4), engines, _short(reason), step=step, seconds=seconds
    )
    phase("while it ran")
    return _compared(row, subject, compiled, model, form, sizes)


def _several(made: Made, step: int) -> bool:
    """Whether each range has several multiples of a step."""
    return all(high // step > -(-low // step) for low, high in made.ranges)


def _chosen(subject: Subject, made: Made, model: nn.Module, form: Form) -> tuple[int, list[Point]]:
    """The step and the sizes that the model itself takes; raises what the model raises."""
    if form.dynamic == "static":
        candidates = [(1, [Point(2, made.usual)])]
    elif form.dynamic == "batch":
        fixed = tuple((size, size) for size in made.usual)
        candidates = [(1, points(fixed, 1, subject.most))]
    else:
        several = [step for step in subject.steps if _several(made, step)]
        candidates = [(step, points(made.ranges, step, subject.most)) for step in several]
    raised: Exception | None = None
    for step, sizes in candidates:
        try:
            for point in sizes if form.dynamic == "sizes" else sizes[:1]:
                _run(model, _cast(form.dtype, subject.call(point)))
        except Exception as error:
            refuse_memory(error)
            raised = raised or error
        else:
            return step, sizes
    assert raised is not None
    raise raised


def _run(model: Any, call: Call) -> Any:
    with torch.no_grad():
        return model(*call[0], **call[1])


def _cast(dtype: torch.dtype, call: Call) -> Call:
    def moved(value: torch.Tensor) -> torch.Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    return pytree.tree_map_only(torch.Tensor, moved, call)


def _compared(row: Row, subject: Subject, compiled: Any, model: nn.Module, form: Form, sizes: list[Point]) -> Row:
    double = nn.Module.to(copy.deepcopy(model), torch.float64)
    for point in sizes:
        torch.manual_seed(len(row.sizes) + 1)
        call = _cast(form.dtype, subject.call(point))
        wanted = _run(model, copy.deepcopy(call))
        try:
            got = compiled(*call[0], **call[1])
        except Exception as error:
            refuse_memory(error)
            row.outcome, row.reason = "failed", _short(f"at {_text(point)}: {words(error)}")
            return row
        row.sizes.append([point.batch, *point.sizes])
        try:
            reference = _run(double, _cast(torch.float64, call)) if double is not None else None
        except Exception as error:
            refuse_memory(error)
            double = reference = None
        different = _differences(row, got, wanted, reference, torch.finfo(form.dtype).eps)
        if different:
            row.outcome, row.reason = "wrong", _short(f"at {_text(point)}: {different}")
            return row
    return row


def _text(point: Point) -> str:
    return " x ".join(map(str, (point.batch, *point.sizes)))


def _differences(row: Row, got: Any, wanted: Any, reference: Any, unit: float) -> str:
    """What is wrong with an answer, in words; the largest errors are kept in ``row``."""
    have, spec = pytree.tree_flatten(got)
    want, wanted_spec = pytree.tree_flatten(wanted)
    if spec != wanted_spec:
        return f"gives {spec} instead of {wanted_spec}"
    references = pytree.tree_leaves(reference) if reference is not None else [None] * len(want)
    for place, (ours, eagers, true) in enumerate(zip(have, want, references, strict=True)):
        if not isinstance(eagers, torch.Tensor):
            if ours != eagers:
                return f"output {place} is {ours} instead of {eagers}"
            continue
        if (ours.dtype, ours.shape) != (eagers.dtype, eagers.shape):
            return f"output {place} is {ours.dtype} {[*ours.shape]} instead of {eagers.dtype} {[*eagers.shape]}"
        if not eagers.is_floating_point():
            differ = int((ours != eagers).sum())
            if differ and (true is None or int((eagers != true).sum()) < differ):
                return f"{differ} of {eagers.numel()} elements of output {place} differ"
            continue
        mine, its = _distance(ours, eagers, true)
        row.error = max(row.error or 0.0, mine)
        if true is not None:
            row.eager = max(row.eager or 0.0, its)
        if not mine <= (max(_TIMES_EAGER * its, _UNITS * unit) if true is not None else max(_ALONE, _UNITS * unit)):
            return f"output {place} is {mine:.1e} from float64, eager PyTorch {its:.1e}"
    return ""


def _distance(ours: torch.Tensor, eagers: torch.Tensor, true: torch.Tensor | None) -> tuple[float, float]:
    """Largest distances from ``true`` over its largest magnitude, where eager's values are finite.

    Without ``true``, our distance from eager.
    """
    goal = (eagers if true is None else true).double()
    finite = eagers.isfinite() & goal.isfinite()
    if not torch.equal(ours.isfinite()[finite], finite[finite]):
        return math.inf, 0.0
    if not finite.any():
        return 0.0, 0.0
    scale = max(float(goal[finite].abs().max()), 1e-30)
    mine = float((ours.double() - goal)[finite].abs().max()) / scale
    return mine, float((eagers.double() - goal)[finite].abs().max()) / scale


def refuse_memory(error: Exception) -> None:
    """Raises ``MemoryError`` for what says that there is no more memory: that is no word about a model."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise MemoryError from error


def words(error: Exception) -> str:
    """Class and message of an error, on one line and without folders of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line for line in lines[_LINES:] if re.match(r"(at|the model fixes)\b", line)), "")
    return _short(f"{type(error).__name__}: {' '.join([*lines[:_LINES], where])}")


def _short(text: str) -> str:
    text = re.sub(r"\S*/site-packages/", "", " ".join(text.split())).replace(f"{_ROOT}/", "")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

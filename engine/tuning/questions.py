"""Questions: a rule at all places of one structure, and the ways to compute these places, measured on one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import sympy
import torch

from engine.capture.inputs import range_of
from engine.errors import EngineError
from engine.matcher.choices import Choices, Site
from engine.observers import raised_by_observer
from engine.pipeline.compilation import Compilation
from engine.report.tuning import Decision, Way
from engine.tuning.exactness import Reference
from engine.tuning.parts import NoPart, Part, Parts
from engine.tuning.recorder import Recorder, Use, by_site
from engine.tuning.timing import median_ms
from engine.tuning.ways import Compiler, caller, form, rules_of, run

AS_RULES_DECIDE = "as rules decide"
# Ways of one question: rules that win in turn as others are left out, and those that are only used where chosen.
_MOST_WAYS = 5
# Of what a way must save at least to be taken: less than that is noise.
MARGIN = 0.02


@dataclass(frozen=True)
class Question:
    """Rules that are about the same nodes, where these are, and the part of the model that stands for all places.

    Attributes:
        uses: one for each rule, those that are used first; the question goes by the first of them.
        places: the nodes of each place.
        weight: bytes of all tensors of all places, which is how much there may be to save.
    """

    uses: tuple[Use, ...]
    places: tuple[frozenset[str], ...]
    part: Part
    weight: int

    @property
    def site(self) -> Site:
        """What the question goes by."""
        return self.uses[0].site

    @property
    def what(self) -> str:
        """The ops and what they read, for people."""
        return self.uses[0].what


def questions(parts: Parts, uses: Sequence[Use], fixed: frozenset[str]) -> list[Question]:
    """What there is to ask about a model; what moves most bytes first.

    Args:
        fixed: rules that a setting of the user asks for, which are not left out.
    """
    groups: dict[frozenset[str], list[list[Use]]] = {}
    for places in by_site(uses):
        if places[0].site.rule not in fixed:
            groups.setdefault(places[0].nodes, []).append(places)
    found: list[Question] = []
    for nodes, rules in groups.items():
        try:
            part = parts.part(nodes)
        except NoPart:
            continue
        rules.sort(key=lambda places: places[0].optional)
        everywhere = tuple(dict.fromkeys(use.nodes for places in rules for use in places))
        weight = _bytes(part, parts) * len(everywhere)
        found.append(Question(tuple(places[0] for places in rules), everywhere, part, weight))
    return sorted(found, key=lambda question: -question.weight)


def _bytes(part: Part, parts: Parts) -> int:
    """Bytes of all tensors of a part, at the usual sizes."""
    total = 0
    for node in part.captured.graph.nodes:
        fakes = node.meta.get("val")
        for fake in fakes if isinstance(fakes, tuple | list) else (fakes,):
            if isinstance(fake, torch.Tensor):
                sizes = [_usual(size, parts) for size in fake.shape]
                total += prod(sizes) * fake.dtype.itemsize
    return total


def _usual(size: Any, parts: Parts) -> int:
    expression = size.node.expr if isinstance(size, torch.SymInt) else size
    return range_of(expression, parts.captured.ranges).opt if isinstance(expression, sympy.Basic) else int(size)


@dataclass
class _Way:
    name: str
    choices: Choices
    compilation: Compilation
    uses: list[Use]


def ways(question: Question, compiler: Compiler) -> list[_Way]:
    """The ways that differ, that of the rules first; fewer than two where there is nothing to choose."""
    base = _lowered(question, compiler, AS_RULES_DECIDE, Recorder())
    before = {use.site for use in base.uses}
    found, forms = [base], {form(base.compilation)}
    none: frozenset[Site] = frozenset()
    waiting: list[tuple[str, frozenset[Site], frozenset[Site]]] = []
    # Optional rules first: they were written because they are faster somewhere.
    for site, _, _, optional in sorted(question.uses, key=lambda use: not use.optional):
        if site in before:  # and not only in the surroundings that the whole model has
            chosen = frozenset({site})
            waiting.append((f"with {site.rule}", none, chosen) if optional else (f"without {site.rule}", chosen, none))
    while waiting and len(found) < _MOST_WAYS:
        name, left_out, used = waiting.pop(0)
        way = _lowered(question, compiler, name, Recorder(left_out, used))
        if len(way.compilation.partition.reasons) > len(base.compilation.partition.reasons):
            continue  # without the rule nodes stay in PyTorch: that is no choice between rules
        shown = form(way.compilation)
        if shown not in forms:
            forms.add(shown)
            found.append(way)
        for use in way.uses if left_out else ():
            if use.site not in before and not use.optional:
                before.add(use.site)
                waiting.append((f"{name}, {use.site.rule}", left_out | {use.site}, used))
    return found


def _lowered(question: Question, compiler: Compiler, name: str, recorder: Recorder) -> _Way:
    compilation = compiler.lowered(question.part, recorder)
    choices = Choices(recorder.left_out, recorder.used)
    return _Way(name, choices, compilation, recorder.uses(compilation))


def inputs_of(part: Part, values: Mapping[str, Any], captured: Any) -> list[Any]:
    """The inputs of a part among recorded values."""
    found = []
    for name in part.inputs:
        if isinstance(name, sympy.Symbol):
            found.append(captured.ranges[name].opt)
        else:
            value = values[name[0]]
            found.append(value[name[1]] if isinstance(value, list | tuple) else value)
    return found


def decided(
    question: Question, compiler: Compiler, inputs: list[Any], device: torch.device, tolerance: float
) -> Decision:
    """Measure the ways of a question, and take the fastest that is exact enough; there may be one alone.

    Args:
        device: where modules run.
        tolerance: see the setting ``tune_tolerance``.
    """
    possible = ways(question, compiler)
    if len(possible) < 2:
        return _settled(question)
    reference = Reference(question.part.captured, inputs)
    given = [value.to(device).contiguous() if isinstance(value, torch.Tensor) else value for value in inputs]
    on_gpu = device.type == "cuda"
    measured: list[Way] = []
    calls: dict[int, Any] = {}
    for index, way in enumerate(possible):
        choices = way.choices
        rules = rules_of(way.compilation)
        told = Way(way.name, _pairs(choices.left_out), _pairs(choices.used), rules)
        try:
            module = compiler.built(way.compilation)
            error = reference.error(run(module, given))
        except EngineError as failure:
            if raised_by_observer(failure):
                raise
            measured.append(replace(told, why_not=str(failure).partition("\n")[0]))
        else:
            why_not = "" if isfinite(error) else "its results are not finite where PyTorch's are"
            if index and way.compilation.report.refusals:
                why_not = "TensorRT refuses it"
            measured.append(replace(told, error=finite(error), why_not=why_not))
            calls[index] = caller(module, given, on_gpu=on_gpu)
    if 0 not in calls or len(calls) < 2:
        return _settled(question)
    times = median_ms(list(calls.values()), on_gpu=on_gpu)
    for index, ms in zip(calls, times, strict=True):
        measured[index] = replace(measured[index], ms=ms)
    measured, taken = chosen(measured, reference.eager_error, tolerance)
    site = question.site
    return Decision(
        site.rule,
        site.structure,
        question.what,
        len(question.places),
        tuple(measured),
        taken,
        finite(reference.eager_error),
    )


def _settled(question: Question) -> Decision:
    """There is nothing to choose, which the cache remembers."""
    site, places = question.site, len(question.places)
    return Decision(site.rule, site.structure, question.what, places, (Way(AS_RULES_DECIDE),), 0)


def finite(error: float) -> float | None:
    """An error as it can be written to a file."""
    return error if isfinite(error) else None


def chosen(ways: list[Way], eager_error: float, tolerance: float) -> tuple[list[Way], int]:
    """The ways, with why faster ones are not taken, and which one is."""
    first = ways[0]
    assert first.ms is not None
    allowed = max(tolerance * eager_error, first.error or 0.0)
    taken, least, result = 0, first.ms * (1 - MARGIN), [first]
    for index, way in enumerate(ways[1:], 1):
        ms = way.ms
        if ms is not None and ms < least and not way.why_not:
            if way.error is None or way.error > allowed:
                way = replace(way, why_not=f"its error is over tune_tolerance={tolerance:g}")
            else:
                taken, least = index, ms
        result.append(way)
    return result, taken


def _pairs(sites: frozenset[Site]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((site.rule, site.structure) for site in sites))


__all__ = ["MARGIN", "Question", "chosen", "decided", "inputs_of", "questions", "ways"]

"""Decisions that were measured before, used for a model without measuring anything."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import torch

from engine.capture import Captured
from engine.dsl.ruleset import RuleSet
from engine.errors import TuningWarning, user_frame
from engine.lowering.rank_decisions import traced
from engine.lowering.segment_engine import interprets
from engine.matcher.choices import Choices
from engine.pipeline.compilation import Choose
from engine.report.tuning import TUNED, UNTUNED, Tuning
from engine.settings import CompilationSettings
from engine.tuning.decisions import Decisions, read
from engine.tuning.machine import Machine


def chosen(
    decisions: Decisions, captured: Captured, rules: RuleSet, settings: CompilationSettings
) -> tuple[CompilationSettings, Choices, Tuning]:
    """What decisions that may be used here mean for a captured model: settings, choices, and what the report says."""
    model = traced(captured.graph).digest[:40]
    whole = decisions.wholes.get(model)
    kept = whole.kept if whole is not None else TUNED if decisions.decisions else UNTUNED
    choices = decisions.choices(model)
    if choices.in_pytorch and settings.require_full_compilation:
        kept, choices = UNTUNED, Choices()
    if choices.in_pytorch:
        settings = settings.replace(torch_segments="inductor")
    notes = []
    if decisions.rules != rules.hash:
        notes.append("the decisions were measured with other rules: where those differ, a choice may be slower now")
    listed = tuple(replace(one, source="file") for one in decisions.decisions.values())
    tuning = Tuning(str(decisions.machine), listed, kept, notes=tuple(notes), file=decisions.text())
    if whole is not None:
        tuning.ms, tuning.errors, tuning.why = dict(whole.ms), dict(whole.errors), whole.why
    return settings, choices, tuning


def replayed_by(settings: CompilationSettings, runtime: str) -> Choose:
    """What finds the choices for a model in the file that the setting ``tune`` names, which is read now.

    Raises:
        FileError: there is no such file, or it is damaged.
    """
    return partial(chosen, decisions_for(settings, runtime))


def decisions_for(settings: CompilationSettings, runtime: str) -> Decisions:
    """The decisions in the file that the setting ``tune`` names; none where they are of another GPU or TensorRT.

    They would be right there, too, but nobody knows whether they would be faster: there is a warning.  A machine that
    has no GPU, and builds or interprets for one that has, uses them.

    Raises:
        FileError: there is no such file, or it is damaged.
    """
    assert isinstance(settings.tune, str)
    found = read(settings.tune)
    here, measured = Machine.here(runtime), found.machine
    elsewhere = not interprets(runtime) and torch.cuda.is_available() and here[:2] != measured[:2]
    if not elsewhere and here.tensorrt == measured.tensorrt:
        return found
    warnings.warn(
        f"{settings.tune} is of {measured}, and this is {here}: its decisions are not used, because nobody knows "
        "whether they are faster here; measure again with tune=True or `engine tune`",
        TuningWarning,
        stacklevel=user_frame(),
    )
    return Decisions(measured, found.conditions, found.rules)


__all__ = ["chosen", "decisions_for", "replayed_by"]

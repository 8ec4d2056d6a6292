"""Tuning of one model: its questions are asked, and the whole is compared with the untuned whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from math import isfinite
from time import perf_counter
from typing import Any

import torch

from engine.capture import Captured
from engine.compiled.module import CompiledModule
from engine.distributed.collectives import collectives
from engine.dsl.checks import needs
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError, SettingsError
from engine.lowering.rank_decisions import traced
from engine.lowering.segment_engine import interprets
from engine.matcher.choices import Choices
from engine.observers import raised_by_observer
from engine.pipeline.compilation import Compilation, captured_model, load_rules
from engine.process.pytorch_modes import apart
from engine.report import Report
from engine.report.tuning import IN_PYTORCH, TUNED, UNTUNED, Decision, Tuning
from engine.runtime.controls import runtime_config
from engine.runtime.whole_graphs import engines_of
from engine.settings import CompilationSettings
from engine.tuning.budget import Budget, Shown, shown
from engine.tuning.cache import TuningCache
from engine.tuning.decisions import Decisions, Whole, choices_of
from engine.tuning.exactness import Reference
from engine.tuning.machine import INTERPRETER, Machine, conditions
from engine.tuning.parts import Parts, copied
from engine.tuning.questions import Question, decided, finite, inputs_of, questions
from engine.tuning.recorder import Recorder
from engine.tuning.timing import median_ms
from engine.tuning.values import example_inputs, own, recorded
from engine.tuning.ways import Compiler, caller, run

# Of what the whole must be faster at least.
_MARGIN = 0.01
# Builds of the whole, each with half of the choices of the one before.
_MOST_TRIES = 3


def check_can_measure(runtime: str) -> None:
    """Whether there is something here to measure on.

    Raises:
        SettingsError: there is no GPU, and the interpreter was not asked for.
    """
    if runtime != "interpreter" and not torch.cuda.is_available():
        raise SettingsError(
            "tune=True measures on a GPU, and there is none here: run `engine tune` on a machine that has one, and "
            'replay its file here with tune="decisions.json"'
        )


@dataclass
class _Build:
    """One form of the whole model."""

    name: str
    compilation: Compilation
    module: CompiledModule
    ms: float | None = None
    error: float | None = None


@dataclass
class Tuned:
    """A tuned model."""

    compilation: Compilation
    module: CompiledModule


@dataclass
class Tuner:
    """What is needed to compile the model in several ways.

    Attributes:
        captured: the model, which is not changed.
        inputs: flat inputs to measure with.
        report: of capturing.
    """

    captured: Captured
    inputs: list[Any]
    rules: RuleSet
    settings: CompilationSettings
    runtime: str
    report: Report
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = Machine.here(self.runtime)
        ranges = sorted(map(str, self.captured.ranges.values()))
        usual = sorted(allowed.opt for allowed in self.captured.ranges.values())
        told = conditions(self.settings, self.rules.hash, [ranges, usual])
        self.cache = TuningCache(self.settings, self.machine, told, self.rules.hash)
        self.on_gpu = not interprets(self.runtime)
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.on_gpu else torch.device("cpu")
        self.model = traced(self.captured.graph).digest[:40]

    # ------------------------------------------------------------------------------------ the whole

    def tuned(self, bar: Shown) -> Tuned:
        """Ask what there is to ask, build what was decided, and keep the fastest."""
        budget = Budget(self.settings.tune_budget)
        known = self.cache.load()
        recorder = Recorder()
        bar.begins("the untuned module")
        untuned = self._lowered(recorder, self.settings)
        decisions, unasked = self._decisions(untuned, recorder, known, budget, bar)
        key = self._key(decisions)
        whole = known.wholes.get(key)
        if whole is not None:
            build = self._again(whole, untuned, decisions)
        else:
            build, whole = self._compared(untuned, decisions, key, budget, bar)
            self.cache.keep(Decisions(*_head(known), {}, {key: whole}))
        listed = [one if one.taken == 0 or one.site in whole.sites else _dropped(one) for one in decisions]
        # For whoever replays the file the model goes by itself: its choices are the file's.
        found = Decisions(
            *_head(known), {one.site: one for one in listed}, {self.model: replace(whole, model=self.model)}
        )
        build.compilation.report.tuning = Tuning(
            str(self.machine), tuple(listed), whole.kept, dict(whole.ms), dict(whole.errors), whole.why, unasked,
            tuple(self.notes), found.text(),
        )  # fmt: skip
        return Tuned(build.compilation, build.module)

    def _key(self, decisions: Sequence[Decision]) -> str:
        """A digest of the model and of what was decided about its parts."""
        sites = sorted((*one.site, one.way.left_out, one.way.used) for one in decisions if one.taken)
        return sha256(repr((self.model, sites)).encode()).hexdigest()[:40]

    def _lowered(self, choices: Choices, settings: CompilationSettings) -> Compilation:
        report = Report(model=self.report.model)
        compilation = Compilation.lowered(copied(self.captured), self.rules, settings, report, choices=choices)
        compilation.place()
        return compilation

    def _built(self, name: str, compilation: Compilation) -> _Build:
        return _Build(name, compilation, compilation.build(self.runtime))

    def _in_pytorch(self) -> _Build:
        settings = self.settings.replace(torch_segments="inductor")
        return self._built(IN_PYTORCH, self._lowered(Choices(in_pytorch=True), settings))

    def _again(self, whole: Whole, untuned: Compilation, decisions: Sequence[Decision]) -> _Build:
        """The form that was found to be the fastest before."""
        if whole.kept == IN_PYTORCH:
            return self._in_pytorch()
        if whole.kept == TUNED:
            return self._tuned([one for one in decisions if one.site in whole.sites])
        return self._built(UNTUNED, untuned)

    def _tuned(self, decisions: Sequence[Decision]) -> _Build:
        return self._built(TUNED, self._lowered(choices_of(decisions), self.settings))

    def _compared(
        self, untuned: Compilation, decisions: Sequence[Decision], key: str, budget: Budget, bar: Shown
    ) -> tuple[_Build, Whole]:
        """Every form of the whole, built and measured in turns; the fastest that is exact enough."""
        first = self._built(UNTUNED, untuned)
        # Those that save most first: where all of them together are slower, the best of them may not be.
        taken = sorted((one for one in decisions if one.taken), key=lambda one: -one.gain)
        reference: Reference | None = None
        best: _Build | None = None
        sites: tuple[tuple[str, str], ...] = ()
        found: dict[str, _Build] = {UNTUNED: first}
        for _ in range(_MOST_TRIES if taken else 0):
            bar.begins(f"the whole with {len(taken)} choices")
            build = self._try(partial(self._tuned, taken))
            if build is not None:
                reference = reference or Reference(self.captured, self.inputs)
                self._measure([first, build], reference)
                found[TUNED] = build
                if self._is_better(build, first, reference):
                    best, sites = build, tuple(one.site for one in taken)
                    break
            taken = taken[: len(taken) // 2]
            if not taken or not budget.left:
                break
        if self._may_be_in_pytorch() and budget.left:
            bar.begins("the whole in PyTorch, compiled by Inductor")
            build = self._try(self._in_pytorch)
            if build is not None:
                reference = reference or Reference(self.captured, self.inputs)
                against = best or first
                self._measure([first, build] if best is None else [first, best, build], reference)
                found[IN_PYTORCH] = build
                if self._is_better(build, against, reference):
                    best, sites = build, ()
        kept = best or first
        ms = {name: build.ms for name, build in found.items() if build.ms is not None}
        errors = {name: build.error for name, build in found.items() if build.error is not None}
        if reference is not None and isfinite(reference.eager_error):
            errors["eager"] = reference.eager_error
        if best is not None:
            why = f"{ms[UNTUNED] / ms[best.name]:.2f} times as fast as untuned"
        elif ms:
            why = "nothing else is faster and exact enough"
        else:
            why = "no rule was found to be faster otherwise"
        return kept, Whole(key, kept.name, ms, errors, why, sites)

    def _is_better(self, build: _Build, other: _Build, reference: Reference) -> bool:
        """Whether one form is faster than another, by more than noise, and exact enough."""
        assert build.ms is not None
        assert other.ms is not None
        if build.ms >= other.ms * (1 - _MARGIN):
            return False
        tolerance = self.settings.tune_tolerance
        if build.error is not None and build.error <= max(tolerance * reference.eager_error, other.error or 0.0):
            return True
        self.notes.append(
            f"the {build.name} module would take {build.ms:.4f} ms, and is not kept: its error is over "
            f"tune_tolerance={tolerance:g}"
        )
        return False

    def _may_be_in_pytorch(self) -> bool:
        return self.on_gpu and not self.settings.require_full_compilation

    def _try(self, make: Callable[[], _Build]) -> _Build | None:
        try:
            return make()
        except EngineError as error:
            if raised_by_observer(error):
                raise
            self.notes.append(f"a form of the whole could not be built: {str(error).partition(chr(10))[0]}")
            return None

    def _measure(self, builds: list[_Build], reference: Reference) -> None:
        given = [value.to(self.device) if isinstance(value, torch.Tensor) else value for value in self.inputs]
        with ExitStack() as stack:
            for build in builds:
                stack.enter_context(_unchanged(build.module))
                if self.on_gpu and self.captured.ranges and any(True for _ in engines_of(build.module)):
                    options = {"dynamic_shapes_kernel_specialization_strategy": "eager"}
                    stack.enter_context(runtime_config(build.module, **options))
                if build.error is None:
                    build.error = finite(reference.error(run(build.module, [own(value) for value in given])))
            # Inputs that the model writes to get tensors of their own.
            calls = [caller(build.module, [own(value) for value in given], on_gpu=self.on_gpu) for build in builds]
            for build, ms in zip(builds, median_ms(calls, on_gpu=self.on_gpu), strict=True):
                build.ms = ms

    # ------------------------------------------------------------------------------------ the questions

    def _decisions(
        self, untuned: Compilation, recorder: Recorder, known: Decisions, budget: Budget, bar: Shown
    ) -> tuple[list[Decision], int]:
        """The decisions about a model, and how many questions there was no time for."""
        parts = Parts(copied(self.captured))
        asked = questions(parts, recorder.uses(untuned), self._fixed())
        compiler = Compiler.of(self.rules, self.settings, self.runtime)
        found: dict[tuple[str, str], Decision] = {}
        new: dict[tuple[str, str], Decision] = {}
        unasked = 0
        values: dict[str, Any] | None = None
        bar.begins("questions", len(asked))
        for question in asked:
            kept = known.decisions.get(question.site)
            if kept is not None:
                found[question.site] = replace(kept, places=len(question.places), what=question.what, source="cache")
            elif not budget.left:
                unasked += 1
            else:
                if values is None:
                    names = {name[0] for one in asked for name in one.part.inputs if isinstance(name, tuple)}
                    values = recorded(self.captured, self.inputs, names)
                bar.begins(question.what[:60])
                decision = self._ask(question, compiler, values)
                if decision is not None:
                    found[question.site] = new[question.site] = decision
            bar.done()
        if new:
            self.cache.keep(Decisions(*_head(known), new))
        listed = [found[question.site] for question in asked if question.site in found]
        # One without another way only tells the cache that there is none.
        return _apart([d for d in listed if len(d.ways) > 1], asked), unasked

    def _ask(self, question: Question, compiler: Compiler, values: Mapping[str, Any]) -> Decision | None:
        inputs = inputs_of(question.part, values, self.captured)
        try:
            return decided(question, compiler, inputs, self.device, self.settings.tune_tolerance)
        except (EngineError, RuntimeError, TypeError, NotImplementedError) as error:
            if raised_by_observer(error):
                raise
            said = str(error).strip().partition("\n")[0]
            self.notes.append(f"{question.site.rule} could not be measured at {question.what}: {said}")
            return None

    def _fixed(self) -> frozenset[str]:
        """Rules that a setting of the user asks for."""
        wanted = [name for name in needs.MORE_EXACT if getattr(self.settings, name)]
        return frozenset(rule.id for rule in self.rules.rules if any(needs.setting(t) in wanted for t in rule.needs))


def _dropped(decision: Decision) -> Decision:
    """The same without its choice, because the whole was not faster with it."""
    return _untaken(decision, "the whole is not faster with it")


def _untaken(decision: Decision, why_not: str) -> Decision:
    ways = list(decision.ways)
    ways[decision.taken] = replace(decision.way, why_not=why_not)
    return replace(decision, ways=tuple(ways), taken=0)


def _head(known: Decisions) -> tuple[Machine, str, str]:
    return known.machine, known.conditions, known.rules


def _apart(decisions: list[Decision], asked: Sequence[Question]) -> list[Decision]:
    """The decisions; where two for other ways are about the same nodes, the one that saves more stands."""
    nodes: dict[tuple[str, str], frozenset[str]] = {
        question.site: frozenset().union(*question.places) for question in asked
    }
    taken: set[str] = set()
    dropped: set[tuple[str, str]] = set()
    for decision in sorted(decisions, key=lambda decision: -decision.gain):
        if decision.taken:
            if taken & nodes[decision.site]:
                dropped.add(decision.site)
            else:
                taken |= nodes[decision.site]
    return [
        _untaken(one, "another choice about the same nodes saves more") if one.site in dropped else one
        for one in decisions
    ]


class _unchanged(ExitStack):
    """The states of a module as they were, when the body has run."""

    def __init__(self, module: CompiledModule) -> None:
        super().__init__()
        buffers = [module.graph_module.get_buffer(name) for name in module.states.buffers.values()]
        before = [buffer.clone() for buffer in buffers]

        def back() -> None:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

        self.callback(back)


def tune(
    model: Any,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    rules: Any,
    runtime: str,
    settings: CompilationSettings,
    report: Report,
) -> Tuned:
    """Compile a model in the way that is measured to be the fastest.

    Raises:
        SettingsError: there is nothing to measure on, or several ranks run the model together.
    """
    check_can_measure(runtime)
    with report.timings.phase("rules"):
        ruleset = load_rules(rules)
    captured = captured_model(model, args, kwargs, dynamic_shapes, settings, report, values=True)
    if next(collectives(captured.graph), None) is not None:
        raise SettingsError(
            "tune=True cannot measure a model that several ranks run together: each would wait for the others; replay "
            'decisions that were measured on parts of it with tune="decisions.json"'
        )
    started = perf_counter()
    with apart(), shown() as bar:
        inputs = example_inputs(captured, model, args, kwargs)
        # Rules that are only used where that was measured are there from now on.
        tuner = Tuner(captured, inputs, ruleset, settings, runtime, report)
        if tuner.machine.gpu == INTERPRETER:
            tuner.notes.append("times are those of the interpreter on a CPU: they say nothing about a GPU")
        done = tuner.tuned(bar)
    own = done.compilation.report.timings
    spent = perf_counter() - started - own.total
    own.phases = {**report.timings.phases, **own.phases, "tune": spent}
    return done


__all__ = ["Tuned", "check_can_measure", "tune"]

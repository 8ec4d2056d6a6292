"""The pipeline: from a PyTorch model to a module whose segments are TensorRT engines.

:class:`Compilation` reads top to bottom as the pipeline of ``docs/architecture.md``: capture, rewrite, tile,
partition, convert, assemble.  A tile that TensorRT refuses is noted with its reason, and tiling starts
again without it, until everything that is left builds.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import torch
from torch import fx

from engine import tensorrt
from engine.builder import compute_capabilities, for_this_gpu
from engine.capture import Captured, capture
from engine.capture.tracing.tracing_lock import tracing_lock
from engine.capture.values import check_values
from engine.compiled.module import CompiledModule
from engine.distributed.agreement import Agreement
from engine.distributed.collectives import collectives, groups_of
from engine.dsl.ruleset import RuleSet
from engine.errors import (
    BuildError,
    CaptureError,
    ConversionError,
    CoverageError,
    InputError,
    SettingsError,
    TensorRTNotFound,
)
from engine.evaluator import Faults
from engine.graph.aliases import memory_of
from engine.graph.marks import BOUNDARY_CAST
from engine.graph.mirror import Mirror
from engine.inductor.description import describe_torch_segments
from engine.inductor.grouping import grouped, torch_segments
from engine.lowering import rule_times
from engine.lowering.assembly import assemble, state_buffer
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.rank_decisions import Traced, decisions, rank_facts, traced
from engine.lowering.rejections import Rejections
from engine.lowering.segment_engine import SegmentEngine, interprets, write_network
from engine.lowering.snapshot import ModelMemory
from engine.lowering.subgraphs import Subgraphs
from engine.lowering.summary import kept_notes, not_covered, summarize, warn_of_refusals
from engine.matcher.choices import Choices
from engine.observers import PartitionEvent, observed, raised_by_observer
from engine.partitioner import Partition, Segment, partition
from engine.process.collector import collector_held_back
from engine.process.pytorch_modes import apart
from engine.refitting.weight_map import weight_plan
from engine.report import Report, model_name
from engine.report.tuning import Tuning
from engine.settings import CompilationSettings
from engine.weights.frozen_constants import frozen_constant

Choose: TypeAlias = "Callable[[Captured, RuleSet, CompilationSettings], tuple[CompilationSettings, Choices, Tuning]]"
"""Finds what was measured to be the fastest way for a captured graph, and what the report says of it."""


def load_rules(rules: Any) -> RuleSet:
    """The rule set for the ``rules`` argument: built-in rules plus the user's files.

    Args:
        rules: one :class:`engine.RuleSet`, alone or as the only element of a list; a path, or several.

    Raises:
        RuleError: with every mistake in every file.
        SettingsError: it is something else.
    """
    if isinstance(rules, RuleSet):
        return rules
    if isinstance(rules, str | os.PathLike):
        return RuleSet.load(os.fspath(rules))
    if rules is None or isinstance(rules, bytes) or not isinstance(rules, Iterable):
        raise SettingsError(f"rules={rules!r}: pass a list of paths of .rules files or folders, or one RuleSet")
    given = tuple(rules)
    if len(given) == 1 and isinstance(given[0], RuleSet):
        return given[0]
    if any(isinstance(item, RuleSet) for item in given):
        raise SettingsError(
            'rules= takes one RuleSet or a list of paths, not both: RuleSet.load("one.rules", "other.rules") holds the '
            "built-in rules and those of several files, and RuleSet.from_text(text, builtin=True) those of a text"
        )
    return RuleSet.load(*given)


def captured_model(
    model: Any,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    settings: CompilationSettings,
    report: Report,
    *,
    values: bool = False,
) -> Captured:
    """The graph of a model, as :func:`engine.capture.capture` makes it, in one thread of the process at a time."""
    # PyTorch overrides operators for the whole process while it exports.
    with tracing_lock(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        # What forward assigns is taken back.
        warnings.filterwarnings("ignore", message=r"The tensor attribute", category=UserWarning)
        return capture(
            model,
            args,
            kwargs,
            dynamic_shapes=dynamic_shapes,
            settings=settings,
            timings=report.timings,
            values=values,
        )


class Compilation:
    """One compilation in progress: the graph, what was decided about it, and what TensorRT rejected so far.

    Attributes:
        graph: the model's graph.
        subgraphs: the graphs inside its ops.
        memory: that of the model's tensors.
        captured_memory: of each output, the captured nodes in whose memory it may lie.
        traced: what was captured, where other ranks are asked whether they have the same.
        partition: where each node runs, after :meth:`place`.
        choices: between right ways, where those were measured.
    """

    def __init__(
        self,
        captured: Captured,
        ruleset: RuleSet,
        settings: CompilationSettings,
        report: Report,
        faults: Faults,
        choices: Choices | None = None,
    ) -> None:
        self.captured = captured
        self.settings = settings
        self.report = report
        self.memory = ModelMemory(captured.tensors())
        # Whom it is compared with is only known where tensors are exchanged.
        self.traced = traced(captured.graph) if next(collectives(captured.graph), None) is not None else None
        outputs: Any = captured.graph.output_node().args[0]
        self.captured_memory = [memory_of(out) if isinstance(out, fx.Node) else frozenset() for out in outputs]
        self.mirror = Mirror(
            captured.graph,
            captured.constants,
            captured.fake_mode,
            captured.shape_env,
            sizes=captured.sizes(),
            on_read=frozen_constant,
        )
        self.mirror.hoist_sizes()
        self.mirror.written = written_places(self.mirror, captured.written)
        self.choices = choices
        if ruleset.optional or choices is not None:
            self.choices = (choices or Choices()).with_optional(ruleset.optional)
        self.subgraphs = Subgraphs(ruleset, settings, faults=faults, choices=self.choices)
        self.graph = LoweredGraph(self.mirror, self.subgraphs.context(self.mirror), ruleset, settings)
        self.rejections = self.subgraphs.rejections = Rejections(self.graph, self.subgraphs)
        self.partition = Partition((), {})

    @classmethod
    def start(
        cls,
        model: Any,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        dynamic_shapes: Any,
        rules: Any,
        settings: CompilationSettings,
        *,
        values: bool = False,
        strict_hosts: bool = False,
        report: Report | None = None,
        choose: Choose | None = None,
    ) -> Self:
        """Capture the model and bring its graph down to what the ``convert`` rules understand.

        Args:
            strict_hosts: see :class:`engine.evaluator.Faults`.
            report: to write to, from its beginning.
            values: insist that the model's tensors have values, which an engine needs and a report does not.
            choose: see :meth:`lowered`.
        """
        report = Report(model=model_name(model)) if report is None else report
        with report.timings.phase("rules"):
            ruleset = load_rules(rules)
        captured = captured_model(model, args, kwargs, dynamic_shapes, settings, report, values=values)
        with apart():
            return cls.lowered(captured, ruleset, settings, report, strict_hosts=strict_hosts, choose=choose)

    @classmethod
    def lowered(
        cls,
        captured: Captured,
        ruleset: RuleSet,
        settings: CompilationSettings,
        report: Report,
        *,
        strict_hosts: bool = False,
        choices: Choices | None = None,
        choose: Choose | None = None,
    ) -> Self:
        """Bring a captured graph, which is used up, down to what the ``convert`` rules understand.

        Args:
            choices: between right ways, where those were measured.
            choose: finds them, and settings that belong to them, for the captured graph.
        """
        timings = report.timings
        if choose is not None:
            settings, choices, report.tuning = choose(captured, ruleset, settings)
        with timings.phase("mirror"), collector_held_back():
            faults = Faults(settings.debug or None, strict_hosts)
            self = cls(captured, ruleset.with_settings(settings), settings, report, faults, choices)
        if self.choices is None or not self.choices.in_pytorch:
            with timings.phase("rewrite"), collector_held_back():
                self.graph.rewrite(self.subgraphs.trace)
        with timings.phase("fold"), collector_held_back():
            self.graph.fold()
        return self

    def place(self) -> None:
        """Tile and partition the graph, and write what was decided to the report.

        Raises:
            CoverageError: a node stays in PyTorch, and the settings allow none to.
        """
        timings = self.report.timings
        with timings.phase("tile"), collector_held_back():
            self.subgraphs.retile()
            self.graph.tile(self.rejections)
        with timings.phase("partition"), collector_held_back():
            # Where nothing may stay in PyTorch, what is reported is what has no rule, not what that leaves small.
            least = 1 if self.settings.require_full_compilation else self.settings.min_block_size
            with observed("partition", PartitionEvent, self.report.model, len(self.graph.tiling.tiles)) as event:
                self.partition = partition(self.mirror, self.graph.tiling, min_block_size=least)
                if event is not None:
                    event.segments = self.partition.segments
                    event.reasons = {node.name: reason for node, reason in self.partition.reasons.items()}
            summarize(self.report, self.graph, self.subgraphs, self.partition, self.settings)
            kept = kept_notes(self.captured, self.mirror, self.partition)
            self.report.notes = tuple(dict.fromkeys((*self.captured.notes, *kept, *self.subgraphs.faults.notes)))
        # Casts that a setting asked for are no nodes of the model.
        outside = [node for node in self.partition.reasons if BOUNDARY_CAST not in node.meta]
        if outside and self.settings.require_full_compilation:
            raise CoverageError(not_covered(self.report))

    def join(self, agreement: Agreement) -> None:
        """Compile together with the ranks that the graph exchanges tensors with."""
        agreement.join(groups_of(self._graphs()))

    def settle(self, agreement: Agreement) -> None:
        """See whether these ranks decided the same; raises ``DistributedError`` where they did not."""
        if agreement.ranks:
            made = self.traced or Traced((), "")
            facts = rank_facts(
                self.report,
                self._graphs(),
                made.calls,
                settings=self.settings.to_dict(),
                rules=self.subgraphs.ruleset.hash,
                ranges=self.captured.ranges,
            )
            with self.report.timings.phase("agree"):
                agreement.settle(facts, made.digest, decisions(self.report))

    def _graphs(self) -> list[fx.Graph]:
        return [mirror.graph for mirror in (self.mirror, *(graph.mirror for graph in self.subgraphs))]

    def write_networks(self) -> None:
        """Write the network of every segment, build nothing, and place anew what TensorRT refuses on the way."""
        if not self.partition.engines:
            return
        try:
            tensorrt.load()
            check_values(self.captured)
        except (TensorRTNotFound, CaptureError, InputError) as missing:
            self.leave_networks(str(missing).partition("\n")[0])
            return
        while True:
            try:
                for segment in self.partition.engines:
                    write_network(segment, self.captured, self.mirror, self.settings, self.report)
            except ConversionError as error:
                if raised_by_observer(error):
                    raise
                self._reject(segment, error)
                continue
            self.report.unbuilt = "nothing was built: what only TensorRT's builder refuses is not known"
            return

    def leave_networks(self, reason: str) -> None:
        """Say that what TensorRT refuses is not known."""
        self.report.unbuilt = f"no network was written ({reason}): what TensorRT refuses is not known"

    def build(self, runtime: str) -> CompiledModule:
        """Build the engine of every segment, placing anew what TensorRT rejects, and assemble the module."""
        planned = self.report.coverage
        while True:
            engines: dict[str, SegmentEngine] = {}
            try:
                for segment in self.partition.engines:
                    engines[segment.name] = SegmentEngine.of(
                        segment, self.captured, self.mirror, self.settings, runtime, self.report
                    )
            except (ConversionError, BuildError) as error:
                if raised_by_observer(error):
                    raise
                mine = for_this_gpu(self.settings) if getattr(error, "for_other_gpus", False) else None
                if mine is not None:
                    self.settings = mine
                else:
                    self._reject(segment, error)
                continue
            if self.report.coverage < planned:
                warn_of_refusals(self.report, planned)
            return self.assemble(engines, runtime)

    def _reject(self, segment: Segment, error: ConversionError | BuildError) -> None:
        """Give up the tiles that TensorRT refuses, and place anew what is left."""
        self.report.refusals += self.rejections.reject(segment, error)
        self.place()

    def print_rule_times(self) -> None:
        """Print what each rule took, where the environment asks for it."""
        if rule_times.wanted():
            graphs = [self.graph, *self.subgraphs]
            rule_times.render_rule_times(self.report, graphs, self.subgraphs.trace, sys.stderr)

    def assemble(self, engines: dict[str, SegmentEngine], runtime: str) -> CompiledModule:
        """The module of the engines and of what PyTorch runs between them; the constants of the graph are given up."""
        report, settings = self.report, self.settings
        with report.timings.phase("assemble"):
            for segment in report.segments:
                if segment.name in engines:
                    network, plan, segment.cache, _ = engines[segment.name]
                    segment.layers, segment.engine_bytes = network.network.num_layers, len(plan)
            modules = {name: engine.module(settings, runtime, self.memory) for name, engine in engines.items()}
            scalars = {name: engine.network.scalars for name, engine in engines.items()}
            captured = self.captured
            module = assemble(
                self.mirror,
                self.partition,
                modules,
                scalars,
                captured.submodules,
                self.memory,
                captured.states,
                captured.written,
                self.captured_memory,
            )
            weights = None
            mirrors = [self.mirror, *(graph.mirror for graph in self.subgraphs)]
            if not (settings.immutable_weights and engines):
                networks = [engine.network for engine in engines.values()]
                weights = weight_plan(captured, mirrors, networks, module)
            for mirror in mirrors:
                mirror.release_constants()
            report.compute_capabilities = compute_capabilities(settings) if engines else ()
            report.tensorrt = tensorrt.describe_tensorrt() if engines else ""
        states = {state.name: state_buffer(state.name) for state in captured.states}
        if settings.torch_segments == "inductor":
            module = grouped(module, captured.ranges)
        compiled = CompiledModule(module, captured.signature(), report, states)
        compiled.weight_plan = weights
        if not interprets(runtime) and torch.cuda.is_available():
            # Of a model on the CPU: its engines run on the GPU, and so does what is between them. Whether there are
            # any is not to show in how it is called.
            compiled.place(torch.device("cuda"))
        if settings.torch_segments == "inductor":
            with report.timings.phase("inductor"):
                for held in torch_segments(module):
                    held.compile_ops()
            describe_torch_segments(report, module)
        return compiled


def written_places(mirror: Mirror, written: Sequence[str]) -> dict[Any, int]:
    """The inputs that are written to -> which output is the new value of each."""
    inputs = {node.name: node for node in mirror.placeholders}
    outputs: Any = mirror.graph.output_node().args[0]
    first = len(outputs) - len(written)
    return {inputs[name]: first + index for index, name in enumerate(written)}

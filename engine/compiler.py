"""The pipeline: from a PyTorch model to a module whose segments are TensorRT engines.

``compile`` reads top to bottom as the pipeline of ``docs/architecture.md``: capture, rewrite, tile,
partition, convert, assemble.  A tile that TensorRT refuses is noted with its reason, and tiling starts
again without it, until everything that is left builds.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import fx, nn

from engine import tensorrt
from engine.capture import Captured, capture
from engine.capture.collector import collector_held_back
from engine.capture.importer import is_importable
from engine.capture.tracing.tracing_lock import tracing_lock
from engine.compiled.module import CompiledModule, DeferredModule
from engine.dsl.ruleset import RuleSet
from engine.engine_cache import CachedEngine
from engine.errors import BuildError, ConversionError, CoverageError, SettingsError
from engine.evaluator import Faults
from engine.graph.marks import BOUNDARY_CAST
from engine.graph.mirror import Mirror
from engine.graph.provenance import model_line
from engine.lowering.assembly import assemble
from engine.lowering.lowered_graph import LoweredGraph
from engine.lowering.snapshot import ModelMemory
from engine.lowering.subgraphs import Subgraphs
from engine.observers import BuildEvent, CompileEvent, PartitionEvent, observed, raised_by_observer
from engine.partitioner import Color, Partition, Segment, Tile, partition
from engine.partitioner.precision import precision
from engine.partitioner.tiling import computes
from engine.pytorch_modes import apart
from engine.refitting.weight_map import weight_plan
from engine.report import Fallback, Report, SegmentReport
from engine.report.decisions import Decisions, Placement
from engine.rewriter import Trace
from engine.runtime.options import RunOptions
from engine.settings import CompilationSettings
from engine.weights.pins import pin

if TYPE_CHECKING:
    from engine.builder import Blueprint
    from engine.conversion import BuiltNetwork
    from engine.interpreter import Program

RUNTIMES = ("auto", "python", "cpp", "interpreter")


def compile(
    model: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    rules: Sequence[Any] = (),
    runtime: str = "auto",
    **settings: Any,
) -> CompiledModule | DeferredModule:
    """Compile a model to TensorRT.

    Args:
        model: an ``nn.Module``, an ``ExportedProgram``, or a ``GraphModule`` of ATen ops.  It is not changed.
        args, kwargs: example inputs; a tensor, or an :class:`engine.Input` with a range of shapes.  Without them
            shapes are taken from the first call (an ``ExportedProgram`` and a graph of ATen ops know their own).
        dynamic_shapes: as ``torch.export.export`` takes them.
        rules: paths of ``.rules`` files or directories, or one :class:`engine.RuleSet`.
        runtime: ``"python"`` runs engines on a GPU, ``"interpreter"`` runs their networks on the CPU, ``"auto"``
            takes the first that can run here.
        settings: fields of :class:`engine.CompilationSettings`.

    Returns:
        A module that takes and returns what the model does, with ``.report`` and ``.graph``.

    Raises:
        CaptureError, InputError, RuleError, CoverageError, BuildError, SettingsError, TensorRTNotFound
    """
    if runtime not in RUNTIMES:
        raise SettingsError(f"runtime={runtime!r} is not one of {', '.join(RUNTIMES)}")
    options = CompilationSettings.from_kwargs(**settings)
    tensorrt.load()  # before minutes of work, not after
    if runtime != "interpreter":
        RunOptions.of(options).check()
    if args is None and kwargs is None and _needs_inputs(model):
        return DeferredModule(model, compile, rules=rules, runtime=runtime, dynamic_shapes=dynamic_shapes, **settings)
    with observed("compile", CompileEvent, _model_name(model)) as event:
        compilation = Compilation.start(model, args, kwargs, dynamic_shapes, rules, options, values=True)
        if event is not None:
            event.report = compilation.report
        with apart():
            compilation.place()
            return compilation.build(runtime)


def coverage(
    model: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    rules: Sequence[Any] = (),
    **settings: Any,
) -> Report:
    """The report of :func:`compile` without building anything: what would run where, and why.

    Takes the same arguments as :func:`compile`.  What only TensorRT's builder can refuse is not in it.
    """
    options = CompilationSettings.from_kwargs(**settings)
    with observed("compile", CompileEvent, _model_name(model)) as event:
        compilation = Compilation.start(model, args, kwargs, dynamic_shapes, rules, options)
        if event is not None:
            event.report = compilation.report
        with apart():
            compilation.place()
        return compilation.report


def load_rules(rules: Sequence[Any] | RuleSet) -> RuleSet:
    """The rule set for the ``rules`` argument: built-in rules plus the user's files."""
    if isinstance(rules, RuleSet):
        return rules
    if len(rules) == 1 and isinstance(rules[0], RuleSet):
        return rules[0]  # type: ignore[no-any-return]
    return RuleSet.load(*rules)


@dataclass
class Compilation:
    """One compilation in progress: the graph, what was decided about it, and what was rejected so far.

    ``subgraphs`` are the graphs inside its ops, ``memory`` is that of the model's tensors.
    """

    captured: Captured
    ruleset: RuleSet
    settings: CompilationSettings
    report: Report
    graph: LoweredGraph
    subgraphs: Subgraphs
    memory: ModelMemory
    rejections: dict[tuple[str, str], str] = field(default_factory=dict)
    partition: Partition = field(default_factory=lambda: Partition((), {}))
    trace: Trace = field(default_factory=Trace)
    cached: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        model: Any,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        dynamic_shapes: Any,
        rules: Sequence[Any],
        settings: CompilationSettings,
        *,
        values: bool = False,
    ) -> Self:
        """Capture the model and bring its graph down to what the ``convert`` rules understand.

        Args:
            values: insist that the model's tensors have values, which an engine needs and a report does not.
        """
        report = Report(model=_model_name(model))
        timings = report.timings
        with timings.phase("rules"):
            ruleset = load_rules(rules)
        # PyTorch overrides operators for the whole process while it exports.
        with tracing_lock(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            # What forward assigns is taken back.
            warnings.filterwarnings("ignore", message=r"The tensor attribute", category=UserWarning)
            captured = capture(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, settings=settings, timings=timings, values=values
            )
        with apart():
            return cls.lowered(captured, ruleset, settings, report)

    @classmethod
    def lowered(cls, captured: Captured, ruleset: RuleSet, settings: CompilationSettings, report: Report) -> Self:
        """Bring a captured graph, which is used up, down to what the ``convert`` rules understand."""
        report.notes = captured.notes
        ruleset = ruleset.with_settings(settings)
        timings = report.timings
        memory = ModelMemory(captured.tensors())
        with timings.phase("mirror"), collector_held_back():
            mirror = Mirror(
                captured.graph,
                captured.constants,
                captured.fake_mode,
                captured.shape_env,
                sizes=captured.sizes(),
                on_read=pin,
            )
            mirror.hoist_sizes()
            subgraphs = Subgraphs(ruleset, settings, faults=Faults(settings.debug or None))
            graph = LoweredGraph(mirror, subgraphs.context(mirror), ruleset, settings)
        self = cls(captured, ruleset, settings, report, graph, subgraphs, memory)
        subgraphs.rejections, subgraphs.trace = self.rejections, self.trace
        with timings.phase("rewrite"), collector_held_back():
            graph.rewrite(self.trace)
        with timings.phase("fold"), collector_held_back():
            graph.fold()
        return self

    @property
    def mirror(self) -> Mirror:
        """The model's graph."""
        return self.graph.mirror

    # -------------------------------------------------------------------------------- deciding

    def place(self) -> None:
        """Tile and partition the graph, and write what was decided to the report."""
        with self.report.timings.phase("tile"), collector_held_back():
            self.subgraphs.retile()
            self.graph.tile(self.rejections)
        with self.report.timings.phase("partition"), collector_held_back():
            # Where nothing may stay in PyTorch, what is reported is what has no rule, not what that leaves small.
            least = 1 if self.settings.require_full_compilation else self.settings.min_block_size
            with observed("partition", PartitionEvent, self.report.model, len(self.graph.tiling.tiles)) as event:
                self.partition = partition(self.mirror, self.graph.tiling, min_block_size=least)
                if event is not None:
                    event.segments = self.partition.segments
                    event.reasons = {node.name: reason for node, reason in self.partition.reasons.items()}
            self._write_report()
        # Casts that a setting asked for are no nodes of the model.
        if self.settings.require_full_compilation and any(
            BOUNDARY_CAST not in node.meta for node in self.partition.reasons
        ):
            raise CoverageError(_not_covered(self.report))

    def _write_report(self) -> None:
        report, mirror = self.report, self.mirror
        computing = [node for node in mirror.graph.nodes if computes(mirror, node)]
        outside = self.partition.reasons
        report.nodes = len(computing)
        report.coverage = 1.0 - len(outside) / len(computing) if computing else 1.0
        report.fallbacks = [
            Fallback(node.name, mirror.op(node), reason, model_line(node)) for node, reason in outside.items()
        ]
        report.segments = [
            SegmentReport(
                segment.name,
                segment.backend,
                len(segment.nodes),
                sum(tile.size for tile in segment.tiles) or len(segment.nodes),
                tuple(value.node.name for value in segment.inputs),
                tuple(value.node.name for value in segment.outputs),
            )
            for segment in self.partition.segments
        ]
        report.decisions = Decisions(mirror, self._placements())
        used = Counter({rule: counter.applications for rule, counter in self.trace.counters.items()})
        used.update(tile.rule.id for segment in self.partition.engines for tile in _all_tiles(segment))
        report.rules_used = {rule: count for rule, count in sorted(used.items()) if count}
        report.notes = tuple(dict.fromkeys((*self.captured.notes, *self.subgraphs.faults.notes)))
        report.overridden = tuple(pair for pair in self.ruleset.overridden if pair[0] in used)
        calls = (call for segment in self.partition.engines for tile in _all_tiles(segment) for call in tile.plan.calls)
        report.precision = precision(calls, self.graph.context, self.settings.use_fp32_acc)

    def _placements(self) -> dict[fx.Node, Placement]:
        """Where each node runs, those of the graphs inside ops included."""
        found: dict[fx.Node, Placement] = {}
        for graph in self.subgraphs:
            for node, reason in graph.reasons.items():
                found[node] = Placement(Color.PYTORCH.value, reason=reason)
        # A node inside one tile may have a tile of its own as well, or run in PyTorch for another reader.
        tiles = [(segment, chosen) for segment in self.partition.engines for chosen in _all_tiles(segment)]
        placed = {
            chosen.node: Placement(segment.backend, segment.name, chosen.rule.id, chosen.rule.where)
            for segment, chosen in tiles
        }
        for _, chosen in tiles:
            found.update(dict.fromkeys(chosen.nodes, placed[chosen.node]))
        for segment in self.partition.segments:
            if segment.backend == Color.PYTORCH:
                for node in segment.nodes:
                    found[node] = Placement(segment.backend, segment.name, reason=self.partition.reasons[node])
        found.update(placed)
        return found

    # -------------------------------------------------------------------------------- building

    def build(self, runtime: str) -> CompiledModule:
        """Emit and build every engine segment, demoting tiles that TensorRT refuses, and assemble the module."""
        from engine.builder import for_this_gpu
        from engine.conversion import emit_network

        timings = self.report.timings
        while True:
            built = {}
            try:
                for segment in self.partition.engines:
                    with timings.phase("emit"), collector_held_back():
                        network = emit_network(
                            self.mirror,
                            segment.tiles,
                            segment.inputs,
                            segment.outputs,
                            self.captured.ranges,
                            self.settings,
                            name=segment.name,
                            profiles=self.captured.profiles,
                        )
                    built[segment.name] = (network, self._engine(segment, network, runtime))
            except (ConversionError, BuildError) as error:
                if raised_by_observer(error):
                    raise
                mine = for_this_gpu(self.settings) if getattr(error, "for_other_gpus", False) else None
                if mine is not None:
                    self.settings = mine
                else:
                    self._refuse(segment, error)
                    self.place()
                continue
            return self._assemble(built, runtime)

    def _engine(self, segment: Segment, network: BuiltNetwork, runtime: str) -> bytes:
        """The engine of a network, built or from the cache, and loaded once where that is wanted."""
        from engine.builder import build
        from engine.runtime import trial_load

        timings = self.report.timings
        cached = CachedEngine(self.settings, network, timings)
        plan = cached.plan
        if plan is None:
            with (
                timings.phase("build"),
                observed("build", BuildEvent, segment.name, self.report.model, network.network.num_layers) as event,
            ):
                plan = build(network)
                if event is not None:
                    event.engine_bytes = len(plan)
        loads = self._loads_here(runtime) and not (cached.loaded and self.settings.trial_load is None)
        if loads:
            with timings.phase("load"):
                options = RunOptions.of(self.settings)
                trial_load(plan, name=segment.name, layer_names=network.layer_names, options=options)
        cached.keep(plan, loaded=loads)
        self.cached[segment.name] = cached.how
        return plan

    def _loads_here(self, runtime: str) -> bool:
        if self.settings.trial_load is not None:
            return self.settings.trial_load
        return runtime != "interpreter" and torch.cuda.is_available()

    def _refuse(self, segment: Segment, error: ConversionError | BuildError) -> None:
        """Note which tile to give up after TensorRT refused a segment.

        TensorRT names the layer at fault when it can.  When it does not, the rules of the segment that have an
        alternative give way first, one rule at a time; when none is left, the whole segment goes to PyTorch.
        """
        tiles = self._blamed(segment, error)
        reason = f"TensorRT refused it: {_tensorrt_says(error)}"
        for blamed in tiles:
            reason_here = f"{blamed.rule.id} ({blamed.rule.where}): {reason}"
            self.rejections[blamed.node.name, blamed.rule.id] = reason_here
            self.report.refusals.append(
                Fallback(blamed.node.name, self.mirror.op(blamed.node), reason_here, model_line(blamed.node))
            )

    def _blamed(self, segment: Segment, error: ConversionError | BuildError) -> list[Tile]:
        node = getattr(error, "node", None)
        every = list(_all_tiles(segment))
        tiles = [chosen for chosen in every if chosen.node is node]
        if tiles:
            return tiles
        named = set()
        for layer in getattr(error, "failed_layers", ()):
            rule_id, _, rest = layer.partition("/")
            named.add((rest.partition("/")[0], rule_id))
        tiles = [chosen for chosen in every if (chosen.node.name, chosen.rule.id) in named]
        if tiles:
            return tiles
        # Loops and conditionals are where TensorRT fails without a name; those inside others give way first.
        inside = [chosen for chosen in every if chosen.size > 1 and chosen not in segment.tiles]
        outside = [chosen for chosen in segment.tiles if chosen.size > 1]
        for tiles in (inside, outside):
            tiles = [chosen for chosen in tiles if self._has_alternative(chosen)]
            if tiles:
                return tiles
        if outside:
            return outside
        by_rule = sorted(segment.tiles, key=lambda chosen: chosen.rule.rank)
        for rule_id in dict.fromkeys(chosen.rule.id for chosen in by_rule):
            tiles = [chosen for chosen in segment.tiles if chosen.rule.id == rule_id]
            if all(map(self._has_alternative, tiles)):
                return tiles
        return list(segment.tiles)

    def _has_alternative(self, chosen: Tile) -> bool:
        graphs: Iterable[LoweredGraph] = self.subgraphs
        home = next((graph for graph in graphs if graph.mirror.graph is chosen.node.graph), self.graph)
        return home.has_alternative(chosen, self.rejections)

    def _assemble(self, built: dict[str, tuple[Any, bytes]], runtime: str) -> CompiledModule:
        from engine.builder import compute_capabilities
        from engine.runtime import TorchTensorRTModule
        from engine.tensorrt import describe_tensorrt

        modules: dict[str, TorchTensorRTModule] = {}
        with self.report.timings.phase("assemble"):
            interpret = _interprets(runtime)
            by_name = {segment.name: segment for segment in self.report.segments}
            for segment in self.partition.engines:
                network, plan = built[segment.name]
                by_name[segment.name].layers = network.network.num_layers
                by_name[segment.name].engine_bytes = len(plan)
                by_name[segment.name].cache = self.cached[segment.name]
                modules[segment.name] = TorchTensorRTModule(
                    plan,
                    list(network.input_names),
                    list(network.output_names),
                    name=segment.name,
                    settings=self.settings,
                    runtime=runtime,
                    weight_name_map=network.weight_name_map,
                    program=_program(network).owning(self.memory.copies) if interpret else None,
                    input_specs=network.input_specs,
                    output_specs=network.output_specs,
                )
                modules[segment.name].blueprint = _blueprint(network)
            scalars = {name: network.scalars for name, (network, _) in built.items()}
            module = assemble(self.mirror, self.partition, modules, scalars, self.captured.submodules, self.memory)
            weights = None
            inner = [graph.mirror for graph in self.subgraphs]
            if not (self.settings.immutable_weights and built):
                networks = [network for network, _ in built.values()]
                weights = weight_plan(self.captured, [self.mirror, *inner], networks, module)
            for mirror in (self.mirror, *inner):
                mirror.release_constants()
            self.report.compute_capabilities = compute_capabilities(self.settings) if built else ()
            self.report.tensorrt = describe_tensorrt() if built else ""
        compiled = CompiledModule(module, self.captured, self.report)
        compiled.weight_plan = weights
        if built and not _interprets(runtime) and torch.cuda.is_available():
            # Of a model on the CPU: its engines run on the GPU, and so does what is between them.
            compiled.place(torch.device("cuda"))
        return compiled


def _all_tiles(segment: Segment) -> Iterator[Tile]:
    """The tiles of a segment, each with those of the graphs that it runs."""
    for chosen in segment.tiles:
        yield chosen
        yield from chosen.inside()


def _interprets(runtime: str) -> bool:
    return runtime == "interpreter" or (runtime == "auto" and not torch.cuda.is_available())


def _blueprint(network: BuiltNetwork) -> Blueprint | None:
    """What a refit builds the engine from, where TensorRT does not refit it."""
    from engine.builder import Blueprint, NoBlueprint
    from engine.conversion.weights import refits_natively

    if network.settings.immutable_weights or refits_natively(network.settings):
        return None
    try:
        return Blueprint.of(network)
    except NoBlueprint as reason:
        raise BuildError(f"{network.name} cannot be refitted (immutable_weights=False): {reason}") from reason


def _program(network: BuiltNetwork) -> Program:
    from engine.interpreter import Program

    named = {name: weight.tensor for name, weight in network.weights.named.items()}
    return Program.from_network(network.network, network.weights.tensors, named)


def _needs_inputs(model: Any) -> bool:
    """Whether a model says nothing of its inputs: programs and graphs with fake values know theirs."""
    return isinstance(model, nn.Module) and not (isinstance(model, fx.GraphModule) and is_importable(model))


def _model_name(model: Any) -> str:
    # torch.export and torch.fx keep the name of the class they were given, where it is not one of their own.
    graph_module = getattr(model, "graph_module", model)
    return str(getattr(graph_module, "_model_name", None) or type(model).__name__)


def _tensorrt_says(error: Exception) -> str:
    """TensorRT's own words in an error, without what was put around them; one line for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A build or a load that failed is introduced by a line of ours.
    words = lines[1:] if len(lines) > 1 and not hasattr(error, "node") else lines[:1]
    return " ".join(line for line in words[:3] if not line.startswith("layers named")) or type(error).__name__


def _not_covered(report: Report) -> str:
    count = len(report.fallbacks)
    nodes = f"{count} of {report.nodes} nodes" if report.nodes > 1 else "the only node"
    lines = [f"require_full_compilation: {nodes} of {report.model} cannot be in an engine"]
    for fallback in report.fallbacks:
        where = f", from {fallback.source}" if fallback.source else ""
        lines.append(f"  {fallback.node}: {fallback.op}{where}\n    {fallback.reason}")
    lines.append(
        'write rules for them (rules=["my.rules"]), or drop require_full_compilation to run the rest in PyTorch'
    )
    return "\n".join(lines)

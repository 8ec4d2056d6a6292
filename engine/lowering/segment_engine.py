"""The engine of a segment: its network, emitted, and the plan that was built of it or kept from before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.builder import Blueprint, NoBlueprint, build
from engine.capture import Captured
from engine.conversion import BuiltNetwork, emit_network
from engine.conversion.weights import refits_natively
from engine.engine_cache import CachedEngine
from engine.errors import BuildError
from engine.graph.mirror import Mirror
from engine.lowering.snapshot import ModelMemory
from engine.observers import BuildEvent, observed
from engine.partitioner import Segment
from engine.process.collector import collector_held_back
from engine.report import Report
from engine.runtime import EngineLoadError, TorchTensorRTModule, trial_load
from engine.runtime.loaded_engines import LoadedEngines
from engine.runtime.options import RunOptions
from engine.runtime.selection import select_runtime
from engine.settings import CompilationSettings

if TYPE_CHECKING:
    from engine.interpreter import Program


class SegmentEngine(NamedTuple):
    """A network with its engine.

    Attributes:
        plan: the serialized engine.
        cache: ``"hit"`` or ``"miss"`` of the engine cache, with what happened besides; empty without the cache.
        loaded: the engine on this GPU, which the module runs; None where it was not loaded.
    """

    network: BuiltNetwork
    plan: bytes | memoryview
    cache: str
    loaded: LoadedEngines | None

    @classmethod
    def of(
        cls,
        segment: Segment,
        captured: Captured,
        mirror: Mirror,
        settings: CompilationSettings,
        runtime: str,
        report: Report,
    ) -> SegmentEngine:
        """Emit the network of a segment, build it or take it from the cache, and load it once where that is wanted.

        Raises:
            ConversionError: a layer cannot be added; it names the node.
            BuildError: TensorRT does not build the engine, or does not load it.
        """
        timings = report.timings
        network = write_network(segment, captured, mirror, settings, report)
        cached = CachedEngine(settings, network, timings)
        plan: bytes | memoryview | None = cached.plan
        if plan is None:
            layers = network.network.num_layers
            with timings.phase("build"), observed("build", BuildEvent, segment.name, report.model, layers) as event:
                plan = build(network)
                if event is not None:
                    event.engine_bytes = len(plan)
        loads = _loads_here(settings, runtime) and not (cached.loaded and settings.trial_load is None)
        loaded = None
        if loads:
            with timings.phase("load"):
                loaded = _load(network, plan, settings, runtime)
        cached.keep(plan, loaded=loads)
        return cls(network, plan, cached.how, loaded)

    def module(self, settings: CompilationSettings, runtime: str, memory: ModelMemory) -> TorchTensorRTModule:
        """The module that runs the engine.

        Args:
            memory: of the model's tensors, of which the interpreter keeps copies.

        Raises:
            BuildError: the settings ask for an engine that can be refitted, and it cannot be.
        """
        network = self.network
        module = TorchTensorRTModule(
            self.plan,
            list(network.input_names),
            list(network.output_names),
            name=network.name,
            settings=settings,
            runtime=runtime,
            weight_name_map=network.weight_name_map,
            program=_program(network).owning(memory.copies) if interprets(runtime) else None,
            input_specs=network.input_specs,
            output_specs=network.output_specs,
            engines=self.loaded,
        )
        module.blueprint = _blueprint(network)
        return module


def write_network(
    segment: Segment, captured: Captured, mirror: Mirror, settings: CompilationSettings, report: Report
) -> BuiltNetwork:
    """The TensorRT network of a segment, which is not built.

    Raises:
        ConversionError: a layer cannot be added; it names the node.
    """
    with report.timings.phase("emit"), collector_held_back():
        return emit_network(
            mirror,
            segment.tiles,
            segment.inputs,
            segment.outputs,
            captured.ranges,
            settings,
            name=segment.name,
            profiles=captured.profiles,
        )


def interprets(runtime: str) -> bool:
    """Whether engines run in the interpreter here."""
    return runtime == "interpreter" or (runtime == "auto" and not torch.cuda.is_available())


def _loads_here(settings: CompilationSettings, runtime: str) -> bool:
    if settings.trial_load is not None:
        return settings.trial_load
    return runtime != "interpreter" and torch.cuda.is_available()


def _load(
    network: BuiltNetwork, plan: bytes | memoryview, settings: CompilationSettings, runtime: str
) -> LoadedEngines | None:
    """Load an engine on the current GPU, as the module will run it; only to see that it loads if that interprets it.

    TensorRT-RTX compiles kernels when it loads an engine, which takes as long as the build: it is done once.

    Raises:
        EngineLoadError: TensorRT does not load it; ``failed_layers`` are layers of the network.
    """
    options = RunOptions.of(settings)
    if interprets(runtime):
        trial_load(plan, name=network.name, layer_names=network.layer_names, options=options)
        return None
    engines = LoadedEngines(
        plan,
        network.input_names,
        network.output_names,
        name=network.name,
        requires_output_allocator=False,
        selection=select_runtime(runtime, has_program=False),
        options=options,
    )
    try:
        engines.load(torch.cuda.current_device())
    except EngineLoadError as error:
        raise error.among(network.layer_names) from None
    return engines


def _blueprint(network: BuiltNetwork) -> Blueprint | None:
    """What a refit builds the engine from, where TensorRT does not refit it."""
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


__all__ = ["SegmentEngine", "interprets", "write_network"]

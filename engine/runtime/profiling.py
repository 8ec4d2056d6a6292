"""How long the layers of engines take, by the rules and nodes that they come from."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from engine.errors import RuntimeUnavailable
from engine.runtime.whole_graphs import engines_of
from engine.storage.whole_file import write_whole
from engine.tensorrt import load

_METADATA = re.compile(r'"Metadata":\s*"(.*?)"(?=\s*\}\s*(?:,\s*\{\s*"Name"|\]))', re.DOTALL)
"""A layer's metadata, its last field: it ends where the layer does."""


@dataclass(frozen=True)
class LayerTime:
    """One layer of one run.

    Attributes:
        layer: as TensorRT names it; the name that conversion gave it is ``rule/node/layer``.
        milliseconds: on the GPU.
        start: host time in seconds at which the time was reported, or an end of a layer before it.
        origins: rule and node of every layer of the network that it does the work of; empty for what TensorRT added.
    """

    engine: str
    layer: str
    milliseconds: float
    start: float
    origins: tuple[tuple[str, str], ...] = ()

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that emitted what it computes."""
        return tuple(dict.fromkeys(rule for rule, _ in self.origins))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the lowered graph that it computes, or parts of."""
        return tuple(dict.fromkeys(node for _, node in self.origins))


@dataclass
class Profile:
    """The layers that ran, in order."""

    times: list[LayerTime] = field(default_factory=list)

    def by_layer(self) -> dict[tuple[str, str], tuple[int, float]]:
        """``(engine, layer)`` -> how often it ran and its milliseconds in all, the longest first."""
        found: dict[tuple[str, str], tuple[int, float]] = {}
        for each in self.times:
            count, total = found.get((each.engine, each.layer), (0, 0.0))
            found[each.engine, each.layer] = count + 1, total + each.milliseconds
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def table(self, rows: int = 30) -> str:
        """The layers that take longest, as text: share, microseconds a run, runs, engine, rule, node, layer."""
        layers = self.by_layer()
        whole = sum(total for _, total in layers.values())
        origins = {(each.engine, each.layer): each.origins for each in self.times}
        lines = [f"{'share':>6} {'us/run':>9} {'runs':>5}  engine      layer: rule/node"]
        for (engine, layer), (count, total) in list(layers.items())[:rows]:
            of = ", ".join("/".join(origin) for origin in origins[engine, layer])
            share, each = total / (whole or 1.0), total / count * 1e3
            lines.append(f"{share:6.1%} {each:9.2f} {count:5d}  {engine:<10}  {layer}: {of or '-'}")
        if len(layers) > rows:
            lines.append(f"... {len(layers) - rows} more layers")
        lines.append(f"{sum(count for count, _ in layers.values())} layer runs, {whole:.3f} ms")
        return "\n".join(lines)

    def chrome_trace(self) -> dict[str, Any]:
        """The trace as ``chrome://tracing`` and Perfetto read it: one track per engine, times in microseconds."""
        first = min((each.start for each in self.times), default=0.0)
        tracks = {name: i for i, name in enumerate(dict.fromkeys(each.engine for each in self.times))}
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": i, "args": {"name": name}} for name, i in tracks.items()
        ]
        events += [
            {
                "name": each.layer,
                "cat": ",".join(each.rules) or "tensorrt",
                "ph": "X",
                "pid": 0,
                "tid": tracks[each.engine],
                "ts": (each.start - first) * 1e6,
                "dur": each.milliseconds * 1e3,
                "args": {"rules": list(each.rules), "nodes": list(each.nodes), "engine": each.engine},
            }
            for each in self.times
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write `chrome_trace` to a JSON file, which is replaced as a whole.

        Raises:
            FileError: it cannot be written.
        """
        write_whole(path, json.dumps(self.chrome_trace()))


@contextmanager
def profiling(module: nn.Module, device: int | None = None) -> Iterator[Profile]:
    """Time every layer of every engine of a module inside the ``with`` block.

    Engines run through Python and without CUDA graphs meanwhile, and every call waits for the GPU, so the sum of the
    layers is more than a call takes otherwise.

    Args:
        device: CUDA device; by default the current one.

    Raises:
        RuntimeUnavailable: the module has no engines, or they are interpreted.
    """
    engines = list(engines_of(module))
    if not engines:
        raise RuntimeUnavailable("the module has no engines to profile")
    for engine in engines:
        engine.require_tensorrt("there is nothing to time")
    index = torch.cuda.current_device() if device is None else device
    profile = Profile()
    with ExitStack() as stack:
        for outer in module.modules():
            graphs = getattr(outer, "cuda_graphs", None)
            if graphs is not None:
                restore: Any = outer.set_cuda_graphs
                restore(False)
                stack.callback(restore, True, graphs.size)  # type: ignore[union-attr]
        for engine in engines:
            origins = layer_origins(engine.trt_engine(index))
            stack.enter_context(engine.profiled(index, _profiler_class()(profile, engine.name, origins)))
        yield profile


def layer_origins(engine: Any) -> dict[str, tuple[tuple[str, str], ...]]:
    """Rule and node of what each layer of a ``trt.ICudaEngine`` computes, by the layer's name.

    Conversion writes both into the metadata of the layers of a network, which TensorRT hands on to what it makes of
    them.
    """
    inspector = engine.create_engine_inspector()
    return read_origins(inspector.get_engine_information(load().LayerInformationFormat.JSON))


def read_origins(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """`layer_origins` of what TensorRT's inspector says of an engine, in JSON.

    TensorRT does not escape the quotes of metadata, and joins that of several layers by a control character, so that
    the whole is no JSON: each layer's metadata is cut out before the rest is read.
    """
    cut: list[str] = []

    def cut_out(match: re.Match[str]) -> str:
        cut.append(match[1])
        return f'"Metadata": {len(cut) - 1}'

    try:
        layers = json.loads(_METADATA.sub(cut_out, text), strict=False).get("Layers", [])
    except ValueError as error:
        warnings.warn(f"TensorRT's description of the engine cannot be read: {error}", stacklevel=3)
        return {}
    # A layer of an engine that was built without detailed verbosity is its name alone.
    layers = [layer for layer in layers if isinstance(layer, dict)]
    return {layer["Name"]: _origins(cut[layer["Metadata"]] if "Metadata" in layer else "") for layer in layers}


def _origins(metadata: str) -> tuple[tuple[str, str], ...]:
    if '{"' not in metadata:
        metadata = metadata.replace('\\"', '"')  # of a TensorRT that escapes it
    found: dict[tuple[str, str], None] = {}
    decoder, position = json.JSONDecoder(), metadata.find("{")
    while position >= 0:
        try:
            value, position = decoder.raw_decode(metadata, position)
        except ValueError:
            position += 1
        else:
            if isinstance(value, dict) and "rule" in value:
                found[str(value["rule"]), str(value.get("node", ""))] = None
        position = metadata.find("{", position)
    return tuple(found)


@functools.cache
def _profiler_class() -> type:
    trt = load()

    class LayerProfiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self, profile: Profile, engine: str, origins: dict[str, tuple[tuple[str, str], ...]]) -> None:
            trt.IProfiler.__init__(self)
            self._profile = profile
            self._engine = engine
            self._origins = origins
            self._end = 0.0
            self._lock = threading.Lock()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            with self._lock:
                start = max(time.perf_counter(), self._end)
                self._end = start + ms / 1e3
                origins = self._origins.get(layer_name, ())
                self._profile.times.append(LayerTime(self._engine, layer_name, float(ms), start, origins))

    return LayerProfiler


__all__ = ["LayerTime", "Profile", "profiling"]

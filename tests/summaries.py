"""Compilations as text, for snapshots: no times, sizes of engines, or paths of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx

import engine
from engine.compiler import Compilation
from engine.conversion import emit_network
from engine.report import Report

ROOT = Path(__file__).resolve().parents[1]


def portable(text: str) -> str:
    """Without this machine's folders, and without line numbers of Python files and built-in rules."""
    text = text.replace(f"{ROOT}/", "")
    text = re.sub(r"[^\s'\"(]*/site-packages/", "", text)
    return re.sub(r"(\.py|\brules/[\w/]+\.rules):\d+(:\d+)?", r"\1:_", text)


def plain_symbols(text: str) -> str:
    """Symbolic sizes numbered in order: PyTorch's numbers depend on its version."""
    seen: dict[str, str] = {}
    return re.sub(r"\bs\d+\b", lambda match: seen.setdefault(match[0], f"s{len(seen)}"), text)


def start(model: Any, args: Any = (), kwargs: Any = None, *, dynamic_shapes: Any = None, rules: Any = (), **settings):
    """A compilation up to its partition, with everything inside it in reach."""
    options = engine.CompilationSettings.from_kwargs(**settings)
    compilation = Compilation.start(model, args, kwargs, dynamic_shapes, rules, options)
    compilation.place()
    return compilation


def graph_text(compilation: Compilation) -> str:
    """The lowered graph, a line per node."""
    mirror = compilation.mirror
    lines = []
    for node in mirror.graph.nodes:
        if node.op == "output":
            lines.append(f"return {node.args[0]}")
        elif node.op in ("placeholder", "get_attr"):
            lines.append(f"{node.name} = {node.op} : {_type(node)}")
        else:
            arguments = [str(a) for a in node.args] + [f"{k}={v}" for k, v in node.kwargs.items() if v is not None]
            lines.append(f"{node.name} = {mirror.op(node)}({', '.join(arguments)}) : {_type(node)}")
            steps = ", ".join(step.rule_id for step in node.meta.get("rules", ()))
            lines[-1] += f"  # {steps}" if steps else ""
    return plain_symbols("\n".join(lines))


def _type(node: fx.Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return ", ".join(map(_tensor, value))
    return _tensor(value)


def _tensor(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    return str(value)


def partition_text(report: Report) -> str:
    """The segments, and why nodes are in PyTorch."""
    lines = [f"coverage {report.coverage:.3f} of {report.nodes}"]
    for segment in report.segments:
        lines.append(
            f"{segment.name}: {segment.nodes} nodes, {segment.tiles} tiles, "
            f"({', '.join(segment.inputs)}) -> ({', '.join(segment.outputs)})"
        )
    for fallback in report.fallbacks:
        lines.append(f"{fallback.node} {fallback.op}: {portable(fallback.reason)} [{portable(fallback.source)}]")
    for refusal in report.refusals:
        lines.append(f"refused {refusal.node} {refusal.op}: {portable(refusal.reason)}")
    return "\n".join(lines)


def networks_text(compilation: Compilation) -> str:
    """Every layer of every network: name, type, inputs, outputs and attributes."""
    lines: list[str] = []
    for segment in compilation.partition.engines:
        built = emit_network(
            compilation.mirror,
            segment.tiles,
            segment.inputs,
            segment.outputs,
            compilation.captured.ranges,
            compilation.settings,
            name=segment.name,
        )
        network = built.network
        lines.append(f"network {network.name}")
        lines += [f"  input {_network_tensor(network.get_input(i))}" for i in range(network.num_inputs)]
        for index in range(network.num_layers):
            lines += _layer(network.get_layer(index))
        lines += [f"  output {_network_tensor(network.get_output(i))}" for i in range(network.num_outputs)]
        if built.profile is not None:
            for name, spec in zip(built.input_names, built.input_specs, strict=True):
                if hasattr(spec, "shape") and any(not isinstance(size, int) for size in spec.shape):
                    lines.append(f"  profile {name}: {' '.join(str(tuple(s)) for s in built.profile.get_shape(name))}")
    return plain_symbols(re.sub(r"@\d+:\d+", "", "\n".join(lines)))


def _layer(layer: Any) -> Iterator[str]:
    from engine.tensorrt import load

    trt = load()
    kind = layer.type.name
    name = "".join(part.capitalize() for part in kind.split("_"))
    found = {c.lower(): c for c in dir(trt) if c.startswith("I") and c.endswith("Layer")}
    cls = getattr(trt, found.get(f"i{name}layer".lower(), "ILayer"))
    inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    yield (
        f"  {layer.name}: {kind}({', '.join('-' if t is None else t.name for t in inputs)})"
        f" -> {', '.join(map(_network_tensor, outputs))}"
    )
    if cls is trt.ILayer or kind == "CONSTANT":
        return
    layer.__class__ = cls
    own = sorted(set(dir(cls)) - set(dir(trt.ILayer)) | ({"type"} & set(vars(cls))))
    attributes = []
    for attribute in own:
        try:
            value = getattr(layer, attribute)
        except Exception:
            continue
        if callable(value) or attribute.startswith("_"):
            continue
        if type(value).__name__ == "Permutation" and list(value) == list(range(len(list(value)))):
            continue
        attributes.append(f"{attribute}={_attribute(value)}")
    if attributes:
        yield f"    {', '.join(attributes)}"


def _attribute(value: Any) -> str:
    if type(value).__name__ in ("Weights", "ndarray"):
        return f"weights[{value.size}]"
    if hasattr(value, "name") and type(value).__module__.startswith("tensorrt"):
        return str(value.name)
    if type(value).__name__ in ("Dims", "Permutation"):
        return str(tuple(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _network_tensor(tensor: Any) -> str:
    return f"{tensor.name}: {tensor.dtype.name}{list(tensor.shape)}"

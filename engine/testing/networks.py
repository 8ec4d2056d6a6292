"""TensorRT networks as text: every layer with its rule, inputs, outputs and attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from engine import tensorrt
from engine.conversion import emit_network
from engine.pipeline.compilation import Compilation
from engine.testing.text import plain_symbols


def networks_text(compilation: Compilation) -> str:
    """Every layer of every network of a compilation that is placed; a layer's name begins with its rule and node."""
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
        lines += [f"  input {_tensor(network.get_input(index))}" for index in range(network.num_inputs)]
        for index in range(network.num_layers):
            lines += _layer(network.get_layer(index))
        lines += [f"  output {_tensor(network.get_output(index))}" for index in range(network.num_outputs)]
        if built.profile is not None:
            for name, spec in zip(built.input_names, built.input_specs, strict=True):
                if hasattr(spec, "shape") and any(not isinstance(size, int) for size in spec.shape):
                    lines.append(f"  profile {name}: {' '.join(str(tuple(s)) for s in built.profile.get_shape(name))}")
    # Names of shape tensors hold the place of the expression in its rules file.
    return plain_symbols(re.sub(r"@\d+:\d+", "", "\n".join(lines)))


def _layer(layer: Any) -> Iterator[str]:
    trt = tensorrt.load()
    kind = layer.type.name
    name = "".join(part.capitalize() for part in kind.split("_"))
    found = {c.lower(): c for c in dir(trt) if c.startswith("I") and c.endswith("Layer")}
    cls = getattr(trt, found.get(f"i{name}layer".lower(), "ILayer"))
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    yield (
        f"  {layer.name}: {kind}({', '.join('-' if tensor is None else tensor.name for tensor in inputs)})"
        f" -> {', '.join(map(_tensor, outputs))}"
    )
    if cls is trt.ILayer or kind == "CONSTANT":
        return
    layer.__class__ = cls
    own = sorted(set(dir(cls)) - set(dir(trt.ILayer)) | ({"type"} & set(vars(cls))))
    attributes = []
    for attribute in own:
        try:
            value = getattr(layer, attribute)
        except Exception:  # a property that this layer does not have as it is used
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


def _tensor(tensor: Any) -> str:
    return f"{tensor.name}: {tensor.dtype.name}{list(tensor.shape)}"


__all__ = ["networks_text"]

"""What engines hold, by dtype, and in what dtypes they multiply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import fx

from engine.dtypes import INT4
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor, LayerCall, leaves, tensors
from engine.graph.mirror import Mirror, Value
from engine.partitioner.tile import Tile
from engine.report import Products, Weights

# Layers that multiply, with the parameters that are multiplied.
_PRODUCTS = {
    "trt.matrix_multiply": ("a", "b"),
    "trt.convolution": ("x", "kernel"),
    "trt.convolution_dynamic": ("x", "kernel"),
    "trt.deconvolution": ("x", "kernel"),
    "trt.deconvolution_dynamic": ("x", "kernel"),
}
# What stands between a quantized value and the product that reads it.
_CARRIES = frozenset({"trt.shuffle", "trt.cast", "trt.identity", "trt.slice", "trt.squeeze", "trt.unsqueeze"})
# Layers through which the codes of a constant are followed, with their parameters.
_COMPUTES = {"trt.elementwise": ("a", "b"), "trt.gather": ("indices",)}
_NARROW = (INT4, torch.int8)
_CODES = (
    *(torch.int8, torch.uint8, torch.int16, torch.int32),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)
_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def weights(mirror: Mirror, segments: Iterable[Sequence[Tile]]) -> Weights:
    """Bytes of the model's constants by dtype, and of what the engines hold of them, in those of each segment.

    Args:
        segments: the tiles of each engine, with those of the constants that it makes.
    """
    named: dict[str, torch.Tensor] = {}
    for node in mirror.graph.nodes:
        if node.op == "get_attr" and not node.meta.get("literal", False):
            how = node.meta.get("recipe")
            for name in (str(node.target),) if how is None else how.sources:
                if name in mirror.constants:  # and no graph that an op runs
                    named[name] = mirror.constants[name]
    before: Counter[str] = Counter()
    for tensor in named.values():
        before[_name(tensor.dtype)] += tensor.numel() * tensor.element_size()
    after: Counter[str] = Counter()
    for tiles in segments:
        after.update(_held(mirror, tiles))
    return Weights(dict(sorted(before.items())), dict(sorted(after.items())))


def _held(mirror: Mirror, tiles: Sequence[Tile]) -> Counter[str]:
    found: Counter[str] = Counter()
    made = {constant.node for tile in tiles for constant in tile.constants}
    seen: set[Value | int] = set()

    def hold(tensor: AbstractTensor) -> None:
        """Count a constant that a layer reads."""
        key = tensor.value if isinstance(tensor, Captured) else id(tensor)
        if key in seen:
            return
        seen.add(key)
        if isinstance(tensor, Captured):
            fake = mirror.fake(tensor.value)
            if isinstance(fake, torch.Tensor):
                found[_name(tensor.dtype or fake.dtype)] += _bytes(fake.numel(), tensor.dtype or fake.dtype)
        elif isinstance(tensor, CallOutput) and tensor.dtype is not None:
            # What has a size of a call is filled in when it runs.
            sizes = [each for each in tensor.shape or () if isinstance(each, int)]
            if tensor.shape is not None and len(sizes) == len(tensor.shape):
                found[_name(tensor.dtype)] += _bytes(prod(sizes), tensor.dtype)

    def is_constant(tensor: AbstractTensor) -> bool:
        if isinstance(tensor, Captured):
            # A constant that the engine makes is held as what it is made of.
            return mirror.is_const(tensor.value) and tensor.value.node not in made
        if isinstance(tensor, CallOutput) and isinstance(tensor.call, LayerCall):
            return not is_kept(tensor.call) and all(map(is_constant, tensors(tensor.call.values)))
        return isinstance(tensor, ConstantTensor)

    def is_kept(call: LayerCall) -> bool:
        """Whether TensorRT keeps what a layer reads, and computes the layer in each call.

        It does so with what it dequantizes, and with a cast to a wider float, as plans of products in half precision
        show, which are as large as the weights before the cast (TensorRT-RTX 1.6.1).  All else of constants it computes
        when it builds.
        """
        if call.layer.name != "trt.cast":
            return call.layer.name == "trt.dequantize"
        (operand,) = tensors(call.values)
        before = dtype_of(operand)
        return before in _HALVES and any(output.dtype is torch.float32 for output in call.outputs)

    def dtype_of(tensor: AbstractTensor) -> torch.dtype | None:
        fake = mirror.fake(tensor.value) if isinstance(tensor, Captured) else None
        return tensor.dtype or getattr(fake, "dtype", None)

    for tile in tiles:
        for call in tile.plan.calls:
            if isinstance(call, LayerCall):
                operands = list(tensors(call.values))
                if is_kept(call) or not all(map(is_constant, operands)):
                    for operand in filter(is_constant, operands):
                        hold(operand)
    return found


def products(mirror: Mirror, tiles: Sequence[Tile]) -> tuple[Products, ...]:
    """How many layers multiply in which dtypes, and why in floats where operands are held in fewer bits."""
    of_node = {tile.node: tile for tile in tiles}
    counts: Counter[Products] = Counter()
    for tile in tiles:
        for call in tile.plan.calls:
            names = _PRODUCTS.get(call.layer.name) if isinstance(call, LayerCall) else None
            if names is not None and isinstance(call, LayerCall):
                operands = [_source(call.values[name], of_node, mirror) for name in names]
                found = _product(call, operands)
                folded = next(filter(None, (_folded_codes(call.values[name], mirror) for name in names)), "")
                counts[found._replace(why=folded) if folded else found] += 1
    return tuple(
        Products(each.layer, each.dtypes, count, each.why) for each, count in sorted(counts.items(), key=lambda i: i[0])
    )


def _product(call: LayerCall, operands: list[torch.dtype | None]) -> Products:
    layer = call.layer.name.removeprefix("trt.").removesuffix("_dynamic")
    names = tuple("?" if dtype is None else _name(dtype) for dtype in operands)
    narrow = [dtype for dtype in operands if dtype is not None and dtype not in _FLOATS]
    why = ""
    if len(narrow) == 1:
        which = "weights" if operands[0] in _FLOATS else "values"
        other = "values" if which == "weights" else "weights"
        why = f"the {which} are {_name(narrow[0])}, and the {other} are not quantized: dequantized before the product"
    elif len(set(narrow)) == 2:
        why = f"TensorRT multiplies {' and '.join(map(_name, narrow))} as floats"
    return Products(layer, names, 1, why)


def _folded_codes(tensor: AbstractTensor | None, mirror: Mirror) -> str:
    """Why an operand is floats that the model has as codes; empty where it has not."""
    while isinstance(tensor, CallOutput) and isinstance(tensor.call, LayerCall) and tensor.call.layer.name in _CARRIES:
        tensor = tensor.call.values["x"]
    recipe = tensor.value.node.meta.get("recipe") if isinstance(tensor, Captured) else None
    fake = mirror.fake(tensor.value) if isinstance(tensor, Captured) else None
    if recipe is None or not isinstance(fake, torch.Tensor) or fake.dtype not in _FLOATS:
        return ""
    for source in map(mirror.constants.get, recipe.sources):
        # At least half a byte of codes for each element, or what only says where they are is taken for them.
        if source is not None and source.dtype in _CODES and 2 * source.numel() * source.itemsize >= fake.numel() > 0:
            return (
                f"the weights are {_name(source.dtype)} in the model and computed to floats when compiling: no rule "
                "keeps such codes, scales and zero points"
            )
    return ""


def _source(tensor: AbstractTensor | None, of_node: dict[fx.Node, Tile], mirror: Mirror) -> torch.dtype | None:
    """The dtype that the elements of an operand have before they are dequantized.

    Of constants also before they are computed with: codes with a zero point, codes by which a table is read.
    """
    while True:
        if isinstance(tensor, Captured) and tensor.value.node in of_node:
            tensor = of_node[tensor.value.node].plan.outputs[tensor.value.index]
        elif isinstance(tensor, CallOutput) and isinstance(tensor.call, LayerCall):
            name, values = tensor.call.layer.name, tensor.call.values
            if name == "trt.dequantize":
                dtype: torch.dtype | None = values["x"].dtype
                return dtype
            if name in _COMPUTES and _is_constant(tensor, mirror):
                inner = [_source(values[key], of_node, mirror) for key in _COMPUTES[name]]
                return next((each for each in inner if each in _NARROW), tensor.dtype)
            if name == "trt.concatenation":
                inner = list(dict.fromkeys(_source(each, of_node, mirror) for each in values["xs"]))
                return inner[0] if len(inner) == 1 else tensor.dtype
            if name not in _CARRIES:
                return tensor.dtype
            tensor = values["x"]
        else:
            return None if tensor is None else tensor.dtype


def _is_constant(tensor: AbstractTensor, mirror: Mirror) -> bool:
    return all(
        mirror.is_const(leaf.value) if isinstance(leaf, Captured) else isinstance(leaf, ConstantTensor)
        for leaf in leaves(tensor)
    )


def _bytes(numel: int, dtype: torch.dtype) -> int:
    return (numel + 1) // 2 if dtype == INT4 else numel * dtype.itemsize


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


__all__ = ["products", "weights"]

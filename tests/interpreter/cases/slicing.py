from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, name, rand

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)


def sample(x: Tensor, start: Any, size: Any, stride: Any, mode: str, fill: Any = 0) -> Tensor:
    """A slice, element by element."""
    out = torch.empty(tuple(size), dtype=x.dtype)
    for position in product(*map(range, size)):
        source: list[int] | None = []
        for i, first, pace, n in zip(position, start, stride, x.shape, strict=True):
            at = first + i * pace
            if not 0 <= at < n:
                if mode == "FILL":
                    source = None
                    break
                if mode == "WRAP":
                    at %= n
                elif mode == "CLAMP":
                    at = min(max(at, 0), n - 1)
                elif mode == "REFLECT":
                    while not 0 <= at < n:  # mirror at the first, then at the last element, until inside
                        at = -at if at < 0 else 2 * (n - 1) - at
            assert source is not None
            source.append(at)
        out[position] = fill if source is None else x[tuple(source)]
    return out


def cases() -> Iterator[LayerCase]:
    def build(start: Any, size: Any, stride: Any, mode: str, fill: Tensor | None = None) -> Any:
        def made(net: Net, x: Any) -> Any:
            layer = net.network.add_slice(x, start, size, stride)
            layer.mode = getattr(net.trt.SampleMode, mode)
            if fill is not None:
                layer.set_input(4, net.const(fill))
            return layer

        return made

    inside = (
        ((0, 0), (4, 6), (1, 1)),
        ((1, 2), (2, 3), (1, 1)),
        ((0, 1), (2, 3), (2, 2)),
        ((3, 5), (4, 3), (-1, -2)),
        ((2, 1), (3, 4), (0, 1)),
        ((3, 0), (1, 0), (1, 1)),
        ((1, 3), (2, 2), (0, 0)),
    )
    for start, size, stride in inside:
        for mode in ("STRICT_BOUNDS", "WRAP", "CLAMP", "FILL", "REFLECT"):
            yield LayerCase(
                name("slice", mode, start, size, stride),
                build(start, size, stride, mode),
                {"x": rand(4, 6)},
                lambda x, a=(start, size, stride, mode): sample(x, *a),
            )
    outside = (
        ((-2, -3), (8, 12), (1, 1)),
        ((1, 2), (5, 9), (1, 1)),
        ((-1, -1), (4, 5), (2, 3)),
        ((5, 8), (7, 9), (-1, -2)),
        ((-9, -14), (25, 35), (1, 1)),
    )
    for start, size, stride in outside:
        for mode in ("WRAP", "CLAMP", "FILL", "REFLECT"):
            yield LayerCase(
                name("slice", mode, start, size, stride),
                build(start, size, stride, mode),
                {"x": rand(4, 6)},
                lambda x, a=(start, size, stride, mode): sample(x, *a),
            )
    for dtype in TYPES:
        fill = torch.tensor(1).to(dtype)
        yield LayerCase(
            name("slice-fill", dtype),
            build((-1, 0), (6, 7), (1, 1), "FILL", fill),
            {"x": rand(4, 6, dtype=dtype)},
            lambda x: sample(x, (-1, 0), (6, 7), (1, 1), "FILL", 1),
        )
        yield LayerCase(
            name("slice-strict", dtype),
            build((1, 0), (2, 3), (1, 2), "STRICT_BOUNDS"),
            {"x": rand(4, 6, dtype=dtype)},
            lambda x: x[1:3, 0:6:2],
        )
    for mode in ("REFLECT", "CLAMP", "WRAP"):
        yield LayerCase(
            name("slice-single", mode), build((-2,), (5,), (1,), mode), {"x": rand(1)}, lambda x: x.expand(5)
        )

    def with_axes(net: Net, x: Any) -> Any:
        layer = net.network.add_slice(x, (1, 2), (2, 3), (1, -1))
        layer.axes = (0, 2)
        return layer

    yield LayerCase("slice-axes", with_axes, {"x": rand(3, 4, 5)}, lambda x: x[1:3][..., [2, 1, 0]])

    def from_inputs(net: Net, x: Any) -> Any:
        layer = net.network.add_slice(x, (0, 0), (0, 0), (1, 1))
        layer.set_input(1, net.i64(1, 0))
        layer.set_input(2, net.ew(net.shape(x), net.i64(2, 1), "SUB"))
        layer.set_input(3, net.i64(1, 1))
        return layer

    yield LayerCase("slice-inputs", from_inputs, {"x": rand(5, 6)}, lambda x: x[1:-1, :-1], dynamic={"x": (0, 1)})

    def reversed_dynamic(net: Net, x: Any) -> Any:
        layer = net.network.add_slice(x, (0, 0), (0, 0), (-1, 1))
        layer.set_input(1, net.ew(net.ew(net.shape(x), net.i64(1, 0), "PROD"), net.i64(1, 0), "SUB"))
        layer.set_input(2, net.shape(x))
        return layer

    yield LayerCase(
        "slice-flip-dynamic", reversed_dynamic, {"x": rand(5, 6)}, lambda x: x.flip(0), dynamic={"x": (0, 1)}
    )

    def axes_input(net: Net, x: Any) -> Any:
        layer = net.network.add_slice(x, (0,), (2,), (2,))
        layer.set_input(5, net.i64(1))
        return layer

    yield LayerCase("slice-axes-input", axes_input, {"x": rand(3, 4)}, lambda x: x[:, 0:4:2])

    def expanded(net: Net, x: Any, y: Any) -> Any:
        layer = net.network.add_slice(x, (0, 0), (0, 0), (0, 1))
        layer.set_input(2, net.shape(y))
        return layer

    yield LayerCase(
        "slice-expand-dynamic",
        expanded,
        {"x": rand(1, 6), "y": rand(5, 6)},
        lambda x, y: x.expand(5, 6),
        dynamic={"y": (0,)},
    )

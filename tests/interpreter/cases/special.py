"""NaN and infinities through every layer: what TensorRT makes of them, which its documentation leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, name, rand
from tests.interpreter.cases.arithmetic import ACTIVATIONS, BINARY, FLOATS, UNARY

NAN, INF = float("nan"), float("inf")
ONE_BY_ONE = (NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -300.0)
"""Operands of functions of single numbers."""


def _rows(width: int) -> Tensor:
    """Rows with a NaN in front, in the middle and at the end, of nothing but NaN, and with infinities. [9, width]"""
    rows = rand(9, width, low=-4, high=4, seed=5)
    rows[0, 0] = rows[1, width // 2] = rows[2, -1] = NAN
    rows[3] = NAN
    rows[4, 1], rows[5, 1] = INF, -INF
    rows[6, 0], rows[6, -1] = INF, -INF
    rows[7] = -INF
    rows[8, 0], rows[8, 1] = NAN, INF
    return rows


def _case(label: str, build: Any, dynamic: Any = None, tolerance: Any = None, **inputs: Tensor) -> LayerCase:
    return LayerCase(f"special-{label}", build, inputs, dynamic=dynamic, tolerance=tolerance)


def functions() -> Iterator[LayerCase]:
    for kind, dtype in product(ACTIVATIONS, FLOATS):

        def activation(net: Net, x: Any, kind: str = kind) -> Any:
            layer = net.network.add_activation(x, getattr(net.trt.ActivationType, kind))
            layer.alpha, layer.beta = ACTIVATIONS[kind][:2]
            return layer

        yield _case(name("activation", kind, dtype), activation, x=torch.tensor(ONE_BY_ONE, dtype=dtype))
    for kind, dtype in product(UNARY, FLOATS):
        yield _case(
            name("unary", kind, dtype),
            lambda net, x, kind=kind: net.network.add_unary(x, getattr(net.trt.UnaryOperation, kind)),
            x=torch.tensor(ONE_BY_ONE, dtype=dtype),
        )
    every = torch.tensor(ONE_BY_ONE)
    for kind, dtype in product(BINARY, FLOATS):
        x, y = every.to(dtype)[:, None].expand(10, 10), every.to(dtype)[None].expand(10, 10)
        yield _case(
            name("elementwise", kind, dtype),
            lambda net, x, y, kind=kind: net.ew(x, y, kind),
            x=x.contiguous(),
            y=y.contiguous(),
        )
    for kind, first in product(("MAX", "MIN", "POW", "DIV"), (True, False)):

        def with_number(net: Net, x: Any, kind: str = kind, first: bool = first) -> Any:
            number = net.const([0.5])
            return net.ew(number, x, kind) if first else net.ew(x, number, kind)

        yield _case(name("elementwise-number", kind, "first" if first else "second"), with_number, x=every)
    # In a chain that TensorRT makes one kernel of.
    for kind, dtype in product(("MAX", "MIN"), FLOATS):

        def chain(net: Net, x: Any, y: Any, kind: str = kind, dtype: torch.dtype = dtype) -> Any:
            one, two = (net.const(torch.ones(1, 1).mul(n).to(dtype)) for n in (1, 2))
            return net.ew(net.ew(net.ew(x, one, "SUM"), net.ew(y, two, "PROD"), kind), two, "PROD")

        x, y = every.to(dtype)[:, None].expand(10, 10), every.to(dtype)[None].expand(10, 10)
        yield _case(name("elementwise-chain", kind, dtype), chain, x=x.contiguous(), y=y.contiguous())
    for source, target in product(FLOATS, (*FLOATS, torch.int32, torch.int64, torch.bool)):
        if source != target:
            yield _case(
                name("cast", source, target),
                lambda net, x, target=target: net.network.add_cast(x, net.dtype(target)),
                x=every.to(source),
            )
    for dtype in FLOATS:
        x = every.to(dtype)
        condition = torch.arange(10) % 2 == 0
        yield _case(
            name("select", dtype),
            lambda net, c, x, y: net.network.add_select(c, x, y),
            c=condition,
            x=x,
            y=x.flip(0),
        )
        yield _case(
            name("prelu", dtype),
            lambda net, x, s: net.network.add_parametric_relu(x, s),
            x=x.reshape(1, 10),
            s=torch.full((1, 10), 0.5, dtype=dtype),
        )

    def scaled(net: Net, x: Any) -> Any:
        weights = [net.weights(torch.tensor([v])) for v in (0.5, 2.0)]
        return net.network.add_scale(x, net.trt.ScaleMode.UNIFORM, weights[0], weights[1], net.weights(None))

    yield _case("scale", scaled, x=every.reshape(1, 1, 2, 5))


def along_axes() -> Iterator[LayerCase]:
    def reduced(op: str, axis: int) -> Any:
        return lambda net, x: net.network.add_reduce(x, getattr(net.trt.ReduceOperation, op), 1 << axis, False)

    ops = ("SUM", "PROD", "MAX", "MIN", "AVG")
    for op, width, axis in product(ops, (3, 8, 257, 3000), (0, 1)):
        x = _rows(width) if axis else _rows(width).T.contiguous()
        yield _case(
            name("reduce", op, width, "axis", axis),
            reduced(op, axis),
            tolerance=(1e-3, 1e-3) if width > 8 else None,
            x=x,
        )
    for op, dtype in product(ops, FLOATS[1:]):
        yield _case(name("reduce", op, dtype), reduced(op, 1), tolerance=(3e-2, 3e-1), x=_rows(33).to(dtype))
    for op in ops:
        yield _case(
            name("reduce-dynamic", op), reduced(op, 1), dynamic={"x": (0, 1)}, tolerance=(1e-3, 1e-3), x=_rows(9)
        )

        def everything(net: Net, x: Any, op: str = op) -> Any:
            return net.network.add_reduce(x, getattr(net.trt.ReduceOperation, op), 0b11, False)

        yield _case(name("reduce-all", op), everything, tolerance=(1e-3, 1e-3), x=_rows(40)[:3].contiguous())
        yield _case(name("reduce-one-row", op), reduced(op, 1), x=torch.tensor([[1.0, NAN, 3.0]]))

    def softmax(net: Net, x: Any) -> Any:
        layer = net.network.add_softmax(x)
        layer.axes = 0b10
        return layer

    for width, dtype in product((3, 257), FLOATS):
        yield _case(name("softmax", width, dtype), softmax, x=_rows(width).to(dtype))
    yield _case(
        "ragged-softmax",
        lambda net, x, b: net.network.add_ragged_softmax(x, b),
        x=_rows(7)[None],
        b=torch.tensor([[[7], [3], [6], [7], [7], [7], [7], [7], [7]]], dtype=torch.int32),
    )
    for op, k, width, dtype in product(("MAX", "MIN"), (1, 3), (5, 257), FLOATS):
        if width == 5 or dtype == torch.float32:

            def top(net: Net, x: Any, op: str = op, k: int = k) -> Any:
                layer = net.network.add_topk(x, getattr(net.trt.TopKOperation, op), k, 0b10)
                return [layer.get_output(0), layer.get_output(1)]

            x = (torch.randperm(width, generator=torch.Generator().manual_seed(1)) - width // 2).float()
            x = x.expand(5, width).contiguous()
            x[0, 0] = x[1, width // 2] = x[2, -1] = NAN
            x[3, 1], x[3, 2] = INF, -INF
            x[4, 0], x[4, 1] = NAN, INF
            yield _case(name("topk", op, k, width, dtype), top, x=x.to(dtype))
    for dtype in (torch.float32, torch.float16):
        yield _case(
            name("cumulative", dtype),
            lambda net, x: net.network.add_cumulative(x, net.scalar(1), net.trt.CumulativeOperation.SUM, False, False),
            tolerance=(1e-2, 1e-2),
            x=_rows(9).to(dtype),
        )
    for axes, shape in (((1,), (1, 8)), ((0,), (9, 1))):

        def normal(net: Net, x: Any, axes: Any = axes, shape: Any = shape) -> Any:
            ones, zeros = net.const(torch.ones(shape)), net.const(torch.zeros(shape))
            return net.network.add_normalization_v2(x, ones, zeros, sum(1 << axis for axis in axes))

        yield _case(name("normalization", axes), normal, x=_rows(8))


def windows() -> Iterator[LayerCase]:
    image = rand(1, 2, 6, 6, seed=3)
    image[0, 0, 1, 1], image[0, 0, 4, 4], image[0, 1, 2, 2], image[0, 1, 5, 5] = NAN, INF, -INF, NAN
    image[0, 1, :2, :2] = -INF
    for kind, dtype, padded in product(("MAX", "AVERAGE", "MAX_AVERAGE_BLEND"), FLOATS, (0, 1)):

        def pooled(net: Net, x: Any, kind: str = kind, padded: int = padded) -> Any:
            layer = net.network.add_pooling_nd(x, getattr(net.trt.PoolingType, kind), (2, 2))
            layer.stride_nd, layer.pre_padding, layer.post_padding = (1, 1), (padded,) * 2, (padded,) * 2
            layer.blend_factor = 0.5
            return layer

        yield _case(name("pool", kind, dtype, padded), pooled, x=image.to(dtype))
    for mode, scale in product(("NEAREST", "LINEAR", "CUBIC"), (2.0, 0.5, 1.5)):

        def resized(net: Net, x: Any, mode: str = mode, scale: float = scale) -> Any:
            layer = net.network.add_resize(x)
            layer.resize_mode = getattr(net.trt.InterpolationMode, mode)
            layer.coordinate_transformation = net.trt.ResizeCoordinateTransformation.HALF_PIXEL
            layer.scales = [1, 1, scale, scale]
            return layer

        yield _case(name("resize", mode, scale), resized, x=image)
    grid = rand(1, 3, 4, 2, low=-1, high=1, seed=9)
    grid[0, 0, 0, 0], grid[0, 0, 1, 1], grid[0, 1, 0, 0], grid[0, 1, 1, 1] = NAN, NAN, INF, -INF
    for mode, border in product(("NEAREST", "LINEAR"), ("FILL", "CLAMP")):

        def sampled(net: Net, x: Any, g: Any, mode: str = mode, border: str = border) -> Any:
            layer = net.network.add_grid_sample(x, g)
            layer.interpolation_mode = getattr(net.trt.InterpolationMode, mode)
            layer.sample_mode = getattr(net.trt.SampleMode, border)
            return layer

        yield _case(name("grid-sample-image", mode, border), sampled, x=image, g=grid.nan_to_num(0.1, 0.2, 0.3))
        yield _case(name("grid-sample-grid", mode, border), sampled, x=rand(1, 2, 6, 6), g=grid)
    kernel = torch.tensor([[[[1.0, 0.0], [0.5, -1.0]], [[0.25, 1.0], [1.0, 0.0]]]])

    def convolved(net: Net, x: Any) -> Any:
        return net.network.add_convolution_nd(x, 1, (2, 2), net.weights(kernel), net.weights(None))

    yield _case("conv", convolved, x=image)

    def deconvolved(net: Net, x: Any) -> Any:
        weights = net.weights(kernel.transpose(0, 1).contiguous())
        return net.network.add_deconvolution_nd(x, 1, (2, 2), weights, net.weights(None))

    yield _case("deconv", deconvolved, x=image)
    yield _case("lrn", lambda net, x: net.network.add_lrn(x, 3, 0.4, 0.75, 1.5), x=image)
    none = "NONE"
    for dtype in FLOATS:
        yield _case(
            name("matmul", dtype),
            lambda net, x, y: net.network.add_matrix_multiply(
                x, getattr(net.trt.MatrixOperation, none), y, getattr(net.trt.MatrixOperation, none)
            ),
            tolerance=(5e-2, 5e-1),
            x=_rows(16).to(dtype),
            y=torch.cat((torch.zeros(16, 1), torch.ones(16, 1)), 1).to(dtype),
        )
    for kind in ("INT8", "FP8"):

        def round_trip(net: Net, x: Any, kind: str = kind) -> Any:
            scale = net.const(torch.tensor(0.5))
            q = net.network.add_quantize(x, scale, net.dtype(kind)).get_output(0)
            return net.network.add_dequantize(q, scale, x.dtype)

        yield _case(name("quantize", kind), round_trip, x=torch.tensor([ONE_BY_ONE[:8]]))


def moves() -> Iterator[LayerCase]:
    for dtype in FLOATS:
        x = _rows(6).to(dtype)
        yield _case(
            name("scatter", dtype),
            lambda net, x, i, u: net.network.add_scatter(x, i, u, net.trt.ScatterMode.ELEMENT),
            x=x,
            i=torch.tensor([[0, 1, 2, 3, 4, 5]]),
            u=torch.tensor([[INF, NAN, -INF, 1.0, NAN, 2.0]], dtype=dtype),
        )
        yield _case(
            name("gather", dtype),
            lambda net, x, i: net.network.add_gather_v2(x, i, net.trt.GatherMode.DEFAULT),
            x=x,
            i=torch.tensor([3, 0, 8]),
        )
        yield _case(name("concatenation", dtype), lambda net, x, y: net.network.add_concatenation([x, y]), x=x, y=x)

        def cut(net: Net, x: Any, dtype: torch.dtype = dtype) -> Any:
            layer = net.network.add_slice(x, (-1, 0), (4, 3), (1, 2))
            layer.mode = net.trt.SampleMode.FILL
            layer.set_input(4, net.const(torch.tensor(NAN, dtype=dtype)))
            return layer

        yield _case(name("slice", dtype), cut, x=x)
        yield _case(
            name("one-hot", dtype),
            lambda net, i, v: net.network.add_one_hot(i, v, net.scalar(4), -1),
            i=torch.tensor([0, 2], dtype=torch.int32),
            v=torch.tensor([-INF, NAN], dtype=dtype),
        )


def cases() -> Iterator[LayerCase]:
    for family in (functions, along_axes, windows, moves):
        yield from family()

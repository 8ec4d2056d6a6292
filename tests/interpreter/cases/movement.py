from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from tests.interpreter.case import LayerCase, Net, name, rand

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)


def shuffles() -> Iterator[LayerCase]:
    def build(first: Any, dims: Any, second: Any, placeholder: bool = True) -> Any:
        def made(net: Net, x: Any) -> Any:
            layer = net.network.add_shuffle(x)
            if first:
                layer.first_transpose = first
            if dims is not None:
                layer.reshape_dims = dims
            if second:
                layer.second_transpose = second
            layer.zero_is_placeholder = placeholder
            return layer

        return made

    table: dict[str, tuple[Any, ...]] = {
        "reshape": (None, (6, 20), None, lambda x: x.reshape(6, 20)),
        "infer": (None, (4, -1), None, lambda x: x.reshape(4, -1)),
        "copy": (None, (0, -1, 5), None, lambda x: x.reshape(2, 12, 5)),
        "copy-two": (None, (0, 0, -1), None, lambda x: x.reshape(2, 3, 20)),
        "transpose": ((0, 2, 3, 1), None, None, lambda x: x.permute(0, 2, 3, 1)),
        "second": (None, None, (3, 1, 0, 2), lambda x: x.permute(3, 1, 0, 2)),
        "all": (
            (1, 0, 3, 2),
            (0, -1, 2),
            (2, 0, 1),
            lambda x: x.permute(1, 0, 3, 2).reshape(3, -1, 2).permute(2, 0, 1),
        ),
        "copy-after-transpose": ((1, 0, 2, 3), (0, -1), None, lambda x: x.permute(1, 0, 2, 3).reshape(3, -1)),
        "scalar-like": (None, (1, 2, 3, 4, 5, 1), None, lambda x: x.reshape(1, 2, 3, 4, 5, 1)),
    }
    for label, (first, dims, second, reference) in table.items():
        for dtype in TYPES if label in ("reshape", "all") else TYPES[:1]:
            yield LayerCase(
                name("shuffle", label, dtype),
                build(first, dims, second),
                {"x": rand(2, 3, 4, 5, dtype=dtype)},
                reference,
            )
    yield LayerCase(
        "shuffle-dynamic-copy",
        build(None, (0, -1), None),
        {"x": rand(2, 3, 4, 5)},
        lambda x: x.reshape(2, -1),
        dynamic={"x": (0, 2)},
    )
    yield LayerCase("shuffle-to-scalar", build(None, (), None), {"x": rand(1, 1)}, lambda x: x.reshape(()))
    yield LayerCase(
        "shuffle-zero-literal", build(None, (0, 5), None, False), {"x": rand(0, 3)}, lambda x: x.reshape(0, 5)
    )

    def reshaped_as(net: Net, x: Any, y: Any) -> Any:
        layer = net.network.add_shuffle(x)
        layer.set_input(1, net.shape(y))
        return layer

    yield LayerCase(
        "shuffle-shape-input",
        reshaped_as,
        {"x": rand(4, 6), "y": rand(2, 12)},
        lambda x, y: x.reshape(y.shape),
        dynamic={"x": (0,), "y": (1,)},
    )

    def computed(net: Net, x: Any) -> Any:
        layer = net.network.add_shuffle(x)
        layer.set_input(1, net.i64(0, -1))
        return layer

    yield LayerCase(
        "shuffle-constant-input",
        computed,
        {"x": rand(2, 3, 4)},
        lambda x: x.reshape(2, 12),
        dynamic={"x": (0,)},
    )


def concatenations() -> Iterator[LayerCase]:
    for axis in (0, 1, 2):
        for dtype in TYPES:

            def build(net: Net, *xs: Any, axis: int = axis) -> Any:
                layer = net.network.add_concatenation(list(xs))
                layer.axis = axis
                return layer

            shapes = [[2, 3, 4] for _ in range(3)]
            shapes[1][axis], shapes[2][axis] = 1, 5
            inputs = {f"x{i}": rand(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)}
            yield LayerCase(
                name("concatenation", axis, dtype), build, inputs, lambda *xs, axis=axis: torch.cat(xs, axis)
            )
    yield LayerCase(
        "concatenation-default",
        lambda net, x, y: net.network.add_concatenation([x, y]),
        {"x": rand(2, 3, 4, 5), "y": rand(2, 2, 4, 5)},
        lambda x, y: torch.cat((x, y), 1),
    )


def paddings() -> Iterator[LayerCase]:
    for pre, post in (((1, 2), (3, 0)), ((-1, 0), (0, -2)), ((0, -1), (2, 3))):
        for dtype in (torch.float32, torch.float16):
            yield LayerCase(
                name("padding", pre, post, dtype),
                lambda net, x, pre=pre, post=post: net.network.add_padding_nd(x, pre, post),
                {"x": rand(1, 3, 5, 6, dtype=dtype)},
                lambda x, pre=pre, post=post: F.pad(x, (pre[1], post[1], pre[0], post[0])),
            )


def squeezes() -> Iterator[LayerCase]:
    for axes in ((1,), (1, 3), (-1,), (-2, 1)):
        shape = [2, 3, 4, 5]
        for axis in axes:
            shape[axis] = 1

        def squeezed(x: Any, axes: Any = axes) -> Any:
            return x.squeeze(tuple(axes))

        yield LayerCase(
            name("squeeze", axes),
            lambda net, x, axes=axes: net.network.add_squeeze(x, net.i64(*axes)),
            {"x": rand(*shape)},
            squeezed,
        )
    for axes in ((0,), (1, 3), (-1,), (0, -1), (2, 1)):

        def unsqueezed(x: Any, axes: Any = axes) -> Any:
            rank = x.dim() + len(axes)
            sizes = iter(x.shape)
            ones = {axis % rank for axis in axes}
            return x.reshape([1 if axis in ones else next(sizes) for axis in range(rank)])

        yield LayerCase(
            name("unsqueeze", axes),
            lambda net, x, axes=axes: net.network.add_unsqueeze(x, net.i64(*axes)),
            {"x": rand(2, 3)},
            unsqueezed,
            dynamic={"x": (0,)},
        )


def others() -> Iterator[LayerCase]:
    yield LayerCase(
        "shape",
        lambda net, x: net.shape(x),
        {"x": rand(2, 3, 4)},
        lambda x: torch.tensor(x.shape),
        dynamic={"x": (0, 2)},
    )
    for batch, sequence in ((0, 1), (1, 0), (0, 2)):

        def build(net: Net, x: Any, n: Any, batch: int = batch, sequence: int = sequence) -> Any:
            layer = net.network.add_reverse_sequence(x, n)
            layer.batch_axis, layer.sequence_axis = batch, sequence
            return layer

        def reference(x: Any, n: Any, batch: int = batch, sequence: int = sequence) -> Any:
            y = x.clone()
            for i, length in enumerate(n.tolist()):
                row = x.select(batch, i)
                along = sequence - (sequence > batch)
                y.select(batch, i).narrow(along, 0, length).copy_(row.narrow(along, 0, length).flip(along))
            return y

        x = rand(4, 4, 4)
        yield LayerCase(
            name("reverse-sequence", batch, sequence),
            build,
            {"x": x, "n": torch.tensor([1, 3, 4, 2], dtype=torch.int32)},
            reference,
        )
    for value in (
        rand(2, 3),
        rand(2, 3, dtype=torch.float16),
        rand(2, 3, dtype=torch.bfloat16),
        rand(2, 3, dtype=torch.int32),
        rand(2, 3, dtype=torch.int64),
        rand(2, 3, dtype=torch.int8),
        rand(2, 3, dtype=torch.uint8, low=0, high=9),
        rand(2, 3, dtype=torch.bool),
        torch.tensor(2.5),
        rand(3, 0),
    ):
        yield LayerCase(
            name("constant", value.dtype, tuple(value.shape)),
            lambda net, x, value=value: [
                net.network.add_identity(net.const(value)).get_output(0),
                net.network.add_identity(x).get_output(0),
            ],
            {"x": rand(2)},
            lambda x, value=value: (value, x),
        )
    for dtype, label in ((torch.float32, "FLOAT"), (torch.int64, "INT64"), (torch.int32, "INT32")):

        def linspace(net: Net, x: Any, label: str = label) -> Any:
            layer = net.network.add_fill((7,), net.trt.FillOperation.LINSPACE, getattr(net.trt.DataType, label))
            layer.alpha, layer.beta = (3, 2) if label != "FLOAT" else (0.5, 0.25)
            return [layer.get_output(0), net.network.add_identity(x).get_output(0)]

        yield LayerCase(
            name("fill", dtype),
            linspace,
            {"x": rand(2)},
            lambda x, d=dtype: (
                (torch.arange(7) * (2 if d != torch.float32 else 0.25) + (3 if d != torch.float32 else 0.5)).to(d),
                x,
            ),
        )

        def dynamic(net: Net, x: Any, dtype: torch.dtype = dtype, label: str = label) -> Any:
            layer = net.network.add_fill((1, 1), net.trt.FillOperation.LINSPACE, getattr(net.trt.DataType, label))
            layer.set_input(0, net.shape(x))
            layer.set_input(1, net.const(torch.tensor(1, dtype=dtype)))
            layer.set_input(2, net.const(torch.tensor([100, 10], dtype=dtype)))
            return layer

        yield LayerCase(
            name("fill-inputs", dtype),
            dynamic,
            {"x": rand(3, 4)},
            lambda x, d=dtype: (1 + 100 * torch.arange(x.shape[0])[:, None] + 10 * torch.arange(x.shape[1])).to(d),
            dynamic={"x": (0, 1)},
        )


def shaped() -> Iterator[LayerCase]:
    """Sizes that come as the values of a network input, which TensorRT reads on the host."""

    def reshape(net: Net, x: Any, s: Any) -> Any:
        layer = net.network.add_shuffle(x)
        layer.set_input(1, s)
        return layer

    def cut(net: Net, x: Any, s: Any) -> Any:
        layer = net.network.add_slice(x, (0, 1, 2), (0, 0, 0), (1, 1, 1))
        layer.set_input(2, s)
        return layer

    def resize(net: Net, x: Any, s: Any) -> Any:
        layer = net.network.add_resize(x)
        layer.set_input(1, s)
        return layer

    def ramp(net: Net, s: Any) -> Any:
        layer = net.network.add_fill((), net.trt.FillOperation.LINSPACE, net.trt.DataType.FLOAT)
        layer.set_input(0, s)
        layer.set_input(1, net.const(torch.tensor(1.0)))
        layer.set_input(2, net.const(torch.tensor([1.0, 10.0])))
        return layer

    x = rand(2, 3, 8)
    table: dict[str, tuple[Any, ...]] = {
        "reshape": (reshape, [x], [4, 12], ([1, 1], [48, 48]), lambda x, s: x.reshape(4, 12)),
        "slice": (cut, [x], [1, 2, 4], ([1, 1, 1], [2, 2, 6]), lambda x, s: x[:1, 1:3, 2:6]),
        "resize": (
            resize,
            [x],
            [2, 3, 16],
            ([2, 3, 4], [2, 3, 32]),
            lambda x, s: x.repeat_interleave(2, 2),
        ),
        "fill": (
            ramp,
            [],
            [3, 4],
            ([1, 1], [8, 8]),
            lambda s: 1 + torch.arange(3)[:, None] + 10.0 * torch.arange(4),
        ),
    }
    for label, (build, data, sizes, bounds, reference) in table.items():
        for dtype in (torch.int64, torch.int32):
            inputs = {**dict(zip("x", data, strict=False)), "s": torch.tensor(sizes, dtype=dtype)}
            yield LayerCase(name("shape-input", label, dtype), build, inputs, reference, shape_inputs={"s": bounds})


def cases() -> Iterator[LayerCase]:
    for family in (shuffles, concatenations, paddings, squeezes, others, shaped):
        yield from family()

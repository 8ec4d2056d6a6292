from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, name, rand

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _axes(mask: int, rank: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if mask >> axis & 1)


def _reduced(x: Tensor, op: str, mask: int, keep: bool) -> Tensor:
    axes = _axes(mask, x.dim())
    wide = x.double() if x.dtype.is_floating_point else x.long()
    if op == "PROD":
        for axis in reversed(axes):
            wide = wide.prod(axis, keepdim=keep)
        return wide.to(x.dtype)
    if op == "AVG" and not x.dtype.is_floating_point:
        count = math.prod(x.shape[axis] for axis in axes)
        return (wide.sum(axes, keepdim=keep).double() / count).trunc().to(x.dtype)
    function = {"SUM": torch.sum, "MAX": torch.amax, "MIN": torch.amin, "AVG": torch.mean}[op]
    return function(wide, axes, keepdim=keep).to(x.dtype)


def reduces() -> Iterator[LayerCase]:
    def build(op: str, mask: int, keep: bool) -> Any:
        return lambda net, x: net.network.add_reduce(x, getattr(net.trt.ReduceOperation, op), mask, keep)

    ops = ("SUM", "PROD", "MAX", "MIN", "AVG")
    for op, mask, keep in product(ops, (0b0001, 0b0100, 0b1100, 0b1010, 0b1111), (True, False)):
        yield LayerCase(
            name("reduce", op, f"{mask:04b}", "keep" if keep else "drop"),
            build(op, mask, keep),
            {"x": rand(2, 3, 4, 5, low=-1.5, high=1.5)},
            lambda x, a=(op, mask, keep): _reduced(x, *a),
            dynamic={"x": (0, 2)} if keep else None,
        )
    for op, dtype in product(ops, (torch.float16, torch.bfloat16, torch.int32, torch.int64)):
        yield LayerCase(
            name("reduce", op, dtype),
            build(op, 0b10, True),
            {"x": rand(4, 6, dtype=dtype, low=-4, high=5)},
            lambda x, op=op: _reduced(x, op, 0b10, True),
        )
    for op in ops:
        yield LayerCase(
            name("reduce-nan", op),
            build(op, 0b10, False),
            {"x": torch.tensor([[1.0, float("nan"), 3.0]])},
            lambda x, op=op: _reduced(x[:, [0, 2]] if op in ("MAX", "MIN") else x, op, 0b10, False),
        )


def softmaxes() -> Iterator[LayerCase]:
    for shape, axis, dtype in product(((3, 17), (2, 3, 4, 9)), range(4), FLOATS):
        if axis < len(shape):

            def build(net: Net, x: Any, axis: int = axis) -> Any:
                layer = net.network.add_softmax(x)
                layer.axes = 1 << axis
                return layer

            yield LayerCase(
                name("softmax", shape, axis, dtype),
                build,
                {"x": rand(*shape, dtype=dtype, low=-8, high=8)},
                lambda x, axis=axis: x.float().softmax(axis).to(x.dtype),
                dynamic={"x": (0,)} if dtype == torch.float32 else None,
            )
    yield LayerCase(
        "softmax-default",
        lambda net, x: net.network.add_softmax(x),
        {"x": rand(2, 3, 4, 5)},
        lambda x: x.softmax(1),
    )
    yield LayerCase(
        "ragged-softmax",
        lambda net, x, b: net.network.add_ragged_softmax(x, b),
        {"x": rand(1, 3, 7), "b": torch.tensor([[[7], [3], [1]]], dtype=torch.int32)},
        lambda x, b: torch.stack(
            [
                torch.cat((row[:n].softmax(0), torch.zeros(7 - n)))
                for row, n in zip(x[0], b[0, :, 0].tolist(), strict=True)
            ]
        )[None],
    )


def topks() -> Iterator[LayerCase]:
    def build(op: str, k: int, axis: int, dynamic: bool = False) -> Any:
        def made(net: Net, x: Any) -> Any:
            layer = net.network.add_topk(x, getattr(net.trt.TopKOperation, op), k, 1 << axis)
            if dynamic:
                layer.set_input(1, net.scalar(k))
            return [layer.get_output(0), layer.get_output(1)]

        return made

    def reference(x: Tensor, op: str, k: int, axis: int) -> Any:
        order = torch.sort(x, dim=axis, descending=op == "MAX", stable=True).indices
        indices = order.narrow(axis, 0, k)
        return x.gather(axis, indices), indices.int()

    for op, k, axis in product(("MAX", "MIN"), (1, 3), (0, 1, 2)):
        yield LayerCase(
            name("topk", op, k, axis),
            build(op, k, axis),
            {"x": rand(4, 5, 6)},
            lambda x, a=(op, k, axis): reference(x, *a),
            dynamic={"x": (0,)} if axis else None,
        )
    for op, dtype in product(("MAX", "MIN"), (torch.float16, torch.bfloat16, torch.int32, torch.int64)):
        x = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(i)) for i in range(3)]).to(dtype)
        yield LayerCase(name("topk", op, dtype), build(op, 4, 1), {"x": x}, lambda x, op=op: reference(x, op, 4, 1))
    for op in ("MAX", "MIN"):
        tied = torch.tensor([[1, 3, 3, 0, 3, 0, 0, 1]], dtype=torch.float32)
        yield LayerCase(name("topk-ties", op), build(op, 6, 1), {"x": tied}, lambda x, op=op: reference(x, op, 6, 1))
    yield LayerCase("topk-dynamic-k", build("MAX", 3, 1, True), {"x": rand(4, 9)}, lambda x: reference(x, "MAX", 3, 1))


def cumulatives() -> Iterator[LayerCase]:
    for axis, exclusive, reverse, dtype in product(
        (0, 1, 2), (False, True), (False, True), (torch.float32, torch.float16, torch.int32, torch.int64)
    ):

        def reference(x: Tensor, axis: int = axis, exclusive: bool = exclusive, reverse: bool = reverse) -> Tensor:
            wide = x.double() if x.dtype.is_floating_point else x.long()
            result = torch.zeros_like(wide)
            size = x.shape[axis]
            for j in range(size):
                low, high = (j + exclusive, size) if reverse else (0, j + 1 - exclusive)
                result.select(axis, j).copy_(wide.narrow(axis, low, high - low).sum(axis))
            return result.to(x.dtype)

        yield LayerCase(
            name("cumulative", axis, "ex" if exclusive else "in", "rev" if reverse else "fwd", dtype),
            lambda net, x, a=(axis, exclusive, reverse): net.network.add_cumulative(
                x, net.scalar(a[0]), net.trt.CumulativeOperation.SUM, a[1], a[2]
            ),
            {"x": rand(3, 4, 5, dtype=dtype, low=-3, high=4)},
            reference,
        )


def _normal(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    x = x.double()
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


def normalizations() -> Iterator[LayerCase]:
    def build(axes: tuple[int, ...], groups: int, version: int, epsilon: float) -> Any:
        def made(net: Net, x: Any, s: Any, b: Any) -> Any:
            add = net.network.add_normalization if version == 1 else net.network.add_normalization_v2
            layer = add(x, s, b, sum(1 << axis for axis in axes))
            layer.epsilon, layer.num_groups = epsilon, groups
            return layer

        return made

    plain = (
        ((2, 6, 16), (2,), (1, 1, 16)),
        ((2, 6, 16), (1, 2), (1, 6, 16)),
        ((2, 6, 4, 5), (2, 3), (1, 6, 1, 1)),
        ((2, 6, 4, 5), (1, 2, 3), (1, 6, 1, 1)),
        ((2, 6, 4, 5), (1, 2, 3), (1, 6, 4, 5)),
        ((2, 6, 4, 5), (1,), (1, 6, 1, 1)),
        ((3, 16), (1,), (1, 16)),
    )
    for (shape, axes, coefficients), version, dtype in product(plain, (1, 2), FLOATS):
        yield LayerCase(
            name("normalization", f"v{version}", shape, "axes", axes, coefficients, dtype),
            build(axes, 1, version, 1e-3),
            {
                "x": rand(*shape, dtype=dtype),
                "s": rand(*coefficients, seed=1, dtype=dtype),
                "b": rand(*coefficients, seed=2, dtype=dtype),
            },
            lambda x, s, b, axes=axes: (_normal(x, axes, 1e-3) * s.double() + b.double()).to(x.dtype),
            dynamic={"x": (0,)} if dtype == torch.float32 else None,
        )
    for groups, version in product((2, 3, 6), (1, 2)):
        size = groups if version == 1 else 6

        def reference(x: Tensor, s: Tensor, b: Tensor, groups: int = groups, size: int = size) -> Tensor:
            split = _normal(x.reshape(2, groups, 6 // groups, 4, 5), (2, 3, 4), 1e-3).reshape(x.shape)
            s, b = (t.repeat_interleave(6 // size, 1) for t in (s, b))
            return (split * s.double() + b.double()).to(x.dtype)

        yield LayerCase(
            name("normalization-groups", groups, f"v{version}"),
            build((2, 3), groups, version, 1e-3),
            {"x": rand(2, 6, 4, 5), "s": rand(1, size, 1, 1, seed=1), "b": rand(1, size, 1, 1, seed=2)},
            reference,
        )


def cases() -> Iterator[LayerCase]:
    for family in (reduces, softmaxes, topks, cumulatives, normalizations):
        yield from family()

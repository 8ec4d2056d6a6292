from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, name, rand

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool)


def gathers() -> Iterator[LayerCase]:
    def build(mode: str, axis: int = 0, shared: int = 0) -> Any:
        def made(net: Net, x: Any, i: Any) -> Any:
            layer = net.network.add_gather_v2(x, i, getattr(net.trt.GatherMode, mode))
            layer.axis, layer.num_elementwise_dims = axis, shared
            return layer

        return made

    for axis, shape, index in product((0, 1, 2), ((), (3,), (2, 2)), (torch.int32, torch.int64)):
        x = rand(3, 4, 5)
        i = rand(*shape, dtype=index, low=0, high=3, seed=1) if shape else torch.tensor(2, dtype=index)
        yield LayerCase(
            name("gather", axis, shape or "scalar", index),
            build("DEFAULT", axis),
            {"x": x, "i": i},
            lambda x, i, axis=axis: torch.from_numpy(np.take(x.numpy(), i.numpy(), axis)),
            dynamic={"x": (0,)} if shape == (3,) else None,
        )
    for dtype in TYPES:
        i = torch.tensor([2, 0, 1, 1], dtype=torch.int32)
        yield LayerCase(
            name("gather", dtype),
            build("DEFAULT", 1),
            {"x": rand(2, 3, 4, dtype=dtype), "i": i},
            lambda x, i: x[:, i.long()],
        )
    for axis in (1, 2):
        x, i = rand(2, 4, 5), rand(2, 3, dtype=torch.int32, low=0, high=4)
        yield LayerCase(
            name("gather-batched", axis),
            build("DEFAULT", axis, 1),
            {"x": x, "i": i},
            lambda x, i, axis=axis: torch.stack([torch.index_select(x[b], axis - 1, i[b].long()) for b in range(2)]),
        )
    negative = torch.tensor([-1, 0, -3], dtype=torch.int32)
    beyond = torch.tensor([0, 3, -4, 7], dtype=torch.int32)
    yield LayerCase("gather-negative", build("DEFAULT", 0), {"x": rand(3, 4), "i": negative}, lambda x, i: x[i.long()])
    yield LayerCase(
        "gather-out-of-bounds",
        build("DEFAULT", 0),
        {"x": rand(3, 4), "i": beyond},
        lambda x, i: torch.stack((x[0], x[0] * 0, x[0] * 0, x[0] * 0)),
    )
    for axis, index in product((0, 1, 2), (torch.int32, torch.int64)):
        sizes = [3, 4, 5]
        sizes[axis] = 2
        i = rand(*sizes, dtype=index, low=0, high=3, seed=2)
        yield LayerCase(
            name("gather-elements", axis, index),
            build("ELEMENT", axis),
            {"x": rand(3, 4, 5), "i": i},
            lambda x, i, axis=axis: x[
                tuple(slice(n) for n in (i.shape[:axis] + x.shape[axis : axis + 1] + i.shape[axis + 1 :]))
            ].gather(axis, i.long()),
        )
    yield LayerCase(
        "gather-elements-negative",
        build("ELEMENT", 0),
        {"x": rand(3, 2), "i": torch.tensor([[-1, 0]], dtype=torch.int32)},
        lambda x, i: torch.stack((x[2, 0], x[0, 1]))[None],
    )
    yield LayerCase(
        "gather-elements-out-of-bounds",
        build("ELEMENT", 0),
        {"x": rand(3, 2), "i": torch.tensor([[3, 0]], dtype=torch.int32)},
        lambda x, i: torch.stack((x[2, 0] * 0, x[0, 1]))[None],
    )
    for depth, index in product((1, 2, 3), (torch.int32, torch.int64)):
        i = rand(2, 3, depth, dtype=index, low=0, high=3, seed=depth)
        yield LayerCase(
            name("gather-nd", depth, index),
            build("ND"),
            {"x": rand(3, 4, 5), "i": i},
            lambda x, i: x[tuple(i.long().unbind(-1))],
        )
    i = rand(2, 3, 1, dtype=torch.int32, low=0, high=4)
    yield LayerCase(
        "gather-nd-batched",
        build("ND", 0, 1),
        {"x": rand(2, 4, 5), "i": i},
        lambda x, i: torch.stack([x[b][i[b, :, 0].long()] for b in range(2)]),
    )
    yield LayerCase(
        "gather-nd-negative",
        build("ND"),
        {"x": rand(3, 4), "i": torch.tensor([[-1, 0], [1, -2]], dtype=torch.int32)},
        lambda x, i: torch.stack((x[2, 0], x[1, 2])),
    )
    yield LayerCase(
        "gather-nd-out-of-bounds",
        build("ND"),
        {"x": rand(3, 4), "i": torch.tensor([[3, 0], [1, 2]], dtype=torch.int32)},
        lambda x, i: torch.stack((x[0, 0] * 0, x[1, 2])),
    )


def scatters() -> Iterator[LayerCase]:
    def build(mode: str, axis: int = 0) -> Any:
        def made(net: Net, x: Any, i: Any, u: Any) -> Any:
            layer = net.network.add_scatter(x, i, u, getattr(net.trt.ScatterMode, mode))
            layer.axis = axis
            return layer

        return made

    for axis, dtype in product((0, 1), (torch.float32, torch.float16, torch.int32)):
        i = torch.tensor([[0, 2, 1], [3, 1, 0]])
        x = rand(4, 4, dtype=dtype)
        yield LayerCase(
            name("scatter-elements", axis, dtype),
            build("ELEMENT", axis),
            {"x": x, "i": i.int(), "u": rand(2, 3, dtype=dtype, seed=1)},
            lambda x, i, u, axis=axis: x.scatter(axis, i.long(), u),
        )
    yield LayerCase(
        "scatter-elements-negative",
        build("ELEMENT", 1),
        {"x": rand(2, 4), "i": torch.tensor([[-1], [0]], dtype=torch.int32), "u": rand(2, 1, seed=1)},
        lambda x, i, u: x.scatter(1, i.long() % 4, u),
    )

    def nd(x: Tensor, i: Tensor, u: Tensor) -> Tensor:
        y = x.clone()
        for position in np.ndindex(*i.shape[:-1]):
            y[tuple(i[position].tolist())] = u[position]
        return y

    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64):
        yield LayerCase(
            name("scatter-nd", 1, dtype),
            build("ND"),
            {
                "x": rand(5, 3, dtype=dtype),
                "i": torch.tensor([[4], [0]], dtype=torch.int32),
                "u": rand(2, 3, dtype=dtype, seed=1),
            },
            nd,
        )
    yield LayerCase(
        "scatter-nd-2",
        build("ND"),
        {
            "x": rand(3, 4),
            "i": torch.tensor([[[0, 1], [2, 3]], [[1, 0], [1, 1]]], dtype=torch.int32),
            "u": rand(2, 2, seed=1),
        },
        nd,
    )
    yield LayerCase(
        "scatter-nd-int64",
        build("ND"),
        {"x": rand(3, 4), "i": torch.tensor([[0, 1], [2, 3]]), "u": rand(2, seed=1)},
        nd,
    )
    yield LayerCase(
        "scatter-nd-negative",
        build("ND"),
        {"x": rand(3, 4), "i": torch.tensor([[-1, 1]], dtype=torch.int32), "u": rand(1, seed=1)},
        nd,
    )


def encodings() -> Iterator[LayerCase]:
    for axis, dtype in product((0, 1, -1), (torch.float32, torch.float16, torch.int32, torch.int64)):

        def build(net: Net, i: Any, v: Any, axis: int = axis) -> Any:
            return net.network.add_one_hot(i, v, net.scalar(5), axis)

        def reference(i: Tensor, v: Tensor, axis: int = axis) -> Tensor:
            hot = torch.nn.functional.one_hot(i.long(), 5).bool().movedim(-1, axis)
            return torch.where(hot, v[1], v[0])

        yield LayerCase(
            name("one-hot", axis, dtype),
            build,
            {"i": rand(3, 4, dtype=torch.int32, low=0, high=5), "v": torch.tensor([2, 7]).to(dtype)},
            reference,
        )
    odd = torch.tensor([-1, 5, 2, -6], dtype=torch.int32)
    yield LayerCase(
        "one-hot-out-of-bounds",
        lambda net, i, v: net.network.add_one_hot(i, v, net.scalar(5), -1),
        {"i": odd, "v": torch.tensor([0.0, 1.0])},
    )
    for dtype in (torch.float32, torch.float16, torch.int32, torch.bool):
        yield LayerCase(
            name("non-zero", dtype),
            lambda net, x: net.network.add_non_zero(x),
            {"x": rand(3, 4, dtype=torch.bool).to(dtype)},
            lambda x: torch.nonzero(x).T.int(),
        )


def suppressions() -> Iterator[LayerCase]:
    centers = rand(2, 12, 2, low=0, high=6)
    sizes = rand(2, 12, 2, low=1, high=4, seed=1)
    forms = {
        "CENTER_SIZES": torch.cat((centers, sizes), -1),
        "CORNER_PAIRS": torch.cat((centers + sizes / 2, centers - sizes / 2), -1),
    }
    for form, boxes in forms.items():
        for limit, classes in ((3, 1), (12, 2)):

            def build(net: Net, boxes: Any, scores: Any, form: str = form, limit: int = limit) -> Any:
                layer = net.network.add_nms(boxes, scores, net.scalar(limit))
                layer.bounding_box_format = getattr(net.trt.BoundingBoxFormat, form)
                layer.set_input(3, net.const(torch.tensor(0.3)))
                layer.set_input(4, net.const(torch.tensor(0.2)))
                return [layer.get_output(0), layer.get_output(1)]

            yield LayerCase(
                name("nms", form, limit, classes),
                build,
                {"boxes": boxes, "scores": rand(2, 12, classes, low=0, high=1, seed=3)},
                lambda b, s, limit=limit, form=form: _nms(b, s, limit, form),
            )


def _overlap(a: Tensor, b: Tensor) -> float:
    ax, ay, bx, by = a.tolist()
    cx, cy, dx, dy = b.tolist()
    shared = max(min(bx, dx) - max(ax, cx), 0) * max(min(by, dy) - max(ay, cy), 0)
    return shared / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - shared)


def _nms(boxes: Tensor, scores: Tensor, limit: int, form: str) -> Any:
    if form == "CENTER_SIZES":
        corners = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)
    else:
        corners = torch.cat(
            (torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])), -1
        )
    rows = []
    for batch in range(boxes.shape[0]):
        found = []
        for label in range(scores.shape[2]):
            s = scores[batch, :, label]
            candidates = (s > 0.2).nonzero().flatten()
            kept: list[int] = []
            for box in sorted(candidates.tolist(), key=lambda i: -float(s[i])):
                if all(_overlap(corners[batch, box], corners[batch, other]) <= 0.3 for other in kept):
                    kept.append(box)
            found += [(float(s[box]), (batch, label, box)) for box in kept[:limit]]
        rows += [row for _, row in sorted(found, key=lambda entry: -entry[0])]
    return torch.tensor(rows, dtype=torch.int32), torch.tensor(len(rows), dtype=torch.int32)


def cases() -> Iterator[LayerCase]:
    for family in (gathers, scatters, encodings, suppressions):
        yield from family()

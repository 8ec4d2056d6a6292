from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, name, rand

ROUND = {
    "HALF_UP": lambda v: math.floor(v + 0.5),
    "HALF_DOWN": lambda v: math.ceil(v - 0.5),
    "FLOOR": math.floor,
    "CEIL": math.ceil,
}


def _position(i: int, length: int, size: int, transformation: str, selector: str, ratio: float) -> float:
    if size == 1 and selector == "UPPER":
        return 0.0
    if transformation == "ALIGN_CORNERS":
        return i * (length - 1) / (size - 1) if size > 1 else 0.0
    return i * ratio if transformation == "ASYMMETRIC" else (i + 0.5) * ratio - 0.5


def _weights(value: float, mode: str, rounding: str, a: float) -> list[tuple[int, float]]:
    if mode == "NEAREST":
        return [(ROUND[rounding](value), 1.0)]
    base = math.floor(value)
    t = value - base
    if mode == "LINEAR":
        return [(base, 1 - t), (base + 1, t)]
    near = [(a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (t, 1 - t)]
    far = [a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (1 + t, 2 - t)]
    return [(base - 1, far[0]), (base, near[0]), (base + 1, near[1]), (base + 2, far[1])]


def _resized(
    x: Tensor,
    shape: Any,
    mode: str,
    transformation: str,
    selector: str,
    rounding: str,
    a: float,
    exclude: bool,
    scales: Any,
) -> Tensor:
    """Resize axis by axis with a dense interpolation matrix."""
    result = x.double()
    for axis, size in enumerate(shape):
        length = x.shape[axis]
        ratio = length / size if scales is None else 1 / scales[axis]
        matrix = torch.zeros(size, length, dtype=torch.float64)
        for i in range(size):
            taps = _weights(_position(i, length, size, transformation, selector, ratio), mode, rounding, a)
            if exclude:
                taps = [(at, w) for at, w in taps if 0 <= at < length]
                total = sum(w for _, w in taps)
                taps = [(at, w / total) for at, w in taps]
            for at, weight in taps:
                matrix[i, min(max(at, 0), length - 1)] += weight
        if size != length or (scales is not None and scales[axis] != 1):
            result = torch.tensordot(matrix, result, dims=([1], [axis])).movedim(0, axis)
    return result.to(x.dtype)


def resizes() -> Iterator[LayerCase]:
    def one(
        label: str,
        x: Tensor,
        shape: Any,
        mode: str,
        transformation: str,
        selector: str = "FORMULA",
        rounding: str = "FLOOR",
        a: float = -0.75,
        exclude: bool = False,
        scales: Any = None,
        dynamic: Any = None,
    ) -> LayerCase:
        def build(net: Net, x: Any, *rest: Any) -> Any:
            trt = net.trt
            layer = net.network.add_resize(x)
            layer.resize_mode = getattr(trt.InterpolationMode, mode)
            layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, transformation)
            layer.selector_for_single_pixel = getattr(trt.ResizeSelector, selector)
            layer.nearest_rounding = getattr(trt.ResizeRoundMode, rounding)
            layer.cubic_coeff, layer.exclude_outside = a, exclude
            if rest:
                layer.set_input(1, net.shape(rest[0]))
            elif scales is not None:
                layer.scales = scales
            else:
                layer.shape = shape
            return layer

        inputs = {"x": x}
        if dynamic:
            inputs["like"] = rand(*shape)
        tolerance = (1e-4, 1e-4) if x.dtype == torch.float32 else None
        return LayerCase(
            label,
            build,
            inputs,
            lambda x, *rest: _resized(x, shape, mode, transformation, selector, rounding, a, exclude, scales),
            dynamic={"like": (2, 3)} if dynamic else None,
            tolerance=tolerance,
        )

    transformations = ("ALIGN_CORNERS", "ASYMMETRIC", "HALF_PIXEL")
    x = rand(1, 2, 5, 6)
    targets = ((1, 2, 10, 12), (1, 2, 7, 9), (1, 2, 3, 4))
    for transformation, rounding, shape in product(transformations, ROUND, targets):
        yield one(
            name("resize-NEAREST", transformation, rounding, shape),
            x,
            shape,
            "NEAREST",
            transformation,
            rounding=rounding,
        )
    for mode, transformation, shape in product(("LINEAR", "CUBIC"), transformations, targets):
        yield one(name("resize", mode, transformation, shape), x, shape, mode, transformation)
    for transformation, selector, mode in product(
        transformations, ("FORMULA", "UPPER"), ("NEAREST", "LINEAR", "CUBIC")
    ):
        yield one(
            name("resize-single", mode, transformation, selector),
            x,
            (1, 2, 1, 4),
            mode,
            transformation,
            selector,
        )
    for a, exclude, transformation in product((-0.75, -0.5), (True, False), transformations):
        yield one(
            name("resize-CUBIC", transformation, a, "ex" if exclude else "in"),
            x,
            (1, 2, 9, 11),
            "CUBIC",
            transformation,
            a=a,
            exclude=exclude,
        )
    for mode, transformation in product(("NEAREST", "LINEAR", "CUBIC"), transformations):
        for scales in ((1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.5, 1.3), (1.0, 1.0, 0.6, 0.7)):
            shape = [math.floor(n * s) for n, s in zip(x.shape, scales, strict=True)]
            yield one(
                name("resize-scales", mode, transformation, scales),
                x,
                shape,
                mode,
                transformation,
                scales=scales,
            )
    for mode in ("NEAREST", "LINEAR"):
        yield one(name("resize-dynamic", mode), x, (1, 2, 9, 4), mode, "HALF_PIXEL", dynamic=True)
        yield one(name("resize-1d", mode), rand(2, 3, 8), (2, 3, 13), mode, "HALF_PIXEL")
        yield one(name("resize-3d", mode), rand(1, 2, 3, 4, 5), (1, 2, 6, 5, 7), mode, "HALF_PIXEL")
        for dtype in (torch.float16, torch.bfloat16):
            yield one(name("resize", mode, dtype), rand(1, 2, 5, 6, dtype=dtype), (1, 2, 8, 9), mode, "HALF_PIXEL")
        yield one(
            name("resize", mode, "int8"),
            rand(1, 2, 5, 6, dtype=torch.int8, low=-9, high=9),
            (1, 2, 10, 12),
            mode,
            "ASYMMETRIC",
        )


def grids() -> Iterator[LayerCase]:
    modes = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
    borders = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}
    for mode, border, align in product(modes, borders, (True, False)):

        def build(net: Net, x: Any, g: Any, a: Any = (mode, border, align)) -> Any:
            layer = net.network.add_grid_sample(x, g)
            layer.interpolation_mode = getattr(net.trt.InterpolationMode, a[0])
            layer.sample_mode = getattr(net.trt.SampleMode, a[1])
            layer.align_corners = a[2]
            return layer

        def reference(x: Tensor, g: Tensor, a: Any = (mode, border, align)) -> Tensor:
            return F.grid_sample(x, g, modes[a[0]], borders[a[1]], a[2])

        yield LayerCase(
            name("grid-sample", mode, border, "align" if align else "free"),
            build,
            {"x": rand(1, 3, 5, 6), "g": rand(1, 4, 7, 2, low=-1.4, high=1.4)},
            reference,
            tolerance=(1e-3, 1e-4),
        )
        if mode != "CUBIC":
            yield LayerCase(
                name("grid-sample-3d", mode, border, "align" if align else "free"),
                build,
                {"x": rand(1, 2, 3, 4, 5), "g": rand(1, 3, 4, 2, 3, low=-1.4, high=1.4)},
                reference,
                tolerance=(1e-3, 1e-4),
            )


def cases() -> Iterator[LayerCase]:
    yield from resizes()
    yield from grids()

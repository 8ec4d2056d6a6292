from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, grid, name, rand

MODES = ("EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP", "SAME_UPPER", "SAME_LOWER")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
CONV = {2: F.conv2d, 3: F.conv3d}
DECONV = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _pads(mode: str, size: int, width: int, stride: int, pre: int, post: int) -> tuple[int, int, int]:
    """Pre padding, post padding and output size from the formulas of PaddingMode."""
    if mode == "EXPLICIT_ROUND_DOWN":
        return pre, post, (size + pre + post - width) // stride + 1
    if mode == "EXPLICIT_ROUND_UP":
        return pre, post, math.ceil((size + pre + post - width) / stride) + 1
    total = max((size - 1) // stride * stride + width - size, 0)
    half = total // 2
    before = half if mode == "SAME_UPPER" else total - half
    return before, total - before, math.ceil(size / stride)


def _windows(x: Tensor, mode: str, window: Any, stride: Any, dilation: Any, pre: Any, post: Any, fill: float) -> Tensor:
    """x padded (or cropped) so that a plain sliding window gives the documented output size."""
    pads: list[int] = []
    for axis in reversed(range(len(window))):
        width = 1 + dilation[axis] * (window[axis] - 1)
        before, _, out = _pads(mode, x.shape[2 + axis], width, stride[axis], pre[axis], post[axis])
        after = (out - 1) * stride[axis] + width - x.shape[2 + axis] - before
        pads += [before, after]
    return F.pad(x, pads, value=fill)


def _conv(
    dims: int,
    mode: str,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Any,
    dil: Any,
    pre: Any,
    post: Any,
    groups: int,
) -> Any:
    window = tuple(kernel.shape[2:])

    def build(net: Net, x: Any) -> Any:
        layer = net.network.add_convolution_nd(x, kernel.shape[0], window, net.weights(kernel), net.weights(bias))
        layer.stride_nd, layer.dilation_nd, layer.num_groups = stride, dil, groups
        layer.pre_padding, layer.post_padding = pre, post
        layer.padding_mode = getattr(net.trt.PaddingMode, mode)
        return layer

    def reference(x: Tensor) -> Tensor:
        padded = _windows(x.float(), mode, window, stride, dil, pre, post, 0.0)
        out = CONV[dims](padded, kernel.float(), None if bias is None else bias.float(), stride, 0, dil, groups)
        return out.to(x.dtype)

    return build, reference


def convolutions() -> Iterator[LayerCase]:
    sweep = product(
        MODES,
        ((3, 3), (2, 5)),
        ((1, 1), (2, 3)),
        ((1, 1), (2, 1)),
        (((0, 0), (0, 0)), ((1, 2), (1, 2)), ((0, 1), (2, 0))),
    )
    for mode, window, stride, dil, (pre, post) in sweep:
        if mode.startswith("SAME") and any(pre + post):
            continue
        kernel, bias = grid(8, 4, *window, seed=1), grid(8, seed=2)
        build, reference = _conv(2, mode, kernel, bias, stride, dil, pre, post, 1)
        yield LayerCase(
            name("conv", mode, window, "s", stride, "d", dil, "p", pre, post),
            build,
            {"x": grid(2, 4, 11, 13)},
            reference,
        )
    for groups, dtype in product((1, 2, 8), FLOATS):
        kernel = grid(16, 8 // groups, 3, 3, seed=1, dtype=dtype)
        build, reference = _conv(2, MODES[0], kernel, None, (1, 1), (1, 1), (1, 1), (1, 1), groups)
        yield LayerCase(
            name("conv-groups", groups, dtype),
            build,
            {"x": grid(2, 8, 9, 9, dtype=dtype)},
            reference,
            dynamic={"x": (0, 2, 3)} if groups == 1 else None,
        )
    for stride, pre, post in (((1, 1, 1), (1, 1, 1), (1, 1, 1)), ((2, 1, 2), (0, 1, 2), (1, 1, 0))):
        kernel, bias = grid(6, 4, 3, 3, 3, seed=1), grid(6, seed=2)
        build, reference = _conv(3, MODES[0], kernel, bias, stride, (1, 1, 1), pre, post, 1)
        yield LayerCase(
            name("conv3d", stride, pre, post),
            build,
            {"x": grid(1, 4, 6, 7, 8)},
            reference,
        )
    # Stride wider than the window: the SAME formulas give negative padding, and TensorRT does not pad.
    for mode in MODES[2:]:
        build, reference = _conv(2, mode, grid(4, 4, 1, 1, seed=1), None, (3, 4), (1, 1), (0, 0), (0, 0), 1)
        yield LayerCase(name("conv-negative", mode), build, {"x": grid(1, 4, 9, 10)}, reference)

    def dynamic_kernel(net: Net, x: Any, k: Any, b: Any) -> Any:
        layer = net.network.add_convolution_nd(x, 8, (3, 3), net.weights(None), net.weights(None))
        layer.set_input(1, k)
        layer.set_input(2, b)
        layer.padding_nd = (1, 1)
        return layer

    yield LayerCase(
        "conv-kernel-input",
        dynamic_kernel,
        {"x": grid(1, 4, 8, 8), "k": grid(8, 4, 3, 3, seed=1), "b": grid(8, seed=2)},
        lambda x, k, b: F.conv2d(x, k, b, padding=1),
    )


def deconvolutions() -> Iterator[LayerCase]:
    sweep = product(
        MODES,
        ((3, 3), (2, 4)),
        ((1, 1), (2, 3)),
        ((1, 1), (2, 1)),
        (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 1), (1, 0))),
    )
    for mode, window, stride, dil, (pre, post) in sweep:
        if mode.startswith("SAME") and any(pre + post):
            continue
        kernel, bias = grid(4, 6, *window, seed=1), grid(6, seed=2)
        yield _deconv(
            name("deconv", mode, window, "s", stride, "d", dil, "p", pre, post),
            grid(2, 4, 5, 6),
            mode,
            kernel,
            bias,
            stride,
            dil,
            pre,
            post,
            1,
        )
    for groups, dtype in product((1, 2, 4), FLOATS):
        kernel = grid(8, 8 // groups, 2, 2, seed=1, dtype=dtype)
        yield _deconv(
            name("deconv-groups", groups, dtype),
            grid(1, 8, 5, 5, dtype=dtype),
            MODES[0],
            kernel,
            None,
            (2, 2),
            (1, 1),
            (0, 0),
            (0, 0),
            groups,
        )
    yield _deconv(
        "deconv3d",
        grid(1, 4, 3, 4, 5),
        MODES[0],
        grid(4, 5, 3, 2, 2, seed=1),
        None,
        (2, 2, 1),
        (1, 1, 1),
        (1, 0, 0),
        (1, 0, 1),
        1,
    )


def _deconv(
    label: str,
    x: Tensor,
    mode: str,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Any,
    dil: Any,
    pre: Any,
    post: Any,
    groups: int,
) -> LayerCase:
    window = tuple(kernel.shape[2:])

    def build(net: Net, x: Any) -> Any:
        maps = kernel.shape[1] * groups
        layer = net.network.add_deconvolution_nd(x, maps, window, net.weights(kernel), net.weights(bias))
        layer.stride_nd, layer.dilation_nd, layer.num_groups = stride, dil, groups
        layer.pre_padding, layer.post_padding = pre, post
        layer.padding_mode = getattr(net.trt.PaddingMode, mode)
        return layer

    def reference(x: Tensor) -> Tensor:
        full = DECONV[len(window)](
            x.float(), kernel.float(), None if bias is None else bias.float(), stride, 0, 0, groups, dil
        )
        for axis in range(len(window)):
            width = 1 + dil[axis] * (window[axis] - 1)
            before, out = pre[axis], (x.shape[2 + axis] - 1) * stride[axis] + width - pre[axis] - post[axis]
            if mode.startswith("SAME"):
                total = max(width - stride[axis], 0)
                before = total // 2 if mode == "SAME_UPPER" else total - total // 2
                out = min(x.shape[2 + axis] * stride[axis], (x.shape[2 + axis] - 1) * stride[axis] + width)
            full = full.narrow(2 + axis, before, out)
        return full.to(x.dtype)

    return LayerCase(label, build, {"x": x}, reference)


def pools() -> Iterator[LayerCase]:
    sweep = product(
        ("MAX", "AVERAGE", "MAX_AVERAGE_BLEND"),
        MODES,
        ((2, 2), (3, 4)),
        ((1, 1), (2, 3)),
        (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 1), (1, 0))),
        (True, False),
    )
    for kind, mode, window, stride, (pre, post), excludes in sweep:
        if (mode.startswith("SAME") and any(pre + post)) or (kind == "MAX" and not excludes):
            continue
        label = name("pool", kind, mode, window, "s", stride, "p", pre, post, "ex" if excludes else "in")
        yield _pool(label, rand(1, 3, 9, 10), kind, mode, window, stride, pre, post, excludes)
    for dtype in FLOATS:
        yield _pool(
            name("pool-MAX", dtype),
            rand(2, 8, 8, 8, dtype=dtype),
            "MAX",
            MODES[0],
            (3, 3),
            (2, 2),
            (1, 1),
            (1, 1),
            True,
            (0,),
        )
        yield _pool(
            name("pool-AVERAGE", dtype),
            rand(2, 8, 8, 8, dtype=dtype),
            "AVERAGE",
            MODES[0],
            (2, 2),
            (2, 2),
            (0, 0),
            (0, 0),
            True,
        )
    yield _pool("pool3d-MAX", rand(1, 4, 6, 6, 6), "MAX", MODES[0], (2, 3, 2), (2, 1, 2), (0, 1, 0), (0, 1, 0), True)
    yield _pool(
        "pool3d-AVERAGE",
        rand(1, 4, 6, 6, 6),
        "AVERAGE",
        MODES[1],
        (2, 3, 2),
        (2, 2, 2),
        (0, 1, 0),
        (0, 1, 0),
        False,
    )


def _pool(
    label: str,
    x: Tensor,
    kind: str,
    mode: str,
    window: Any,
    stride: Any,
    pre: Any,
    post: Any,
    excludes: bool,
    dynamic: Any = None,
) -> LayerCase:
    def build(net: Net, x: Any) -> Any:
        layer = net.network.add_pooling_nd(x, getattr(net.trt.PoolingType, kind), window)
        layer.stride_nd, layer.pre_padding, layer.post_padding = stride, pre, post
        layer.padding_mode = getattr(net.trt.PaddingMode, mode)
        layer.average_count_excludes_padding = excludes
        layer.blend_factor = 0.3
        return layer

    return LayerCase(
        label,
        build,
        {"x": x},
        lambda x: _pooled(x, kind, mode, window, stride, pre, post, excludes),
        dynamic={"x": dynamic} if dynamic else None,
    )


def _pooled(x: Tensor, kind: str, mode: str, window: Any, stride: Any, pre: Any, post: Any, excludes: bool) -> Tensor:
    """Pooling window by window."""
    sizes = x.shape[2:]
    pads = [_pads(mode, n, w, s, b, a) for n, w, s, b, a in zip(sizes, window, stride, pre, post, strict=True)]
    out = torch.empty(*x.shape[:2], *(p[2] for p in pads))
    for position in product(*(range(p[2]) for p in pads)):
        region, count = [slice(None), slice(None)], 1
        for axis, index in enumerate(position):
            begin = index * stride[axis] - pads[axis][0]
            low, high = max(begin, 0), min(begin + window[axis], sizes[axis])
            region.append(slice(low, high))
            count *= high - low if excludes else window[axis]
        part = x.float()[tuple(region)].flatten(2)
        maximum, average = (
            (part.amax(2) if part.shape[2] else torch.full(x.shape[:2], -math.inf)),
            part.sum(2) / max(count, 1),
        )
        blended = 0.7 * maximum + 0.3 * average
        out[(slice(None), slice(None), *position)] = {"MAX": maximum, "AVERAGE": average}.get(kind, blended)
    return out.to(x.dtype)


def cases() -> Iterator[LayerCase]:
    for family in (convolutions, deconvolutions, pools):
        yield from family()

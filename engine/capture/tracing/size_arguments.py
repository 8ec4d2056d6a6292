"""Functions of PyTorch that make Python numbers of their arguments, written so that sizes among these stay sizes.

``torch.linspace(0, n - 1, n)`` takes the number of its elements as a Python number, and a trace of it holds for one
size.  Each function here gives what PyTorch's own gives, by operators that take sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx.experimental.symbolic_shapes import uninteresting_files
from torch.overrides import TorchFunctionMode

from engine.graph.symbolic.roots import roots_of_sizes

__all__ = ["sizes_as_arguments"]


_SIZES = (torch.SymInt, torch.SymFloat)


class _SizesStay(TorchFunctionMode):
    """Calls the function of this file where one of its arguments is a size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result of ``func``."""
        if func is torch._shape_as_tensor and _has_size(args[0].shape):
            return tensor(args[0].shape)
        written = _WRITTEN.get(func)
        if written is not None and _has_size((args, kwargs)):
            found = written(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return func(*args, **(kwargs or {}))


@contextmanager
def sizes_as_arguments() -> Iterator[None]:
    """Let models give sizes to functions that take Python numbers, while they are traced."""
    # Who asks about sizes is never this file.
    uninteresting_files().add(__file__)
    # Its arguments are looked at before a mode is asked.
    F.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    try:
        with roots_of_sizes(), _SizesStay():
            yield
    finally:
        F.scaled_dot_product_attention = _whole_attention


def _has_size(values: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(values)
    return any(isinstance(leaf, _SIZES) and not leaf.node.is_constant() for leaf in leaves)


def linspace(start: Any, end: Any, steps: Any = None, **options: Any) -> Any:
    """``torch.linspace`` of a number of elements that is a size: from both ends to the middle, as PyTorch's kernels."""
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    if steps is None or options.pop("out", None) is not None or not dtype.is_floating_point:
        return NotImplemented
    if isinstance(start, torch.Tensor) or isinstance(end, torch.Tensor):
        return NotImplemented
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    index = torch.arange(steps, dtype=exact, **options)
    step = (end - start) / torch.sym_max(steps - 1, 1)
    forth, back = index * step + start, (index - (steps - 1)) * step + end
    return torch.where(index < torch.sym_max(steps // 2, 1), forth, back).to(dtype)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Any:
    """``torch.as_tensor`` of sizes, in lists or alone."""
    return tensor(data, dtype=dtype, device=device)


def new_tensor(like: torch.Tensor, data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Any:
    """``Tensor.new_tensor`` of sizes, in lists or alone."""
    return tensor(data, dtype=dtype or like.dtype, device=device or like.device, **options)


def tensor(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Any:
    """``torch.tensor`` of sizes, in lists or alone."""
    if any(options.values()) or not isinstance(data, list | tuple | torch.Size | torch.SymInt | torch.SymFloat):
        return NotImplemented
    leaves = torch.utils._pytree.tree_leaves(data)
    if any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return NotImplemented
    if dtype is None:
        whole = all(isinstance(leaf, int | torch.SymInt) for leaf in leaves)
        dtype = torch.int64 if whole else torch.get_default_dtype()

    def made(part: Any) -> torch.Tensor:
        if isinstance(part, list | tuple):
            return torch.stack([made(each) for each in part])
        return torch.scalar_tensor(part, dtype=dtype, device=device)

    return made(data)


def fftfreq(n: Any, d: Any = 1.0, **options: Any) -> Any:
    """``torch.fft.fftfreq`` of a number of samples that is a size: 0, 1, .., -2, -1 over ``n * d``."""
    if options.pop("out", None) is not None:
        return NotImplemented
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    index = torch.arange(n, **options)
    return torch.where(index < (n + 1) // 2, index, index - n).to(dtype) * (1.0 / (n * d))


def rfftfreq(n: Any, d: Any = 1.0, **options: Any) -> Any:
    """``torch.fft.rfftfreq`` of a number of samples that is a size: 0, 1, .., n // 2 over ``n * d``."""
    if options.pop("out", None) is not None:
        return NotImplemented
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    return torch.arange(n // 2 + 1, **options).to(dtype) * (1.0 / (n * d))


def istft(
    input: torch.Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: torch.Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: Any = None,
    return_complex: bool = False,
) -> Any:
    """``torch.istft`` to a length that is a size: windows are added up where they overlap, and cut to it.

    That the windows leave nothing out, which PyTorch asks of their values, is not checked.
    """
    if return_complex or length is None or not input.is_complex() or input.dim() not in (2, 3):
        return NotImplemented
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    frames = (input if input.dim() == 3 else input[None]).transpose(1, 2)
    count, onesided = frames.shape[1], input.shape[-2] != n_fft if onesided is None else onesided
    norm = "ortho" if normalized else "backward"
    inverse = torch.fft.irfft(frames, n_fft, norm=norm) if onesided else torch.fft.ifft(frames, norm=norm).real
    like = torch.ones(width, dtype=inverse.dtype, device=input.device) if window is None else window
    left = (n_fft - width) // 2
    weights = F.pad(like, (left, n_fft - width - left)).to(inverse.dtype)

    start = n_fft // 2 if center else 0
    # What the windows reach, or as far as is asked for: zeros behind.
    whole = n_fft + hop * (count - 1)
    behind = torch.sym_max(start + length - whole, 0)

    def added(parts: torch.Tensor, fill: float) -> torch.Tensor:
        together = F.fold(parts.transpose(1, 2), (1, whole), (1, n_fft), stride=(1, hop)).flatten(1)
        return F.pad(together, (0, behind), value=fill).narrow(1, start, length)

    result = added(inverse * weights, 0.0) / added((weights * weights).expand(1, count, n_fft), 1.0)
    return result if input.dim() == 3 else result[0]


# Not "nearest", which takes one element or another by a rounding error.
_SPATIAL = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}


def interpolate(
    input: torch.Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """``interpolate`` by factors that are made of sizes: a product with a matrix of weights along each dim."""
    if scale_factor is None or size is not None or antialias or mode not in _SPATIAL or not input.is_floating_point():
        return NotImplemented
    spatial = input.dim() - 2
    factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor] * spatial
    if len(factors) != spatial or spatial > _SPATIAL[mode]:
        return NotImplemented
    sizes = [torch.sym_int(math.floor(torch.sym_float(n) * f)) for n, f in zip(input.shape[2:], factors, strict=True)]
    if recompute_scale_factor:
        return F.interpolate(input, sizes, mode=mode, align_corners=align_corners)
    result = input.to(torch.promote_types(input.dtype, torch.float32))
    for dim, (length, factor) in enumerate(zip(sizes, factors, strict=True), 2):
        have = input.shape[dim]
        step = (have - 1) / torch.sym_max(length - 1, 1) if align_corners else 1 / factor
        weights = _weights(result, have, length, step, mode, bool(align_corners))
        result = (result.transpose(dim, -1) @ weights).transpose(dim, -1)
    return result.to(input.dtype)


def _weights(like: torch.Tensor, have: Any, length: Any, step: Any, mode: str, aligned: bool) -> torch.Tensor:
    """What each of ``have`` elements (rows) is for each of ``length`` results (columns)."""
    source = torch.arange(have, dtype=like.dtype, device=like.device)[:, None]
    place = torch.arange(length, dtype=like.dtype, device=like.device)
    place = place * step if aligned else (place + 0.5) * step - 0.5
    if mode != "bicubic":
        return (1 - (source - place.clamp(min=0).clamp(max=have - 1)).abs()).clamp(min=0)
    first = place.floor()
    # Four neighbours; those beyond an end are the end.
    parts = (
        (source == (first + offset).clamp(min=0).clamp(max=have - 1)).to(like.dtype) * _cubic(place - first - offset)
        for offset in (-1, 0, 1, 2)
    )
    return sum(parts)  # type: ignore[return-value]


def _cubic(distance: torch.Tensor, a: float = -0.75) -> torch.Tensor:
    """The kernel of cubic convolution (Keys, 1981), with PyTorch's coefficient."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, far)


_whole_attention = F.scaled_dot_product_attention


def _attention(*args: Any, **options: Any) -> torch.Tensor:
    """Attention that is causal for some sizes: one way is traced, and calls are held against what it depends on."""

    def settled(value: Any) -> Any:
        return bool(value) if isinstance(value, torch.SymBool) else value

    return _whole_attention(*map(settled, args), **{name: settled(value) for name, value in options.items()})


_WRITTEN: dict[Any, Callable[..., Any]] = {
    torch.linspace: linspace,
    torch.as_tensor: as_tensor,
    torch.tensor: tensor,
    torch.Tensor.new_tensor: new_tensor,
    F.interpolate: interpolate,
    torch.istft: istft,
    torch.Tensor.istft: istft,
    torch.fft.fftfreq: fftfreq,
    torch.fft.rfftfreq: rfftfreq,
}

"""Whether tensors share memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensor


def same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same memory, seen the same way."""
    if one is other:
        return True
    if _place(one) is None or _place(one) != _place(other):
        return False
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(), other.shape, other.stride(), other.dtype,
    )  # fmt: skip


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors may have an element in common.

    Of what lies between the first and the last element of a tensor with gaps all is taken for its own.
    """
    if _place(one) is None or _place(one) != _place(other):
        return False
    (start, end), (first, last) = _span(one), _span(other)
    return start < last and first < end


_Key = TypeVar("_Key")


def by_memory(tensors: Mapping[_Key, torch.Tensor]) -> dict[_Key, list[_Key]]:
    """For each of some tensors those whose storage is its own, itself among them, in their order.

    Others overlap none of it, so that who asks for overlaps need not compare every pair.
    """
    together: dict[object, list[_Key]] = {}
    for key, tensor in tensors.items():
        place = _place(tensor)
        together.setdefault(("alone", id(tensor)) if place is None else place, []).append(key)
    return {key: keys for keys in together.values() for key in keys}


def _place(tensor: torch.Tensor) -> int | None:
    """The address of a tensor's storage; None where it has none."""
    if isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return None
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (NotImplementedError, RuntimeError):  # subclasses that wrap other tensors
        return None


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor, and the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


__all__ = ["by_memory", "overlap", "same_view"]

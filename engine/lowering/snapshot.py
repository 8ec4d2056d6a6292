"""Copies of a model's tensors, for what a compiled model keeps of them: later writes to the model do not reach it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

# Where copies begin in a storage: a multiple of every size of an element.
_ALIGNMENT = 16
# The most that a copy may be larger than its tensor, where that keeps the strides.
_MOST_SLACK = 2


class ModelMemory:
    """The memory of a model's own tensors.

    Args:
        tensors: parameters, buffers and constants, which live at least as long as this object.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        # The storages themselves, so that their addresses are not reused.
        self._storages = {storage.data_ptr(): storage for storage in map(_storage, tensors) if storage is not None}

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is, or looks at, a tensor of the model."""
        storage = _storage(tensor)
        return tensor.numel() > 0 and (storage is None or storage.data_ptr() in self._storages)

    def copies(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors, those of the model copied.

        Copies share memory where their tensors do: a weight that two layers have is copied once.
        """
        results = list(tensors)
        spans: dict[tuple[torch.device, int], list[tuple[int, int, int]]] = {}
        for index, tensor in enumerate(tensors):
            if not self.holds(tensor):
                continue
            storage = _storage(tensor)
            if storage is None or tensor.is_conj() or tensor.is_neg():
                results[index] = tensor.detach().clone()
            else:
                spans.setdefault((tensor.device, storage.data_ptr()), []).append((*_span(tensor), index))
        for found in spans.values():
            for start, end, members in _merged(found):
                for index, copy in zip(members, _copied([tensors[i] for i in members], start, end), strict=True):
                    results[index] = copy
        return results


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The storage of a tensor; None where it has none of its own to look at."""
    if isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.layout is not torch.strided:
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # subclasses that wrap other tensors
        return None


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    first = int(tensor.storage_offset())
    last = first + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first * tensor.element_size(), (int(last) + 1) * tensor.element_size()


def _merged(spans: list[tuple[int, int, int]]) -> Iterable[tuple[int, int, list[int]]]:
    """Spans that overlap made one, with the indices of their tensors."""
    merged: list[tuple[int, int, list[int]]] = []
    for start, end, index in sorted(spans):
        if merged and start < merged[-1][1]:
            before, last, members = merged.pop()
            merged.append((before, max(last, end), [*members, index]))
        else:
            merged.append((start, end, [index]))
    return merged


def _copied(tensors: list[torch.Tensor], start: int, end: int) -> list[torch.Tensor]:
    first = tensors[0].detach()
    if end - start > _MOST_SLACK * sum(tensor.numel() * tensor.element_size() for tensor in tensors):
        return [tensor.detach().clone() for tensor in tensors]
    start -= start % _ALIGNMENT
    whole = torch.empty(0, dtype=torch.uint8, device=first.device)
    whole.set_(first.untyped_storage(), start, (end - start,), (1,))  # type: ignore[call-overload]
    memory = whole.clone().untyped_storage()
    copies = []
    for tensor in tensors:
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        offset = tensor.storage_offset() - start // tensor.element_size()
        copies.append(copy.set_(memory, offset, tensor.shape, tensor.stride()))  # type: ignore[call-overload]
    return copies


__all__ = ["ModelMemory"]

"""Scratch memory that engines on one stream take turns with."""

from __future__ import annotations

import threading
import weakref

import torch

_LOCK = threading.Lock()


class Workspace:
    """The scratch memory of one stream: as much as the hungriest engine that ran there needs.

    Work on a stream is done in order, so no two engines use the memory at once.

    Attributes:
        memory: whoever runs with it holds a reference, because it is replaced when it has to grow.
    """

    __slots__ = ("__weakref__", "_device", "memory")

    def __init__(self, device: int) -> None:
        self._device = torch.device("cuda", device)
        self.memory: torch.Tensor | None = None

    def reserve(self, size: int) -> torch.Tensor:
        """Memory of at least ``size`` bytes; allocated on the current stream, which has to be this one's."""
        memory = self.memory
        if memory is None or memory.numel() < size:
            with _LOCK:
                memory = self.memory
                if memory is None or memory.numel() < size:
                    memory = self.memory = scratch(size, self._device)
        return memory


def scratch(size: int, device: torch.device) -> torch.Tensor:
    """Memory of ``size`` bytes, and of one at least: TensorRT takes no null address."""
    return torch.empty(max(size, 1), dtype=torch.uint8, device=device)


_WORKSPACES: weakref.WeakValueDictionary[tuple[int, int], Workspace] = weakref.WeakValueDictionary()


def workspace_of(device: int, stream: int) -> Workspace:
    """The workspace of a stream; it lives as long as somebody holds it."""
    with _LOCK:
        found = _WORKSPACES.get((device, stream))
        if found is None:
            found = _WORKSPACES[device, stream] = Workspace(device)
        return found


__all__ = ["Workspace", "scratch", "workspace_of"]

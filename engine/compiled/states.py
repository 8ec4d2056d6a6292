"""What a compiled module keeps from call to call, which belongs to one module and one stream at a time."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import StateError
from engine.process.pytorch_modes import is_capturing

# Address of a tensor's memory -> the states that it is one of.
_OWNERS: weakref.WeakValueDictionary[int, States] = weakref.WeakValueDictionary()


class _Use:
    """Who uses the same tensors, one module unless they are shared, and on which stream they were used last."""

    def __init__(self) -> None:
        self.members: weakref.WeakSet[States] = weakref.WeakSet()
        self.stream: Any = None


class States(Mapping[str, torch.Tensor]):
    """The states of a module by their names in the model, which are buffers of its graph module.

    They may be read and written to between calls (``states["cache"].zero_()``); a call takes what it finds.

    Args:
        owner: the graph module.
        buffers: name in the model -> buffer of the graph module.
        specs: name in the model -> shape and dtype, by default those that they have now.
    """

    def __init__(
        self,
        owner: nn.Module,
        buffers: Mapping[str, str],
        specs: Mapping[str, tuple[torch.Size, torch.dtype]] | None = None,
    ) -> None:
        # Not a reference to the module itself: what is kept of it here changes with it.
        self._held: dict[str, Any] = owner._buffers
        self.buffers = dict(buffers)
        self.specs = dict(specs or {name: (tensor.shape, tensor.dtype) for name, tensor in self.items()})
        self._known: list[Any] = []
        self._use = _Use()
        self._use.members.add(self)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._held[self.buffers[name]]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.buffers)

    def __len__(self) -> int:
        return len(self.buffers)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"States({', '.join(f'{n}: {_text(t.shape, t.dtype)}' for n, t in self.items())})"

    def share(self, other: States) -> None:
        """Take the tensors of another module's states for one's own: each call goes on where either module ended.

        For two modules of one model, such as one for prompts of any length and one for single tokens. They are called
        on one stream at a time, as one module is; a ``deepcopy`` of either has states of its own again.

        Raises:
            StateError: the other module does not keep the same states, by name, shape and dtype.
        """
        if self.specs != other.specs:
            raise StateError(f"{self!r} and {other!r} differ: states are shared by modules that keep the same ones")
        for name, buffer in self.buffers.items():
            self._held[buffer] = other[name]
        self._use.members.discard(self)
        self._use = other._use
        self._use.members.add(self)

    def ready(self, device: Callable[[], str | None]) -> bool:
        """Check that a call can use the states; whether one was replaced since the last call.

        Args:
            device: gives the kind of device that the module's inputs are on; asked only where a state was replaced.

        Raises:
            StateError: a state has another shape, dtype or device than the compiled module takes, belongs to another
                module, or is in use on another stream.
        """
        now: list[Any] = list(map(self._held.get, self.buffers.values()))
        changed = len(now) != len(self._known) or not all(map(operator.is_, now, self._known))
        if changed:
            self._check(device())
            self._known = now
        if now[0].is_cuda:
            self._check_stream(now[0].device)
        return changed

    def _check(self, device: str | None) -> None:
        places: dict[int, str] = {}
        for name, buffer in self.buffers.items():
            tensor = self._held.get(buffer)
            shape, dtype = self.specs[name]
            if not isinstance(tensor, torch.Tensor):
                raise StateError(f"state {name!r} is {type(tensor).__name__}: the module keeps a tensor there")
            if (tensor.shape, tensor.dtype) != (shape, dtype):
                raise StateError(
                    f"state {name!r} is {_text(tensor.shape, tensor.dtype)}; the module was compiled with "
                    f"{_text(shape, dtype)}"
                )
            if device is not None and tensor.device.type != device:
                raise StateError(f"state {name!r} is on {tensor.device}; the compiled module is on {device!r}")
            place = tensor.data_ptr() if tensor.numel() else 0
            if place and place in places:
                raise StateError(f"states {places[place]!r} and {name!r} share their memory: each has one of its own")
            if any(other[name] is not tensor for other in self._use.members):
                raise StateError(
                    f"state {name!r} is shared by two compiled modules, and only one of them has another tensor now: "
                    "move or replace it in both, and share them again"
                )
            owner = _OWNERS.get(place)
            if place and owner is not None and owner._use is not self._use:
                other = next((o for o, held in owner.items() if held.numel() and held.data_ptr() == place), None)
                if other is not None:
                    raise StateError(
                        f"state {name!r} is also state {other!r} of another compiled module: each module has its own; "
                        "copy it (states[name].copy_(..), or load_state_dict without assign=True)"
                    )
            places[place] = name
        places.pop(0, None)
        for place in places:
            _OWNERS[place] = self

    def _check_stream(self, device: torch.device) -> None:
        if is_capturing():
            names = ", ".join(map(repr, self))
            raise StateError(
                f"the module keeps state ({names}), and is called in a stream under capture: recording a CUDA graph "
                "runs nothing, so that its state would not be what the next call takes. set_cuda_graphs(True) records "
                "its calls and puts the state back"
            )
        stream = torch.cuda.current_stream(device)
        # A stream is neither equal to None nor unlike it: PyTorch says False to both.
        before = self._use.stream
        if before is not None and stream != before and not before.query():
            raise StateError(
                f"the module keeps state ({', '.join(map(repr, self))}), and a call on another stream still uses "
                "it: wait for that one (stream.synchronize()), or give each stream a copy.deepcopy of the module"
            )
        self._use.stream = stream


def _text(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"


__all__ = ["States"]

"""Call logs: every call that made a network, with its arguments.

A network cannot be compared, or made again, by reading it back: that needs to know every attribute of every kind of
layer.  The calls that made it are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Said(NamedTuple):
    """An attribute that was set on a layer after it was added, or a method of it that was called.

    ``value`` of a call is the list of its arguments.
    """

    call: bool
    name: str
    value: Any


@dataclass(slots=True)
class Call:
    """One call that made a part of a network.

    Attributes:
        method: of the network, or of a loop or conditional in it; ``add_input``, ``set_dimension_name`` and
            ``mark_output`` too.
        arguments: as they were given.
        owner: name of the loop or conditional whose method it is.
        then: what followed, in order; it may name tensors that were made later.
        name: of the layer, loop or conditional.
        metadata: of the layer.
    """

    method: str
    arguments: list[Any]
    owner: str | None = None
    then: list[Said] = field(default_factory=list)
    name: str = ""
    metadata: str = ""


class CallLog:
    """The calls that made a network, in order.

    Tensors are told apart by the call that made them.  They are kept: the bindings give one Python object for a
    tensor only while it lives.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._labels: dict[int, str] = {}
        self._alive: list[Any] = []

    def __iter__(self) -> Iterator[Call]:
        """The calls, in order."""
        return iter(self._calls)

    def layer(self, method: str, arguments: Sequence[Any], layer: Any, owner: Any = None) -> Any:
        """Note a new layer.

        Args:
            owner: the loop or conditional that the layer is an end of.

        Returns:
            A stand-in for the layer, through which what follows is noted too.
        """
        call = Call(method, list(arguments), None if owner is None else owner.name)
        self._calls.append(call)
        return _Told(layer, call.then)

    @staticmethod
    def heard(told: Any) -> tuple[Any, Sequence[Said]]:
        """The layer behind a stand-in, and what it was told so far."""
        return told._layer, told._then

    def named(self, layer: Any, metadata: str = "") -> None:
        """Note the name, the metadata and the outputs of the layer that was added last."""
        call = self._calls[-1]
        call.name, call.metadata = layer.name, metadata
        for index in range(layer.num_outputs):
            self._label(layer.get_output(index), f"{len(self._calls)}.{index}")

    def region(self, method: str, region: Any) -> None:
        """Note a new loop or conditional, which has its name."""
        self._calls.append(Call(method, [], name=region.name))

    def input(self, tensor: Any) -> None:
        """Note a network input."""
        if tensor is not None:
            self._calls.append(Call("add_input", [tensor.name, tensor.dtype, tuple(tensor.shape)]))
            self._label(tensor, f"{len(self._calls)}.0")

    def dimension(self, tensor: Any, axis: int, name: str) -> None:
        """Note that a dim of an input has a name; dims of one name are equal."""
        self._calls.append(Call("set_dimension_name", [tensor, axis, name]))

    def output(self, tensor: Any) -> None:
        """Note a network output, which has its name."""
        self._calls.append(Call("mark_output", [tensor, tensor.name]))

    def _label(self, tensor: Any, label: str) -> None:
        self._labels[id(tensor)] = label
        self._alive.append(tensor)

    def label(self, tensor: Any) -> str | None:
        """The name of a tensor in this call_log; None for what is no tensor of the network."""
        return self._labels.get(id(tensor))


class _Told:
    """A layer whose calls and assignments are noted."""

    __slots__ = ("_layer", "_then")

    def __init__(self, layer: Any, then: list[Said]) -> None:
        object.__setattr__(self, "_layer", layer)
        object.__setattr__(self, "_then", then)

    def __setattr__(self, name: str, value: Any) -> None:
        self._then.append(Said(False, name, value))
        setattr(self._layer, name, value)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._layer, name)
        return _noted(name, found, self._then) if name.startswith("set_") else found


def _noted(name: str, function: Callable[..., Any], then: list[Said]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        then.append(Said(True, name, list(arguments)))
        return function(*arguments)

    return call


__all__ = ["Call", "CallLog", "Said"]

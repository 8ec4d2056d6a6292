"""The two ends of a TensorRT if-conditional; the layers of its sides are added as anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.conversion.loops import Tensors
from engine.conversion.scope import NetworkScope, Rejected
from engine.evaluator.plan import ConditionalEnd, ConditionalStart


class ConditionalEmission:
    """The if-conditionals of one tile.

    TensorRT finds out for itself which layers belong to a side: those that only it needs.  Seen with TensorRT-RTX
    1.6.1: a side may read constants and tensors from outside as they are; a tensor made from an input of the
    conditional belongs to one side, and an error says so ("exists in multiple control-flow scopes") where both read
    it; the condition has no dims; what the sides give may have different sizes, and any dtype.

    Args:
        name: what the layers' names begin with.
        metadata: of every layer.
    """

    def __init__(self, scope: NetworkScope, name: str, metadata: Mapping[str, str]) -> None:
        self._scope = scope
        self._name = name
        self._metadata = metadata
        self._open: dict[int, Any] = {}  # id of a start -> the conditional

    def start(self, call: ConditionalStart, tensor: Tensors) -> tuple[Any, ...]:
        """Open a conditional; returns the operands as its sides read them.

        Raises:
            Rejected: TensorRT does not take a part of it.
        """
        conditional = self._scope.network.add_if_conditional()
        if conditional is None:
            raise Rejected("add_if_conditional returned no conditional")
        conditional.name = self._scope.unique(f"{self._name}/conditional")
        self._scope.call_log.region("add_if_conditional", conditional)
        self._open[id(call)] = conditional
        self._add(conditional, "set_condition", (tensor(call.values["condition"]),), "condition")
        operands = [self._add(conditional, "add_input", (tensor(o),), "operand") for o in call.values["operands"]]
        return tuple(self._scope.output(layer)[0] for layer in operands)

    def end(self, call: ConditionalEnd, tensor: Tensors) -> tuple[Any, ...]:
        """Close a conditional; returns the outputs of the side that is selected.

        Raises:
            Rejected: TensorRT does not take a part of it.
        """
        conditional = self._open.pop(id(call.start))
        pairs = zip(call.values["then"], call.values["otherwise"], strict=True)
        results = [
            self._add(conditional, "add_output", (tensor(then), tensor(otherwise)), "result")
            for then, otherwise in pairs
        ]
        return tuple(self._scope.output(layer)[0] for layer in results)

    def _add(self, conditional: Any, method: str, arguments: tuple[Any, ...], what: str) -> Any:
        name = f"{self._name}/{what}"
        return self._scope.add(method, arguments, name, metadata=self._metadata, owner=conditional)


__all__ = ["ConditionalEmission"]

"""What a model decides by the values of its own parameters and buffers: computed while it is traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.utils._python_dispatch import _disable_current_modes

from engine.graph.aliases import written_operands


class ConstantValues:
    """The parameters and buffers of a model, by whose values traced tensors without inputs of a call are computed.

    Quantisers ask so whether they are switched on, and whether their ranges are empty.

    Attributes:
        read: names of those that decided something.
    """

    def __init__(self, model: nn.Module) -> None:
        named = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self._tensors = tuple(named.items())
        self.read: dict[str, None] = {}

    def truth(self, tensor: torch.Tensor) -> bool | None:
        """The truth of a traced tensor of one element; None where it depends on more than parameters and buffers."""
        node, owner = _traced(tensor)
        if node is None:
            return None
        placeholders = [each for each in node.graph.nodes if each.op == "placeholder"]
        known = dict(zip(placeholders, self._tensors, strict=False))
        if len(placeholders) < len(self._tensors) or not all(_alike(each, value) for each, (_, value) in known.items()):
            return None
        needed = _needed(node)
        if any(each.op == "placeholder" and each not in known for each in needed):
            return None
        with _disable_current_modes(), torch.no_grad():
            values: dict[fx.Node, Any] = {}
            for each in node.graph.nodes:
                if each not in needed:
                    continue
                if each.op == "placeholder":
                    values[each] = known[each][1].detach().clone()
                elif each.op == "get_attr":
                    held = getattr(owner, str(each.target), None)
                    if type(held) is not torch.Tensor:
                        return None
                    values[each] = held.clone()
                elif isinstance(each.target, OpOverload):
                    arguments = fx.node.map_arg((each.args, each.kwargs), values.__getitem__)
                    values[each] = each.target(*arguments[0], **arguments[1])
                else:
                    return None
            result = bool(values[node].item())
        self.read.update((known[each][0], None) for each in needed if each.op == "placeholder")
        return result


def _traced(tensor: torch.Tensor) -> tuple[fx.Node | None, Any]:
    """The node that stands for a tensor while a graph is made, and what holds the constants of that graph."""
    mode: Any = get_proxy_mode()
    if mode is None:
        return None, None
    if isinstance(tensor, FunctionalTensor):
        torch._sync(tensor)  # type: ignore[attr-defined]
        tensor = torch._from_functional_tensor(tensor.elem)
    slot: Any = get_proxy_slot(tensor, mode.tracer, None)
    return getattr(getattr(slot, "proxy", None), "node", None), mode.tracer.root


def _alike(node: fx.Node, value: torch.Tensor) -> bool:
    fake = node.meta.get("val")
    return isinstance(fake, torch.Tensor) and fake.dtype == value.dtype and tuple(fake.shape) == tuple(value.shape)


def _needed(node: fx.Node) -> set[fx.Node]:
    """What a node is computed from, with everything that writes to it."""
    needed: set[fx.Node] = set()
    stack = [node]
    writers = [(each, _base(operand)) for each in node.graph.nodes for operand in written_operands(each)]
    while stack:
        each = stack.pop()
        if each not in needed:
            needed.add(each)
            stack.extend(each.all_input_nodes)
        if not stack:
            bases = {_base(each) for each in needed}
            stack.extend(writer for writer, base in writers if base in bases and writer not in needed)
    return needed


def _base(node: fx.Node) -> fx.Node:
    """The tensor that a node may be a view of."""
    while isinstance(node.target, OpOverload) and node.args and isinstance(node.args[0], fx.Node):
        returns = node.target._schema.returns
        if not returns or returns[0].alias_info is None:
            break
        node = node.args[0]
    return node


__all__ = ["ConstantValues"]

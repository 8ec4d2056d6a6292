"""Where a compiled graph runs: the device of its constants, of what its ops make, and of the inputs it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from engine.inductor.grouping import torch_segments

if TYPE_CHECKING:
    from engine.capture.signature import Argument


def placed(
    module: fx.GraphModule, arguments: Sequence[Argument], device: torch.device, *, tensors: bool = True
) -> tuple[Argument, ...]:
    """Move what a graph has on the device of its inputs, or where it has none of its ops, to another one.

    A graph whose inputs are on several kinds of devices stays as it is.  So does what it has on another device than
    its inputs: a size that is read on the CPU beside an engine.

    Args:
        arguments: the inputs that the graph was captured with.
        device: a GPU without an index is the one that the graph is on, or else the current one.
        tensors: whether the graph's constants are still to be moved.

    Returns:
        the inputs that it takes now.
    """
    graphs = [each for each in module.modules() if isinstance(each, fx.GraphModule)]
    kinds = {argument.device for argument in arguments if argument.device is not None}
    kinds = kinds or {named.type for graph in graphs for node in graph.graph.nodes for named in _named(node)}
    if len(kinds) != 1:
        return tuple(arguments)
    home = kinds.pop()
    if device.type == "cuda" and device.index is None:
        if home == "cuda":
            return tuple(arguments)
        device = torch.device("cuda", torch.cuda.current_device())

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) and value.type == home else value

    for graph in graphs:
        changed = False
        for node in graph.graph.nodes:
            if any(named.type == home and named != device for named in _named(node)):
                node.args, node.kwargs = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
                changed = True
        if changed:
            graph.recompile()
    if tensors:
        module._apply(lambda tensor: tensor.to(device) if tensor.device.type == home else tensor)
    for segment in torch_segments(module):
        segment.place(home, device)
    return tuple(replace(each, device=device.type) if each.device == home else each for each in arguments)


def _named(node: fx.Node) -> list[torch.device]:
    """The devices that are among a node's arguments."""
    found: list[torch.device] = []
    map_aggregate(
        (node.args, node.kwargs), lambda value: found.append(value) if isinstance(value, torch.device) else None
    )
    return found


__all__ = ["placed"]

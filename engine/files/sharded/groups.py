"""The process groups of a saved module: names are those of one run, ranks are what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import distributed, fx

from engine.compiled.module import CompiledModule
from engine.distributed.agreement import ranks_of
from engine.distributed.collectives import collectives, group_of, groups_of
from engine.errors import DistributedError, FileError


def graphs_of(module: CompiledModule) -> list[fx.Graph]:
    """The graphs of a compiled module that PyTorch runs, those inside ops too."""
    return [held.graph for held in module.graph_module.modules() if isinstance(held, fx.GraphModule)]


def exchanging_groups(module: CompiledModule) -> dict[str, tuple[int, ...]]:
    """Name of a process group that a module uses -> its ranks.

    Raises:
        DistributedError: the process group is no more.
    """
    return {name: ranks_of(name) for name in groups_of(graphs_of(module))}


def check_groups(module: CompiledModule) -> None:
    """Raise ``FileError`` where a module exchanges tensors over a process group that is not there."""
    for name in groups_of(graphs_of(module)):
        try:
            if not distributed.is_initialized():
                raise DistributedError("torch.distributed is not initialised")
            ranks_of(name)
        except DistributedError as error:
            raise FileError(
                f"the module exchanges tensors with other ranks, over the process group {name!r}, which this process "
                f"does not have ({error}): call torch.distributed.init_process_group, make the device mesh of the "
                "model, and load the folder that engine.save wrote on all ranks"
            ) from None


def name_groups_anew(module: CompiledModule, saved: Mapping[str, Sequence[int]]) -> None:
    """Give a module the names that its process groups have in this process.

    Args:
        saved: name in the file -> ranks.

    Raises:
        FileError: there is no process group of these ranks.
    """
    here: dict[tuple[int, ...], str] = {}
    world: Any = distributed.distributed_c10d._world
    for group, name in world.pg_names.items():
        here.setdefault(tuple(distributed.get_process_group_ranks(group)), str(name))
    for graph in graphs_of(module):
        for node in list(collectives(graph)):
            name = str(group_of(node))
            ranks = tuple(saved.get(name, ()))
            if ranks not in here:
                raise FileError(
                    f"the module exchanges tensors among the ranks {', '.join(map(str, ranks)) or '(none)'}, and this "
                    "process has no process group of these: make the device mesh that the model had "
                    "(torch.distributed.device_mesh.init_device_mesh) before engine.load"
                )
            node.args = tuple(here[ranks] if value == name else value for value in node.args)
            node.kwargs = {key: here[ranks] if value == name else value for key, value in node.kwargs.items()}
        if graph.owning_module is not None:
            graph.owning_module.recompile()


__all__ = ["check_groups", "exchanging_groups", "graphs_of", "name_groups_anew"]

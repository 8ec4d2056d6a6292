"""CUDA graphs of a whole compiled module: its engines and what PyTorch runs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import fx, nn

from engine.graph.marks import WRITE
from engine.runtime.cuda_graphs.cache import GraphCache
from engine.runtime.module import TorchTensorRTModule


class Graphed(Protocol):
    """A module that can run as CUDA graphs."""

    def set_cuda_graphs(self, enabled: bool, size: int | None = None) -> None:
        """Record calls and replay them, or stop that."""
        ...


def engines_of(module: nn.Module) -> Iterator[TorchTensorRTModule]:
    """The engines inside a module, each once."""
    return (found for found in module.modules() if isinstance(found, TorchTensorRTModule))


def graphs_of_module(
    graph_module: fx.GraphModule, finish: Callable[[Sequence[Any]], Any], size: int | None
) -> GraphCache | None:
    """CUDA graphs for a graph module of engines; None where its engines are interpreted.

    Args:
        finish: makes the result of a call from the outputs of the graph module.
        size: most graphs to keep; by default what the settings of its engines say.
    """
    engines = list(engines_of(graph_module))
    if any(engine.runtime == "interpreter" for engine in engines):
        return None
    sizes = [engine.settings.cuda_graph_cache_size for engine in engines]
    return GraphCache(
        lambda inputs: graph_module(*inputs),
        name="the compiled module",
        size=size or max(sizes, default=16),
        static_outputs=any(engine.options.use_pre_allocated_outputs for engine in engines),
        written=lambda: _written(graph_module),
        kept=lambda: _states(graph_module),
        engines=lambda: [loaded for engine in engines for loaded in engine.loaded_engines()],
        finish=finish,
    )


def follow_settings(module: nn.Module) -> None:
    """Turn on the CUDA graphs of a whole module where the settings of its engines ask for them."""
    settings = [engine.settings for engine in engines_of(module)]
    if any(each.use_cuda_graphs and each.cuda_graph_scope == "module" for each in settings):
        module.set_cuda_graphs(True)  # type: ignore[operator]


def copied_inputs(graph_module: fx.GraphModule) -> tuple[int, ...]:
    """Positions of the inputs that a graph module copies new values to, in order."""
    inputs = {node: i for i, node in enumerate(n for n in graph_module.graph.nodes if n.op == "placeholder")}
    return tuple(sorted(inputs[place] for place in _places(graph_module) if place in inputs))


def _states(graph_module: fx.GraphModule) -> list[torch.Tensor]:
    """The tensors of a graph module that it copies new values to."""
    return [graph_module.get_buffer(str(place.target)) for place in _places(graph_module) if place.op == "get_attr"]


def _places(graph_module: fx.GraphModule) -> list[fx.Node]:
    copies = [node for node in graph_module.graph.nodes if node.target is WRITE]
    return [place for node in copies if isinstance(place := node.args[0], fx.Node)]


def _written(graph_module: fx.GraphModule) -> set[int]:
    """Positions of the inputs of a graph module that it, or an engine of it, writes to."""
    inputs = {node: i for i, node in enumerate(n for n in graph_module.graph.nodes if n.op == "placeholder")}
    found = set(copied_inputs(graph_module))
    for node in graph_module.graph.nodes:
        engine = graph_module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(engine, TorchTensorRTModule):
            found.update(inputs[node.args[i]] for i in engine.written_inputs() if node.args[i] in inputs)
    return found


__all__ = ["Graphed", "copied_inputs", "engines_of", "follow_settings", "graphs_of_module"]

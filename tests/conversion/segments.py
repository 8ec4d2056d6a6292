"""One-tile segments for tests: a PyTorch function, and what a rule would emit for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch

from engine.conversion import BuiltNetwork, emit_network
from engine.graph.mirror import Mirror, Value
from engine.interpreter import Program
from engine.settings import CompilationSettings
from tests.conversion.plans import plan_tile
from tests.graph.build import mirror_of

NAMES = ("x", "y", "z", "u", "v", "w")


def emit(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    text: str,
    dynamic_shapes: Any = None,
    *,
    settings: CompilationSettings | None = None,
    **names: Any,
) -> BuiltNetwork:
    """Emit ``text`` for the node that the outputs of ``function`` come from.

    The function's inputs are called ``x``, ``y``, ``z``, ``u``, ``v``, ``w`` in ``text``.
    """
    mirror = mirror_of(function, inputs, dynamic_shapes)
    outputs = [mirror.value(node) for node in mirror.graph.output_node().args[0]]
    named = dict(zip(NAMES, mirror.placeholders, strict=False)) | names
    tile = plan_tile(mirror, outputs[0].node, text, **named)
    read = dict.fromkeys(value for value in tile.operands() if not mirror.is_const(value))
    return emit_network(mirror, [tile], tuple(read), outputs, ranges(mirror), settings or CompilationSettings())


def ranges(mirror: Mirror) -> dict[sympy.Symbol, tuple[int, int, int]]:
    """The ranges of all symbols of the graph's inputs, 64 where there is no bound."""
    found: dict[sympy.Symbol, tuple[int, int, int]] = {}
    for node in mirror.placeholders:
        if isinstance(node.meta["val"], torch.Tensor):
            for size in mirror.shape(Value(node, 0)):
                for symbol in size.free_symbols if isinstance(size, sympy.Expr) else ():
                    low, high = mirror.sizes.range(symbol)
                    low, high = low or 1, 64 if high is None or high > 64 else high
                    found[symbol] = (low, (low + high) // 2, high)
    return found


def interpret(built: BuiltNetwork, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run the network on the CPU; inputs in the order of the bindings."""
    program = Program.from_network(built.network, built.weights.tensors)
    given = dict(zip(built.input_names, inputs, strict=True))
    results = program.run(given)
    return tuple(results[name] for name in built.output_names)


def layer_names(built: BuiltNetwork) -> list[str]:
    """The names of all layers, as the network has them."""
    return [built.network.get_layer(index).name for index in range(built.network.num_layers)]


__all__ = ["emit", "interpret", "layer_names", "ranges"]

"""The structure of a match: equal for matches that differ in nothing but the names and the values of their tensors.

Twelve equal blocks of a model have matches of one structure each, and so have those of another model, or of another
process: what was measured for one of them holds for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch import fx

from engine.graph.arguments import values_in
from engine.graph.mirror import Mirror, Value
from engine.graph.subgraph import Subgraph
from engine.matcher.match import Match

_SIZE = 16


def structure(match: Match, mirror: Mirror) -> str:
    """A digest of the ops of a match, how they hang together, and dtypes, shapes and ranges of what they read.

    Neither the order of nodes in the graph nor names are part of it, nor what constants hold, only that they are
    constants.
    """
    text = "\n".join(_Writer(mirror, frozenset(match.nodes)).lines(match.roots))
    shared = len(match.shared)
    return hashlib.blake2b(f"{text}\n{shared} shared".encode(), digest_size=_SIZE).hexdigest()


def described(match: Match, mirror: Mirror) -> str:
    """The ops of a match and what they read, in a line for people."""
    inside = frozenset(match.nodes)
    ops = [mirror.op(node).removesuffix(".default") for node in match.nodes]
    read = dict.fromkeys(v for node in match.nodes for v in mirror.inputs(node) if v.node not in inside)
    tensors = [value_text(mirror, value) for value in read if mirror.is_tensor(value)]
    return f"{', '.join(ops)} of {', '.join(tensors)}" if tensors else ", ".join(ops)


def value_text(mirror: Mirror, value: Value, symbols: Mapping[sympy.Symbol, str] | None = None) -> str:
    """Dtype and shape of a tensor, and whether it is a constant: ``const f16[4, 8]``."""
    sizes = [str(_renamed(size, symbols or {})) for size in mirror.shape(value)]
    dtype = str(mirror.dtype(value)).removeprefix("torch.")
    return f"{'const ' if mirror.is_const(value) else ''}{dtype}[{', '.join(sizes)}]"


def _renamed(size: Any, symbols: Mapping[sympy.Symbol, str]) -> Any:
    if not isinstance(size, sympy.Basic) or not symbols:
        return size
    return size.xreplace({symbol: sympy.Symbol(name) for symbol, name in symbols.items()})


class _Writer:
    """Nodes as lines of text, from the roots down; nodes, operands and symbols are numbered as they are met."""

    def __init__(self, mirror: Mirror, inside: frozenset[fx.Node]) -> None:
        self._mirror = mirror
        self._inside = inside
        self._nodes: dict[fx.Node, int] = {}
        self._operands: dict[Value, int] = {}
        self._symbols: dict[sympy.Symbol, str] = {}
        self._lines: list[str] = []

    def lines(self, roots: tuple[fx.Node, ...]) -> list[str]:
        for root in roots:
            self._visit(root)
        return [*self._lines, "roots " + " ".join(f"n{self._nodes[root]}" for root in roots)]

    def _visit(self, root: fx.Node) -> None:
        # Operands first; a stack, because patterns and so matches may be deep.
        stack = [root]
        while stack:
            node = stack[-1]
            missing = [
                value.node
                for value in values_in(self._mirror.arguments(node))
                if value.node in self._inside and value.node not in self._nodes
            ]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if node not in self._nodes:
                arguments = ", ".join(map(self._argument, self._mirror.arguments(node)))
                self._nodes[node] = len(self._nodes)
                self._lines.append(f"{self._mirror.op(node)}({arguments})")

    def _argument(self, item: Any) -> str:
        if isinstance(item, Value):
            return self._value(item)
        if isinstance(item, list | tuple):
            return f"[{', '.join(map(self._argument, item))}]"
        if isinstance(item, sympy.Basic):
            return self._size(item)
        if isinstance(item, Subgraph):
            return "graph"
        if isinstance(item, torch.device):
            return item.type
        return repr(item)

    def _value(self, value: Value) -> str:
        if value.node in self._inside:
            return f"n{self._nodes[value.node]}.{value.index}"
        number = self._operands.setdefault(value, len(self._operands))
        if not self._mirror.is_tensor(value):
            return f"x{number}"
        for size in self._mirror.shape(value):
            self._size(size)
        return f"x{number}: {value_text(self._mirror, value, self._symbols)}"

    def _size(self, size: Any) -> str:
        if isinstance(size, sympy.Basic):
            for symbol in sorted(size.free_symbols, key=str):
                if isinstance(symbol, sympy.Symbol) and symbol not in self._symbols:
                    self._symbols[symbol] = f"s{len(self._symbols)}"
                    low, high = self._mirror.sizes.range(symbol)
                    self._lines.append(f"{self._symbols[symbol]} in {low}..{high}")
        return str(_renamed(size, self._symbols))


__all__ = ["described", "structure", "value_text"]

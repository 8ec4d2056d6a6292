"""An instance of a rule: a graph with what its pattern describes, that can be run on operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.errors import EngineError
from engine.graph.mirror import Mirror, Value
from engine.verify.values import Tier, contents


class Inapplicable(EngineError):
    """A test line does not describe an instance of this rule: the ops of its pattern reject the inputs."""


@dataclass(slots=True)
class Instance:
    """A graph made from a rule's pattern and a test line.

    Attributes:
        mirror: the graph.
        roots: the nodes that the roots of the pattern stand for.
        outputs: values that the graph returns, in order: all outputs of the roots but those that a guard
            wants unused, or as the test line says.
        specs: what the test line says of each input, by placeholder, in order.
        symbols: name of a symbolic dim -> its symbol.
        ranges: symbol -> least and greatest size.
        operands: placeholder of what is expanded -> the node that expands it.
    """

    rule: Rule
    mirror: Mirror
    roots: tuple[fx.Node, ...]
    outputs: tuple[Value, ...]
    specs: dict[fx.Node, tree.TensorSpec]
    symbols: dict[str, sympy.Symbol]
    ranges: dict[sympy.Symbol, tuple[int, int]]
    operands: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def entries(self) -> list[Value]:
        """The values that the pattern takes for the placeholders, in order: those, or what they are expanded to."""
        return [Value(self.operands.get(node, node), 0) for node in self.mirror.placeholders]

    def expanded(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the entries are for inputs of the placeholders."""
        shapes = [None if value.node.op == "placeholder" else value.node.meta["val"].shape for value in self.entries()]
        return [tensor if s is None else tensor.expand(s) for tensor, s in zip(inputs, shapes, strict=True)]

    def sizes(self) -> Iterator[dict[sympy.Symbol, int]]:
        """Sizes to run with: all least, then all greatest; once if nothing is symbolic."""
        for end in (0, 1) if self.ranges else (0,):
            yield {symbol: bounds[end] for symbol, bounds in self.ranges.items()}

    def inputs(
        self,
        sizes: Mapping[sympy.Symbol, int],
        generator: torch.Generator,
        tier: Tier = "normal",
        *,
        draw: int = 0,
        large: bool = True,
    ) -> list[torch.Tensor]:
        """Random inputs of the given sizes, in the order of the placeholders.

        Args:
            draw: which of the draws of special values.
            large: let the special tier have large numbers too.
        """
        named = {name: sizes[symbol] for name, symbol in self.symbols.items()}
        distinct = "ties" in self.rule.relax
        return [
            contents(spec, sizes_of(spec, named), generator, tier, distinct=distinct, draw=draw, large=large)
            for spec in self.specs.values()
        ]

    def run_exactly(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """The outputs computed in float64, None where PyTorch rejects that; valid until the graph is rewritten."""
        try:
            return execute(self.mirror, [_wide(tensor) for tensor in inputs], double=True)
        except Exception:  # a kernel that has no float64 or wants one dtype; the caller then allows roundings
            return None

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the pattern means: its outputs, computed eagerly; valid until the graph is rewritten.

        Raises:
            Inapplicable: PyTorch rejects the inputs, which fake kernels do not always notice.
        """
        try:
            return execute(self.mirror, inputs)
        except Exception as error:  # ops written in Python refuse arguments by an assertion, or a division by zero
            raise Inapplicable(f"PyTorch rejects the left side: {error}") from error


def execute(mirror: Mirror, inputs: Sequence[torch.Tensor], *, double: bool = False) -> list[torch.Tensor]:
    """Run a graph eagerly, node by node.

    Args:
        double: compute with float64 constants; the inputs are the caller's.
    """
    values: dict[fx.Node, Any] = dict(zip(mirror.placeholders, inputs, strict=True))

    def read(node: fx.Node) -> Any:
        return values[node]

    with torch.no_grad():
        for node in mirror.graph.nodes:
            if "graph" in node.meta:
                values[node] = node.meta["graph"].module
            elif node.op == "get_attr":
                constant = mirror.constants[str(node.target)]
                values[node] = _wide(constant) if double else constant
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), read)
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            elif node.op == "output":
                # A parameter that is given as it is asks for gradients.
                return [values[item].detach() for item in node.args[0]]  # type: ignore[union-attr, index]
    raise EngineError("the graph has no output")


def sizes_of(spec: tree.TensorSpec, named: Mapping[str, Any]) -> list[Any]:
    """The shape that a spec writes; ``named`` are the sizes that stand for names in it."""
    return [dim.size if dim.name is None else named[dim.name] for dim in spec.dims]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


__all__ = ["Inapplicable", "Instance", "execute", "sizes_of"]

"""Recipes: how a folded constant is computed from the constants of the model.

A refit with other weights runs the recipe again instead of compiling again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily

from engine.errors import EngineError
from engine.graph.arguments import split
from engine.graph.mirror import Mirror, Value


class Source(NamedTuple):
    """A constant of the model, by name."""

    name: str


class Result(NamedTuple):
    """Output ``output`` of step ``step`` of a recipe."""

    step: int
    output: int


@dataclass(frozen=True, slots=True)
class Step:
    """One op of a recipe.

    Attributes:
        node: name of the graph node it was.
        arguments: in schema order; tensors are :class:`Source` or :class:`Result`.
    """

    node: str
    op: OpOverload
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The ops that a folded constant stands for.

    Attributes:
        steps: in the order of execution.
        result: which output of which step is the constant.
        literals: the constants among the sources that rules wrote out; they are the same for any weights.
    """

    steps: tuple[Step, ...]
    result: Result
    literals: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the model's constants that the value depends on, in order of use."""
        names: dict[str, None] = {}
        for step in self.steps:
            for item in _leaves(step.arguments):
                if isinstance(item, Source) and item.name not in self.literals:
                    names[item.name] = None
        return tuple(names)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the graph nodes that were folded."""
        return tuple(step.node for step in self.steps)

    @property
    def key(self) -> str:
        """Equal for recipes that do the same with the same sources."""
        return repr((self.result, [(str(step.op), step.arguments) for step in self.steps]))

    def evaluate(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the recipe on other weights.

        Args:
            constants: at least the ``sources``, by name, all on one device.

        Raises:
            EngineError: a source is missing.
        """
        missing = [name for name in self.sources if name not in constants]
        if missing:
            raise EngineError(f"the constant folded from {self.nodes[-1]} needs {', '.join(missing)}")
        device = next((constants[name].device for name in self.sources), torch.device("cpu"))
        results: list[Any] = []

        def concrete(item: Any) -> Any:
            if isinstance(item, Result):
                found = results[item.step]
                return found[item.output] if isinstance(found, tuple | list) else found
            if isinstance(item, Source):
                literal = self.literals.get(item.name)
                return constants[item.name].detach() if literal is None else literal.to(device)
            return device if isinstance(item, torch.device) else item

        with torch.no_grad(), unset_fake_temporarily():
            for step in self.steps:
                positional, keywords = split(step.op, [_map(item, concrete) for item in step.arguments])
                results.append(step.op(*positional, **keywords))
        tensor = concrete(self.result)
        assert isinstance(tensor, torch.Tensor)
        return tensor


def recipe(mirror: Mirror, value: Value) -> Recipe:
    """The recipe of a constant value that is computed in the graph."""
    order = sorted(_subgraph(mirror, value.node))
    number = {node: index for index, node in enumerate(node for node in order if node.op != "get_attr")}
    literals = {
        str(node.target): mirror.constants[str(node.target)] for node in order if node.meta.get("literal", False)
    }

    def written(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        if item.node.op == "get_attr":
            return Source(str(item.node.target))
        return Result(number[item.node], item.index)

    steps: list[Step] = []
    for node in number:
        assert isinstance(node.target, OpOverload)
        arguments = tuple(_freeze(_map(item, written)) for item in mirror.arguments(node))
        steps.append(Step(node.name, node.target, arguments))
    return Recipe(tuple(steps), Result(number[value.node], value.index), literals)


def _subgraph(mirror: Mirror, root: fx.Node) -> set[fx.Node]:
    seen = {root}
    stack = [root]
    while stack:
        for operand in mirror.inputs(stack.pop()):
            if operand.node not in seen:
                seen.add(operand.node)
                stack.append(operand.node)
    return seen


def _map(item: Any, function: Any) -> Any:
    if isinstance(item, Source | Result | Value):
        return function(item)
    if isinstance(item, tuple | list):
        return [_map(part, function) for part in item]
    return function(item)


def _freeze(item: Any) -> Any:
    return tuple(map(_freeze, item)) if isinstance(item, list) else item


def _leaves(item: Any) -> list[Any]:
    if isinstance(item, tuple | list) and not isinstance(item, Source | Result):
        return [leaf for part in item for leaf in _leaves(part)]
    return [item]

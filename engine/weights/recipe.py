"""Recipes: how a folded constant is computed from the constants of the model.

A refit with other weights runs the recipe again instead of compiling again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily

from engine.errors import EngineError
from engine.graph.arguments import split
from engine.graph.canonical import is_uninitialised
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
        result: which output of which step is the constant; a source where the constant is used as it is.
        literals: the constants among the sources that rules wrote out; they are the same for any weights.
    """

    steps: tuple[Step, ...]
    result: Result | Source
    literals: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the model's constants that the value depends on, in order of use."""
        names: dict[str, None] = {}
        for item in (*(leaf for step in self.steps for leaf in _leaves(step.arguments)), self.result):
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

    def converted(self, dtype: torch.dtype) -> Recipe:
        """The same in another dtype."""
        op: OpOverload = torch.ops.aten._to_copy.default
        arguments = [self.result, *(argument.default_value for argument in op._schema.arguments[1:])]
        arguments[1] = dtype
        step = Step("converted", op, tuple(arguments))
        return replace(self, steps=(*self.steps, step), result=Result(len(self.steps), 0))

    def evaluate(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the recipe on other weights.

        Args:
            constants: at least the ``sources``, by name, all on one device.

        Raises:
            EngineError: a source is missing.
        """
        missing = [name for name in self.sources if name not in constants]
        if missing:
            folded = f"the constant folded from {self.nodes[-1]}" if self.steps else "a constant of the model"
            raise EngineError(f"{folded} needs {', '.join(missing)}")
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
                result = step.op(*positional, **keywords)
                if is_uninitialised(step.op) and isinstance(result, torch.Tensor):
                    result.zero_()  # as when compiling
                results.append(result)
        tensor = concrete(self.result)
        assert isinstance(tensor, torch.Tensor)
        return tensor


def recipe(mirror: Mirror, value: Value) -> Recipe:
    """The recipe of a constant value, from the constants of the model; it leads through folded constants."""
    steps: list[Step] = []
    literals: dict[str, torch.Tensor] = {}
    first: dict[fx.Node, int] = {}
    constants: dict[fx.Node, Result | Source] = {}

    def written(item: Any) -> Any:
        if not isinstance(item, Value):
            return item
        return constants[item.node] if item.node in constants else Result(first[item.node], item.index)

    for node in sorted(_subgraph(mirror, value.node)):
        if node.op != "get_attr":
            assert isinstance(node.target, OpOverload)
            first[node] = len(steps)
            arguments = tuple(_freeze(_map(item, written)) for item in mirror.arguments(node))
            steps.append(Step(node.name, node.target, arguments))
            continue
        inner: Recipe | None = node.meta.get("recipe")
        if inner is None:
            constants[node] = Source(str(node.target))
            if node.meta.get("literal", False):
                literals[str(node.target)] = mirror.constants[str(node.target)]
        else:
            start = len(steps)
            steps += [replace(step, arguments=_moved(step.arguments, start)) for step in inner.steps]
            constants[node] = _moved(inner.result, start)
            literals.update(inner.literals)
    return Recipe(tuple(steps), written(value), literals)


def _moved(item: Any, start: int) -> Any:
    """Results of a recipe's steps, where its steps come after ``start`` others."""

    def moved(leaf: Any) -> Any:
        return Result(leaf.step + start, leaf.output) if isinstance(leaf, Result) else leaf

    return _freeze(_map(item, moved))


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

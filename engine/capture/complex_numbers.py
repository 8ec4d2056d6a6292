"""Complex numbers of Python as constants of a graph: rules know the parts of tensors, and numbers have none."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode


def make_complex_numbers_tensors(graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode) -> None:
    """Give ops that take a tensor and were given a complex number (``1j * x``) a tensor without dims.

    Its dtype is that of the op's result, so that the op gives what it gave before.  What fills a dynamic size with one
    complex number (``zeros(x.shape, dtype=complex64)``) becomes that number, expanded.

    Args:
        constants: of the graph; gets the tensors.
    """
    names = (name for name in (f"complex_number_{index}" for index in itertools.count()) if name not in constants)

    def constant(tensor: torch.Tensor, user: fx.Node) -> fx.Node:
        name = next(names)
        constants[name] = tensor
        with graph.inserting_before(user):
            made = graph.create_node("get_attr", name, name=name)
        made.meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        return made

    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not (isinstance(node.target, OpOverload) and isinstance(value, torch.Tensor) and value.dtype.is_complex):
            continue
        if _fills_a_dynamic_size(node):
            _expand(graph, node, constant)
            continue
        schema = node.target._schema.arguments
        for argument, given in zip(schema, node.args, strict=False):
            if isinstance(given, complex) and str(argument.type) == "Tensor":
                made = constant(torch.tensor(given, dtype=value.dtype), node)
                node.args = tuple(made if each is given else each for each in node.args)


def _fills_a_dynamic_size(node: fx.Node) -> bool:
    """Whether an op makes a tensor of a size that it is given, all elements equal, from no other operands."""
    assert isinstance(node.target, OpOverload)
    schema = node.target._schema.arguments
    if not schema or schema[0].name != "size" or torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    sizes = node.args[0] if node.args else None
    # Of known sizes it is a constant anyway.
    return isinstance(sizes, list | tuple) and any(isinstance(size, fx.Node) for size in sizes)


def _expand(graph: fx.Graph, node: fx.Node, constant: Callable[[torch.Tensor, fx.Node], fx.Node]) -> None:
    # Without dims the op gives the number.
    number = constant(node.target([], *node.args[1:], **node.kwargs), node)  # type: ignore[operator]
    node.target, node.args, node.kwargs = torch.ops.aten.expand.default, (number, node.args[0]), {}


__all__ = ["make_complex_numbers_tensors"]

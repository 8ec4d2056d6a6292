"""Complex numbers of Python as constants of a graph: rules know the parts of tensors, and numbers have none."""

from __future__ import annotations

import itertools

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode


def make_complex_numbers_tensors(graph: fx.Graph, constants: dict[str, torch.Tensor], mode: FakeTensorMode) -> None:
    """Give ops that take a tensor and were given a complex number (``1j * x``) a tensor without dims.

    Its dtype is that of the op's result, so that the op gives what it gave before.

    Args:
        constants: of the graph; gets the tensors.
    """
    names = (name for name in (f"complex_number_{index}" for index in itertools.count()) if name not in constants)
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not (isinstance(node.target, OpOverload) and isinstance(value, torch.Tensor) and value.dtype.is_complex):
            continue
        schema = node.target._schema.arguments
        for argument, given in zip(schema, node.args, strict=False):
            if isinstance(given, complex) and str(argument.type) == "Tensor":
                name = next(names)
                constants[name] = torch.tensor(given, dtype=value.dtype)
                with graph.inserting_before(node):
                    constant = graph.create_node("get_attr", name, name=name)
                constant.meta["val"] = mode.from_tensor(constants[name], static_shapes=True)
                node.args = tuple(constant if each is given else each for each in node.args)


__all__ = ["make_complex_numbers_tensors"]

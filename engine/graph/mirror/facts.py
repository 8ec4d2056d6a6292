"""Facts about the nodes of an FX graph, found once and kept until an edit changes them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from engine import sizes
from engine.graph import arguments as args
from engine.graph.value import Value
from engine.sizes import Int

_LISTS = (tuple, list)


class _Record:
    """What is known about a node; any field may be forgotten and found again."""

    __slots__ = ("arguments", "inputs", "op", "shapes", "users")

    def __init__(self, op: str) -> None:
        self.op = op
        self.arguments: tuple[Any, ...] | None = None
        self.inputs: tuple[Value, ...] | None = None
        self.shapes: dict[int, tuple[Int, ...]] | None = None
        self.users: dict[int | None, tuple[fx.Node, ...]] | None = None


class Facts:
    """What is known about the nodes of a graph: ops, arguments, inputs, outputs, shapes, dtypes and users."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._records: dict[fx.Node, _Record] = {}

    def _record(self, node: fx.Node) -> _Record:
        record = self._records.get(node)
        if record is None:
            name = args.op_name(node.target) if node.op == "call_function" else node.op
            record = self._records[node] = _Record(name)
        return record

    def op(self, node: fx.Node) -> str:
        """The op as rules name it: ``aten.add.Tensor``, ``placeholder``, ``operator.mul``, ``getitem``."""
        return self._record(node).op

    def arguments(self, node: fx.Node) -> tuple[Any, ...]:
        """Arguments in schema order, defaults included.

        Tensors are :class:`Value`, sizes symbolic ints, lists tuples, graphs :class:`engine.graph.subgraph.Subgraph`;
        everything else is as FX has it.
        """
        record = self._record(node)
        if record.arguments is None:
            record.arguments = tuple(map(args.normalise, args.in_schema_order(node)))
        return record.arguments

    def raw_arguments(self, node: fx.Node) -> tuple[Any, ...]:
        """Like :meth:`arguments`, with size nodes as values instead of symbolic ints."""

        def raw(item: Any) -> Any:
            return args.resolve(item) if isinstance(item, fx.Node) else item

        return tuple(args.map_values(item, raw) for item in args.in_schema_order(node))

    def inputs(self, node: fx.Node) -> tuple[Value, ...]:
        """The tensor values a node uses, each once, in argument order."""
        record = self._record(node)
        if record.inputs is None:
            record.inputs = tuple(dict.fromkeys(args.values_in(self.arguments(node))))
        return record.inputs

    def value(self, node: fx.Node) -> Value:
        """The value an FX node stands for; ``getitem`` is folded away."""
        return args.resolve(node)

    def outputs(self, node: fx.Node) -> tuple[Value, ...]:
        """All outputs of a node."""
        fake = node.meta.get("val")
        return tuple(Value(node, i) for i in range(len(fake) if isinstance(fake, _LISTS) else 1))

    def fake(self, value: Value) -> Any:
        """The fake tensor of a value; a ``SymInt`` for a size, None for a graph or an absent output."""
        fake = value.node.meta.get("val")
        return fake[value.index] if isinstance(fake, _LISTS) else fake

    def is_tensor(self, value: Value) -> bool:
        """Whether the value is a tensor, not a size or an absent output."""
        return isinstance(self.fake(value), torch.Tensor)

    def is_size(self, node: fx.Node) -> bool:
        """Whether a node is a number: shape arithmetic, or a scalar input."""
        return node.op in ("placeholder", "call_function") and isinstance(
            node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | torch.SymBool
        )

    def shape(self, value: Value) -> tuple[Int, ...]:
        """The shape in symbolic ints."""
        record = self._record(value.node)
        if record.shapes is None:
            record.shapes = {}
        shape = record.shapes.get(value.index)
        if shape is None:
            shape = record.shapes[value.index] = tuple(
                size if type(size) is int else sizes.normal(size) for size in self.fake(value).shape
            )
        return shape

    def shape_of(self, node: fx.Node) -> tuple[Int, ...]:
        """The shape of a node with one output."""
        return self.shape(Value(node, 0))

    def dtype(self, value: Value) -> torch.dtype:
        """The dtype."""
        dtype: torch.dtype = self.fake(value).dtype
        return dtype

    def rank(self, value: Value) -> int:
        """The number of dimensions."""
        return len(self.fake(value).shape)

    # ------------------------------------------------------------ uses

    def users(self, value: Value) -> tuple[fx.Node, ...]:
        """Nodes that use a value, in graph order, the output node included; ``getitem`` is folded away."""
        return self._users(value.node, value.index)

    def node_users(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """Nodes that use any output of a node, in graph order."""
        return self._users(node, None)

    def _users(self, node: fx.Node, index: int | None) -> tuple[fx.Node, ...]:
        record = self._record(node)
        if record.users is None:
            record.users = {}
        found = record.users.get(index)
        if found is None:
            users = dict.fromkeys(self.each_user(node, index))
            found = record.users[index] = tuple(sorted(users) if len(users) > 1 else users)
        return found

    def each_user(self, node: fx.Node, index: int | None = None) -> Iterator[fx.Node]:
        """Users of one output, or of all, in no particular order, possibly repeated; makes no list."""
        for user in node.users:
            if user.op == "call_function" and user.target is operator.getitem:
                if index is None or user.args[1] == index:
                    yield from user.users
            else:
                yield user

    def unused(self, value: Value) -> bool:
        """Whether nothing uses a value."""
        return next(self.each_user(*value), None) is None

    def shared(self, value: Value) -> bool:
        """Whether more than one node uses a value."""
        return len(set(self.each_user(*value))) > 1

    # ------------------------------------------------------------ what edits change

    def _forget(self, node: fx.Node) -> None:
        """Forget all about a node that goes away."""
        self._records.pop(node, None)

    def _forget_arguments(self, node: fx.Node) -> None:
        record = self._records.get(node)
        if record is not None:
            record.arguments = record.inputs = None

    def _forget_users(self, source: fx.Node) -> None:
        record = self._records.get(args.resolve(source).node)
        if record is not None:
            record.users = None


__all__ = ["Facts"]

"""Graphs that write to tensors, as graphs of values.

A *place* is memory that nodes look at: one node made it, others are views of it.  A write to one of them gives it a new
value; what it is a view of gets a new value from that, up to the whole, and all other views are taken from the whole
again where they are read next.  That is PyTorch's functionalisation, done on the nodes of a graph and not by running
their ops once more, so the fake values, the lines and the names of the nodes stay what they are.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._pytree import tree_map_only

from engine.capture.functional.composites import Composites, Ref, Size, is_taken_apart, operands_of
from engine.capture.functional.counterparts import counterpart, is_write, result_dtype
from engine.capture.functional.views import (
    Lies,
    is_composite,
    is_trained,
    lies,
    operand_of_view,
    shares_storage,
    written_back,
)
from engine.errors import EngineError
from engine.graph.provenance import describe
from engine.graph.symbolic.symbols import size_call
from engine.rewriter.decomposition import Undecomposable
from engine.sizes import normal

_CAST = torch.ops.aten._to_copy.default
# Ops that read memory wherever it lies, not only that of their operand.
_BY_STRIDES = (torch.ops.aten.as_strided.default, torch.ops.aten.as_strided_copy.default)
# Ops that write no values: without gradients they do nothing.
_WITHOUT_EFFECT = (torch.ops.aten.detach_.default,)


class NotShown(Exception):
    """Why it cannot be shown that a graph of values computes the same."""


class _Place:
    """Memory that was made at once: an input's or the result's of an op.

    Attributes:
        version: how often it was written to.
        doubtful: places that may be the same memory.
        spoiled: the write after which its values are not known, as it may have been to this place.
        input: the name of the input whose memory it is.
    """

    def __init__(self, source: str | None = None) -> None:
        self.version = 0
        self.doubtful: list[_Place] = []
        self.spoiled: fx.Node | None = None
        self.input = source

    def maybe(self) -> set[_Place]:
        """The other places that may be this one."""
        found, left = {self}, [self]
        while left:
            for other in left.pop().doubtful:
                if other not in found:
                    found.add(other)
                    left.append(other)
        return found - {self}


@dataclass(eq=False)
class _Seen:
    """One way in which a place is seen: the whole of it, or a view.

    Attributes:
        node: its value in the new graph, as it was at ``version`` of the place.
        made: the node of the graph before, whose fake value it has.
        views: what a view takes from ``parent``: the nodes of its calls, one after the other.
    """

    place: _Place
    node: fx.Node
    made: fx.Node
    version: int = 0
    parent: _Seen | None = None
    views: tuple[fx.Node, ...] = ()


class Functional:
    """The graph of values of a graph that writes to tensors; ``graph`` has no output yet.

    Raises:
        NotShown: it cannot be shown that it would compute the same.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = fx.Graph()
        self._seen: dict[fx.Node, _Seen] = {}
        self._sizes: dict[Any, fx.Node] = {}
        self._composites = Composites()
        self._inputs: list[fx.Node] = []
        self._traced = _is_traced(graph)
        self._before = graph
        self._results: dict[fx.Node, tuple[Any, ...]] = {}
        self._walk(graph)

    def value(self, node: fx.Node) -> fx.Node:
        """What a node of the graph before holds at the end."""
        return self._read(node, node)

    def written(self) -> dict[str, fx.Node]:
        """The inputs that are written to -> their new values, in their order."""
        inputs = [node for node in self._before.nodes if node.op == "placeholder"]
        return {node.name: self._read(node, node) for node in inputs if self._seen[node].place.version}

    # -------------------------------------------------------------------------------- the walk

    def _walk(self, graph: fx.Graph) -> None:
        for node in graph.nodes:
            if node.op == "output" or node in self._seen:
                continue
            if is_inlined(node):
                self._inline(node)
            elif node.op == "call_function" and node.target is operator.getitem and node.args[0] in self._results:
                self._seen[node] = self._seen[self._results[node.args[0]][node.args[1]]]  # type: ignore[index]
            elif is_write(node.target) and node.op == "call_function":
                self._write(node)
            else:
                self._keep(node)

    def _inline(self, node: fx.Node) -> None:
        """The calls of a graph that an op runs as it is."""
        position = next(index for index, argument in enumerate(node.args) if _is_graph(argument))
        name: Any = node.args[position].target  # type: ignore[union-attr]
        module = getattr(self._before.owning_module, str(name), None)
        if not isinstance(module, fx.GraphModule):
            raise NotShown(f"{describe(node)} runs a graph that is not known")
        inner = module.graph
        inputs = [each for each in inner.nodes if each.op == "placeholder"]
        given = node.args[position + 1 :]
        if any(each.op == "get_attr" or is_trained(each) for each in inner.nodes) or len(inputs) != len(given):
            raise NotShown(f"{describe(node)} runs a graph that is not written into the one around it")
        for each, argument in zip(inputs, given, strict=True):
            if not isinstance(argument, fx.Node):
                raise NotShown(f"{describe(node)} runs a graph on numbers")
            self._seen[each] = self._seen[argument]
        self._walk(inner)
        results: Any = inner.output_node().args[0]
        if not isinstance(results, tuple | list) or not all(isinstance(each, fx.Node) for each in results):
            raise NotShown(f"{describe(node)} runs a graph that gives something else than tensors")
        self._results[node] = tuple(results)

    def _keep(self, node: fx.Node) -> None:
        """A call that writes nothing."""
        if isinstance(node.target, HigherOrderOperator):
            _check_graphs(node, self._before.owning_module)
        if node.target is operator.getitem and self._same_item(node):
            return
        operand = operand_of_view(node) if node.op == "call_function" else None
        if operand is None or not _holds_tensors(operand):
            place = _Place(node.name if node.op == "placeholder" else None)
            self._seen[node] = _Seen(place, self._copy(node), node)
            self._doubt(place, node)
            return
        seen, how = self._seen[operand], lies(node, operand, self._traced)
        if how is Lies.UNKNOWN:
            how = self._composites.lies(node, operand)
        if node.target is operator.getitem and not seen.views:
            # One of several new tensors.
            how = Lies.UNKNOWN if seen.place.doubtful else Lies.APART
        if how is Lies.THERE:
            self._read(operand, node)
            self._seen[node] = seen
            return
        if node.target in _BY_STRIDES and seen.parent is not None:
            raise NotShown(f"{describe(node)} reads memory by strides, through a view")
        copy = self._copy(node)
        if how is Lies.WITHIN:
            # One of several views that an op gives is a view of that op's operand.
            item = node.target is operator.getitem
            parent = seen.parent if item else seen
            assert parent is not None
            views = (*seen.views, node) if item else (node,)
            self._seen[node] = _Seen(seen.place, copy, node, seen.place.version, parent, views)
            return
        made = self._seen[node] = _Seen(_Place(), copy, node)
        if how is Lies.UNKNOWN:
            _equate(made.place, seen.place)

    def _doubt(self, place: _Place, node: fx.Node) -> None:
        """Note the operands that a composite op gave in the trace, though its schema says nothing of that."""
        if not self._traced or not isinstance(node.target, OpOverload) or not is_composite(node.target):
            return
        for operand in node.all_input_nodes:
            if shares_storage(node.meta.get("val"), operand.meta.get("val")):
                _equate(place, self._seen[operand].place)

    def _same_item(self, node: fx.Node) -> bool:
        """Take the output of an op that another node takes already for that one."""
        source, index = node.args
        assert isinstance(source, fx.Node)
        for other in source.users:
            if (
                other is not node
                and other.target is operator.getitem
                and other.args[1] == index
                and other in self._seen
            ):
                self._read(other, node)
                self._seen[node] = self._seen[other]
                return True
        return False

    def _write(self, node: fx.Node) -> None:
        functional = counterpart(node.target)  # type: ignore[arg-type]
        target = node.args[0] if node.args else None
        if node.target in _WITHOUT_EFFECT and isinstance(target, fx.Node):
            self._seen[node] = self._seen[target]
            return
        if functional is None or not isinstance(target, fx.Node):
            raise NotShown(f"{describe(node)} writes, and no op gives what it writes")
        seen = self._seen[target]
        if _shape(node) != _shape(target):
            # torch.export writes what a model assigns to a buffer, whatever its shape.
            raise NotShown(f"{describe(node)} writes a tensor of another shape")
        dtype = target.meta["val"].dtype
        computed = result_dtype(functional, node)
        if computed is None:
            raise NotShown(f"{describe(node)} writes, and the dtype of what it writes is not known")
        args, kwargs = self._arguments(node)
        value = self._call(functional, args, kwargs, node, node)
        if computed != dtype:
            value = self._call(_CAST, (value,), {"dtype": dtype}, node, node)
        self._put(seen, value, node)
        self._seen[node] = seen

    def _put(self, seen: _Seen, value: fx.Node, write: fx.Node) -> None:
        """Give a view, and all that it is a view of, a new value."""
        place = seen.place
        for other in place.maybe():
            if other.input is not None:
                raise NotShown(f"{describe(write)} may write to an input of the model")
            other.spoiled = other.spoiled or write
        chain = [seen]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        # All of them as they were before, from the whole down.
        for each in reversed(chain):
            self._refresh(each, write)
        place.version += 1
        seen.node, seen.version = value, place.version
        for view, base in pairwise(chain):
            args = [self._current(arg, write) for arg in view.views[-1].args[1:]]
            call = written_back(view.views[-1], args, base.node, view.node)
            if call is None:
                raise NotShown(f"{describe(write)} writes to a view ({view.views[-1].target}) that is not taken back")
            base.node, base.version = self._call(*call, {}, write, base.made), place.version

    # -------------------------------------------------------------------------------- values

    def _read(self, node: fx.Node, reader: fx.Node) -> fx.Node:
        """What a node of the graph before holds now."""
        seen = self._seen[node]
        if seen.place.spoiled is not None:
            raise NotShown(
                f"{describe(reader)} reads what {describe(seen.place.spoiled)} may have written to, elsewhere"
            )
        self._refresh(seen, reader)
        return seen.node

    def _refresh(self, seen: _Seen, reader: fx.Node) -> None:
        if seen.version == seen.place.version:
            return
        assert seen.parent is not None
        self._refresh(seen.parent, reader)
        value = seen.parent.node
        for view in seen.views:
            value = self._seen_again(view, value, reader)
        seen.node, seen.version = value, seen.place.version

    def _seen_again(self, view: fx.Node, value: fx.Node, reader: fx.Node) -> fx.Node:
        """A view of the new value of its operand."""
        operand = operand_of_view(view)

        def current(node: fx.Node) -> fx.Node:
            return value if node is operand else self._read(node, reader)

        if is_taken_apart(view.target):
            made = self._take_apart(view, list(map(current, operands_of(view))), reader)
            if made is not None:
                return made
        args, kwargs = fx.node.map_arg((view.args, view.kwargs), current)
        return self._call(view.target, args, kwargs, reader, view)

    def _current(self, argument: Any, reader: fx.Node) -> Any:
        return fx.node.map_arg(argument, lambda node: self._read(node, reader))

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = fx.node.map_arg(node.args, lambda each: self._read(each, node))
        return args, fx.node.map_arg(node.kwargs, lambda each: self._read(each, node))  # type: ignore[return-value]

    def _copy(self, node: fx.Node) -> fx.Node:
        if is_taken_apart(node.target):
            made = self._take_apart(node, [self._read(each, node) for each in operands_of(node)], node)
            if made is not None:
                return made
        args, kwargs = self._arguments(node)
        made = self.graph.create_node(node.op, node.target, args, kwargs, name=node.name, type_expr=node.type)
        made.meta = node.meta
        if node.op == "placeholder":
            # Signatures know inputs by names, of which some (``input``) are Python's too.
            made.name = node.name
            if _holds_tensors(node):
                self._inputs.append(made)
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            self._sizes.setdefault(normal(value), made)
        return made

    def _take_apart(self, node: fx.Node, operands: list[fx.Node], reason: fx.Node) -> fx.Node | None:
        """What a composite op calls, on other operands; None where it stays whole."""
        try:
            found = self._composites.steps(node)
        except Undecomposable as problem:
            raise NotShown(f"{describe(node)}: {problem}") from None
        if found is None or not found.steps:
            return None if found is None else operands[found.result.place or 0]
        made: list[fx.Node] = []

        def tensor(ref: Ref) -> fx.Node:
            if ref.step < 0:
                return operands[ref.place or 0]
            step = made[ref.step]
            if ref.place is None:
                return step
            item = self.graph.create_node("call_function", operator.getitem, (step, ref.place), name="getitem")
            item.meta = {**reason.meta, "val": step.meta["val"][ref.place]}
            return item

        def argument(value: Any) -> Any:
            if isinstance(value, Ref):
                return tensor(value)
            if isinstance(value, Size):
                return self._size(value.expression, operands, reason)
            return [argument(each) for each in value] if isinstance(value, list | tuple) else value

        try:
            for position, step in enumerate(found.steps):
                last = found.result == Ref(position, None)
                args = tuple(map(argument, step.args))
                kwargs = {name: argument(value) for name, value in step.kwargs.items()}
                made.append(self._emit(step.op, args, kwargs, reason, node.meta["val"] if last else step.fake))
        except EngineError:
            for each in reversed(made):
                self.graph.erase_node(each)
            return None
        return tensor(found.result)

    def _size(self, expression: Any, operands: list[fx.Node], reason: fx.Node) -> fx.Node | int:
        """The node of a number; raises ``EngineError`` where it is no function of sizes that are known."""
        if getattr(expression, "is_Integer", True):
            return int(expression)
        if expression not in self._sizes:
            self._sizes[expression] = self._computed(expression, operands, reason)
        return self._sizes[expression]

    def _computed(self, expression: Any, operands: list[fx.Node], reason: fx.Node) -> fx.Node:
        for tensor in (*operands, *self._inputs):
            for dim, size in enumerate(tensor.meta["val"].shape):
                if isinstance(size, torch.SymInt) and normal(size) == expression:
                    return self._emit(torch.ops.aten.sym_size.int, (tensor, dim), {}, reason, size)
        if expression.is_Symbol:
            raise EngineError(f"{expression} is the size of no operand")
        function, parts = size_call(expression)
        args = tuple(self._size(part, operands, reason) for part in parts)
        fake = function(*(arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args))
        return self._emit(function, args, {}, reason, fake)

    def _call(self, op: Any, args: Any, kwargs: dict[str, Any], reason: fx.Node, like: fx.Node) -> fx.Node:
        """A call that a write makes necessary, where the model has ``reason``, with the fake value of ``like``."""
        return self._emit(op, args, kwargs, reason, like.meta.get("val"))

    def _emit(self, op: Any, args: Any, kwargs: dict[str, Any], reason: fx.Node, fake: Any) -> fx.Node:
        name = op._opname if isinstance(op, OpOverload) else op.__name__
        made = self.graph.create_node("call_function", op, args, dict(kwargs), name=name)
        # Nodes are told apart by their fake values, too.
        made.meta = {**reason.meta, "val": tree_map_only(torch.Tensor, torch.Tensor.detach, fake)}
        return made


def _shape(node: fx.Node) -> list[Any]:
    return [normal(size) for size in node.meta["val"].shape]


def _equate(one: _Place, other: _Place) -> None:
    one.doubtful.append(other)
    other.doubtful.append(one)


def is_inlined(node: fx.Node) -> bool:
    """Whether an op runs a graph as if its calls stood there: with autocast turned off, or in another grad mode."""
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
        return True
    return node.target is torch.ops.higher_order.wrap_with_autocast and node.args[2] is False


def _is_graph(argument: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _holds_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return any(isinstance(each, torch.Tensor) for each in value)
    return isinstance(value, torch.Tensor)


def _is_traced(graph: fx.Graph) -> bool:
    """Whether the fake values are those of the trace: in programs from files each has memory of its own."""
    writes = [node for node in graph.nodes if is_write(node.target) and _holds_tensors(node) and node.all_input_nodes]
    return all(shares_storage(node.meta["val"], node.all_input_nodes[0].meta.get("val")) for node in writes)


def _check_graphs(node: fx.Node, owner: Any) -> None:
    """Raises ``NotShown`` where a graph that an op runs writes to something."""
    for argument in node.all_input_nodes:
        module = getattr(owner, str(argument.target), None) if argument.op == "get_attr" else None
        if not isinstance(module, fx.GraphModule):
            continue
        for inner in module.graph.nodes:
            if is_write(inner.target):
                raise NotShown(f"the graph of {describe(node)} writes to a tensor")
            if isinstance(inner.target, HigherOrderOperator):
                _check_graphs(inner, module)


__all__ = ["Functional", "NotShown", "is_inlined"]

"""The FX graph as the rest of the compiler sees it: facts about its nodes, constants, edits and questions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import networkx
import sympy
import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.errors import EngineError
from engine.graph import arguments as args
from engine.graph import provenance, reachability
from engine.graph.constants import Constants
from engine.graph.mirror.facts import Facts
from engine.graph.provenance import Provenance
from engine.graph.symbolic import inference
from engine.graph.symbolic.symbols import SizeNodes
from engine.graph.value import Value
from engine.graph.view import GraphView
from engine.sizes import Int, Sizes


class Mirror(Facts):
    """An FX graph in canonical form, with cached facts about its nodes.

    Every edit must go through the mirror.  ``constants`` maps the targets of ``get_attr`` nodes to tensors.  A graph
    inside an op of another one has a ``name``, with which the names of its nodes begin; it may use sizes that none of
    its inputs has: each becomes an input of its own.  ``sizes`` decides by sizes; what the ``ShapeEnv`` believes does
    where it is not given.

    Raises:
        EngineError: a node has no fake value (``meta["val"]``), or a constant is missing.
    """

    def __init__(
        self,
        graph: fx.Graph,
        constants: dict[str, torch.Tensor],
        fake_mode: FakeTensorMode | None,
        shape_env: ShapeEnv | None,
        *,
        name: str = "",
        sizes: Sizes | None = None,
        on_read: Callable[[Mirror, Value], Any] = lambda mirror, value: None,
    ) -> None:
        super().__init__(graph)
        self.name = name
        self.constants = constants
        self.fake_mode = fake_mode or FakeTensorMode(shape_env=shape_env)
        self.shape_env = shape_env
        self.sizes = sizes or Sizes(shape_env)
        # Constants whose elements a rule read, with what `on_read` made of each: what was decided holds for these
        # elements only.
        self.read_constants: dict[Value, Any] = {}
        self._on_read = on_read
        # The graphs inside its ops that rules ran, by name.
        self.inner: dict[str, Mirror] = {}
        self.placeholders: tuple[fx.Node, ...] = ()
        # Inputs that the graph's caller writes new values to, and these values, which the graph returns.
        self.written: dict[fx.Node, int] = {}
        self._constants = Constants(self)
        self._size_nodes = SizeNodes(self)
        self._view = GraphView(self)
        self._check()

    def _check(self) -> None:
        self.placeholders = tuple(node for node in self.graph.nodes if node.op == "placeholder")
        for node in self.graph.nodes:
            if node.op == "output" or "graph" in node.meta:
                continue
            if node.op not in ("placeholder", "get_attr", "call_function"):
                where = provenance.describe(node)
                raise EngineError(f"{where}: {node.op} nodes are not part of the canonical graph")
            if node.op == "get_attr" and node.target not in self.constants:
                raise EngineError(f"{provenance.describe(node)}: there is no constant named '{node.target}'")
            if "val" not in node.meta:
                raise EngineError(
                    f"{provenance.describe(node)} has no fake value (meta['val']); capture the graph with "
                    "torch.export, or run FakeTensorProp on it, before it is mirrored"
                )

    @functools.cached_property
    def device(self) -> torch.device:
        """The device of the graph's tensors: that of the first input, else of the first constant."""
        fakes = (node.meta.get("val") for node in self.graph.nodes if node.op in ("placeholder", "get_attr"))
        return next((fake.device for fake in fakes if isinstance(fake, torch.Tensor)), torch.device("cpu"))

    # ------------------------------------------------------------ written inputs

    def overwritten(self, value: Value) -> bool:
        """Whether a value is a dense input whose only reader gives its new value, and the graph returns that once."""
        position = self.written.get(value.node)
        if position is None or len(value.node.users) != 1 or not self.fake(value).is_contiguous():
            return False
        outputs: Any = self.graph.output_node().args[0]
        (reader,) = value.node.users
        return reader is outputs[position] and sum(output is reader for output in outputs) == 1

    # ------------------------------------------------------------ constants

    def is_const(self, value: Value) -> bool:
        """Whether a value is the same in every run: a constant, or computed from constants alone.

        Random and mutating ops are not, nor are ops with an argument or an output of unknown size.
        """
        return self._constants.is_const(value.node)

    def constant(self, value: Value) -> torch.Tensor:
        """The tensor a constant value holds, on the device of the constants it comes from; memoised.

        Raises:
            EngineError: the value is not constant, or PyTorch could not run an op that it needs.
        """
        return self._constants.evaluate(value)

    def read_constant(self, value: Value) -> torch.Tensor:
        """As :meth:`constant`, for rules that decide by the elements; the model cannot be refitted with others."""
        if value not in self.read_constants:
            self.read_constants[value] = self._on_read(self, value)
        return self.constant(value)

    def release_constants(self) -> None:
        """Let go of the weights.  Structure, dtypes and shapes can still be looked at; nothing can be evaluated."""
        self.constants.clear()
        self._constants = Constants(self)

    # ------------------------------------------------------------ edits

    def insert(
        self,
        op: OpOverload,
        arguments: Sequence[Any],
        before: fx.Node,
        *,
        origin: Sequence[fx.Node] = (),
        rule: Provenance | None = None,
        fake: Any = None,
    ) -> fx.Node:
        """Insert a node.

        Args:
            op: the overload.
            arguments: as :meth:`arguments` returns them; missing trailing ones get their schema defaults.
                Symbolic ints that are not known become size nodes near the top of the graph.
            before: the node to insert before; every operand must come before it.
            origin: nodes whose model lines and rewrite history the new node inherits.
            rule: the rewrite that makes the node.
            fake: its fake value, when the caller knows it; otherwise it is inferred.

        Raises:
            EngineError: PyTorch rejects the arguments, or accepts them for some sizes only; or a size cannot
                be computed before ``before``.
        """
        positional, keywords = args.split(op, arguments)

        def written(item: Any) -> Any:
            if isinstance(item, Value):
                return self.output_node(item)
            if isinstance(item, sympy.Basic):
                return self.size_node(item, before)
            return item

        positional = tuple(args.map_values(item, written) for item in positional)
        keywords = {name: args.map_values(item, written) for name, item in keywords.items()}
        if fake is None:
            fake = inference.infer(self.fake_mode, self.shape_env, op, positional, keywords)
        with self.graph.inserting_before(before):
            # Nodes of all graphs of a model are told apart by their names.
            name = f"{self.name}_{self.graph._target_to_str(op)}" if self.name else None
            node = self.graph.create_node("call_function", op, positional, keywords, name=name)
        node.meta["val"] = fake
        provenance.inherit(node, origin, rule)
        self._inserted(node)
        return node

    def infer(self, op: OpOverload, arguments: Sequence[Any], before: fx.Node | None = None) -> Any:
        """The fake outputs that an op would give; nothing is inserted.

        Sizes that are not known enter as ``SymInt``; ``arguments`` may hold fake tensors as well as values.

        Raises:
            EngineError: PyTorch rejects the arguments.
        """

        def faked(item: Any) -> Any:
            if isinstance(item, Value):
                return self.fake(item)
            return self.symint(item) if isinstance(item, sympy.Expr) else item

        positional, keywords = args.split(op, arguments)
        positional = tuple(args.map_values(item, faked) for item in positional)
        keywords = {name: args.map_values(item, faked) for name, item in keywords.items()}
        return inference.infer(self.fake_mode, self.shape_env, op, positional, keywords)

    def symint(self, size: Int) -> Any:
        """A symbolic int as ``int`` or ``SymInt``."""
        if not isinstance(size, sympy.Basic):
            return size
        if self.shape_env is None:
            raise EngineError(f"the size {size} is symbolic, but the graph has no symbolic shapes")
        return self.shape_env.create_symintnode(size, hint=None)

    def size_node(self, size: Int, before: fx.Node | None = None) -> Any:
        """A symbolic int as an FX argument: the number itself, or the node that computes it.

        Raises:
            EngineError: the size cannot be computed before ``before``.
        """
        return self._size_nodes.node(size, before) if isinstance(size, sympy.Basic) else size

    def size_input(self, symbol: sympy.Symbol) -> fx.Node:
        """A new input of an enclosed graph, at the top, that is a size of the graphs around it."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(f"size_{symbol}")
        node.meta["val"] = self.symint(symbol)
        self.placeholders = (node, *self.placeholders)
        self._inserted(node)
        return node

    def output_node(self, value: Value, before: fx.Node | None = None) -> fx.Node:
        """The FX node for a value: the node itself, or its ``getitem`` right behind it, made when missing."""
        node, index = value
        if not isinstance(node.meta.get("val"), tuple | list):
            return node
        for user in node.users:
            if user.op == "call_function" and user.target is operator.getitem and user.args[1] == index:
                if before is not None and not user < before:
                    self._move_after(node, user)
                return user
        with self.graph.inserting_after(node):
            item = self.graph.call_function(operator.getitem, (node, index))
        item.meta["val"] = self.fake(value)
        provenance.inherit(item, (node,), None)
        self._inserted(item)
        return item

    def constant_node(self, tensor: torch.Tensor, name_hint: str, before: fx.Node | None = None) -> fx.Node:
        """A new ``get_attr`` node that holds ``tensor``; without ``before`` it goes to the top."""
        name, number = name_hint, 0
        while name in self.constants:
            number += 1
            name = f"{name_hint}_{number}"
        tensor = tensor.detach()
        self.constants[name] = tensor
        with self.graph.inserting_before(before or next(iter(self.graph.nodes))):
            node = self.graph.create_node("get_attr", name)
        node.meta["val"] = self.fake_mode.from_tensor(tensor, static_shapes=True)
        self._inserted(node)
        return node

    def replace(self, old: Value, new: Value) -> None:
        """Let every user of ``old`` use ``new`` instead, the graph's output included.

        ``new`` must come before the users of ``old``; the node of ``new`` itself may go on using ``old``.
        """
        if old == new:
            return
        target = self.output_node(new)
        changed = [user for user in self.users(old) if user is not new.node]
        multiple = isinstance(old.node.meta.get("val"), tuple | list)
        for source in self._output_nodes(old) if multiple else [old.node]:
            for user in list(source.users):
                if user is new.node or user is target:
                    continue
                user.replace_input_with(source, target)
                self._rewired(user)
        self._forget_users(old.node)
        self._forget_users(new.node)
        self._constants.changed(changed)

    def substitute(self, node: fx.Node, argument: Any) -> None:
        """Let every user of a size node use another size node, or a number, instead."""
        for user in list(node.users):
            user.args = fx.map_arg(user.args, lambda item: argument if item is node else item)
            user.kwargs = fx.map_arg(user.kwargs, lambda item: argument if item is node else item)
            self._rewired(user)
        self._forget_users(node)
        if isinstance(argument, fx.Node):
            self._forget_users(argument)

    def _output_nodes(self, value: Value) -> list[fx.Node]:
        return [
            user
            for user in value.node.users
            if user.op == "call_function" and user.target is operator.getitem and user.args[1] == value.index
        ]

    def erase_dead(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """Erase those of ``nodes`` that nothing uses, and then whatever only they used.

        Placeholders, the output and ops with effects stay.

        Returns:
            The nodes left in the graph that lost a use, in graph order.
        """
        fell: dict[fx.Node, None] = {}
        stack = sorted(set(nodes))
        while stack:
            node = stack.pop()
            if node._erased or not self._is_erasable(node):
                continue
            for item in list(node.users):  # getitem nodes without users
                self._erase(item)
            sources = list(node.all_input_nodes)
            self._erase(node)
            for source in sources:
                owner = args.resolve(source).node
                if source is not owner and not source.users:
                    self._erase(source)
                fell[owner] = None
                stack.append(owner)
        return sorted(node for node in fell if not node._erased)

    def _is_erasable(self, node: fx.Node) -> bool:
        if node.op not in ("call_function", "get_attr"):
            return False
        if next(self.each_user(node), None) is not None:
            return False
        return not (isinstance(node.target, OpOverload) and node.target._schema.is_mutable)

    def _erase(self, node: fx.Node) -> None:
        self._size_nodes.forget(node)
        self._constants.forget(node)
        for source in node.all_input_nodes:
            self._forget_users(source)
        self.graph.erase_node(node)
        self._forget(node)
        self._view.touch(node)

    def _inserted(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            self._forget_users(source)
        self._view.touch(node)

    def _rewired(self, node: fx.Node) -> None:
        self._forget_arguments(node)
        self._view.touch(node)

    def _move_after(self, anchor: fx.Node, node: fx.Node) -> None:
        anchor.append(node)
        for source in node.all_input_nodes:
            self._forget_users(source)

    def insert_point(
        self, roots: Sequence[fx.Node], operands: Iterable[fx.Node | Value], matched: Collection[fx.Node] = ()
    ) -> fx.Node:
        """The node to insert a replacement of ``roots`` before.

        All operands come before it and all users of the roots, other than roots, come after it.  With several
        roots this may need nodes between them to move behind the last operand; they keep their order, and
        because the match is convex none of them is itself an operand.  ``matched`` are the other nodes of the
        match, which go away and never move.

        Raises:
            EngineError: an operand depends on a root, so the match was not convex.
        """
        first = min(roots)
        needed = [item.node if isinstance(item, Value) else item for item in operands]
        late = [node for node in needed if not node < first]
        if not late:
            return first
        last = max(late)
        barred = {*roots, *matched}
        moved = reachability.dependents(roots, last, barred)
        if moved.intersection(late) or barred.intersection(late):
            raise EngineError(
                f"the nodes {', '.join(node.name for node in roots)} cannot be replaced together: "
                f"{last.name} depends on one of them and is an operand of another"
            )
        anchor = last
        for node in sorted(moved):
            self._move_after(anchor, node)
            anchor = node
        return last.next

    def hoist_sizes(self) -> int:
        """Recompute sizes of intermediate tensors from the graph's inputs, where they follow from them.

        Returns:
            The number of size nodes that went away.
        """
        return self._size_nodes.hoist()

    # ------------------------------------------------------------ questions

    @property
    def nx(self) -> networkx.MultiDiGraph:
        """The networkx view (see :class:`engine.graph.view.GraphView`), up to date."""
        return self._view.read()

    def reachable(self, source: fx.Node, target: fx.Node) -> bool:
        """Whether ``target`` depends on ``source``; a node reaches itself."""
        return reachability.reachable(source, target)

    def convex(self, nodes: Collection[fx.Node]) -> bool:
        """Whether no path leaves ``nodes`` and comes back."""
        return reachability.convex(self, nodes)


__all__ = ["Mirror"]

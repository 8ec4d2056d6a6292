"""Parts of a captured graph as programs of their own, which go through the ordinary pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import sympy
import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from engine.capture import Captured
from engine.capture.signature import Argument
from engine.errors import EngineError
from engine.graph.arguments import map_values, values_in
from engine.graph.canonical import is_effectful
from engine.graph.mirror import Mirror, Value
from engine.sizes import normal

# Nodes of a part; larger ones are no local choice any more, and take long to build.
_MOST_NODES = 64
# Readers of a part that are taken in as its surroundings.
_MOST_READERS = 4


class NoPart(Exception):
    """Nodes cannot be a program of their own; the text says why."""


def copied(captured: Captured) -> Captured:
    """The same captured model with a graph and a table of constants of its own, which a compilation uses up."""
    graph = fx.Graph()
    result = graph.graph_copy(captured.graph, {})
    graph.output(result)
    return dataclasses.replace(captured, graph=graph, constants=dict(captured.constants))


class Parts:
    """The captured graph, of which parts are taken.

    Args:
        captured: is not changed.
    """

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.mirror = Mirror(
            captured.graph, captured.constants, captured.fake_mode, captured.shape_env, sizes=captured.sizes()
        )
        self._named = {node.name: node for node in captured.graph.nodes}

    def part(self, names: Iterable[str]) -> Part:
        """The nodes of some names with what is around them, as a program.

        What is around is the next op that computes on each side, with the views on the way there: TensorRT fuses
        across, and a layout that one op gives costs the other.

        Raises:
            NoPart: they are no program: too many, or with effects, or with sizes that no input has.
        """
        nodes = {self._named[name] for name in names if name in self._named}
        nodes = {node for node in nodes if node.op == "call_function" and not self.mirror.is_size(node)}
        if not nodes:
            raise NoPart("none of the nodes is in the captured graph")
        narrow = self._closed(nodes)
        if len(narrow) > _MOST_NODES:
            raise NoPart(f"they are {len(narrow)} nodes with all that is between them")
        wide = self._closed(self._with_surroundings(narrow))
        return Part.of(self, wide if len(wide) <= _MOST_NODES else narrow)

    def _computes(self, node: fx.Node) -> bool:
        return node.op == "call_function" and not self.mirror.is_size(node) and not self._is_const(node)

    def _is_const(self, node: fx.Node) -> bool:
        return node.op != "output" and self.mirror.is_const(Value(node, 0))

    def _with_surroundings(self, nodes: set[fx.Node]) -> set[fx.Node]:
        found = set(nodes)
        for node in nodes:
            for value in self.mirror.inputs(node):
                found |= self._chain(value.node, lambda node: [v.node for v in self.mirror.inputs(node)])
            readers = self.mirror.node_users(node)
            for reader in readers if len(readers) <= _MOST_READERS else ():
                found |= self._chain(reader, lambda node: list(self.mirror.node_users(node)))
        return found

    def _chain(self, node: fx.Node, following) -> set[fx.Node]:  # type: ignore[no-untyped-def]
        """A node and, as long as it is a view, what follows; up to the first node that computes."""
        found: set[fx.Node] = set()
        while self._computes(node) and isinstance(node.target, OpOverload) and node not in found:
            found.add(node)
            after = [one for one in following(node) if self._computes(one)]
            if not node.target.is_view or len(after) != 1:
                break
            node = after[0]
        return found

    def _closed(self, nodes: set[fx.Node]) -> set[fx.Node]:
        """With everything between them."""
        first, last = min(nodes), max(nodes)
        below: set[fx.Node] = set(nodes)
        span: list[fx.Node] = []
        node = first
        while True:
            span.append(node)
            if node is last:
                break
            node = node.next
        for node in span:
            if any(operand in below for operand in node.all_input_nodes):
                below.add(node)
        above: set[fx.Node] = set(nodes)
        for node in reversed(span):
            if node in above:
                above.update(node.all_input_nodes)
        return {node for node in below & above if self._computes(node)} | nodes


@dataclasses.dataclass
class Part:
    """A part as a program.

    Attributes:
        captured: the program.
        inputs: names of the nodes of the captured graph whose values it takes, and which output of each; sizes are
            symbols.
    """

    captured: Captured
    inputs: tuple[tuple[str, int] | sympy.Symbol, ...]

    @classmethod
    def of(cls, parts: Parts, nodes: set[fx.Node]) -> Part:
        """Some nodes, closed under what is between them, as a program; raises ``NoPart``."""
        ordered = sorted(nodes)
        for node in ordered:
            if not isinstance(node.target, OpOverload) or is_effectful(node):
                raise NoPart(f"{node.name} is not a plain op")
        try:
            return _Writer(parts, ordered).written()
        except EngineError as error:
            raise NoPart(str(error).partition("\n")[0]) from None


class _Writer:
    def __init__(self, parts: Parts, nodes: list[fx.Node]) -> None:
        self.source = parts.mirror
        self.whole = parts.captured
        self.nodes = nodes
        self.graph = fx.Graph()
        self.values: dict[Value, Value] = {}

    def written(self) -> Part:
        whole, inside = self.whole, set(self.nodes)
        read = dict.fromkeys(value for node in self.nodes for value in self._operands(node))
        made = self._constants(read)
        inputs = [value for value in read if value.node not in inside and not self.source.is_const(value)]
        for value in inputs:
            if not self.source.is_tensor(value):
                raise NoPart(f"{value.node.name} is no tensor")
        symbols = self._loose_symbols(inputs)
        for symbol in symbols:
            node = self.graph.placeholder(f"size_{symbol}")
            node.meta["val"] = self.source.symint(symbol)
        arguments = [Argument(str(symbol), f"size_{symbol}", symbol=symbol) for symbol in symbols]
        for number, value in enumerate(inputs):
            node = self.graph.placeholder(f"in_{number}_{value.node.name}")
            node.meta["val"] = fake = self.source.fake(value)
            self.values[value] = Value(node, 0)
            shape = tuple(map(normal, fake.shape))
            arguments.append(Argument(node.name, node.name, shape, fake.dtype, fake.device.type))
        constants: dict[str, torch.Tensor] = {}
        for node in made:
            if node.op == "get_attr":
                constants[str(node.target)] = whole.constants[str(node.target)]
                copy = self.graph.get_attr(str(node.target))
                copy.meta.update(node.meta)
                self.values[Value(node, 0)] = Value(copy, 0)
        end = self.graph.output(())
        mirror = Mirror(self.graph, constants, whole.fake_mode, whole.shape_env, sizes=whole.sizes())
        for node in [*(n for n in made if n.op != "get_attr"), *self.nodes]:
            self._insert(mirror, node, end)
        results = [
            value
            for node in self.nodes
            for value in self.source.outputs(node)
            if any(user not in inside for user in self.source.users(value)) and self.source.is_tensor(value)
        ]
        end.args = (tuple(mirror.output_node(self.values[value]) for value in results),)
        used = {symbol for argument in arguments for symbol in argument.symbols}
        if not used <= whole.ranges.keys():
            raise NoPart("a size depends on data")
        captured = dataclasses.replace(
            whole,
            graph=self.graph,
            constants=constants,
            in_spec=pytree.tree_structure((tuple(range(len(arguments))), {})),
            out_spec=pytree.tree_structure(tuple(range(len(results)))),
            arguments=tuple(arguments),
            ranges={symbol: allowed for symbol, allowed in whole.ranges.items() if symbol in used},
            parameters=(),
            defaults={},
            tied={},
            state_dict={},
            states=(),
            written=(),
            submodules={},
            profiles=tuple({s: p[s] for s in p if s in used} for p in whole.profiles),
            guards=(),
            notes=(),
        )
        names = tuple((value.node.name, value.index) for value in inputs)
        return Part(captured, (*symbols, *names))

    def _operands(self, node: fx.Node) -> Iterator[Value]:
        return iter(values_in(self.source.arguments(node)))

    def _constants(self, read: Iterable[Value]) -> list[fx.Node]:
        """What the constant operands are made of, in graph order."""
        found: set[fx.Node] = set()
        stack = [value.node for value in read if self.source.is_const(value)]
        while stack:
            node = stack.pop()
            if node not in found:
                found.add(node)
                stack.extend(value.node for value in self.source.inputs(node))
        return sorted(found)

    def _loose_symbols(self, inputs: list[Value]) -> list[sympy.Symbol]:
        """Symbols that are needed and are no dim of an input by themselves."""
        needed: set[sympy.Basic] = set()

        def see(item: object) -> None:
            needed.update(_symbols(item))

        bare: set[object] = set()
        for value in inputs:
            for size in self.source.shape(value):
                bare.add(size)
                needed |= _symbols(size)
        for node in self.nodes:
            map_values(self.source.arguments(node), see)
            for value in self.source.outputs(node):
                if self.source.is_tensor(value):
                    for size in self.source.shape(value):
                        needed |= _symbols(size)
        return sorted((s for s in needed - bare if isinstance(s, sympy.Symbol)), key=str)

    def _insert(self, mirror: Mirror, node: fx.Node, before: fx.Node) -> None:
        def moved(item: object) -> object:
            return self.values[item] if isinstance(item, Value) else item

        op = node.target
        assert isinstance(op, OpOverload)
        arguments = [map_values(item, moved) for item in self.source.arguments(node)]
        made = mirror.insert(op, arguments, before, fake=node.meta["val"])
        for key, entry in node.meta.items():
            made.meta.setdefault(key, entry)
        for value in self.source.outputs(node):
            self.values[value] = Value(made, value.index)


def _symbols(item: object) -> set[sympy.Basic]:
    return set(item.free_symbols) if isinstance(item, sympy.Basic) else set()


__all__ = ["NoPart", "Part", "Parts", "copied"]

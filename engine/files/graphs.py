"""A graph module as JSON: its nodes, with ops by name and tensors by number.

What a node calls is looked up in a list of ops that compute tensors (`engine.weights.known_ops`) and a short list of
Python functions on numbers; a graph cannot name anything else.  What a node reads of its module is what the file holds
under that name, and never an attribute or a method that modules have.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator, OpOverload

from engine.errors import FileError, SaveError
from engine.files.values import read_value, write_value
from engine.graph.marks import WRITE
from engine.inductor.records import StoredCode, read_segment, write_segment
from engine.inductor.segment import TorchSegment
from engine.runtime import TorchTensorRTModule
from engine.weights import known_ops

Tensors = dict[int, torch.Tensor]

_OPERATORS = (
    "abs", "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "inv", "invert", "le", "lt", "lshift", "mod", "mul",
    "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv", "xor",
)  # fmt: skip
_SYMBOLIC = (
    "sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sum", "sym_sqrt", "_sym_sqrt", "_sym_cos",
    "_sym_cosh", "_sym_sin", "_sym_sinh", "_sym_tan", "_sym_tanh", "_sym_asin", "_sym_acos", "_sym_atan", "_sym_log2",
)  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{f"builtins.{name}": getattr(builtins, name) for name in ("abs", "max", "min", "round")},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC if hasattr(torch, name)},
}
# What states and inputs that a model writes to become: the only op of a graph that writes.
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
# Of names that begin with an underscore only those that torch.export gives to tensors.
_PRIVATE = re.compile(r"_(lifted|tensor|param|buffer|constant)\w*")


@functools.cache
def _attributes() -> frozenset[str]:
    """What a graph module has by itself: nothing in a file may take its place, or be mistaken for it."""
    graph = fx.Graph()
    graph.output(())
    return frozenset(dir(fx.GraphModule(nn.Module(), graph)))


def _is_free(name: str) -> bool:
    """Whether a module can hold something under this name."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in _attributes():
        return False
    return not name.startswith("_") or _PRIVATE.fullmatch(name) is not None


class GraphWriter:
    """Writes one graph module and those inside it.

    Attributes:
        tensors: what they hold, in order.
        engines: their engines, in order.
        packages: what Inductor compiled of their segments, in order.
        unlisted: ops that a load has to be allowed to call.
    """

    def __init__(self) -> None:
        self.unlisted: dict[str, None] = {}
        self.tensors: list[torch.Tensor] = []
        self.engines: list[TorchTensorRTModule] = []
        self.packages: list[bytes] = []
        self._numbers: dict[int, int] = {}

    def write(self, module: fx.GraphModule) -> dict[str, Any]:
        """The graph as JSON.

        Raises:
            SaveError: a node calls, or holds, what a file cannot hold; the message names it.
        """
        held = _names([str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")])
        called = re.sub(r"\W", "", type(module).__name__)
        return {
            "class": called if called.isidentifier() and not keyword.iskeyword(called) else "Graph",
            "nodes": [self._node(module, node, held) for node in module.graph.nodes],
        }

    def _node(self, module: fx.GraphModule, node: fx.Node, held: Mapping[str, str]) -> dict[str, Any]:
        try:
            return {
                "name": node.name,
                "op": node.op,
                "target": self._target(module, node, held),
                "args": [write_value(value, _write_node) for value in node.args],
                "kwargs": {name: write_value(value, _write_node) for name, value in node.kwargs.items()},
            }
        except SaveError as error:
            raise SaveError(f"node {node.name!r} cannot be saved: {error}") from None

    def _target(self, module: fx.GraphModule, node: fx.Node, names: Mapping[str, str]) -> Any:
        target = node.target
        if node.op in ("placeholder", "output"):
            return node.name if node.op == "placeholder" else target
        if node.op == "call_function":
            if target is WRITE:
                return "write"
            if isinstance(target, OpOverload | HigherOrderOperator) and not known_ops.is_listed(target):
                self.unlisted[str(target)] = None
            return write_function(target)
        if not isinstance(target, str) or node.op not in ("get_attr", "call_module"):
            raise SaveError(f"a {node.op} of {target}")
        held, name = operator.attrgetter(target)(module), names[target]
        if isinstance(held, TorchTensorRTModule):
            if held not in self.engines:
                self.engines.append(held)
            return {"engine": self.engines.index(held), "as": name}
        if isinstance(held, torch.Tensor):
            return {"tensor": self._number(held), "as": name}
        if isinstance(held, TorchSegment):
            return {"ops": self.write(held.graph_module), "as": name, "segment": write_segment(held, self.packages)}
        if isinstance(held, fx.GraphModule):
            return {"graph": self.write(held), "as": name}
        raise SaveError(f"{target} is a {type(held).__name__}")

    def _number(self, tensor: torch.Tensor) -> int:
        # Two names of one tensor stay one tensor.
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return number


def _names(targets: Iterable[str]) -> dict[str, str]:
    """What each target is called in the file: as it is, unless modules have something of that name."""
    found: dict[str, str] = {}
    taken = {target for target in targets if _is_free(target)}
    for target in targets:
        name = target
        if not _is_free(name):
            base = name = "held_" + re.sub(r"\W", "_", target)
            number = 1
            while name in taken and found.get(target) != name:
                number += 1
                name = f"{base}_{number}"
        if target not in found:
            taken.add(name)
            found[target] = name
    return found


def _write_node(value: Any) -> Any:
    return {"node": value.name} if isinstance(value, fx.Node) else NotImplemented


def write_function(target: Any) -> str:
    """The name of an op or function.

    Raises:
        SaveError: it is neither a registered op nor one of the functions on numbers that graphs use.
    """
    if isinstance(target, OpOverload):
        return f"torch.ops.{target}"
    if isinstance(target, HigherOrderOperator):
        return f"torch.ops.higher_order.{target.name()}"
    name = _NAMES.get(target)
    if name is None:
        raise SaveError(f"it calls {getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}")
    return name


def read_function(name: Any, allowed: frozenset[str] = frozenset()) -> Any:
    """The op or function of a name.

    Args:
        allowed: ops that the user allows besides those of the list.

    Raises:
        FileError: there is none, or it is not one that graphs may call.
    """
    if not isinstance(name, str):
        raise FileError(f"the graph calls {str(name)[:80]!r}, which is not an op")
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if not name.startswith("torch.ops."):
        raise FileError(f"the graph calls {name[:80]!r}, which is not an op")
    return known_ops.find(name.removeprefix("torch.ops."), allowed)


def read_graph(
    data: Any,
    tensors: Mapping[int, torch.Tensor],
    engines: Mapping[int, nn.Module],
    allowed: frozenset[str] = frozenset(),
    stored: dict[TorchSegment, StoredCode] | None = None,
) -> fx.GraphModule:
    """The graph module of what `GraphWriter.write` gave.

    Args:
        allowed: ops that the user allows besides those of the list.
        stored: takes the code that the file has for segments; they are not compiled yet.

    Raises:
        FileError: it is damaged, or calls what it may not call.
    """
    try:
        return _Reader(tensors, engines, allowed, {} if stored is None else stored).read(data)
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"the graph is damaged: {type(error).__name__}: {error}") from None


class _Reader:
    def __init__(
        self,
        tensors: Mapping[int, torch.Tensor],
        engines: Mapping[int, nn.Module],
        allowed: frozenset[str],
        stored: dict[TorchSegment, StoredCode],
    ) -> None:
        self.tensors = tensors
        self.engines = engines
        self.allowed = allowed
        self.stored = stored

    def read(self, data: Any, *, inside: bool = False) -> fx.GraphModule:
        root = nn.Module()
        graph = fx.Graph()
        nodes: dict[str, fx.Node] = {}
        held: dict[str, Any] = {}
        graphs: set[fx.Node] = set()

        def special(value: dict[str, Any]) -> Any:
            return nodes[value["node"]] if "node" in value else NotImplemented

        for item in data["nodes"]:
            op, name = item["op"], _identifier(item["name"])
            if op not in ("placeholder", "get_attr", "call_function", "call_module", "output") or name in nodes:
                raise FileError(f"the graph has a node {name[:40]!r} of kind {str(op)[:40]!r}")
            target = self._target(held, op, item["target"])
            args = tuple(read_value(value, special) for value in _listed(item["args"]))
            kwargs = {_identifier(key): read_value(value, special) for key, value in item["kwargs"].items()}
            _check_call(op, target, args, kwargs, graphs)
            if target is WRITE:
                _check_write(args, kwargs, inside)
            # Inputs are given by position.  By another name one could hide something that the code of the graph uses.
            node = graph.create_node(op, name if op == "placeholder" else target, args, kwargs, name)
            if node.name != name:  # it would hide something that the code of the graph uses
                raise FileError(f"the graph has a node {name[:40]!r}, which no graph of PyTorch has")
            if op == "get_attr" and isinstance(held[target], fx.GraphModule):
                graphs.add(node)
            nodes[name] = node
        if not nodes or node.op != "output" or sum(each.op == "output" for each in graph.nodes) != 1:
            raise FileError("the graph does not end with its output")
        graph.lint()
        for name, value in held.items():
            if isinstance(value, torch.Tensor):
                root.register_buffer(name, value, persistent=True)
            else:
                root.add_module(name, value)
        module = fx.GraphModule(root, graph, class_name=_class_name(data["class"]))
        for name, value in held.items():
            if getattr(module, name, None) is not value:
                raise FileError(f"the graph uses the name {name!r}, which modules have for something else")
        module.requires_grad_(False)
        return module

    def _target(self, names: dict[str, Any], op: str, target: Any) -> Any:
        if op in ("placeholder", "output"):
            return _identifier(target)
        if op == "call_function":
            return WRITE if target == "write" else read_function(target, self.allowed)
        name = target["as"]
        if not isinstance(name, str) or not _is_free(name):
            raise FileError(f"{str(name)[:40]!r} is not a name for something that a graph holds")
        held: Any
        if "engine" in target and op == "call_module":
            held = self.engines[_number(target["engine"])]
        elif "segment" in target and op == "call_module" and name not in names:
            held, code = read_segment(target["segment"], self.read(target["ops"], inside=True))
            if code is not None:
                self.stored[held] = code
        elif "tensor" in target and op == "get_attr":
            held = self.tensors[_number(target["tensor"])]
        elif "graph" in target and op == "get_attr":
            held = self.read(target["graph"], inside=True)
        else:
            raise FileError(f"the graph has a {op} of something unknown")
        if names.setdefault(name, held) is not held:
            raise FileError(f"the graph uses the name {name!r} for two things")
        return name


def _check_call(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], graphs: set[fx.Node]) -> None:
    """Refuse graphs as values of anything but the ops that run them, and calls of what is no graph."""
    if op in ("placeholder", "get_attr") and (args or kwargs):
        raise FileError(f"the graph has a {op} with arguments")
    if op in ("call_module", "output") and kwargs:
        raise FileError(f"the graph has a {op} with keywords")
    rest: Any = (args, kwargs)
    if isinstance(target, HigherOrderOperator):
        places = known_ops.HIGHER_ORDER[target.name()]
        for place in places:
            given = args[place] if place < len(args) else None
            listed = list(given) if isinstance(given, list | tuple) else [given]
            if not listed or not all(isinstance(one, fx.Node) and one in graphs for one in listed):
                raise FileError(f"the graph calls {target.name()} without a graph to run")
        rest = ([value for place, value in enumerate(args) if place not in places], kwargs)
    found: list[fx.Node] = []
    fx.node.map_arg(rest, found.append)
    if not graphs.isdisjoint(found):
        raise FileError("the graph passes a graph to an op that does not run graphs")


def _check_write(args: tuple[Any, ...], kwargs: dict[str, Any], inside: bool) -> None:
    """Refuse writes to anything but an input or a tensor of the file, by the outermost graph."""
    place = args[0] if len(args) == 2 and not kwargs and not inside else None
    if not isinstance(place, fx.Node) or place.op not in ("placeholder", "get_attr"):
        raise FileError("the graph writes to something that is neither an input nor a tensor of the file")


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FileError(f"{str(value)[:40]!r} are not the arguments of a node")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise FileError(f"{str(value)[:40]!r} is not the number of something in the file")
    return value


def _class_name(name: Any) -> str:
    # Earlier versions wrote the names of functions, of which those without one have this.
    return "Graph" if name == "<lambda>" else _identifier(name)


def _identifier(name: Any) -> str:
    # Names of nodes, targets and classes become Python source in a graph module.
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise FileError(f"{str(name)[:40]!r} is not a name")
    return name


__all__ = ["GraphWriter", "read_function", "read_graph", "write_function"]

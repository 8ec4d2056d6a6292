"""A graph module as JSON: its nodes, with ops by name and tensors by number.

What a node calls is looked up among the ops that PyTorch has registered and a short list of Python
functions on numbers; a graph cannot name anything else.
"""

from __future__ import annotations

import builtins
import keyword
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator, OpOverload

from engine.dsl import operators
from engine.errors import FileError, SaveError
from engine.files.values import read_value, write_value
from engine.runtime import TorchTensorRTModule

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
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
# Ops that reach outside of the process: no graph that is compiled has them.
_REFUSED = frozenset({"aten.from_file", "aten.save", "aten._save", "prim.Print", "aten.warn"})


class GraphWriter:
    """Writes one graph module and those inside it; ``tensors`` collects what they hold, in order."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self.engines: list[TorchTensorRTModule] = []
        self._numbers: dict[int, int] = {}

    def write(self, module: fx.GraphModule) -> dict[str, Any]:
        """The graph as JSON.

        Raises:
            SaveError: a node calls, or holds, what a file cannot hold; the message names it.
        """
        return {"class": type(module).__name__, "nodes": [self._node(module, node) for node in module.graph.nodes]}

    def _node(self, module: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
        try:
            return {
                "name": node.name,
                "op": node.op,
                "target": self._target(module, node),
                "args": [write_value(value, _write_node) for value in node.args],
                "kwargs": {name: write_value(value, _write_node) for name, value in node.kwargs.items()},
            }
        except SaveError as error:
            raise SaveError(f"node {node.name!r} cannot be saved: {error}") from None

    def _target(self, module: fx.GraphModule, node: fx.Node) -> Any:
        target = node.target
        if node.op in ("placeholder", "output"):
            return target
        if node.op == "call_function":
            return write_function(target)
        if not isinstance(target, str) or node.op not in ("get_attr", "call_module"):
            raise SaveError(f"a {node.op} of {target}")
        held = _held(module, target)
        if isinstance(held, TorchTensorRTModule):
            if held not in self.engines:
                self.engines.append(held)
            return {"engine": self.engines.index(held), "as": target}
        if isinstance(held, torch.Tensor):
            return {"tensor": self._number(held), "as": target}
        if isinstance(held, fx.GraphModule):
            return {"graph": self.write(held), "as": target}
        raise SaveError(f"{target} is a {type(held).__name__}")

    def _number(self, tensor: torch.Tensor) -> int:
        # Two names of one tensor stay one tensor.
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return number


def _held(module: nn.Module, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


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


def read_function(name: Any) -> Any:
    """The op or function of a name.

    Raises:
        FileError: there is none, or it is not one that graphs may call.
    """
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    parts = name.split(".") if isinstance(name, str) else []
    if parts[:2] != ["torch", "ops"] or not all(part.isidentifier() for part in parts):
        raise FileError(f"the graph calls {str(name)[:80]!r}, which is not an op")
    if parts[2:3] == ["higher_order"] and len(parts) == 4:
        found = getattr(torch.ops.higher_order, parts[3], None)
        if isinstance(found, HigherOrderOperator):
            return found
    elif len(parts) == 5 and ".".join(parts[2:4]) not in _REFUSED:
        operators.register(parts[2])
        found = getattr(getattr(getattr(torch.ops, parts[2]), parts[3], None), parts[4], None)
        # Not every op that TorchScript knows is one of the dispatcher; those others print, save and load.
        if isinstance(found, OpOverload) and torch._C._dispatch_has_kernel(found.name()):
            return found
    hint = (
        "" if parts[2] == "aten" else f": import the package that registers {parts[2]}:: ops before the file is loaded"
    )
    raise FileError(f"the graph calls {name}, which this PyTorch ({torch.__version__}) does not have{hint}")


def read_graph(data: Any, tensors: Mapping[int, torch.Tensor], engines: Mapping[int, nn.Module]) -> fx.GraphModule:
    """The graph module of what `GraphWriter.write` gave.

    Raises:
        FileError: it is damaged, or calls what it may not call.
    """
    try:
        return _Reader(tensors, engines).read(data)
    except FileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        raise FileError(f"the graph is damaged: {type(error).__name__}: {error}") from None


class _Reader:
    def __init__(self, tensors: Mapping[int, torch.Tensor], engines: Mapping[int, nn.Module]) -> None:
        self.tensors = tensors
        self.engines = engines

    def read(self, data: Any) -> fx.GraphModule:
        root = nn.Module()
        graph = fx.Graph()
        nodes: dict[str, fx.Node] = {}

        def special(value: dict[str, Any]) -> Any:
            return nodes[value["node"]] if "node" in value else NotImplemented

        for item in data["nodes"]:
            op, name = item["op"], item["name"]
            if op not in ("placeholder", "get_attr", "call_function", "call_module", "output") or name in nodes:
                raise FileError(f"the graph has a node {str(name)[:40]!r} of kind {str(op)[:40]!r}")
            _identifier(name)
            target = self._target(root, op, item["target"])
            args = tuple(read_value(value, special) for value in item["args"])
            kwargs = {key: read_value(value, special) for key, value in item["kwargs"].items()}
            for key in kwargs:
                _identifier(key)
            nodes[name] = graph.create_node(op, target, args, kwargs, name)
        graph.lint()
        module = fx.GraphModule(root, graph, class_name=_identifier(data["class"]))
        module.requires_grad_(False)
        return module

    def _target(self, root: nn.Module, op: str, target: Any) -> Any:
        if op in ("placeholder", "output"):
            return _identifier(target)
        if op == "call_function":
            return read_function(target)
        name = _identifier(target["as"])
        held: Any
        if "engine" in target and op == "call_module":
            held = self.engines[target["engine"]]
        elif "tensor" in target and op == "get_attr":
            held = self.tensors[target["tensor"]]
        elif "graph" in target and op == "get_attr":
            held = self.read(target["graph"])
        else:
            raise FileError(f"the graph has a {op} of something unknown")
        if not hasattr(root, name):
            if isinstance(held, torch.Tensor):
                root.register_buffer(name, held, persistent=True)
            else:
                root.add_module(name, held)
        elif getattr(root, name) is not held:
            raise FileError(f"the graph uses the name {name!r} for two things")
        return name


def _identifier(name: Any) -> str:
    # Names of nodes, targets and classes become Python source in a graph module.
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise FileError(f"{str(name)[:40]!r} is not a name")
    return name


__all__ = ["GraphWriter", "read_function", "read_graph", "write_function"]

"""Ops as rules name them, looked up in the installed PyTorch."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.dsl.recorded.standing_in import PyTorchNeeded, records
from engine.graph.dims import lists_dims, numbers_dims

if TYPE_CHECKING:
    from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

# Op libraries of PyTorch itself that exist only after an import.
_LIBRARIES = {
    "onnx": "torch.onnx.ops",
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
}
# Namespaces that every process has; ops of others belong to packages that may or may not be imported.
OWN = frozenset({"aten", "prims", "prim", "higher_order", *_LIBRARIES})

# Namespaces of packages that built-in rules know.  Which ops they have depends on the release, and `tensorrt` is one of
# several packages: ours registers its op there, and so do Torch-TensorRT and ModelOpt.
_OF_RELEASES = frozenset({"tensorrt", "torchao", "torchvision", "transformers"})


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a schema.

    Attributes:
        kind: PyTorch's name of its type without ``Optional``: ``Tensor``, ``List[int]``, ``ScalarType``.
        default: canonical default, lists as tuples of full length; ``...`` if it must be given.
        is_dim: a number, or numbers, of dims.
    """

    name: str
    kind: str
    optional: bool
    keyword_only: bool
    default: Any
    is_dim: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """An overload: its full name, its arguments in schema order, and the types it returns."""

    name: str
    arguments: tuple[Argument, ...]
    returns: tuple[str, ...]
    schema: str
    positions: Mapping[str, int]

    @property
    def tensor_slots(self) -> tuple[int, ...]:
        """Positions of the arguments that are tensors, not lists of them."""
        return tuple(position for position, argument in enumerate(self.arguments) if argument.kind == "Tensor")


_found: dict[str, Operator | None] = {}


def find(name: str) -> Operator | None:
    """The overload that ``aten.linear`` or ``aten.add.Tensor`` names, None if there is none.

    Raises:
        PyTorchNeeded: records stand in for PyTorch, and do not say.
    """
    recorded = records()
    if recorded is not None:
        return recorded.find(name)
    if name not in _found:
        operator = _find(name)
        if operator is None and name.partition(".")[0] not in OWN:
            return None  # until its package is imported
        _found[name] = operator
    return _found[name]


def schemas(names: Iterable[str]) -> dict[str, str | None]:
    """The schemas of ops, None for those of packages that are not imported."""
    found = {name: find(name) for name in names}
    return {name: None if operator is None else operator.schema for name, operator in found.items()}


def asked() -> Iterator[Operator]:
    """The ops that were found in this process so far."""
    return (operator for operator in _found.values() if operator is not None)


def registered() -> Iterator[Operator]:
    """Every op that PyTorch's dispatcher has now and that graphs can hold."""
    import torch

    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        operator = find(f"{namespace}.{rest}")
        if operator is not None:
            yield operator


def imported(texts: Iterable[str]) -> list[str]:
    """The imported packages whose ops rules may name, in order."""
    found = set().union(*map(_namespaces, texts))
    return sorted(name for name in found - OWN - {"torch"} if name in sys.modules)


@functools.lru_cache(maxsize=1024)  # more than there are built-in files: each load asks for all of them
def _namespaces(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\b([a-z]\w*)\.[a-z]", text))


def _find(name: str) -> Operator | None:
    from torch._ops import OpOverload

    namespace, _, rest = name.partition(".")
    if is_higher_order(name):
        graphs = higher_order(name)
        return None if graphs is None else _describe_higher_order(name, graphs)
    packet_name, _, overload = rest.partition(".")
    packet = _packet(namespace, packet_name)
    op = getattr(packet, overload or "default", None) if packet is not None else None
    return _describe(op) if isinstance(op, OpOverload) and _dispatched(op) else None


def is_higher_order(name: str) -> bool:
    """Whether a name is that of an op that takes graphs."""
    return name.startswith("higher_order.")


@functools.cache
def higher_order(name: str) -> HigherOrderOperator | None:
    """The op that takes graphs that ``higher_order.cond`` names, None if there is none."""
    import torch
    from torch._ops import HigherOrderOperator

    importlib.import_module("torch._higher_order_ops")
    op = getattr(torch.ops.higher_order, name.partition(".")[2], None)
    return op if isinstance(op, HigherOrderOperator) else None


def _describe_higher_order(name: str, op: HigherOrderOperator) -> Operator:
    """Such ops have no schema: their arguments are those of the Python function, of any kind."""
    from engine.graph.arguments import graph_parameters  # which loads sympy

    arguments = tuple(
        Argument(parameter, "Any", True, keyword_only, default if has_default else ..., False)
        for parameter, keyword_only, has_default, default in graph_parameters(op)
    )
    positions = {argument.name: index for index, argument in enumerate(arguments)}
    return Operator(name, arguments, ("Any[]",), f"{name}({', '.join(positions)})", positions)


def _dispatched(op: OpOverload) -> bool:
    """Whether graphs can hold an op; `aten.add.default`, of two Python numbers, is of TorchScript only."""
    import torch

    try:
        torch._C._dispatch_find_schema_or_throw(op._schema.name, op._schema.overload_name)
    except RuntimeError:
        return False
    return True


def register(namespace: str) -> bool:
    """Import the part of PyTorch that registers the ops of a namespace; False where this PyTorch has none."""
    library = _LIBRARIES.get(namespace)
    if library is not None:
        try:
            importlib.import_module(library)
        except ImportError:
            return False
    return True


def _packet(namespace: str, name: str) -> OpOverloadPacket | None:
    import torch
    from torch._ops import OpOverloadPacket

    if not name or not register(namespace):
        return None
    packet = getattr(getattr(torch.ops, namespace), name, None)
    return packet if isinstance(packet, OpOverloadPacket) else None


def _describe(op: OpOverload) -> Operator:
    schema = op._schema
    arguments = tuple(_argument(schema.name, argument) for argument in schema.arguments)
    name = f"{schema.name.replace('::', '.')}.{op._overloadname}"
    returns = tuple(str(result.real_type) for result in schema.returns)
    positions = {argument.name: index for index, argument in enumerate(arguments)}
    return Operator(name, arguments, returns, str(schema), positions)


def _argument(op: str, argument: Any) -> Argument:
    kind = str(argument.real_type)
    optional = kind.startswith("Optional[")
    if optional:
        kind = kind[len("Optional[") : -1]
    default: Any = ...
    if argument.has_default_value():
        default = argument.default_value
        length = argument.N
        if length and type(default) in (int, float):
            default = [default] * length
        elif length and isinstance(default, list) and len(default) == 1 and not lists_dims(argument.name):
            default = default * length
        if isinstance(default, list):
            default = tuple(default)
        elif kind == "float" and type(default) is int:
            default = float(default)
    is_dim = numbers_dims(op, argument.name) and kind in ("int", "SymInt", "List[int]", "List[SymInt]")
    return Argument(argument.name, kind, optional, bool(argument.kwarg_only), default, is_dim)


def _names(namespace: str) -> tuple[str, ...]:
    if records() is not None:
        raise PyTorchNeeded(namespace)
    import torch

    prefix = f"{namespace}::"
    names = (name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names())
    return tuple(sorted({name.removeprefix(prefix) for name in names if name.startswith(prefix)}))


def namespaces() -> list[str]:
    """The namespaces of which something is loaded, in order."""
    if records() is not None:
        raise PyTorchNeeded("namespaces")
    import torch

    return sorted({name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()})


def loaded(namespace: str) -> bool:
    """Whether all ops of a namespace are in this process, so that one that is not there does not exist."""
    return namespace in OWN or (namespace not in _OF_RELEASES and bool(_names(namespace)))


def suggestion(name: str) -> str | None:
    """Advice for a name that is no op: the overloads that there are, or names like it."""
    if records() is not None:
        raise PyTorchNeeded(name)
    import torch

    namespace, _, rest = name.partition(".")
    if is_higher_order(name):
        known = sorted(torch._ops._higher_order_ops)
        close = difflib.get_close_matches(rest, known, n=3, cutoff=0.6)
        return f"did you mean {' or '.join(f'`{namespace}.{other}`' for other in close)}?" if close else None
    packet_name = rest.partition(".")[0]
    packet = _packet(namespace, packet_name)
    if packet is not None:
        overloads = [o for o in sorted(packet.overloads()) if _dispatched(getattr(packet, o)) and not o.endswith("out")]
        listed = ", ".join(f"`{namespace}.{packet_name}{'' if o == 'default' else '.' + o}`" for o in overloads)
        return f"there are {listed}" if len(overloads) > 1 else f"there is only {listed}"
    near = difflib.get_close_matches(packet_name, _names(namespace), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{namespace}.{other}`' for other in near)}?" if near else None

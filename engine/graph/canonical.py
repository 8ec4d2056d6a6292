"""The canonical form of an ATen node: one way to write each call.

Every argument of the schema is there, positional ones in ``args`` and keyword-only ones in
``kwargs``; dims of ATen's ops count from the front; a list for ``int[N]`` has N elements.  Rules and
matchers therefore never see ``-1`` as an axis, a missing default, or ``3`` where ``[3, 3]`` is meant.
What an op of somebody else means by -1 only that op knows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from engine.graph.dims import like_aten, lists_dims, numbers_dims

Rank = Callable[[Any], "int | None"]

# Ops whose dims number the result, which has one dim more than the operand.
_RESULT_RANK = frozenset({"unsqueeze", "unsqueeze_copy", "stack", "_stack", "diag_embed"})
# Ops whose dims number the broadcast of their operands.
_BROADCAST_RANK = frozenset({"cosine_similarity", "linalg_vecdot", "linalg_cross", "cross"})

# An empty stride means "the kernel size" in the schemas of pooling.
_STRIDE_IS_KERNEL = frozenset(
    f"{kind}_pool{rank}d{suffix}"
    for rank in (1, 2, 3)
    for kind, suffix in (("avg", ""), ("max", ""), ("max", "_with_indices"))
)
# ``int[]`` arguments of convolution that broadcast to the number of spatial dims.
_PER_SPATIAL_DIM = frozenset({"stride", "padding", "dilation", "output_padding"})
# Size-1 lists that are complete as they are: one dim, one shift, one length.
_COMPLETE_LISTS = frozenset({"s", "shifts"})

_ASSERTIONS = frozenset(
    {
        "aten._assert_tensor_metadata",
        "aten._assert_async",
        "aten._assert_scalar",
        "aten.sym_constrain_range",
        "aten.sym_constrain_range_for_size",
        "aten._functional_sym_constrain_range",
        "aten._functional_sym_constrain_range_for_size",
        "aten._functional_assert_async",
        "aten._functional_assert_scalar",
    }
)


@dataclass(frozen=True, slots=True)
class _Argument:
    name: str
    keyword_only: bool
    required: bool
    default: Any
    length: int | None  # N of ``int[N]`` where a shorter list is broadcast
    is_dim: bool
    is_float: bool
    is_list: bool


@dataclass(frozen=True, slots=True)
class _Schema:
    name: str  # without overload, and where it is ATen's without namespace: "unsqueeze"
    arguments: tuple[_Argument, ...]
    positional: int
    plain: bool  # nothing but defaults to fill
    tensor: int | None  # position of the operand whose rank the dims refer to


@cache
def _schema(op: OpOverload) -> _Schema:
    # An op of somebody else may be called like one of ATen's, and means nothing by it.
    name = op._schema.name.rpartition("::")[2] if like_aten(op._schema.name) else op._schema.name
    arguments: list[_Argument] = []
    tensor: int | None = None
    for position, argument in enumerate(op._schema.arguments):
        kind = str(argument.real_type)
        integers = kind in ("int", "SymInt", "Optional[int]", "Optional[SymInt]") or (
            kind in ("List[int]", "List[SymInt]", "Optional[List[int]]", "Optional[List[SymInt]]")
        )
        if tensor is None and kind in ("Tensor", "List[Tensor]", "Optional[Tensor]"):
            tensor = position
        arguments.append(
            _Argument(
                name=argument.name,
                keyword_only=argument.kwarg_only,
                required=not argument.has_default_value(),
                default=argument.default_value if argument.has_default_value() else None,
                length=getattr(argument, "N", None) if integers and "List" in kind else None,
                is_dim=integers and numbers_dims(op._schema.name, argument.name),
                is_float=kind in ("float", "Optional[float]"),
                is_list=integers and "List" in kind,
            )
        )
    special = name in _STRIDE_IS_KERNEL or name == "convolution"
    return _Schema(
        name=name,
        arguments=tuple(arguments),
        positional=sum(not argument.keyword_only for argument in arguments),
        plain=not special and not any(a.is_dim or a.is_float or a.is_list for a in arguments),
        tensor=tensor,
    )


def rank_of(argument: Any) -> int | None:
    """The rank of a tensor argument, an ``fx.Node`` or a tensor; None for anything else."""
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else argument
    return value.dim() if isinstance(value, torch.Tensor) else None


def canonical_arguments(
    op: OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rank: Rank = rank_of,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``args`` and ``kwargs`` of one call in canonical form; both stay executable.

    ``rank`` returns the rank of a tensor argument, None where it is unknown (its dims then stay as they
    are) or where the argument is no tensor.  Raises ``TypeError`` where a required argument is missing.
    """
    schema = _schema(op)
    values: list[Any] = []
    for position, argument in enumerate(schema.arguments):
        if position < len(args) and not argument.keyword_only:
            values.append(args[position])
        elif argument.name in kwargs:
            values.append(kwargs[argument.name])
        elif argument.required:
            raise TypeError(f"{op}: argument {argument.name!r} is missing")
        else:
            default = argument.default
            values.append(list(default) if isinstance(default, list | tuple) else default)
    if not schema.plain:
        _normalise(schema, values, rank)
    positional = schema.positional
    keyword = schema.arguments[positional:]
    return tuple(values[:positional]), {a.name: v for a, v in zip(keyword, values[positional:], strict=True)}


def _normalise(schema: _Schema, values: list[Any], rank: Rank) -> None:
    for position, argument in enumerate(schema.arguments):
        value = values[position]
        if value is None:
            continue
        if argument.is_float:
            if type(value) is int:
                values[position] = float(value)
        elif argument.is_list:
            value = values[position] = _listed(argument, value)
            if argument.is_dim:
                known = _rank(schema, argument, values, rank)
                values[position] = [_wrap(dim, known) for dim in value]
        elif argument.is_dim:
            values[position] = _wrap(value, _rank(schema, argument, values, rank))
    if schema.name in _STRIDE_IS_KERNEL:
        by_name = {argument.name: position for position, argument in enumerate(schema.arguments)}
        if values[by_name["stride"]] in ([], ()):
            values[by_name["stride"]] = list(values[by_name["kernel_size"]])
    elif schema.name == "convolution":
        weight = rank(values[1])
        for position, argument in enumerate(schema.arguments):
            if argument.name in _PER_SPATIAL_DIM and len(values[position]) == 1 and weight is not None:
                values[position] = list(values[position]) * (weight - 2)


def _listed(argument: _Argument, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return [value] * (1 if _is_complete(argument) else argument.length or 1)
    if argument.length and len(value) == 1 and not _is_complete(argument):
        return list(value) * argument.length
    return value


def _is_complete(argument: _Argument) -> bool:
    return lists_dims(argument.name) or argument.name in _COMPLETE_LISTS


def _wrap(dim: Any, rank: int | None) -> Any:
    if rank is None or not isinstance(dim, int) or dim >= 0:
        return dim
    # A 0-d tensor has, for the purpose of dims, one.
    return dim + max(rank, 1) if -dim <= max(rank, 1) else dim


def _rank(schema: _Schema, argument: _Argument, values: Sequence[Any], rank: Rank) -> int | None:
    """The rank that a dim of this call refers to."""
    if schema.tensor is None:
        return None
    operand = values[1] if argument.name == "dims_other" else values[schema.tensor]
    if schema.name in _BROADCAST_RANK:
        operand = values
    if isinstance(operand, list | tuple):
        # In a concatenation an empty 1-d tensor fits operands of every rank, so the largest rank is the one.
        known = [r for r in map(rank, operand) if r is not None]
        result = max(known, default=None)
    else:
        result = rank(operand)
    return None if result is None else result + (schema.name in _RESULT_RANK)


def is_assertion(target: Any) -> bool:
    """Whether an op computes nothing: it checks something, or tells the shape environment."""
    return isinstance(target, OpOverload) and f"{target.namespace}.{target._opname}" in _ASSERTIONS


def is_uninitialised(op: OpOverload) -> bool:
    """Whether an op of ATen gives memory that nobody wrote to, as ``empty`` and ``new_empty_strided`` do."""
    return like_aten(op._schema.name) and "empty" in op._opname


def is_effectful(node: fx.Node) -> bool:
    """Whether a node must stay although it is not read."""
    target = node.target
    if isinstance(target, OpOverload):
        return target._schema.is_mutable and not is_assertion(target)
    return False


def canonicalise(graph: fx.Graph) -> None:
    """Bring every ATen call of ``graph`` into canonical form, in place; drop assertions and dead nodes."""
    for node in graph.nodes:
        target = node.target
        if node.op != "call_function" or not isinstance(target, OpOverload) or is_assertion(target):
            continue
        args, kwargs = canonical_arguments(target, node.args, node.kwargs)
        if not _same(args, node.args):
            node.args = args
        if kwargs != node.kwargs or list(kwargs) != list(node.kwargs):
            node.kwargs = kwargs
    drop_dead_nodes(graph)


def _same(new: Sequence[Any], old: Sequence[Any]) -> bool:
    return len(new) == len(old) and all(a is b or _equal(a, b) for a, b in zip(new, old, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return _same(a, b)
    return type(a) is type(b) and bool(operator.eq(a, b))


def drop_dead_nodes(graph: fx.Graph) -> None:
    """Erase assertions, and every node but inputs that is not read."""
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        if is_assertion(node.target) or (not node.users and not is_effectful(node)):
            graph.erase_node(node)

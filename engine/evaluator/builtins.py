"""The functions that rules may call besides macros, ops, layers and host functions.

Every function is pure.  Functions take evaluated arguments and an :class:`Environment`-like context that
offers ``sizes`` and ``mirror``; they raise :class:`Failed` when the rule cannot apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from engine import sizes as symints
from engine.dtypes import DTYPE_NAMES
from engine.evaluator.bounds import MOST_ITEMS, modest, numbers
from engine.evaluator.codes import block_shape, bounds_of_codes, is_kept
from engine.evaluator.failures import Failed
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor, LayerCall, leaves
from engine.evaluator.uniform import MOVES, is_uniform
from engine.sizes import Int, Sizes
from engine.tensorrt import capabilities

# Guards read the elements of small constants only: an index list, a mask, a scalar.
_READABLE_ELEMENTS = 65_536
# What is compared with one number never becomes a list: masks of long sequences as well.
_COMPARABLE_ELEMENTS = 1 << 28


class BuiltinContext(Protocol):
    """The queries that builtin functions may make."""

    sizes: Sizes
    mirror: Any


def _tensor(value: object, what: str) -> AbstractTensor:
    if not isinstance(value, AbstractTensor):
        raise Failed(f"{what} needs a tensor, got {describe(value)}")
    return value


def describe(value: object) -> str:
    """A value of the language for an error message."""
    if isinstance(value, AbstractTensor):
        dtype = DTYPE_NAMES.get(value.dtype, str(value.dtype)) if value.dtype else "?"
        return f"{dtype}[{'?' if value.shape is None else ', '.join(map(str, value.shape))}]"
    if isinstance(value, torch.dtype):
        return DTYPE_NAMES.get(value, str(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(describe, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def shape_of(value: object) -> tuple[Int, ...]:
    """Shape of an abstract tensor, in symbolic ints."""
    tensor = _tensor(value, "shape")
    if tensor.shape is None:
        name = tensor.call.layer.name if isinstance(tensor, CallOutput) else "this tensor"  # type: ignore[union-attr]
        raise Failed(f"the shape of {name} is not known here: its declaration gives none")
    return tensor.shape


def dtype_of(value: object) -> torch.dtype:
    """Dtype of an abstract tensor."""
    tensor = _tensor(value, "dtype")
    if tensor.dtype is None:
        raise Failed("the dtype of this layer's output is not known here: its declaration gives none")
    return tensor.dtype


def elements(context: BuiltinContext, value: object, most: int = _READABLE_ELEMENTS) -> torch.Tensor:
    """The contents of a constant tensor of no more than ``most`` elements."""
    tensor = _tensor(value, "values")
    if isinstance(tensor, ConstantTensor) and symints.is_known((tensor.shape, tensor.number, tensor.numbers)):
        _check_readable(tensor.shape or (), most)
        data = tensor.number if tensor.numbers is None else list(tensor.numbers)
        return torch.as_tensor(data, dtype=tensor.dtype).expand([int(n) for n in tensor.shape or ()])
    if isinstance(tensor, Captured) and context.mirror.is_const(tensor.value):
        _check_readable(shape_of(tensor), most)
        data = context.mirror.read_constant(tensor.value)
        assert isinstance(data, torch.Tensor)
        return data
    raise Failed("not a constant")


def _check_readable(shape: Iterable[Int], most: int = _READABLE_ELEMENTS) -> None:
    if math.prod(n if isinstance(n, int) else most + 1 for n in shape) > most:
        raise Failed(f"constant of more than {most} elements")


def _is_full(context: BuiltinContext, value: object, number: object) -> bool:
    """Whether every element of a tensor is known to be a number."""

    def contents(tensor: AbstractTensor) -> torch.Tensor | None:
        try:
            return elements(context, tensor, most=_COMPARABLE_ELEMENTS)
        except Failed:
            return None

    return is_uniform(_tensor(value, "is_full"), number, contents)


def _is_between(context: BuiltinContext, value: object, low: float, high: float) -> bool:
    """Whether every element of a tensor is known to lie from ``low`` to ``high``: of what is no constant none is."""
    try:
        data = elements(context, value, most=_COMPARABLE_ELEMENTS)
    except Failed:
        return False
    return bool(((data >= low) & (data <= high)).all())


def _has_full_row(context: BuiltinContext, value: object, number: float) -> bool:
    """Whether some row of a tensor, along its last dim, may hold nothing but a number: it is read if it is constant."""
    try:
        data = elements(context, _tensor(value, "has_full_row"), most=_COMPARABLE_ELEMENTS)
    except Failed:
        return True
    return bool(data.eq(number).all(-1).any())


def _multiplied(context: BuiltinContext, value: object) -> torch.dtype:
    """The dtype in which the installed TensorRT multiplies a tensor: some look through casts."""
    tensor = _tensor(value, "multiplied")
    if capabilities().undoes_casts:
        while isinstance(tensor, CallOutput) and isinstance(tensor.call, LayerCall):
            if tensor.call.layer.name not in {*MOVES, "trt.cast"}:
                break
            tensor = tensor.call.values["x"]
    return dtype_of(tensor)


def _is_const(context: BuiltinContext, value: object) -> bool:
    tensor = _tensor(value, "is_const")
    if isinstance(tensor, ConstantTensor):
        return symints.is_known((tensor.shape, tensor.number, tensor.numbers))
    return isinstance(tensor, Captured) and bool(context.mirror.is_const(tensor.value))


def _is_fixed(context: BuiltinContext, value: object) -> bool:
    """Whether a tensor is the same in each call: a constant, or what layers make of constants."""
    return all(_is_const(context, leaf) for leaf in leaves(_tensor(value, "is_fixed")))


def _dim(context: BuiltinContext, value: object, axis: int) -> Int:
    shape = shape_of(value)
    if not -len(shape) <= axis < len(shape):
        raise Failed(f"dim {axis} of a tensor of rank {len(shape)}")
    return shape[axis]


def _truth(context: BuiltinContext, values: Iterable[object], every: bool) -> object:
    """``all`` and ``any`` over truths that may be undecided relations."""
    import sympy

    undecided = []
    for value in values:
        settled = context.sizes.decide(value) if isinstance(value, sympy.Basic) else bool(value)
        if settled is None:
            undecided.append(value)
        elif settled is not every:
            return not every
    if not undecided:
        return every
    return sympy.And(*undecided) if every else sympy.Or(*undecided)


def _prefix_sums(context: BuiltinContext, values: Iterable[Int]) -> list[Int]:
    total: Int = 0
    sums = []
    for value in values:
        sums.append(total)
        total = modest(symints.add(total, value))
    return sums


def _product(context: BuiltinContext, values: Iterable[Int]) -> Int:
    total: Int = 1
    for value in values:
        total = modest(symints.mul(total, value))
    return total


def _sum(context: BuiltinContext, values: Iterable[Any]) -> Any:
    total: Any = 0
    for value in values:
        total = total + value if symints.is_symint(value) else sum(numbers(total, value))
    return modest(symints.normal(total) if symints.is_symint(total) else total)


def _extreme(pick: Callable[..., Int], fallback: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(context: BuiltinContext, *values: Any) -> Any:
        if len(values) == 1:
            values = tuple(values[0])
        if not values:
            raise Failed("the least or greatest of nothing")
        result = fallback(values) if symints.is_known(values) else pick(*values)
        return result if symints.is_known(result) else _bounded(context, result, values)

    return extreme


def _bounded(context: BuiltinContext, result: Int, values: tuple[Int, ...]) -> Int:
    """Settle ``min``/``max`` of symbolic sizes where their ranges already decide."""
    for value in values:
        if context.sizes.equal(result, value):
            return value
    return result


_minimum = _extreme(symints.minimum, min)
_maximum = _extreme(symints.maximum, max)


def _clamp(context: BuiltinContext, value: Any, low: Any, high: Any) -> Any:
    return _minimum(context, _maximum(context, value, low), high)


def _abs(context: BuiltinContext, value: Any) -> Any:
    return abs(value) if symints.is_known(value) else _maximum(context, value, symints.sub(0, value))


def _broadcast(context: BuiltinContext, shapes: Iterable[Iterable[Int]]) -> list[Int]:
    known = [tuple(shape) for shape in shapes]
    result = symints.broadcast(context.sizes, known)
    if result is None:
        raise Failed(f"shapes {', '.join(map(describe, known))} do not broadcast")
    return list(result)


def _full(context: BuiltinContext, value: Any, like: object) -> ConstantTensor:
    return ConstantTensor((1,) * len(shape_of(like)), dtype_of(like), number=value)


def _scalar(context: BuiltinContext, value: Any, dtype: torch.dtype) -> ConstantTensor:
    return ConstantTensor((), dtype, number=value)


def _one_dimensional(context: BuiltinContext, values: Iterable[Any], dtype: torch.dtype) -> ConstantTensor:
    numbers = tuple(values)
    return ConstantTensor((len(numbers),), dtype, numbers=numbers)


def _filled(context: BuiltinContext, value: Any, shape: Iterable[Int], dtype: torch.dtype) -> ConstantTensor:
    return ConstantTensor(tuple(shape), dtype, number=value)


def _known_number(value: Any) -> Any:
    if not symints.is_known(value):
        raise Failed(f"{value} is only known when the engine runs")
    return value


def _math(function: Callable[..., Any]) -> Callable[..., Any]:
    def applied(context: BuiltinContext, *values: Any) -> Any:
        try:
            return function(*map(_known_number, values))
        except (ValueError, OverflowError) as error:
            raise Failed(str(error)) from None

    return applied


def _rounded(context: BuiltinContext, value: Any, dtype: torch.dtype) -> Any:
    return torch.tensor(_known_number(value), dtype=torch.float64).to(dtype).item()


def _range(context: BuiltinContext, *bounds: Any) -> list[int]:
    found = range(*map(_known_number, bounds))
    # The length of a long range does not fit into the result of `len`.
    if found[MOST_ITEMS : MOST_ITEMS + 1]:
        raise Failed(f"a list of more than {MOST_ITEMS} elements")
    return list(found)


def _present(context: BuiltinContext, values: Iterable[object]) -> list[tuple[int, object]]:
    return [(index, value) for index, value in enumerate(values) if value is not None]


def _unused(context: BuiltinContext, value: object) -> bool:
    tensor = _tensor(value, "unused")
    return isinstance(tensor, Captured) and bool(context.mirror.unused(tensor.value))


def _is_shared(context: BuiltinContext, value: object) -> bool:
    tensor = _tensor(value, "is_shared")
    return isinstance(tensor, Captured) and bool(context.mirror.shared(tensor.value))


def _overwritten(context: BuiltinContext, value: object) -> bool:
    tensor = _tensor(value, "overwritten")
    return isinstance(tensor, Captured) and bool(context.mirror.overwritten(tensor.value))


def _values(context: BuiltinContext, value: object) -> list[Any]:
    return list(elements(context, value).reshape(-1).tolist())


def _is_code(context: BuiltinContext, value: object, low: float, high: float) -> bool:
    """Whether the elements of a tensor are certain to be whole numbers from ``low`` to ``high``.

    That is so of a constant made of ints alone, by its elements; of everything else by what computes it: floating
    weights are not read, because they could not be replaced afterwards.
    """
    tensor = _tensor(value, "is_code")
    bounds = bounds_of_codes(context.mirror, tensor.value) if isinstance(tensor, Captured) else None
    return bounds is not None and low <= bounds[0] and bounds[1] <= high


def _block_shape(context: BuiltinContext, value: object, shape: Iterable[Int]) -> list[int]:
    tensor, sizes = _tensor(value, "block_shape"), tuple(shape)
    if not isinstance(tensor, Captured) or not context.mirror.is_const(tensor.value):
        raise Failed("not a constant")
    if not symints.is_known(sizes):
        raise Failed("a size is not known when compiling")
    return block_shape(context.mirror, tensor.value, tuple(map(int, sizes)))


def _converted(context: BuiltinContext, value: object, dtype: torch.dtype) -> AbstractTensor:
    tensor = _tensor(value, "converted")
    if tensor.dtype == dtype:
        return tensor
    if not isinstance(tensor, Captured) or not context.mirror.is_const(tensor.value):
        raise Failed("not a constant")
    return Captured(tensor.shape, dtype, tensor.value)


def _is_kept(context: BuiltinContext, value: object) -> bool:
    tensor = _tensor(value, "is_kept")
    return isinstance(tensor, Captured) and is_kept(context.mirror, tensor.value)


def _item(context: BuiltinContext, value: object) -> Any:
    data = elements(context, value)
    if data.numel() != 1:
        raise Failed(f"item of a tensor of {data.numel()} elements")
    return data.item()


def _finfo(field: str) -> Callable[..., float]:
    def read(context: BuiltinContext, dtype: torch.dtype) -> float:
        info: Any = torch.finfo(dtype) if dtype.is_floating_point else None
        if info is None:
            if field == "eps" or dtype == torch.bool:
                raise Failed(f"{field} of {describe(dtype)}")
            info = torch.iinfo(dtype)
        return getattr(info, field)  # type: ignore[no-any-return]

    return read


def _promote(context: BuiltinContext, *operands: Any) -> torch.dtype:
    """PyTorch's type promotion over tensors (by dimension), dtypes and Python numbers."""
    stand_ins: list[Any] = []
    for operand in operands:
        if isinstance(operand, AbstractTensor):
            stand_ins.append(torch.empty((1,) * min(1, len(shape_of(operand))), dtype=dtype_of(operand)))
        elif isinstance(operand, torch.dtype):
            stand_ins.append(torch.empty(1, dtype=operand))
        else:
            stand_ins.append(operand if symints.is_known(operand) else 1)
    dtype = torch.result_type(stand_ins[0], stand_ins[0])
    for index in range(1, len(stand_ins)):
        dtype = torch.result_type(torch.empty(1, dtype=dtype) if index > 1 else stand_ins[0], stand_ins[index])
    return dtype


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "rank": lambda c, t: len(shape_of(t)),
    "shape": lambda c, t: list(shape_of(t)),
    "dim": _dim,
    "dtype": lambda c, t: dtype_of(t),
    "numel": lambda c, t: _product(c, shape_of(t)),
    "multiplied": _multiplied,
    "is_const": _is_const,
    "is_fixed": _is_fixed,
    "is_full": _is_full,
    "is_between": _is_between,
    "has_full_row": _has_full_row,
    "is_known": lambda c, v: symints.is_known(v),
    "is_tensor": lambda c, v: isinstance(v, AbstractTensor),
    "values": _values,
    "is_code": _is_code,
    "is_kept": _is_kept,
    "block_shape": _block_shape,
    "converted": _converted,
    "item": _item,
    "is_shared": _is_shared,
    "unused": _unused,
    "overwritten": _overwritten,
    "len": lambda c, xs: len(xs),
    "range": _range,
    "zip": lambda c, *xs: list(zip(*xs, strict=False)),
    "enumerate": lambda c, xs: list(enumerate(xs)),
    "reversed": lambda c, xs: list(reversed(xs)),
    "sorted": lambda c, xs: sorted(map(_known_number, xs)),
    "present": _present,
    "all": lambda c, xs: _truth(c, xs, True),
    "any": lambda c, xs: _truth(c, xs, False),
    "sum": _sum,
    "prod": _product,
    "min": _minimum,
    "max": _maximum,
    "abs": _abs,
    "clamp": _clamp,
    "prefix_sums": _prefix_sums,
    "broadcast": _broadcast,
    "full": _full,
    "scalar": _scalar,
    "tensor": _one_dimensional,
    "filled": _filled,
    "promote": _promote,
    "sqrt": _math(math.sqrt),
    "exp": _math(math.exp),
    "log": _math(math.log),
    "cos": _math(math.cos),
    "sin": _math(math.sin),
    "floor": _math(math.floor),
    "ceil": _math(math.ceil),
    "round": _math(round),
    "rounded": _rounded,
    "ldexp": _math(math.ldexp),
    "exponent": _math(lambda v: math.frexp(v)[1] - 1),
    "int": lambda c, v: v if symints.is_symint(v) else _math(int)(c, v),
    "float": _math(float),
    "bool": _math(bool),
    "epsilon": _finfo("eps"),
    "smallest": _finfo("min"),
    "largest": _finfo("max"),
}
"""Function by name; :data:`engine.dsl.vocabulary.SIGNATURES` has the number of arguments of each."""

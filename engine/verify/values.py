"""Values to try a rule with, in three tiers, and how its two sides may differ on them.

====  ===================  ==========================================================================
tier  values               both sides must agree
====  ===================  ==========================================================================
A     ``exact``            to the bit wherever PyTorch rounds nothing, that is where float64 gives the same
B     ``normal``           within a few roundings of the result's dtype
C     ``special``          likewise, on inf, nan, -0.0 and large values; the latter two where no element meets another
====  ===================  ==========================================================================

``relax`` weakens one of them: a difference that it excuses is no mistake, and a word that nothing needs is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from engine.dsl import tree
from engine.dtypes import DTYPES

Tier: TypeAlias = Literal["exact", "normal", "special"]

# Relative and absolute tolerance by dtype of the result: a few roundings of it.
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-5, 1e-6),
    torch.float32: (1e-4, 2e-5),
    torch.float16: (1e-2, 2e-2),
    torch.bfloat16: (5e-2, 5e-2),
    torch.complex32: (1e-2, 2e-2),
    torch.complex64: (1e-4, 2e-5),
}

_HALF = (torch.float16, torch.bfloat16)

# Multiples of a half whose sums and products float16 holds.
_EXACT = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
_SPECIAL = (float("inf"), float("-inf"), float("nan"), float("-nan"), -0.0, 0.0)
_LARGE: dict[torch.dtype, tuple[float, ...]] = {torch.float16: (3e4, -3e4)}
_LARGE_ELSEWHERE = (1e30, -1e30)
_LARGE_INTS: dict[torch.dtype, tuple[int, ...]] = {
    torch.int64: (2**40 + 1, -(2**53) - 1, 2**31, 100),
    torch.int32: (2**24 + 1, -(2**30) - 1, 100),
}


SPECIAL_DRAWS = 3
"""Special values meet each other in many ways: anything anywhere, no nan, whole rows of -inf."""


def contents(
    spec: tree.TensorSpec,
    shape: Sequence[int],
    generator: torch.Generator,
    tier: Tier = "normal",
    *,
    distinct: bool = False,
    draw: int = 0,
    large: bool = True,
) -> torch.Tensor:
    """Random contents for what a test line says of a tensor; ints are in ``0..below`` or ``-4..4``.

    Args:
        distinct: no two elements of a normal or special tensor are equal, where its dtype has so many values.
        draw: which of the ``SPECIAL_DRAWS``.
        large: let the special tier have large numbers too.
    """
    dtype = DTYPES[spec.dtype]
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_complex:
        parts = [_floats(torch.float32, shape, generator, tier, draw, large) for _ in range(2)]
        return torch.complex(*parts).to(dtype)
    if spec.below is not None:
        return torch.randint(0, spec.below, shape, generator=generator).to(dtype)
    if distinct and tier == "normal":
        return _distinct(dtype, shape, generator)
    if dtype.is_floating_point:
        return _floats(dtype, shape, generator, tier, draw, large, distinct)
    numbers = torch.randint(0 if dtype == torch.uint8 else -4, 5, shape, generator=generator)
    if tier == "special" and large and dtype in _LARGE_INTS:
        numbers = _sprinkled(numbers, torch.tensor(_LARGE_INTS[dtype]), 0.3, generator)
    return numbers.to(dtype)


def _floats(
    dtype: torch.dtype,
    shape: Sequence[int],
    generator: torch.Generator,
    tier: Tier,
    draw: int,
    large: bool,
    distinct: bool = False,
) -> torch.Tensor:
    if tier == "exact":
        return torch.tensor(_EXACT)[torch.randint(0, len(_EXACT), shape, generator=generator)].to(dtype)
    normal = torch.randn(shape, generator=generator)
    if tier != "special":
        return normal.to(dtype)
    if draw % SPECIAL_DRAWS == 2:
        # Rows of -inf are what masks have; most operands stay as they are, or they would drown in nan.
        rows = torch.rand([*shape[:-1], *[1 for _ in shape[-1:]]], generator=generator) < 0.5
        chosen = bool(torch.rand([], generator=generator) < 0.4)
        return torch.where(rows & chosen, -torch.inf, normal).to(dtype)
    values = [*_SPECIAL, *(_LARGE.get(dtype, _LARGE_ELSEWHERE) if large else ())]
    if draw % SPECIAL_DRAWS == 1:
        values = [value for value in values if value == value]
    if distinct:
        numbers = [value for value in values if value and value == value]
        return _each_once(normal, numbers if draw % SPECIAL_DRAWS else [*numbers, float("nan")], generator).to(dtype)
    return _sprinkled(normal, torch.tensor(values), 0.4, generator).to(dtype)


def _sprinkled(plain: torch.Tensor, values: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    there = torch.rand(plain.shape, generator=generator) < share
    return torch.where(there, values[torch.randint(0, len(values), plain.shape, generator=generator)], plain)


def _each_once(plain: torch.Tensor, values: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Each of the values in one place, as far as half of the places go."""
    places = torch.randperm(plain.numel(), generator=generator)[: plain.numel() // 2]
    order = torch.randperm(len(values), generator=generator)[: len(places)]
    result = plain.flatten()
    result[places[: len(order)]] = torch.tensor(values)[order]
    return result.reshape(plain.shape)


def _distinct(dtype: torch.dtype, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    count = 1
    for size in shape:
        count *= size
    order = torch.randperm(count, generator=generator) - (0 if dtype == torch.uint8 else count // 2)
    step = 0.5 if dtype.is_floating_point else 1
    return (order * step).to(dtype).reshape(tuple(shape))


def has_ties(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether two elements of one of the tensors are equal, or nan twice."""
    return any(
        not tensor.is_complex() and tensor.numel() != tensor.flatten().double().nan_to_num(1e300).unique().numel()
        for tensor in tensors
    )


class Difference(Exception):
    """Two tensors differ in what no word of ``relax`` excuses."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Properties of operands that decide which differences are allowed.

    Attributes:
        zeros: the signs of zeros count.
        ties: some operands are equal, so that places may differ.
        plain: operands are halves and small ints, of which float64 and the dtype of the result may give the same.
        halves: some operands lie in the middle of what they are rounded to, so that numbers may differ.
        nans: some operands are nan or infinite.
        large: some operands are so large that their squares overflow.
        meeting: elements of operands meet in elements of results, whose roundings are then those of the greatest.
    """

    zeros: bool = False
    plain: bool = False
    ties: bool = False
    halves: bool = False
    nans: bool = False
    large: bool = False
    meeting: bool = False

    @classmethod
    def of(
        cls, operands: Sequence[torch.Tensor], *, zeros: bool, plain: bool, halves: bool, meeting: bool
    ) -> Circumstances:
        """Look at operands."""
        sizes = [(t if t.is_complex() else t.double()).abs() for t in operands if t.dtype != torch.bool]
        return cls(
            zeros=zeros,
            plain=plain,
            ties=has_ties(operands),
            halves=halves,
            nans=any(not bool(tensor.isfinite().all()) for tensor in sizes),
            large=any(bool(((tensor > 1e4) & tensor.isfinite()).any()) for tensor in sizes),
            meeting=meeting,
        )


def excuses(
    left: torch.Tensor,
    right: torch.Tensor,
    *,
    exact: torch.Tensor | None,
    given: Circumstances,
    relax: Sequence[str],
) -> frozenset[str]:
    """The words of ``relax`` without which a result would be wrong.

    Args:
        left: what PyTorch computes.
        right: what the rule computes.
        exact: what PyTorch computes in float64; of ``plain`` operands, where it is the same as ``left``, no rounding is
            allowed, and the rule may always be as far from it as PyTorch is.
        relax: the words that the rule has.

    Returns:
        words that excuse what differs, whether or not the rule has them; none if nothing differs.
        ``reassociation?`` says that results differ by roundings that need no excuse.

    Raises:
        Difference: dtypes or shapes differ, or elements do and nothing excuses it.
    """
    if left.dtype != right.dtype or left.shape != right.shape:
        if left.dtype == right.dtype and given.nans and "nan" in relax:
            return frozenset({"nan"})  # a size may depend on the values
        raise Difference(
            f"PyTorch returns {left.dtype} of shape {list(left.shape)}, the rule {right.dtype} of {list(right.shape)}"
        )
    if left.is_complex():
        parts = [torch.view_as_real(side.resolve_conj()) for side in (left, right)]
        exact = None if exact is None else torch.view_as_real(exact.resolve_conj())
        return excuses(*parts, exact=exact, given=given, relax=relax)
    if left.numel() == 0:
        return frozenset()
    places = [("ties", given.ties or given.halves), ("nan", given.nans)]
    if not left.is_floating_point():
        return frozenset() if torch.equal(left, right) else _excused(left, right, places, relax)
    found: set[str] = set()
    a, b = left.double(), right.double()
    nan = a.isnan() ^ b.isnan()
    same = (a == b) | (a.isnan() & b.isnan())
    relative, absolute = _tolerance(left.dtype)
    if given.meeting:
        absolute *= max(1.0, float(a[a.isfinite()].abs().max())) if bool(a.isfinite().any()) else 1.0
    near = same | torch.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
    if exact is not None and exact.shape == left.shape:
        # Right is also what is no further from float64 than PyTorch is: a fusion keeps what PyTorch rounds between
        # ops, and roundings can grow, as in exp; and kernels of PyTorch may differ where arguments make no sense.
        # PyTorch promotes nothing to float8, and float8 to nothing.
        theirs, ours = (a - exact.double()).abs(), (b - exact.double()).abs()
        near |= ours <= theirs
        if given.meeting and left.dtype in _HALF:
            # A loop rounds in each trip, a rule perhaps twice where PyTorch does once.
            near |= ours <= 2 * theirs.nan_to_num(0.0, 0.0).max()
    if not bool((near | nan).all()):
        numbers = [("ties", given.halves), ("overflow", given.large), ("nan", given.nans)]
        found |= _excused(left, right, numbers, relax)
    if bool(nan.any()):
        # An infinite intermediate result minus another is nan: `overflow` excuses that too.
        found.add("overflow" if given.large and "overflow" in relax and "nan" not in relax else "nan")
    if given.zeros and bool(((a == 0) & (b == 0) & (torch.signbit(a) != torch.signbit(b))).any()):
        found.add("signed_zero")
    if not bool((same | nan).all()):
        # Results that float64 did not change come from integers, whatever they were rounded to.
        unsure = exact is None or exact.shape != left.shape or exact.dtype in (left.dtype, torch.complex64)
        rounded = unsure or not given.plain or bool((exact != a).any())  # type: ignore[union-attr]
        found.add("reassociation?" if rounded else "reassociation")
    return frozenset(found)


def _excused(
    left: torch.Tensor, right: torch.Tensor, words: Sequence[tuple[str, bool]], relax: Sequence[str]
) -> frozenset[str]:
    """The first word of the rule's that excuses any difference under these circumstances."""
    for word, applies in words:
        if applies and word in relax:
            return frozenset({word})
    raise Difference(_closeness(left, right, *_tolerance(left.dtype)))


def _tolerance(dtype: torch.dtype) -> tuple[float, float]:
    return TOLERANCES.get(dtype, (0.0, 0.0))


def _closeness(left: torch.Tensor, right: torch.Tensor, relative: float, absolute: float) -> str:
    try:
        torch.testing.assert_close(right, left, rtol=relative, atol=absolute, equal_nan=True, check_stride=False)
    except AssertionError as error:
        return str(error)
    return "the two sides differ"


# Layers each element of whose result comes from at most one element of each input.
_ELEMENTWISE_LAYERS = (
    *("ACTIVATION", "CAST", "CONCATENATION", "CONSTANT", "ELEMENTWISE", "FILL", "GATHER", "IDENTITY", "SELECT"),
    *("SHAPE", "SHUFFLE", "SLICE", "UNARY"),
)
# Ops that move elements, or say nothing about them; the others that are elementwise are tagged by PyTorch.
_MOVES = (
    *("_to_copy", "_unsafe_view", "alias", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "detach"),
    *("expand", "flip", "getitem", "lift_fresh_copy", "movedim", "permute", "reshape", "roll", "select", "slice"),
    *("split", "squeeze", "stack", "sym_size", "t", "to", "transpose", "unbind", "unsqueeze", "view"),
    *("arange", "full", "full_like", "ones", "ones_like", "scalar_tensor", "zeros", "zeros_like"),
)


def is_elementwise(op: object) -> bool:
    """Whether no element of the result of an op comes from two elements of one operand."""
    tags = getattr(op, "tags", ())
    name = getattr(op, "_opname", None) or getattr(op, "__name__", "")
    return torch.Tag.pointwise in tags or name in _MOVES


def is_elementwise_layer(kind: str) -> bool:
    """The same for a TensorRT layer, by the name of its type."""
    return kind in _ELEMENTWISE_LAYERS


def makes_ints_of_floats(nodes: Iterable[torch.fx.Node]) -> bool:
    """Whether integers are made of floats, of which PyTorch leaves open what inf, nan and large ones become."""
    for node in nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or not (is_elementwise(node.target) or rounds_to_steps([node.target])):
            continue  # a place among floats is no cast of one
        if isinstance(value, torch.Tensor) and _is_integral(value):
            operands = [operand.meta.get("val") for operand in node.all_input_nodes]
            if any(isinstance(operand, torch.Tensor) and operand.is_floating_point() for operand in operands):
                return True
    return False


def _is_integral(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def rounds_to_steps(ops: Iterable[object]) -> bool:
    """Whether one of some ops quantises, so that what lies in the middle of two steps may go to either."""
    return any(str(getattr(op, "namespace", "")) == "quantized_decomposed" for op in ops)


def unneeded(relax: Sequence[str], kind: str, needed: Mapping[str, int] | frozenset[str] | set[str]) -> list[str]:
    """Words of ``relax`` that no instance needed, of those whose need can be seen on a CPU.

    The order of equal elements is settled in one way by PyTorch's CPU kernels and by the interpreter, and so is
    the order of sums that a ``convert`` rule leaves to TensorRT; which zero a kernel gives differs between processors;
    ``uninitialized`` memory is never compared.
    """
    unseen = {"uninitialized", "ties", "signed_zero"} | ({"reassociation"} if kind == "convert" else set())
    return [word for word in relax if word not in needed and word not in unseen]


__all__ = [
    "SPECIAL_DRAWS",
    "TOLERANCES",
    "Circumstances",
    "Difference",
    "Tier",
    "contents",
    "excuses",
    "is_elementwise",
    "is_elementwise_layer",
    "makes_ints_of_floats",
    "rounds_to_steps",
    "unneeded",
]

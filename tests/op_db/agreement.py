"""Whether results agree with eager PyTorch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tests.op_db.samples import Call

# Relative and absolute tolerance by dtype; what is not listed must be equal.
TOLERANCES = {
    torch.float64: (1e-4, 5e-5),  # computed in float32
    torch.complex64: (1e-4, 5e-5),
    torch.float32: (1e-4, 5e-5),
    torch.float16: (1e-2, 1e-2),
    torch.bfloat16: (5e-2, 5e-2),
}

HALF = (torch.float16, torch.bfloat16)

# A few roundings of the greatest element: sums of terms that nearly cancel are no better.
SUMMED = {torch.complex64: 2e-6, torch.float64: 2e-6, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# Scores of some hundreds are rounded to float16 before the softmax; how far that goes is the attention layer's choice.
LOOSE = {"nn.functional.scaled_dot_product_attention": 2e-2, "nn.functional.multi_head_attention_forward": 2e-2}

# PyTorch's kernel interpolates u8 in fixed point, its decomposition in float32.
FIXED_POINT = {"upsample_bilinear2d": torch.uint8}

# What was never written may be anything.
UNWRITTEN = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}

# Which of several equal elements comes first is not specified; by entry, where the dim stands among the arguments
# behind the operand, its default, and which results are places.
TIES = {
    "sort": (0, -1, (1,)),
    "argsort": (0, -1, (0,)),
    "msort": (None, 0, ()),
    "topk": (1, -1, (1,)),
    "kthvalue": (1, -1, (1,)),
    "median": (0, None, (1,)),
    "nanmedian": (0, None, (1,)),
    "mode": (0, -1, (1,)),
    "max.reduction_with_dim": (0, None, (1,)),
    "min.reduction_with_dim": (0, None, (1,)),
    "max.dim": (0, None, (1,)),
    "min.dim": (0, None, (1,)),
    "median.dim": (0, -1, (1,)),
    "argmax": (0, None, (0,)),
    "argmin": (0, None, (0,)),
}


# Where the greatest or least is: with nan among the operands, anywhere.
PLACES = {"argmax", "argmin", "masked.argmax", "masked.argmin"}


def disagreement(wanted: Sequence[Any], found: Sequence[Any], call: Call) -> str | None:
    """The first difference from eager PyTorch, None if there is none.

    Eager half precision overflows and loses digits where an engine computes in float32: results that agree with eager
    float32 are right as well.
    """
    wrong = _first_difference(wanted, found, call)
    if wrong is not None and any(tensor.dtype in HALF for tensor in call.tensors):
        better = _in_float32(wanted, call)
        if better is not None and _first_difference(better, found, call) is None:
            return None
    return wrong


def but_for_nan(wanted: Sequence[Any], found: Sequence[Any], call: Call) -> bool:
    """Whether nan among the operands is all that makes results differ: TensorRT's extremes pass over it."""
    if not any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in call.tensors):
        return False
    if call.entry in PLACES:
        return [want.shape for want in wanted] == [have.shape for have in found]
    pairs = zip(wanted, found, strict=True)
    return all(
        isinstance(want, torch.Tensor)
        and (want.shape, want.dtype) == (have.shape, have.dtype)
        and _difference(want[~want.isnan()], have[~want.isnan()], LOOSE.get(call.entry, 0.0)) is None
        for want, have in pairs
    )


def _in_float32(wanted: Sequence[Any], call: Call) -> list[Any] | None:
    """The results of float32 operands in the dtypes of ``wanted``; None where PyTorch rejects them."""
    wide = [tensor.float() if tensor.dtype in HALF else copy.deepcopy(tensor) for tensor in call.tensors]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            results = call(wide)
    except (RuntimeError, ValueError, TypeError):
        return None
    return [
        result.to(want.dtype) if isinstance(result, torch.Tensor) and isinstance(want, torch.Tensor) else result
        for result, want in zip(results, wanted, strict=True)
    ]


def _first_difference(wanted: Sequence[Any], found: Sequence[Any], call: Call) -> str | None:
    if len(wanted) != len(found):
        return f"{len(found)} results instead of {len(wanted)}"
    for index, (want, have) in enumerate(zip(wanted, found, strict=True)):
        if not isinstance(want, torch.Tensor):
            if want != have:
                return f"result {index} is {have!r}, not {want!r}"
            continue
        if call.entry in UNWRITTEN:
            have = torch.zeros_like(have)
            want = torch.zeros_like(want)
        if (
            call.entry in TIES
            and index in TIES[call.entry][2]
            and have.shape == want.shape
            and have.dtype == want.dtype
        ):
            want, have = _elements(call, want), _elements(call, have)
        text = _difference(want, have, LOOSE.get(call.entry, 0.0))
        if text is not None and FIXED_POINT.get(call.entry) == want.dtype == have.dtype and want.shape == have.shape:
            text = text if bool(((want.int() - have.int()).abs() > 1).any()) else None
        if text is not None:
            return f"result {index}: {text}"
    return None


def _difference(want: torch.Tensor, have: torch.Tensor, loose: float) -> str | None:
    relative, absolute = TOLERANCES.get(want.dtype, (0.0, 0.0))
    try:
        torch.testing.assert_close(have, want, rtol=relative, atol=absolute, equal_nan=True, check_stride=False)
    except AssertionError as error:
        if want.dtype in SUMMED and want.shape == have.shape and want.dtype == have.dtype and _near(want, have, loose):
            return None
        return " ".join(str(error).split())
    return None


def _near(want: torch.Tensor, have: torch.Tensor, loose: float) -> bool:
    """Whether results differ by no more than a few roundings of the greatest, and are finite where they must be."""
    finite = want.isfinite() & have.isfinite()
    if not torch.equal(want[~finite], have[~finite]) and not bool(
        (want[~finite].isnan() & have[~finite].isnan()).all()
    ):
        return False
    greatest = float(want[finite].abs().max()) if bool(finite.any()) else 0.0
    share = max(SUMMED[want.dtype], loose if want.dtype == torch.float16 else 0.0)
    return bool(((want - have)[finite].abs() <= share * greatest).all())


def _elements(call: Call, places: torch.Tensor) -> torch.Tensor:
    """The elements of the operand at these places."""
    operand = call.tensors[0]
    position, default, _ = TIES[call.entry]
    args, kwargs = call.arguments()
    dim = kwargs.get("dim", args[1 + position] if position is not None and len(args) > 1 + position else default)
    if dim is None or operand.dim() == 0:
        return operand.reshape(-1)[places]
    if places.dim() < operand.dim():
        places = places.unsqueeze(dim)
    return operand.gather(dim, places)

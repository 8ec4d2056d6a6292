"""Calls of every op of the lists: of which ranks, and with which arguments other than the default ones.

``x(2, 3)`` stands for a tensor of the dtype that is tested, ``above(2, 3)`` for one of positive numbers,
``places(4, 2, 3)`` for int64 numbers below 4, ``mask(2, 3)`` for bools and ``floats(2, 3)`` for float32, whatever
dtype is tested.  All else is passed on as it is.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from tests.op_db.agreement import TIES
from tests.op_db.samples import Call, call_of

aten = torch.ops.aten
DTYPES = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i64": torch.int64, "i32": torch.int32,
    "bool": torch.bool, "f64": torch.float64, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8,
}  # fmt: skip
SIZES = (2, 3, 1, 2, 1, 2, 1, 2)  # of ranks up to 8


class Operand(NamedTuple):
    """A tensor to make: of the dtype under test where ``dtype`` is None."""

    shape: tuple[int, ...]
    low: float = -3.0
    high: float = 3.0
    dtype: torch.dtype | None = None

    def made(self, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
        """The tensor: uniform between ``low`` and ``high``, ints without the latter."""
        dtype = self.dtype or dtype
        if dtype == torch.bool:
            return torch.rand(self.shape, generator=generator) < 0.5
        if dtype.is_floating_point or dtype.is_complex:
            return (torch.rand(self.shape, generator=generator) * (self.high - self.low) + self.low).to(dtype)
        least = max(int(self.low), 0) if dtype == torch.uint8 else int(self.low)
        most = int(self.high) + (self.dtype is None)
        return torch.randint(least, most, self.shape, generator=generator).to(dtype)


def x(*shape: int) -> Operand:
    return Operand(shape)


def above(*shape: int, least: float = 0.5) -> Operand:
    return Operand(shape, max(least, 0.5), 4.0)


def within(*shape: int) -> Operand:
    return Operand(shape, -0.9, 0.9)


def places(below: int, *shape: int) -> Operand:
    return Operand(shape, 0, below, torch.int64)


def mask(*shape: int) -> Operand:
    return Operand(shape, dtype=torch.bool)


def floats(*shape: int) -> Operand:
    return Operand(shape, dtype=torch.float32)


class Arguments(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Arguments:
    return Arguments(args, kwargs)


def ranks(make: Callable[..., Operand] = x, *rest: Any, least: int = 0, **kwargs: Any) -> list[Arguments]:
    """The same of every rank, rank 2 first."""
    return [call(make(*SIZES[:rank]), *rest, **kwargs) for rank in sorted(range(least, 9), key=lambda rank: rank != 2)]


def pairs(first: Callable[..., Operand] = x, second: Callable[..., Operand] = x) -> list[Arguments]:
    """Two operands of every rank, then such that broadcast."""
    found = [call(first(*SIZES[:rank]), second(*SIZES[:rank])) for rank in (2, 0, 1, 3, 4, 5, 6, 7, 8)]
    found += [call(first(2, 3), second(3)), call(first(), second(2, 1)), call(first(2, 1, 3), second(4, 1))]
    return [*found, call(first(0, 3), second(1, 3))]


def dims(*rest: Any, least: int = 0, many: bool = True, **kwargs: Any) -> list[Arguments]:
    """A dim of every rank, the last but one counted from the end."""
    return [
        call(x(*SIZES[:rank]), [-min(rank, 2)] if many else -min(rank, 2), *rest, **kwargs)
        for rank in sorted(range(max(least, 1), 9), key=lambda rank: rank != 2)
    ]


# Of these every rank is tested, and broadcasting.
UNARY = [
    "relu",
    "gelu",
    "logical_not",
    "sigmoid",
    "cos",
    "sin",
    "silu",
    "neg",
    "tanh",
    "exp",
    "abs",
    "bitwise_not",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "softplus",
    "floor",
    "reciprocal",
    "hardtanh",
    "ceil",
    "erf",
    "sign",
    "round",
    "elu",
    "alias",
    "clone",
    "detach",
    "square",
    "atan",
    "asinh",
    "cosh",
    "expm1",
    "isinf",
    "isnan",
    "sinh",
    "tan",
    "trunc",
    "_to_copy",
    "zeros_like",
    "ones_like",
    "zero",
    "empty_like",
]
POSITIVE = ["rsqrt", "log", "sqrt", "log1p", "log10", "log2", "acosh"]
NARROW = ["erfinv", "acos", "asin", "atanh"]
BINARY = [
    "add.Tensor",
    "mul.Tensor",
    "sub.Tensor",
    "bitwise_and.Tensor",
    "__and__.Tensor",
    "le.Tensor",
    "eq.Tensor",
    "gt.Tensor",
    "ge.Tensor",
    "lt.Tensor",
    "ne.Tensor",
    "min.other",
    "minimum.default",
    "maximum.default",
    "bitwise_or.Tensor",
    "__or__.Tensor",
    "bitwise_xor.Tensor",
    "logical_and.default",
    "logical_or.default",
    "logical_xor.default",
    "multiply.Tensor",
    "atan2.default",
]
SCALAR = [
    "eq.Scalar",
    "mul.Scalar",
    "add.Scalar",
    "ge.Scalar",
    "gt.Scalar",
    "lt.Scalar",
    "le.Scalar",
    "ne.Scalar",
    "rsub.Scalar",
    "sub.Scalar",
    "div.Scalar",
    "fmod.Scalar",
    "remainder.Scalar",
]
BITS = ["bitwise_and.Scalar", "bitwise_or.Scalar", "bitwise_xor.Scalar"]

ROWS: dict[str, list[Arguments]] = {
    **{f"{name}.default": ranks() for name in UNARY},
    **{f"{name}.default": ranks(above) for name in POSITIVE},
    **{f"{name}.default": ranks(within) for name in NARROW},
    **{name: pairs() for name in BINARY},
    **{name: pairs(second=above) for name in ("div.Tensor", "floor_divide.default", "remainder.Tensor", "fmod.Tensor")},
    **{name: [*ranks(x, 2), call(x(2, 3), 1.5), call(x(2, 3), -2)] for name in SCALAR},
    **{name: [*ranks(x, 2), call(x(2, 3), True)] for name in BITS},
    # ------------------------------------------------------------------------------------- elementwise
    "pow.Tensor_Tensor": pairs(above, above),
    "pow.Tensor_Scalar": [*ranks(above, 2), *(call(above(2, 3), p) for p in (0.5, -1.0, 3, 0, 1, -0.5, 2.5))],
    "pow.Scalar": [call(2.0, x(2, 3)), call(3, above(2, 3)), call(0, above(3)), call(2, above())],
    "div.Tensor_mode": [
        *(Arguments(a.args, {"rounding_mode": m}) for m in ("floor", "trunc") for a in pairs(second=above)),
        call(x(2, 3), above(3), rounding_mode=None),
    ],
    "div.Scalar_mode": [*ranks(x, 2, rounding_mode="floor"), call(x(2, 3), 1.5, rounding_mode="trunc")],
    "where.self": [call(mask(2, 3), x(2, 3), x(2, 3)), call(mask(), x(3), x(2, 1)), call(mask(2, 1), x(), x(3))],
    "where.ScalarOther": [call(mask(2, 3), x(2, 3), 0), call(mask(2, 3), x(2, 3), 0.5)],
    "where.ScalarSelf": [call(mask(2, 3), 1, x(2, 3)), call(mask(3), -0.5, x(2, 3))],
    "clamp.default": [*ranks(x, -1, 1), call(x(2, 3), None, 1), call(x(2, 3), 0.5), call(x(2, 3), 1, -1)],
    "clamp.Tensor": [call(x(2, 3), x(3), x(2, 1)), call(x(2, 3), None, x()), call(x(2, 3), x(2, 3), None)],
    "clamp_min.default": [*ranks(x, 0), call(x(2, 3), 0.5)],
    "addcmul.default": [call(x(2, 3), x(2, 3), x(3)), call(x(2, 3), x(2, 3), x(2, 1), value=2)],
    "masked_fill.Scalar": [call(x(2, 3), mask(2, 3), 1), call(x(2, 3), mask(3), 0), call(x(), mask(2), 2)],
    "masked_fill.Tensor": [call(x(2, 3), mask(2, 3), x()), call(x(2, 3), mask(), x())],
    "masked_scatter.default": [call(x(2, 3), mask(2, 3), x(6)), call(x(2, 3), mask(3), x(2, 4))],
    "prelu.default": [call(x(2, 3, 4), x(3)), call(x(2, 3), x(1)), call(x(3), x(1))],
    "glu.default": [call(x(2, 4)), call(x(4, 3), 0)],
    "round.default": ranks(),
    "copy.default": [call(x(2, 3), x(3)), call(x(2, 3), floats(2, 1))],
    # Floats below zero are no u8.
    "type_as.default": [call(Operand((2, 3), 0.0, 4.0, torch.float32), x(1)), call(x(2, 3), floats(1))],
    "_to_copy.default": [
        *ranks(),
        *(call(x(2, 3), dtype=DTYPES[d]) for d in ("f32", "f16", "bf16", "i64", "i32", "bool", "i8")),
        call(above(2, 3), dtype=torch.uint8),
    ],
    "fill.Scalar": ranks(x, 2),
    "fill.Tensor": [call(x(2, 3), x()), call(x(), x())],
    # ------------------------------------------------------------------------------------- reductions
    **{
        name: dims() + dims(True)
        for name in ("mean.dim", "sum.dim_IntList", "any.dims", "amax.default", "amin.default")
    },
    **{name: dims(many=False) + dims(True, many=False) for name in ("any.dim", "all.dim", "prod.dim_int")},
    **{name: ranks() for name in ("sum.default", "all.default", "any.default", "mean.default", "max.default")},
    **{name: ranks() for name in ("min.default", "prod.default")},
    "_is_all_true.default": [call(x(2, 3)), call(x()), call(x(0))],
    **{name: [*ranks(), *dims(many=False), *dims(True, many=False)] for name in ("argmax.default", "argmin.default")},
    **{name: dims(many=False) + dims(True, many=False) for name in ("max.dim", "min.dim")},
    "var.correction": [
        *dims(correction=0),
        *dims(correction=1, keepdim=True),
        call(x(2, 5), None),
        call(x(3, 4), [0, 1], correction=2.5),
    ],
    "var.dim": [*dims(False), call(x(2, 5), [1], True, True), call(x(2, 5), None)],
    "std.dim": [*dims(False), call(x(2, 5), [1], True, True), call(x(2, 5), None)],
    "linalg_vector_norm.default": [
        call(x(2, 3)),
        call(x(2, 3), 1, [1]),
        call(x(2, 3), float("inf"), [0], True),
        call(x(2, 3), 0, [1]),
        call(x(2, 3), 3.0, [-1]),
        call(x(2, 3), -float("inf")),
        *ranks(x, 2),
    ],
    "linalg_norm.default": [call(x(2, 3)), call(x(2, 3), None, [1]), call(x(4), 1)],
    "cumsum.default": [*dims(many=False), call(x(2, 3), 1, dtype=torch.float32), call(x(), 0), call(x(0, 3), 1)],
    "cumprod.default": [*dims(many=False), call(x(2, 3), 1, dtype=torch.float32), call(x(), 0)],
    **{f"{n}.int": [*dims(many=False), call(x(2, 3), 1, torch.float32)] for n in ("softmax", "log_softmax")},
    **{
        f"{n}.default": [Arguments((*a.args, False), {}) for a in dims(many=False)]
        for n in ("_softmax", "_log_softmax")
    },
    "histc.default": [call(x(20), 4, -2, 2), call(x(20), 5), call(x(2, 3), 3, 0, 1)],
    # ------------------------------------------------------------------------------------- products
    "linear.default": [
        call(x(2, 3), x(4, 3), x(4)),
        call(x(3), x(4, 3)),
        call(x(2, 2, 3), x(4, 3), x(4)),
        call(x(0, 3), x(4, 3)),
    ],
    "addmm.default": [
        call(x(4), x(2, 3), x(3, 4)),
        call(x(2, 4), x(2, 3), x(3, 4), beta=2, alpha=3),
        call(x(2, 1), x(2, 3), x(3, 4), beta=0),
    ],
    "mm.default": [call(x(2, 3), x(3, 4)), call(x(2, 0), x(0, 4)), call(x(0, 3), x(3, 4))],
    "bmm.default": [call(x(2, 2, 3), x(2, 3, 4)), call(x(2, 2, 0), x(2, 0, 4))],
    "baddbmm.default": [call(x(4), x(2, 2, 3), x(2, 3, 4)), call(x(2, 2, 4), x(2, 2, 3), x(2, 3, 4), beta=2, alpha=3)],
    "matmul.default": [
        call(x(2, 3), x(3, 4)),
        call(x(3), x(3)),
        call(x(3), x(3, 4)),
        call(x(2, 3), x(3)),
        call(x(5, 2, 3), x(3)),
        call(x(5, 2, 3), x(3, 4)),
        call(x(2, 1, 2, 3), x(5, 3, 4)),
        call(x(3), x(5, 3, 4)),
        call(x(1, 2, 1, 2, 1, 2, 2, 3), x(2, 2, 1, 2, 1, 2, 3, 2)),
    ],
    "einsum.default": [
        call("bij,bjk->bik", [x(2, 3, 4), x(2, 4, 5)]),
        call("ij->j", [x(2, 3)]),
        call("i,j->ij", [x(2), x(3)]),
        call("...ii->...i", [x(2, 3, 3)]),
    ],
    "outer.default": [call(x(2), x(3))],
    "cdist.default": [call(x(2, 3), x(4, 3)), call(x(2, 2, 3), x(2, 4, 3), 1.0), call(x(2, 3), x(4, 3), float("inf"))],
    "_cdist_forward.default": [call(x(2, 3), x(4, 3), 2.0, None), call(x(2, 3), x(4, 3), 0.0, 2)],
    "_pdist_forward.default": [call(x(4, 3)), call(x(4, 3), 1.0), call(x(1, 3))],
    "_weight_norm.default": [call(x(4, 3), x(4, 1)), call(x(4, 3), x(1, 3), 1)],
    # ------------------------------------------------------------------------------------- convolution, pooling
    "conv1d.default": [
        call(x(2, 4, 8), x(6, 4, 3), x(6)),
        call(x(2, 4, 8), x(6, 2, 3), None, [2], [1], [2], 2),
        call(x(4, 8), x(6, 4, 3)),
    ],
    "conv2d.default": [
        call(x(2, 4, 8, 7), x(6, 4, 3, 2), x(6)),
        call(x(2, 4, 8, 7), x(6, 2, 3, 2), None, [2, 1], [1, 0], [1, 2], 2),
        call(x(4, 8, 7), x(6, 4, 3, 2)),
    ],
    "conv3d.default": [
        call(x(1, 2, 4, 5, 6), x(3, 2, 2, 3, 2), x(3)),
        call(x(1, 2, 4, 5, 6), x(4, 1, 2, 3, 2), None, [2, 2, 2], [1, 1, 1], [1, 1, 1], 2),
    ],
    "conv2d.padding": [
        call(x(2, 4, 8, 7), x(6, 4, 3, 2), x(6), [1, 1], "same"),
        call(x(2, 4, 8, 7), x(6, 4, 3, 2), None, [2, 2], "valid"),
    ],
    "convolution.default": [
        call(x(2, 4, 8, 7), x(6, 4, 3, 2), x(6), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        call(x(2, 4, 5, 6), x(4, 3, 3, 2), x(3), [2, 2], [1, 0], [1, 1], True, [1, 0], 1),
    ],
    "conv_transpose1d.default": [
        call(x(2, 4, 5), x(4, 3, 3), x(3)),
        call(x(2, 4, 5), x(4, 3, 3), None, [2], [1], [1], 2),
    ],
    "conv_transpose2d.input": [
        call(x(2, 4, 5, 6), x(4, 3, 3, 2), x(3)),
        call(x(2, 4, 5, 6), x(4, 3, 3, 2), None, [2, 2], [1, 0], [1, 1], 2, [1, 1]),
    ],
    "conv_transpose3d.input": [
        call(x(1, 2, 3, 4, 3), x(2, 3, 2, 2, 2), x(3)),
        call(x(1, 2, 3, 4, 3), x(2, 3, 2, 2, 2), None, [2, 2, 2]),
    ],
    **{
        f"max_pool{n}d.default": [
            call(x(1, 2, *(7, 6, 5)[:n]), [3] * n, [2] * n, [1] * n),
            call(x(2, *(7, 6, 5)[:n]), [2] * n, [2] * n, [0] * n, [2] * n, True),
            call(x(1, 2, *(7, 6, 5)[:n]), [2] * n, [3] * n, [1] * n, [1] * n, True),
        ]
        for n in (2, 3)
    },
    **{
        f"max_pool{n}d_with_indices.default": [
            call(x(1, 2, *(7, 6, 5)[:n]), [3] * n, [2] * n, [1] * n),
            call(x(2, *(7, 6, 5)[:n]), [2] * n, [2] * n, [0] * n, [2] * n, True),
        ]
        for n in (2, 3)
    },
    **{
        f"avg_pool{n}d.default": [
            call(x(1, 2, *(7, 6, 5)[:n]), [3] * n, [2] * n, [1] * n),
            call(x(2, *(7, 6, 5)[:n]), [2] * n, [2] * n, [0] * n, True),
            call(x(1, 2, *(7, 6, 5)[:n]), [3] * n, [2] * n, [1] * n, True, False),
            *([call(x(1, 2, *(7, 6, 5)[:n]), [3] * n, [2] * n, [1] * n, True, True, 5)] if n > 1 else []),
        ]
        for n in (1, 2, 3)
    },
    **{
        f"{prefix}adaptive_avg_pool{n}d.default": [
            call(x(1, 2, *(7, 6, 5)[:n]), size) for size in ([1] * n, [3] * n, [9, 2, 5][:n])
        ]
        for prefix, n in (("", 1), ("", 2), ("", 3), ("_", 2), ("_", 3))
    },
    "im2col.default": [call(x(1, 2, 5, 6), [2, 3], [1, 2], [1, 0], [2, 1])],
    "col2im.default": [call(x(1, 12, 16), [5, 4], [2, 3], [1, 1], [0, 1], [1, 1])],
    "unfold.default": [call(x(2, 7), 1, 3, 2), call(x(7, 2), 0, 2, 1), call(x(), 0, 1, 1)],
    # ------------------------------------------------------------------------------------- normalisation
    "layer_norm.default": [
        call(x(2, 3, 4), [4], x(4), x(4)),
        call(x(2, 3, 4), [3, 4]),
        call(x(4), [4], x(4), None, 1e-3),
    ],
    "native_layer_norm.default": [call(x(2, 3, 4), [4], x(4), x(4), 1e-5), call(x(2, 3, 4), [3, 4], None, None, 1e-5)],
    "rms_norm.default": [call(x(2, 3, 4), [4], x(4), 1e-6), call(x(2, 3, 4), [3, 4])],
    "group_norm.default": [call(x(2, 6, 5), 3, x(6), x(6)), call(x(2, 6, 2, 2), 2)],
    "native_group_norm.default": [call(x(2, 6, 5), x(6), x(6), 2, 6, 5, 3, 1e-5)],
    "instance_norm.default": [
        call(x(2, 3, 5), x(3), x(3), None, None, True, 0.1, 1e-5, False),
        call(x(2, 3, 4, 4), None, None, None, None, True, 0.1, 1e-5, False),
    ],
    "_native_batch_norm_legit_no_training.default": [
        call(x(2, 3, 4), x(3), x(3), x(3), above(3), 0.1, 1e-5),
        call(x(2, 3), None, None, x(3), above(3), 0.1, 1e-3),
    ],
    "_native_batch_norm_legit.no_stats": [call(x(2, 3, 4), x(3), x(3), True, 0.1, 1e-5)],
    "native_dropout.default": [call(x(2, 3), 0.5, False), call(x(2, 3), 0.0, False)],
    "scaled_dot_product_attention.default": [
        call(x(2, 2, 3, 4), x(2, 2, 5, 4), x(2, 2, 5, 4)),
        call(x(2, 2, 3, 4), x(2, 2, 3, 4), x(2, 2, 3, 4), None, 0.0, True),
        call(x(2, 2, 3, 4), x(2, 2, 5, 4), x(2, 2, 5, 4), x(3, 5)),
        call(x(2, 3, 4), x(2, 5, 4), x(2, 5, 6), None, 0.0, False, scale=0.3),
        call(x(2, 4, 3, 4), x(2, 2, 5, 4), x(2, 2, 5, 4), enable_gqa=True),
    ],
    # ------------------------------------------------------------------------------------- shapes
    "permute.default": [call(x(2, 3, 4), [2, 0, -2]), call(x(), []), call(x(*SIZES), [7, 6, 5, 4, 3, 2, 1, 0])],
    "view.default": [
        call(x(2, 3, 4), [4, 6]),
        call(x(2, 3), [-1]),
        call(x(1), []),
        call(x(), [1, 1]),
        call(x(0, 3), [3, 0]),
    ],
    "_unsafe_view.default": [call(x(2, 3, 4), [4, 6]), call(x(2, 3), [-1])],
    "expand.default": [call(x(2, 1), [2, 3]), call(x(3), [2, -1]), call(x(), [2, 2]), call(x(1), [0])],
    "transpose.int": [call(x(2, 3, 4), 0, -1), call(x(), 0, -1)],
    "t.default": [call(x(2, 3)), call(x(3)), call(x())],
    "unsqueeze.default": [call(x(2, 3), d) for d in (0, 1, 2, -1)] + [call(x(), 0), call(x(*SIZES[:7]), 3)],
    "squeeze.dim": [call(x(2, 1), 1), call(x(2, 3), 0), call(x(), 0)],
    "squeeze.dims": [call(x(2, 1, 1), [1, -1]), call(x(2, 3), [0, 1])],
    "cat.default": [
        call([x(2, 3), x(4, 3)]),
        call([x(2, 3), x(2, 1), x(2, 0)], 1),
        call([x(0), x(2, 3)], 1),
        call([x(2), floats(3)]),
    ],
    "concat.default": [call([x(2, 3), x(4, 3)])],
    "stack.default": [call([x(2, 3), x(2, 3)]), call([x(2, 3), x(2, 3)], -1), call([x(), x()])],
    "slice.Tensor": [
        call(x(5, 3)),
        call(x(5, 3), 0, 1, -1),
        call(x(5, 3), 0, -4, 100, 2),
        call(x(5, 3), 1, 2, 1),
        call(x(0, 3), 0, 0, 1),
    ],
    "select.int": [call(x(2, 3), 0, 1), call(x(2, 3), -1, -2), call(x(3), 0, 2)],
    "split.Tensor": [call(x(5, 3), 2), call(x(2, 4), 2, 1)],
    "split_with_sizes.default": [call(x(5, 3), [2, 3]), call(x(2, 4), [1, 0, 3], -1)],
    "unbind.int": [call(x(2, 3)), call(x(2, 3), -1)],
    "meshgrid.indexing": [call([x(2), x(3)], indexing="ij"), call([x(2), x(3), x()], indexing="xy")],
    "broadcast_tensors.default": [call([x(2, 1), x(3)])],
    "repeat.default": [call(x(2, 3), [2, 1]), call(x(3), [2, 2, 1]), call(x(), [3]), call(x(2), [0])],
    "tile.default": [call(x(2, 3), [2]), call(x(3), [2, 1, 2])],
    "repeat_interleave.self_int": [call(x(2, 3), 2, 1), call(x(2, 3), 3)],
    "roll.default": [call(x(3, 4), [1, -2], [0, 1]), call(x(3, 4), [5])],
    "flip.default": [call(x(3, 4), [0, -1]), call(x(3), [0]), call(x(), [])],
    "diagonal.default": [call(x(3, 4)), call(x(3, 4), 1), call(x(2, 3, 4), -1, 0, 2)],
    "tril.default": [call(x(3, 4)), call(x(2, 3, 3), -1), call(x(0, 3))],
    "triu.default": [call(x(3, 4)), call(x(2, 3, 3), 1)],
    "as_strided.default": [
        call(x(2, 3), [3, 2], [1, 3]),
        call(x(6), [2, 2], [2, 1], 1),
        call(x(2, 4, 5), [2, 4, 5], [20, 5, 1]),
    ],
    "pad.default": [
        call(x(2, 3, 4), [1, 2]),
        call(x(2, 3, 4), [1, -1, 2, 0], "constant", 1.0),
        call(x(2, 3, 4), [1, 2], "reflect"),
        call(x(2, 3, 4), [1, 2], "replicate"),
        call(x(2, 3, 4), [1, 2], "circular"),
        call(x(1, 2, 3, 4), [1, 2, 0, 1], "reflect"),
    ],
    "constant_pad_nd.default": [call(x(2, 3), [1, 2]), call(x(2, 3), [-1, 0, 1, 1], 2), call(x(3), [0, 2])],
    **{
        f"reflection_pad{n}d.default": [call(x(*(2, 3, 4, 5)[: n + 1]), [1, 2, 1, 0, 1, 1][: 2 * n])] for n in (1, 2, 3)
    },
    **{f"replication_pad{n}d.default": [call(x(*(2, 3, 4, 5)[: n + 1]), [1, 4, 1, 0, 1, 2][: 2 * n])] for n in (2, 3)},
    "pixel_shuffle.default": [call(x(1, 8, 2, 3), 2), call(x(4, 2, 3), 2)],
    "diff.default": [call(x(2, 4)), call(x(4, 2), 2, 0)],
    # ------------------------------------------------------------------------------------- indexing
    "index.Tensor": [
        call(x(4, 5), [places(4, 3)]),
        call(x(4, 5), [None, places(5, 2, 3)]),
        call(x(4, 5, 3), [places(4, 2), None, places(3, 2)]),
        call(x(4, 5), [places(4, 3, 1), places(5, 2)]),
        call(x(4, 5), [torch.tensor([-1, 2, -4])]),
        call(x(4, 5), [places(4)]),
    ],
    "index_select.default": [call(x(4, 5), 0, places(4, 3)), call(x(4, 5), -1, places(5)), call(x(4), 0, places(4, 2))],
    "gather.default": [call(x(3, 4), 1, places(4, 3, 2)), call(x(3, 4), -2, places(3, 2, 4)), call(x(), 0, places(1))],
    "embedding.default": [call(x(10, 4), places(10, 2, 3)), call(x(10, 4), places(10), 1)],
    "index_put.default": [
        call(x(4, 5), [torch.tensor([1, 3])], x(2, 5)),
        call(x(4, 5), [places(4, 3)], x(3, 5), True),
        call(x(4, 5), [None, places(5, 6)], x(4, 6), True),
        call(x(4, 5), [places(4, 3), places(5, 3)], x(), True),
        call(x(4, 5), [mask(4, 5)], x()),
        call(x(4, 5), [mask(4, 5)], x(1)),
        call(x(4, 5), [None, mask(5)], x(4, 1)),
        call(x(4, 5, 3), [None, mask(5)], x(), True),
    ],
    "index_add.default": [call(x(4, 5), 0, places(4, 6), x(6, 5)), call(x(4, 5), 1, places(5, 2), x(4, 2), alpha=2)],
    "index_copy.default": [call(x(4, 5), 0, torch.tensor([2, 0]), x(2, 5))],
    "scatter.src": [call(x(3, 4), 1, torch.tensor([[0, 2], [1, 3], [3, 0]]), x(3, 4))],
    "scatter.value": [call(x(3, 4), 1, places(4, 3, 2), 1), call(x(3, 4), 0, places(3, 2, 2), 0.5)],
    "scatter_add.default": [call(x(3, 4), 1, places(4, 3, 6), x(3, 6)), call(x(3, 4), 0, places(3, 5, 2), x(6, 4))],
    "scatter_reduce.two": [
        call(x(3, 4), 1, places(4, 3, 6), x(3, 6), r, include_self=s)
        for r in ("sum", "prod", "mean", "amax", "amin")
        for s in (True, False)
    ],
    "slice_scatter.default": [
        call(x(5, 3), x(2, 3), 0, 1, 3),
        call(x(5, 3), x(5, 2), 1, 0, None, 2),
        call(x(5, 3), x(5, 3)),
    ],
    "select_scatter.default": [call(x(5, 3), x(3), 0, -1), call(x(5, 3), x(5), 1, 1)],
    "sort.default": [call(x(3, 5)), call(x(5, 3), 0, True), call(x()), call(x(2, 4001))],
    "sort.stable": [call(x(3, 5), stable=True), call(x(5, 3), stable=True, dim=0, descending=True)],
    "argsort.default": [call(x(3, 5)), call(x(5, 3), 0, True)],
    "argsort.stable": [call(x(3, 5), stable=True), call(x(5, 3), stable=True, dim=0, descending=True)],
    "topk.default": [
        call(x(3, 5), 2),
        call(x(5, 3), 2, 0, False),
        call(x(4001), 3900),
        call(x(), 1),
    ],
    "searchsorted.Tensor": [
        call(torch.arange(6), x(4)),
        call(torch.arange(6).repeat(2, 1), x(2, 3), right=True),
        call(torch.arange(6), x(), out_int32=True),
    ],
    # ------------------------------------------------------------------------------------- beside the lists
    "cummax.default": dims(many=False),
    "cummin.default": dims(many=False),
    "logcumsumexp.default": dims(many=False),
    "grid_sampler_3d.default": [
        call(x(1, 2, 3, 4, 5), within(1, 2, 3, 3, 3), m, p, a) for m in (0, 1) for p in (0, 1, 2) for a in (True, False)
    ],
    "kthvalue.default": [call(x(3, 5), 2), call(x(5, 3), 1, 0, True)],
    "median.dim": [call(x(3, 5), 1), call(x(5, 3), 0, True)],
    "bucketize.Tensor": [call(x(2, 3), torch.arange(6)), call(x(4), torch.arange(6), right=True)],
    "take.default": [call(x(3, 4), places(12, 2, 3))],
    "put.default": [call(x(3, 4), places(12, 3), x(3), True)],
    "bitwise_left_shift.Tensor": [call(x(2, 3), places(4, 2, 3))],
    "bitwise_right_shift.Tensor": [call(x(2, 3), places(4, 2, 3))],
    # ------------------------------------------------------------------------------------- creation
    "full.default": [call([2, 3], 1.5), call([], 2), call([0], True)],
    "full_like.default": [call(x(2, 3), 2), call(x(), 1), call(x(2), 2, dtype=torch.float32)],
    "new_ones.default": [call(x(2), [2, 3])],
    "new_zeros.default": [call(x(2), [2, 3])],
    "new_empty.default": [call(x(2), [2, 0])],
    "zeros.default": [call([2, 3])],
    "ones.default": [call([2, 3])],
    "eye.default": [call(3)],
    "empty.memory_format": [call([0, 3])],
    "empty_permuted.default": [call([2, 0], [1, 0])],
    "scalar_tensor.default": [call(2.5), call(3)],
    "arange.default": [call(5)],
    "arange.start": [call(1, 5)],
    "arange.start_step": [call(1, 6, 2), call(5.0, 0, -0.5)],
    "linspace.default": [call(0, 1, 5)],
    "tril_indices.default": [call(3, 4)],
    # ------------------------------------------------------------------------------------- images, spectra, complex
    "upsample_nearest2d.vec": [call(x(1, 2, 3, 4), [6, 5], None), call(x(1, 2, 3, 4), None, [2.0, 1.5])],
    "upsample_bilinear2d.vec": [call(x(1, 2, 3, 4), [6, 5], a, None) for a in (True, False)]
    + [call(x(1, 2, 6, 4), None, False, [0.5, 1.5])],
    "upsample_bicubic2d.vec": [call(x(1, 2, 3, 4), [6, 5], a, None) for a in (True, False)],
    "upsample_linear1d.vec": [call(x(1, 2, 4), [7], a, None) for a in (True, False)],
    "_upsample_bicubic2d_aa.default": [call(x(1, 2, 9, 8), [4, 5], a) for a in (True, False)],
    "_upsample_bicubic2d_aa.vec": [call(x(1, 2, 9, 8), [4, 5], False, None)],
    "grid_sampler.default": [
        call(x(1, 2, 4, 5), within(1, 3, 3, 2), m, p, a) for m in (0, 1, 2) for p in (0, 1, 2) for a in (True, False)
    ]
    + [call(x(1, 2, 3, 4, 5), within(1, 2, 3, 3, 3), m, p, False) for m in (0, 1) for p in (0, 1, 2)],
    "grid_sampler_2d.default": [call(x(1, 2, 4, 5), within(1, 3, 3, 2), 0, p, False) for p in (0, 1, 2)],
    "affine_grid_generator.default": [call(x(2, 2, 3), [2, 1, 3, 4], a) for a in (True, False)]
    + [call(x(1, 3, 4), [1, 1, 2, 3, 4], False)],
    # ------------------------------------------------------------------------------------- recurrent
    "lstm.input": [
        call(
            x(3, 2, 4), [x(1, 2, 5), x(1, 2, 5)], [x(20, 4), x(20, 5), x(20), x(20)], True, 1, 0.0, False, False, False
        )
    ],
    "gru.input": [call(x(3, 2, 4), x(1, 2, 5), [x(15, 4), x(15, 5), x(15), x(15)], True, 1, 0.0, False, False, False)],
    "gru_cell.default": [call(x(2, 4), x(2, 5), x(15, 4), x(15, 5), x(15), x(15))],
    "lstm_cell.default": [call(x(2, 4), [x(2, 5), x(2, 5)], x(20, 4), x(20, 5), x(20), x(20))],
}

_BAGS = torch.tensor([0, 2, 2])

# Complex numbers do not cross an engine's boundary, and of bags only the first result is ever read: these ops stand
# between others.
INSIDE: dict[str, tuple[Callable[..., Any], list[Operand]]] = {
    "_embedding_bag.default": (lambda w, i: aten._embedding_bag(w, i, _BAGS, False, 1)[0], [x(10, 4), places(10, 6)]),
    "_embedding_bag_forward_only.default": (
        lambda w, i: aten._embedding_bag_forward_only(w, i, _BAGS, False, 2)[0],
        [x(10, 4), places(10, 6)],
    ),
    "embedding_bag.padding_idx": (
        lambda w, i: aten.embedding_bag.padding_idx(w, i, _BAGS, False, 0, False, None, False, 3)[0],
        [x(10, 4), places(10, 6)],
    ),
    # Without order the k greatest may come in any: they are put in one.
    "topk.default": (lambda a: torch.topk(a, 4, 1, sorted=False)[0].sort(1)[0], [x(3, 5)]),
    "_native_batch_norm_legit.default": (
        lambda a, m, v: aten._native_batch_norm_legit(a, None, None, m.clone(), v.clone(), False, 0.1, 1e-5)[0],
        [x(2, 3, 4), x(3), above(3)],
    ),
    "view_as_complex.default": (lambda a: torch.view_as_complex(a).abs(), [floats(2, 3, 2)]),
    "view_as_real.default": (lambda a: torch.view_as_real(torch.view_as_complex(a) * 2), [floats(2, 3, 2)]),
    "polar.default": (lambda r, a: torch.view_as_real(torch.polar(r, a)), [floats(2, 3), floats(2, 3)]),
    "_fft_c2c.default": (lambda a: torch.view_as_real(torch.fft.fft(torch.view_as_complex(a))), [floats(2, 6, 2)]),
    "_fft_r2c.default": (lambda a: torch.view_as_real(torch.fft.rfft(a)), [floats(2, 6)]),
    "_fft_c2r.default": (lambda a: torch.fft.irfft(torch.view_as_complex(a), 7), [floats(2, 4, 2)]),
    "fft_fftn.default": (lambda a: torch.view_as_real(torch.fft.fftn(a)), [floats(2, 4, 6)]),
    "fft_rfft2.default": (lambda a: torch.view_as_real(torch.fft.rfft2(a)), [floats(2, 4, 6)]),
    "fft_irfft2.default": (lambda a: torch.fft.irfft2(torch.view_as_complex(a), (4, 5)), [floats(4, 3, 2)]),
    "stft.default": (
        lambda a: torch.view_as_real(torch.stft(a, 16, 4, window=torch.hann_window(16), return_complex=True)),
        [floats(2, 40)],
    ),
}


# PyTorch's decomposition counts from -1 to 1 in the operand's dtype, which PyTorch refuses in u8.
UNKNOWN = {("affine_grid_generator.default", "u8")}


def calls(op: str, dtype: str) -> list[Call]:
    """The calls of an op that eager PyTorch knows in a dtype; those that are the same in every dtype in float32."""
    if (op, dtype) in UNKNOWN:
        return []
    generator = torch.Generator().manual_seed(0)
    make = functools.partial(_made, dtype=DTYPES[dtype], generator=generator)
    found = []
    if op in INSIDE and (dtype == "f32" or _varies(INSIDE[op][1])):
        function, operands = INSIDE[op]
        found.append(call_of(op, function, make(operands), {}))
    packet, _, overload = op.rpartition(".")
    target = getattr(getattr(aten, packet), overload)
    name = op if op in TIES else packet
    for row in ROWS.get(op, ()):
        if dtype != "f32" and not _varies([row.args, row.kwargs]):
            continue
        kwargs = {key: make(value) for key, value in row.kwargs.items()}
        found.append(call_of(name, target, make(list(row.args)), kwargs))
    return [known for known in found if _is_known(known)]


def _varies(value: Any) -> bool:
    return any(isinstance(leaf, Operand) and leaf.dtype is None for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and not isinstance(value, Operand):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_known(sample: Call) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sample(sample.tensors)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return False
    return True


def _made(value: Any, dtype: torch.dtype, generator: torch.Generator) -> Any:
    if isinstance(value, Operand):
        return value.made(dtype, generator)
    if isinstance(value, list):
        return [_made(item, dtype, generator) for item in value]
    return value

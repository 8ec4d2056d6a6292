"""Dtypes: the names that rules give them, their classes, and the TensorRT data types they are."""

from __future__ import annotations

import torch

# PyTorch has the name and no tensors of it; its stubs lack even that.
INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]

DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8": torch.float8_e4m3fn,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "i4": INT4,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c32": torch.complex32,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Not ``getattr(torch, name)``: that imports parts of PyTorch that are named like nothing else.
_BY_NAME = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def dtype_named(name: object) -> torch.dtype | None:
    """The dtype that PyTorch has under a name such as ``"float32"``; None where it has none."""
    return _BY_NAME.get(name) if isinstance(name, str) else None


FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
INTEGRAL = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
CLASSES: dict[str, tuple[torch.dtype, ...]] = {
    "floating": FLOATING,
    "integral": INTEGRAL,
    "complex": COMPLEX,
    "tensor": tuple(DTYPES.values()),
}

# TensorRT data types, by name, that PyTorch has a name for.  Its int4 is only a name: such values are inside networks.
DATA_TYPES: dict[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "INT4": INT4,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
    "FP8": torch.float8_e4m3fn,
    "E8M0": torch.float8_e8m0fnu,
}


def representable(dtype: torch.dtype) -> bool:
    """Whether TensorRT has tensors of a dtype (in some version)."""
    return dtype in _REPRESENTABLE


_REPRESENTABLE = frozenset(DATA_TYPES.values()) - {INT4}

"""PyTorch dtypes and TensorRT data types."""

from __future__ import annotations

from typing import Any

import torch

from engine.errors import ConversionError
from engine.tensorrt import load

_NAMES: dict[torch.dtype, str] = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.int8: "INT8",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "FP8",
    torch.float8_e8m0fnu: "E8M0",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def tensorrt_dtype(dtype: torch.dtype) -> Any:
    """The ``trt.DataType`` of a torch dtype.

    Raises:
        ConversionError: TensorRT has no such type (``float64``, ``int16``, complex types).
    """
    name = _NAMES.get(dtype)
    found = None if name is None else getattr(load().DataType, name, None)
    if found is None:
        raise ConversionError(
            f"TensorRT has no {str(dtype).removeprefix('torch.')} tensors; cast in the rule, or in the model"
        )
    return found


def representable(dtype: torch.dtype) -> bool:
    """Whether TensorRT has tensors of a dtype (in some version)."""
    return dtype in _NAMES


def torch_dtype(data_type: Any) -> torch.dtype | None:
    """The torch dtype of a ``trt.DataType``, None for packed 4-bit types."""
    return _DTYPES.get(data_type.name)


__all__ = ["representable", "tensorrt_dtype", "torch_dtype"]

"""PyTorch dtypes and TensorRT data types."""

from __future__ import annotations

from typing import Any

import torch

from engine.dtypes import DATA_TYPES
from engine.errors import ConversionError
from engine.tensorrt import load

_NAMES = {dtype: name for name, dtype in DATA_TYPES.items()}


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


def torch_dtype(data_type: Any) -> torch.dtype | None:
    """The torch dtype of a ``trt.DataType``, None for FP4."""
    return DATA_TYPES.get(data_type.name)


__all__ = ["tensorrt_dtype", "torch_dtype"]

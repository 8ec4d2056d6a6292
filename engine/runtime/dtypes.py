"""TensorRT data types of bindings as PyTorch dtypes."""

from __future__ import annotations

from typing import Any

import torch

from engine.errors import RuntimeUnavailable

_BY_NAME = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "FP8": torch.float8_e4m3fn,
    "E8M0": torch.float8_e8m0fnu,
}


def torch_dtype(dtype: Any, binding: str) -> torch.dtype:
    """The dtype of the tensor that binding ``binding`` of TensorRT data type ``dtype`` takes or gives.

    Raises:
        RuntimeUnavailable: PyTorch has no such tensors (packed 4-bit types).
    """
    found = _BY_NAME.get(dtype.name)
    if found is None:
        raise RuntimeUnavailable(
            f"binding {binding!r} is {dtype.name}, which PyTorch tensors cannot hold: cast inside the network"
        )
    return found

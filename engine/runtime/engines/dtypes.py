"""TensorRT data types of bindings as PyTorch dtypes."""

from __future__ import annotations

from typing import Any

import torch

from engine.dtypes import DATA_TYPES
from engine.errors import RuntimeUnavailable


def torch_dtype(dtype: Any, binding: str) -> torch.dtype:
    """The dtype of the tensor that binding ``binding`` of TensorRT data type ``dtype`` reads or writes.

    Raises:
        RuntimeUnavailable: PyTorch has no such tensors (packed 4-bit types).
    """
    found = DATA_TYPES.get(dtype.name)
    if found is None:
        raise RuntimeUnavailable(
            f"binding {binding!r} is {dtype.name}, which PyTorch tensors cannot hold: cast inside the network"
        )
    return found

"""Weights of a network as tensors, for every data type, copied only when they have no other owner."""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from engine.errors import InterpreterError
from engine.interpreter.dtypes import FP4_VALUES, PACKED, TORCH_DTYPES


class _RawWeights(ctypes.Structure):
    """``nvinfer1::Weights``: a public aggregate whose layout every TensorRT since 2 has kept."""

    _fields_ = (("type", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


class WeightReader:
    """Turns the weights of layers into tensors.

    TensorRT holds weights by reference, so what is read here is the caller's memory.  Weights that lie
    inside a tensor of ``owners`` become views that keep its storage alive; anything else is copied.
    """

    def __init__(self, owners: Iterable[Tensor] = ()) -> None:
        storages = {}
        for tensor in owners:
            if tensor.device.type == "cpu" and tensor.numel():
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage
        self._starts = sorted(storages)
        self._storages = storages

    def read(self, weights: Any) -> Tensor | None:
        """The one-dimensional tensor behind ``weights`` (a numpy array or a ``trt.Weights``).

        Returns None for empty weights.  INT4 and FP4 are unpacked, low half of each byte first.

        Raises:
            InterpreterError: the data type or the memory of the weights cannot be read.
        """
        if hasattr(weights, "__array_interface__"):
            if weights.size == 0:
                return None
            if not weights.flags.c_contiguous:
                raise InterpreterError("weights are not contiguous")
            dtype = torch.from_numpy(weights[:0].copy()).dtype
            return self._view(weights.ctypes.data, weights.size * weights.itemsize, dtype)
        kind = weights.dtype.name
        if weights.size == 0:
            return None
        if kind not in TORCH_DTYPES:
            raise InterpreterError(f"weights of data type {kind} are not supported")
        address = _address(weights)
        if kind in PACKED:
            packed = self._view(address, (weights.size + 1) // 2, torch.uint8)
            return _unpack(packed, kind)[: weights.size]
        return self._view(address, weights.nbytes, TORCH_DTYPES[kind])

    def _view(self, address: int, nbytes: int, dtype: torch.dtype) -> Tensor:
        position = bisect.bisect_right(self._starts, address) - 1
        if position >= 0:
            start = self._starts[position]
            storage = self._storages[start]
            offset = address - start
            itemsize = dtype.itemsize
            if offset + nbytes <= storage.nbytes() and offset % itemsize == 0:
                view = torch.empty(0, dtype=dtype)
                return view.set_(storage, offset // itemsize, (nbytes // itemsize,), (1,))  # type: ignore[call-overload, no-any-return]
        buffer = (ctypes.c_uint8 * nbytes).from_address(address)
        return torch.frombuffer(buffer, dtype=torch.uint8).clone().view(dtype)


def _address(weights: Any) -> int:
    """The address of the values of a ``trt.Weights`` that numpy cannot express (bfloat16, float8, ...).

    The bindings offer no pointer, but a pybind11 instance of a class without a metaclass of its own keeps
    the pointer to its C++ object right behind the Python object header.  Type and count are compared
    with what the bindings say, so a different layout is an error, never wrong data.
    """
    pointer = ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value
    if pointer:
        raw = _RawWeights.from_address(pointer)
        if raw.type == int(weights.dtype) and raw.count == weights.size and raw.values:
            return int(raw.values)
    raise InterpreterError(f"cannot read weights of data type {weights.dtype.name} from these bindings")


def _unpack(packed: Tensor, kind: str) -> Tensor:
    codes = torch.stack((packed & 15, packed >> 4), dim=1).flatten()
    if kind == "INT4":
        return torch.where(codes > 7, codes.to(torch.int8) - 16, codes.to(torch.int8))
    table = torch.tensor([*FP4_VALUES, *(-value for value in FP4_VALUES)])
    return table[codes.long()].to(TORCH_DTYPES["FP4"])

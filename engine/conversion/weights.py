"""Weights of a network: host memory that TensorRT reads when the engine is built."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from engine.conversion.dtypes import tensorrt_dtype
from engine.tensorrt import load

Key: TypeAlias = "tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, str]"


class WeightStore:
    """Tensors that a network points to; keep it alive until the engine is built.

    TensorRT gets pointers, never copies.  A tensor that is contiguous in host memory is used where it is; others
    are copied to the host once, however often they are used.
    """

    def __init__(self) -> None:
        self._host: dict[Key, torch.Tensor] = {}
        self._sources: list[torch.Tensor] = []  # a key holds an address, which must not be given to another tensor

    @staticmethod
    def key(tensor: torch.Tensor) -> Key:
        """What tells constants apart: address, shape, strides, dtype and device."""
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, str(tensor.device)

    def host(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` as a contiguous host tensor with the same elements."""
        key = self.key(tensor)
        held = self._host.get(key)
        if held is None:
            self._sources.append(tensor)
            held = self._host[key] = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        return held

    def weights(self, tensor: torch.Tensor) -> Any:
        """``trt.Weights`` that point to the elements of ``tensor``.

        Raises:
            ConversionError: TensorRT has no such dtype.
        """
        trt = load()
        data_type = tensorrt_dtype(tensor.dtype)
        if tensor.numel() == 0:  # an empty tensor may still have an address, which TensorRT does not accept
            return trt.Weights(data_type, 0, 0)
        held = self.host(tensor)
        return trt.Weights(data_type, held.data_ptr(), held.numel())

    def empty(self, dtype: torch.dtype) -> Any:
        """The ``trt.Weights`` that stand for none."""
        return load().Weights(tensorrt_dtype(dtype))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The host tensors that the network points to."""
        return tuple(self._host.values())

    @property
    def nbytes(self) -> int:
        """Bytes that the network points to."""
        return sum(held.untyped_storage().nbytes() for held in {t.data_ptr(): t for t in self._host.values()}.values())


__all__ = ["WeightStore"]

"""Weights of a network: host memory that TensorRT reads when the engine is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from engine.conversion.dtypes import tensorrt_dtype
from engine.tensorrt import capabilities, load
from engine.weights.recipe import Recipe, Source

Key: TypeAlias = "tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype, str]"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a weight that may be replaced comes from.

    Attributes:
        name: what to call a weight that is computed; one that is used as it is has its name in the model.
        recipe: how to compute it from the constants of the model.
    """

    name: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class NamedWeight:
    """A weight of an engine that a refit may replace.

    Attributes:
        tensor: what it holds, in host memory, contiguous.
        shape: as the network has it.
        recipe: how to compute it from the constants of the model.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    recipe: Recipe


def refits_natively(settings: Any) -> bool:
    """Whether ``trt.Refitter`` replaces the weights of engines built with ``settings``.

    Engines of TensorRT-RTX are built again instead, from their :class:`Blueprint`.  Observed with 1.6.1: a refittable
    one does not build without a GPU ("CHECK(status == CUDA_SUCCESS) failed"), nor on an H200 whose driver is older
    than TensorRT's compiler ("CUDA error 222 loading a module").  So are those of a TensorRT whose refittable engines
    may compute something else.
    """
    here = capabilities()
    return not settings.immutable_weights and not here.rtx and here.refit_keeps_biases


class WeightStore:
    """Tensors that a network points to; keep it alive until the engine is built.

    TensorRT gets pointers, never copies.  A tensor that is contiguous in host memory is used where it is; others
    are copied to the host once, however often they are used.

    Weights with an origin get a name and memory of their own, because TensorRT takes one address for one weight:
    two views of a parameter would else be refitted as one.

    Attributes:
        named: the weights with an origin, by name.
    """

    def __init__(self) -> None:
        self.named: dict[str, NamedWeight] = {}
        self._names: dict[str, str] = {}  # by the key of the recipe
        self._owners: dict[int, Any] = {}  # address -> key or name of what lies there
        self._issued: dict[int, tuple[Any, torch.Tensor | None, str | None]] = {}
        self._host: dict[Key, torch.Tensor] = {}
        self._sources: list[torch.Tensor] = []  # a key holds an address, which must not be given to another tensor

    @staticmethod
    def key(tensor: torch.Tensor) -> Key:
        """The identity of a constant: address, shape, strides, dtype and device."""
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, str(tensor.device)

    def host(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` as a contiguous host tensor with the same elements."""
        key = self.key(tensor)
        held = self._host.get(key)
        if held is None:
            self._sources.append(tensor)
            held = self._host[key] = self._own(_contiguous(tensor), key)
        return held

    def _own(self, held: torch.Tensor, owner: Any) -> torch.Tensor:
        """``held``, or a copy where its address is that of a weight with a name, or would be of two."""
        other = self._owners.setdefault(held.data_ptr(), owner)
        if other != owner and (isinstance(other, str) or isinstance(owner, str)):
            held = held.clone()
            self._owners[held.data_ptr()] = owner
        return held

    def name(self, tensor: torch.Tensor, origin: Origin) -> str:
        """The name of a weight with an origin; the same for the same recipe."""
        found = self._names.get(origin.recipe.key)
        if found is None:
            result = origin.recipe.result
            wanted = result.name if isinstance(result, Source) else origin.name
            found, number = wanted, 1
            while found in self.named:
                number += 1
                found = f"{wanted}#{number}"
            self._names[origin.recipe.key] = found
            held = self._own(_contiguous(tensor), found)
            self._sources.append(tensor)
            self.named[found] = NamedWeight(held, tuple(tensor.shape), origin.recipe)
        return found

    def weights(self, tensor: torch.Tensor, origin: Origin | None = None) -> Any:
        """``trt.Weights`` that point to the elements of ``tensor``.

        Args:
            origin: of a weight that a refit may replace.

        Raises:
            ConversionError: TensorRT has no such dtype.
        """
        trt = load()
        data_type = tensorrt_dtype(tensor.dtype)
        if tensor.numel() == 0:  # an empty tensor may still have an address, which TensorRT does not accept
            return self._issue(trt.Weights(data_type, 0, 0), None)
        name = None if origin is None else self.name(tensor, origin)
        held = self.host(tensor) if name is None else self.named[name].tensor
        return self._issue(self.pointer(held), held, name)

    @staticmethod
    def pointer(held: torch.Tensor) -> Any:
        """``trt.Weights`` that point to the elements of a contiguous host tensor."""
        return load().Weights(tensorrt_dtype(held.dtype), held.data_ptr(), held.numel())

    def empty(self, dtype: torch.dtype) -> Any:
        """The ``trt.Weights`` that stand for none."""
        return self._issue(load().Weights(tensorrt_dtype(dtype)), None)

    def _issue(self, weights: Any, held: torch.Tensor | None, name: str | None = None) -> Any:
        self._issued[id(weights)] = weights, held, name
        return weights

    def issued(self, weights: Any) -> tuple[torch.Tensor | None, str | None]:
        """The host tensor behind ``trt.Weights`` of this store, None for empty ones, and its name if it has one."""
        _, held, name = self._issued[id(weights)]
        return held, name

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The host tensors that the network points to."""
        return (*self._host.values(), *(weight.tensor for weight in self.named.values()))

    @property
    def nbytes(self) -> int:
        """Bytes that the network points to."""
        return sum(held.untyped_storage().nbytes() for held in {t.data_ptr(): t for t in self.tensors}.values())


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


__all__ = ["NamedWeight", "Origin", "WeightStore", "refits_natively"]

"""One network under construction: adds layers, so that a rejection has a reason and every layer a unique name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from engine.conversion.call_log import CallLog, Said
from engine.conversion.dtypes import tensorrt_dtype
from engine.conversion.readback import lost
from engine.conversion.weights import Origin, WeightStore
from engine.errors import ConversionError
from engine.graph.names import unique
from engine.sizes import Int
from engine.tensorrt import load
from engine.tensorrt.logger import Logger, Message

# Printed after every other error on a machine without a GPU; it says nothing about the network.
_NOISE = "checkMacros.cpp::catchCudaError"


class Rejected(Exception):
    """TensorRT did not take a layer; the text is TensorRT's own."""


class Mismatch(Rejected):
    """TensorRT infers another shape or dtype than a rule or the declaration of a layer promised."""


class NetworkScope:
    """An ``INetworkDefinition`` with its logger, its weights and the names given so far.

    ``call_log`` holds what the network was told, so that equal networks can be known without TensorRT.
    """

    def __init__(self, network: Any, logger: Logger) -> None:
        self.network = network
        self.logger = logger
        self.weights = WeightStore()
        self.call_log = CallLog()
        self.layer_names: list[str] = []
        self._taken: set[str] = set()
        self._constants: dict[Any, Any] = {}

    def add(
        self,
        method: str,
        arguments: Sequence[Any],
        name: str,
        *,
        then: Callable[[Any], None] | None = None,
        metadata: Mapping[str, str] | None = None,
        owner: Any = None,
        holds: Sequence[Said] = (),
    ) -> Any:
        """Add a layer with ``network.<method>(*arguments)``, finish it with ``then``, and name it.

        Args:
            owner: the loop or conditional that the layer is an end of; its method is called instead of the network's.
            holds: properties that the layer has from ``arguments``, where it can be asked for them.

        Raises:
            Rejected: TensorRT has no such method, returned no layer, logged an error, or dropped what it was told.
        """
        function = getattr(self.network if owner is None else owner, method, None)
        if function is None:
            raise Rejected(f"{load().__name__} {load().__version__} has no {method}")
        with self.listening():
            layer = function(*arguments)
            told = self.call_log.layer(method, arguments, layer, owner)
            if layer is None:
                raise Rejected(f"{method} returned no layer")
            if then is not None:
                then(told)
            has = [said for said in holds if hasattr(type(layer), said.name)]
            _check_kept(layer, [*has, *self.call_log.heard(told)[1]])
            layer.name = self.unique(name)
            text = "" if metadata is None else json.dumps(metadata)
            self.call_log.named(layer, text)
            if metadata is not None and hasattr(layer, "metadata"):
                layer.metadata = text
        self.layer_names.append(layer.name)
        return layer

    def tell(self, told: Any, then: Callable[[Any], None]) -> None:
        """Finish a layer that was added before; ``told`` is the stand-in that its own ``then`` was given.

        Raises:
            Rejected: TensorRT logged an error, or dropped what it was told.
        """
        before = len(self.call_log.heard(told)[1])
        with self.listening():
            then(told)
            layer, said = self.call_log.heard(told)
            _check_kept(layer, said[before:])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Make an error of whatever TensorRT rejects, whether it raises, returns nothing, or only logs.

        Raises:
            Rejected: with TensorRT's own words where it has some.
        """
        with self.logger.gather() as messages:
            try:
                yield
            except Rejected as refused:
                raise Rejected(quote(messages) or str(refused)) from refused
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise Rejected(quote(messages) or f"{type(error).__name__}: {error}") from error
        if quote(messages):
            raise Rejected(quote(messages))

    def output(self, layer: Any, index: int = 0) -> tuple[Any, tuple[int, ...], Any]:
        """Output tensor ``index`` of a layer with its shape (-1: dynamic) and data type, as TensorRT infers them.

        Raises:
            Rejected: TensorRT cannot infer them, because the inputs do not fit.
        """
        with self.listening():
            tensor = layer.get_output(index)
            return tensor, tuple(tensor.shape), tensor.dtype

    def unique(self, name: str) -> str:
        """``name``, with a number when it is taken."""
        return unique(name, self._taken, "#")

    def constant(self, tensor: torch.Tensor, name: str, origin: Origin | None = None) -> Any:
        """A constant with the elements of ``tensor``; equal addresses and layouts give one layer.

        Args:
            origin: of a constant that a refit may replace.

        Raises:
            ConversionError: TensorRT has no such dtype.
            Rejected: TensorRT does not take the constant.
        """
        key: Any = self.weights.key(tensor) if origin is None else self.weights.name(tensor, origin)
        held = self._constants.get(key)
        if held is None:
            arguments = (tuple(tensor.shape), self.weights.weights(tensor, origin))
            layer = self.add("add_constant", arguments, f"constants/{name}")
            held = self._constants[key] = self.output(layer)[0]
        return held

    def numbers(self, values: Any, dtype: torch.dtype) -> Any:
        """A constant written out by a rule or by shape arithmetic: a number (0-d) or a list of numbers (1-d)."""
        key = (repr(values), dtype)
        held = self._constants.get(key)
        if held is None:
            text = "_".join(map(str, values)) if isinstance(values, list | tuple) else str(values)
            tensor = torch.tensor(values, dtype=dtype)
            held = self._constants[key] = self.constant(tensor, text[:60] or "empty")
        return held

    def reshaped(self, tensor: Any, shape: Sequence[int], name: str) -> Any:
        """``tensor`` in another known shape."""

        def finish(layer: Any) -> None:
            layer.reshape_dims = tuple(shape)

        return self.add("add_shuffle", (tensor,), name, then=finish).get_output(0)

    def cast(self, tensor: Any, dtype: torch.dtype, name: str) -> Any:
        """``tensor`` as another dtype."""
        data_type = tensorrt_dtype(dtype)
        if tensor.dtype == data_type:
            return tensor
        return self.add("add_cast", (tensor, data_type), name).get_output(0)


def _check_kept(layer: Any, said: Sequence[Said]) -> None:
    dropped = lost(layer, said)
    if dropped:
        raise Rejected(dropped)


def quote(messages: Sequence[Message]) -> str:
    """TensorRT's errors among ``messages``, each once, as one text."""
    texts = [message.text for message in messages if message.level >= logging.ERROR]
    texts = [text for text in dict.fromkeys(texts) if _NOISE not in text] or texts
    return "\n".join(text.strip() for text in texts)


def mismatch(expected: Sequence[Int], got: Sequence[int], agrees: Callable[[Int, int], bool]) -> bool:
    """Whether TensorRT's shape contradicts the one that was promised; -1 agrees with everything."""
    if len(expected) != len(got):
        return True
    return any(size != -1 and not agrees(wanted, size) for wanted, size in zip(expected, got, strict=True))


__all__ = ["ConversionError", "Mismatch", "NetworkScope", "Rejected", "mismatch", "quote"]

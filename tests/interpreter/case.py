"""A layer case: a small network, inputs for it, and what it should compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.interpreter.dtypes import TORCH_DTYPES
from engine.tensorrt import load

Reference = Callable[..., Any]

_NAMES = {dtype: name for name, dtype in reversed(TORCH_DTYPES.items()) if name not in ("INT4", "FP4")}

TOLERANCES = {
    torch.float32: (1e-4, 1e-5),
    torch.float16: (4e-3, 4e-3),
    torch.bfloat16: (3e-2, 3e-2),
    torch.float8_e4m3fn: (0.0, 0.0),
}


class Net:
    """A network under construction; owns the tensors whose memory its weights refer to."""

    def __init__(self, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Sequence[int]] | None) -> None:
        self.trt = load()
        self.builder = self.trt.Builder(logger())
        flag = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.network = self.builder.create_network(1 << int(flag))
        self.keep: list[Tensor] = []
        self.inputs = []
        for name, tensor in inputs.items():
            shape = [-1 if axis in (dynamic or {}).get(name, ()) else n for axis, n in enumerate(tensor.shape)]
            self.inputs.append(self.network.add_input(name, self.dtype(tensor.dtype), shape))

    def dtype(self, dtype: torch.dtype | str) -> Any:
        return getattr(self.trt.DataType, dtype if isinstance(dtype, str) else _NAMES[dtype])

    def weights(self, tensor: Tensor | None, kind: str | None = None, count: int | None = None) -> Any:
        if tensor is None:
            return self.trt.Weights()
        tensor = tensor.contiguous()
        self.keep.append(tensor)
        return self.trt.Weights(self.dtype(kind or tensor.dtype), tensor.data_ptr(), count or tensor.numel())

    def const(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
        return self.network.add_constant(tuple(tensor.shape), self.weights(tensor)).get_output(0)

    def i64(self, *values: int) -> Any:
        return self.const(list(values), torch.int64)

    def scalar(self, value: int, dtype: torch.dtype = torch.int32) -> Any:
        return self.const(torch.tensor(value, dtype=dtype))

    def ew(self, x: Any, y: Any, op: str) -> Any:
        layer = self.network.add_elementwise(x, y, getattr(self.trt.ElementWiseOperation, op))
        return layer.get_output(0)

    def shape(self, x: Any) -> Any:
        return self.network.add_shape(x).get_output(0)


@dataclass(frozen=True)
class LayerCase:
    """One network of one or a few layers.

    ``build`` takes the :class:`Net` and its input tensors and returns the output tensors.  ``dynamic`` gives
    the dynamic axes of inputs.  ``reference`` computes the outputs from the input tensors without the
    interpreter, None where the interpreter's answer is only compared with TensorRT's.  ``tolerance``
    is relative and absolute, by data type unless given.  ``capability`` is the compute capability it needs.
    ``shape_inputs`` gives the smallest and the largest values of inputs that determine shapes.
    """

    name: str
    build: Callable[..., Any]
    inputs: dict[str, Tensor]
    reference: Reference | None = None
    dynamic: dict[str, tuple[int, ...]] | None = None
    tolerance: tuple[float, float] | None = None
    capability: int = 8
    shape_inputs: dict[str, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)
    keep: list[Net] = field(default_factory=list, compare=False, repr=False)

    def network(self) -> Net:
        """Build the network.

        Raises:
            ValueError, TypeError, RuntimeError: TensorRT rejected a layer.
        """
        net = Net(self.inputs, self.dynamic)
        outputs = self.build(net, *net.inputs)
        for index, tensor in enumerate(outputs if isinstance(outputs, (list, tuple)) else [outputs]):
            tensor = tensor if hasattr(tensor, "dtype") else tensor.get_output(0)
            if tensor.is_network_input:
                tensor = net.network.add_identity(tensor).get_output(0)
            tensor.name = f"output{index}"
            net.network.mark_output(tensor)
            tuple(tensor.shape)  # raises where TensorRT refuses the layer
        return net

    def expected(self) -> list[Tensor] | None:
        if self.reference is None:
            return None
        result = self.reference(*self.inputs.values())
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def compare(self, actual: Tensor, wanted: Tensor) -> tuple[bool, float]:
        """Whether two outputs agree, and their largest absolute difference."""
        if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
            return False, float("inf")
        if actual.numel() == 0:
            return True, 0.0
        rtol, atol = self.tolerance or TOLERANCES.get(wanted.dtype, (0.0, 0.0))
        a, b = actual.double(), wanted.double()
        same = (a == b) | (a.isnan() & b.isnan())
        error = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
        return bool((same | (error <= atol + rtol * b.abs())).all()), float(error.max())


_LOGGER: list[Any] = []


def logger() -> Any:
    """A logger that keeps the errors of the last network in ``messages``, and warnings in ``warnings``."""
    if not _LOGGER:
        trt = load()

        class Recorder(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.messages: list[str] = []
                self.warnings: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                # Every start on a machine without a driver logs this; it says nothing about a network.
                if severity <= trt.ILogger.Severity.ERROR and "Cuda Runtime" not in message:
                    self.messages.append(message)
                elif severity == trt.ILogger.Severity.WARNING:
                    self.warnings.append(message)

        _LOGGER.append(Recorder())
    return _LOGGER[0]


def rand(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, low: float = -2, high: float = 2) -> Tensor:
    """Repeatable values in [low, high), integers for an integer dtype."""
    generator = torch.Generator().manual_seed(seed * 7919 + sum(shape) + len(shape))
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(int(low), int(high), shape, generator=generator).to(dtype)
    return (torch.rand(shape, generator=generator) * (high - low) + low).to(dtype)


def grid(
    *shape: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    low: float = -2,
    high: float = 2,
    step: float = 0.25,
) -> Tensor:
    """Repeatable multiples of ``step`` in [low, high).

    A product of two such values has few bits, and so has a sum of some hundred products: they are the same
    in every order, in TF32, and where a kernel accumulates in float16.  TensorRT-RTX 1.6.1 multiplies float32 in
    TF32 on compute capability 9.0 whether or not the builder's TF32 flag is set.
    """
    return rand(*shape, seed=seed, low=low / step, high=high / step).floor().mul(step).to(dtype)


def short(value: Any) -> str:
    """A piece of a case name."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return str(value)


def name(*parts: Any) -> str:
    return "-".join(short(part) for part in parts if part is not None)

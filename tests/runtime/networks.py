"""Small networks, made with TensorRT directly, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from engine.runtime import TorchTensorRTModule
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger

Bounds = tuple[Sequence[int], Sequence[int], Sequence[int]]


def trt_dtype(dtype: torch.dtype) -> Any:
    trt = load()
    return {
        torch.float32: trt.float32,
        torch.float16: trt.float16,
        torch.bfloat16: trt.bfloat16,
        torch.int64: trt.int64,
        torch.int32: trt.int32,
        torch.bool: trt.bool,
    }[dtype]


@dataclass
class Built:
    """A finished network and what TensorRT built from it."""

    network: Any
    plan: bytes
    inputs: list[str]
    outputs: list[str]
    # The network refers to memory of these.
    kept: list[Any]

    def module(self, **options: Any) -> TorchTensorRTModule:
        return TorchTensorRTModule(self.plan, self.inputs, self.outputs, **options)


def build(
    inputs: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    define: Callable[..., Sequence[Any]],
    profiles: Sequence[Mapping[str, Bounds]] = (),
    values: Sequence[Mapping[str, Bounds]] = (),
) -> Built:
    """Build an engine.

    Args:
        define: takes the network and its input tensors, gives the output tensors.
        profiles: input shapes per profile.
        values: bounds of shape inputs per profile.
    """
    trt = load()
    logger = capturing_logger()
    builder = trt.Builder(logger)
    # Strong typing is a flag of TensorRT 10 only.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    tensors = [network.add_input(name, trt_dtype(dtype), tuple(shape)) for name, (dtype, shape) in inputs.items()]
    kept: list[Any] = []
    outputs = (
        define(network, *tensors, kept=kept) if "kept" in define.__code__.co_varnames else define(network, *tensors)
    )
    for index, output in enumerate(outputs):
        output.name = f"out{index}"
        network.mark_output(output)
    config = builder.create_builder_config()
    for index, shapes in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for name, bounds in shapes.items():
            profile.set_shape(name, *map(tuple, bounds))
        for name, bounds in (values[index] if values else {}).items():
            profile.set_shape_input(name, *map(tuple, bounds))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, logger.errors()
    return Built(network, bytes(plan), list(inputs), [f"out{index}" for index in range(len(outputs))], kept)


def relu(dtype: torch.dtype = torch.float32, shape: Sequence[int] = (2, 3)) -> Built:
    """``relu(x)``, static."""
    trt = load()
    return build({"x": (dtype, shape)}, lambda net, x: [net.add_activation(x, trt.ActivationType.RELU).get_output(0)])


def affine(profiles: Sequence[Mapping[str, Bounds]] | None = None) -> Built:
    """``x @ w + y`` and ``relu(x)`` for x [n, 4], w [4, 3] (ones), y [3]; n is dynamic."""
    trt = load()

    def define(network: Any, x: Any, y: Any, *, kept: list[Any]) -> list[Any]:
        weights = numpy.ones((4, 3), numpy.float32)
        kept.append(weights)
        w = network.add_constant((4, 3), trt.Weights(weights)).get_output(0)
        none = trt.MatrixOperation.NONE
        product = network.add_matrix_multiply(x, none, w, none).get_output(0)
        row = network.add_shuffle(y)
        row.reshape_dims = (1, 3)
        total = network.add_elementwise(product, row.get_output(0), trt.ElementWiseOperation.SUM).get_output(0)
        return [total, network.add_activation(x, trt.ActivationType.RELU).get_output(0)]

    return build(
        {"x": (torch.float32, (-1, 4)), "y": (torch.float32, (3,))},
        define,
        profiles or [{"x": ((1, 4), (8, 4), (64, 4))}],
    )


def affine_reference(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.sum(1, keepdim=True) + y, x.relu()


def reshaped() -> Built:
    """``x.reshape(shape)`` for x [n] and a shape input of two values."""

    def define(network: Any, x: Any, shape: Any) -> list[Any]:
        layer = network.add_shuffle(x)
        layer.set_input(1, shape)
        return [layer.get_output(0)]

    return build(
        {"x": (torch.float32, (-1,)), "shape": (torch.int64, (2,))},
        define,
        [{"x": ((1,), (12,), (48,))}],
        [{"shape": ((1, 1), (3, 4), (4, 12))}],
    )


def add(dtype: torch.dtype, shape: Sequence[int] = (2, 3)) -> Built:
    """``x + y`` of two tensors of the same static shape."""
    operation = load().ElementWiseOperation.SUM
    return build(
        {"x": (dtype, shape), "y": (dtype, shape)},
        lambda net, x, y: [net.add_elementwise(x, y, operation).get_output(0)],
    )


def negated(shape: Sequence[int] = (2, 3)) -> Built:
    """``~x`` for booleans."""
    operation = load().UnaryOperation.NOT
    return build({"x": (torch.bool, shape)}, lambda net, x: [net.add_unary(x, operation).get_output(0)])


def summed() -> Built:
    """``x.sum(0)`` and ``relu(x)`` for x [n, 4], n from 0."""
    trt = load()

    def define(network: Any, x: Any) -> list[Any]:
        total = network.add_reduce(x, trt.ReduceOperation.SUM, 1, False).get_output(0)
        return [total, network.add_activation(x, trt.ActivationType.RELU).get_output(0)]

    return build({"x": (torch.float32, (-1, 4))}, define, [{"x": ((0, 4), (8, 4), (64, 4))}])


def deep(layers: int = 24, width: int = 256) -> Built:
    """Matrix products and ReLUs in a row, for runs that take long enough to overlap; x [n, width]."""
    trt = load()

    def define(network: Any, x: Any, *, kept: list[Any]) -> list[Any]:
        none = trt.MatrixOperation.NONE
        for index in range(layers):
            weights = (numpy.eye(width) + (index % 3) * 0.001).astype(numpy.float32)
            kept.append(weights)
            w = network.add_constant((width, width), trt.Weights(weights)).get_output(0)
            product = network.add_matrix_multiply(x, none, w, none).get_output(0)
            x = network.add_activation(product, trt.ActivationType.RELU).get_output(0)
        return [x]

    return build({"x": (torch.float32, (-1, width))}, define, [{"x": ((1, width), (512, width), (4096, width))}])


def deep_reference(x: torch.Tensor, layers: int = 24) -> torch.Tensor:
    width = x.shape[-1]
    for index in range(layers):
        x = (x @ (torch.eye(width, device=x.device) + (index % 3) * 0.001)).relu()
    return x


def prefix() -> Built:
    """``x[:n]`` for x [12] and a size n from 0 to 12, a 0-d shape input."""

    def define(network: Any, x: Any, n: Any) -> list[Any]:
        size = network.add_shuffle(n)
        size.reshape_dims = (1,)
        layer = network.add_slice(x, (0,), (0,), (1,))
        layer.set_input(2, size.get_output(0))
        return [layer.get_output(0)]

    return build(
        {"x": (torch.float32, (12,)), "n": (torch.int64, ())},
        define,
        [{}],
        [{"n": ((0,), (4,), (12,))}],
    )

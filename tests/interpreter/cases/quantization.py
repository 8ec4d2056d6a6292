from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.interpreter.case import LayerCase, Net, grid, name, rand

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
RANGES = {"INT8": (-128, 127), "INT4": (-8, 7)}


def _spread(scale: Tensor, axis: int, shape: Any) -> Tensor:
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.dim() == 1:
        return scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    for a, (n, m) in enumerate(zip(shape, scale.shape, strict=True)):
        scale = scale.repeat_interleave(n // m, a)
    return scale


def _quantized(x: Tensor, kind: str) -> Tensor:
    if kind == "FP8":
        return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return x.round().clamp(*RANGES[kind])


def cases() -> Iterator[LayerCase]:
    def round_trip(kind: str, scale: Tensor, axis: int | None) -> Any:
        def made(net: Net, x: Any) -> Any:
            q = net.network.add_quantize(x, net.const(scale), net.dtype(kind))
            d = net.network.add_dequantize(q.get_output(0), net.const(scale), x.dtype)
            if axis is not None:
                q.axis = d.axis = axis
            return d

        return made

    for kind, dtype in product(("INT8", "FP8"), FLOATS):
        scale = torch.tensor(0.05 if kind == "INT8" else 0.01, dtype=dtype)
        x = torch.cat(
            (
                rand(4, 16, low=-8, high=8),
                torch.tensor([[0.025, 0.075, -0.125, 0.0, 6.4, -6.4, 100, -100]]).repeat(4, 2),
            ),
            1,
        )
        yield LayerCase(
            name("quantize", kind, dtype),
            round_trip(kind, scale, None),
            {"x": x.to(dtype)},
            lambda x, kind=kind, scale=scale: (_quantized((x * (1 / scale)).float(), kind) * scale.float()).to(x.dtype),
            # Less than one step of the quantized type.
            tolerance=(4e-3, 1e-3),
        )
    ties = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -128.5, 300.0])
    yield LayerCase(
        "quantize-ties",
        round_trip("INT8", torch.tensor(1.0), None),
        {"x": ties},
        lambda x: x.round().clamp(-128, 127),
    )
    for kind in ("INT8", "FP8"):
        yield LayerCase(
            name("quantize-raw", kind),
            lambda net, x, kind=kind: net.network.add_quantize(x, net.const(torch.tensor(0.1)), net.dtype(kind)),
            {"x": rand(4, 32, low=-20, high=20)},
            lambda x, kind=kind: _quantized(x / 0.1, kind).to(torch.int8 if kind == "INT8" else torch.float8_e4m3fn),
        )
        raw = rand(4, 32, low=-120, high=120).to(torch.int8 if kind == "INT8" else torch.float8_e4m3fn)
        yield LayerCase(
            name("dequantize-input", kind),
            lambda net, x: net.network.add_dequantize(x, net.const(torch.tensor(0.1)), net.dtype(torch.float32)),
            {"x": raw},
            lambda x: x.float() * 0.1,
        )
    # Weights per axis and per block: constants, as TensorRT wants them.
    weight = rand(8, 32, low=-4, high=4, seed=1)
    for kind, axis in product(("INT8", "FP8", "INT4"), (0, 1)):
        # Scales of few bits: a dequantized weight is then exact in TF32.
        scale = grid(weight.shape[axis], low=0.0625, high=0.1875, step=0.015625, seed=2)

        def build(net: Net, x: Any, kind: str = kind, scale: Tensor = scale, axis: int = axis) -> Any:
            q = net.network.add_quantize(net.const(weight), net.const(scale), net.dtype(kind))
            d = net.network.add_dequantize(q.get_output(0), net.const(scale), net.dtype(torch.float32))
            q.axis = d.axis = axis
            return net.network.add_matrix_multiply(
                x, net.trt.MatrixOperation.NONE, d.get_output(0), net.trt.MatrixOperation.TRANSPOSE
            )

        def reference(x: Tensor, kind: str = kind, scale: Tensor = scale, axis: int = axis) -> Tensor:
            s = _spread(scale, axis, weight.shape)
            return x @ (_quantized(weight / s, kind) * s).T

        yield LayerCase(name("quantize-axis", kind, axis), build, {"x": grid(4, 32)}, reference)
    packed = torch.randint(0, 256, (8, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(1)
    four = {"INT4": torch.where(codes > 7, codes.int() - 16, codes.int()).float()}
    table = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    four["FP4"] = torch.where(codes > 7, -1.0, 1.0) * table[(codes & 7).long()]
    for kind, dtype in product(four, (torch.float32, torch.float16)):
        for blocks in ((8, 2), (8, 8)) if kind == "INT4" else ((8, 8),):
            scale = grid(*blocks, low=0.0625, high=0.1875, step=0.015625, seed=3, dtype=dtype)

            def build4(net: Net, x: Any, kind: str = kind, scale: Tensor = scale) -> Any:
                constant = net.network.add_constant((8, 128), net.weights(packed, kind, 8 * 128)).get_output(0)
                d = net.network.add_dequantize(constant, net.const(scale), x.dtype)
                return net.network.add_matrix_multiply(
                    x, net.trt.MatrixOperation.NONE, d.get_output(0), net.trt.MatrixOperation.TRANSPOSE
                )

            def reference4(x: Tensor, kind: str = kind, scale: Tensor = scale) -> Tensor:
                weight = (four[kind] * _spread(scale, 0, (8, 128)).float()).to(x.dtype)
                return (x.float() @ weight.float().T).to(x.dtype)

            yield LayerCase(
                name("dequantize-block", kind, blocks, dtype),
                build4,
                {"x": grid(4, 128, dtype=dtype)},
                reference4,
                capability=10 if kind == "FP4" else 8,
            )
    for label, kind, scale_kind, width in (("nvfp4", "FP4", "FP8", 16), ("mxfp8", "FP8", "E8M0", 32)):

        def dynamic(net: Net, x: Any, kind: str = kind, scale_kind: str = scale_kind, width: int = width) -> Any:
            layer = net.network.add_dynamic_quantize(x, 1, width, net.dtype(kind), net.dtype(scale_kind))
            if kind == "FP4":
                double = net.const(torch.tensor(0.01))
                layer.set_input(1, double)
                scale = net.network.add_dequantize(layer.get_output(1), double, net.dtype(torch.float32)).get_output(0)
            else:
                scale = layer.get_output(1)
            return net.network.add_dequantize(layer.get_output(0), scale, net.dtype(torch.float32))

        yield LayerCase(
            name("dynamic-quantize", label),
            dynamic,
            {"x": rand(4, 64)},
            capability=10,
            tolerance=(0.3, 0.3),
            reference=lambda x: x,
        )

"""Layers that TensorRT may not join: `apart` of a declaration puts one that changes nothing between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from engine.conversion import emit_network
from engine.settings import CompilationSettings
from tests.conversion.plans import layers, plan_tile
from tests.conversion.segments import interpret, layer_names
from tests.graph.build import mirror_of

PRODUCT = "trt.matrix_multiply(x, w, op1=TRANSPOSE)"
BIAS = "trt.shuffle(b, reshape=[1, 3])"
IN_HALF, BIAS_IN_HALF = (f"trt.cast({what}, to_type=f16)" for what in (PRODUCT, BIAS))
WITH_BIAS = f"trt.elementwise({PRODUCT}, {BIAS}, op=SUM)"


def emitted(product: str, activation: str, last: str) -> tuple[list[str], Any]:
    """Names of the layers of three nodes, each a tile of its own, and the network."""

    def model(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.relu(functional.linear(x, w, b)) * v

    mirror = mirror_of(model, [torch.randn(2, 4), torch.randn(3, 4), torch.randn(3), torch.randn(2, 3)])
    x, w, b, v = mirror.placeholders
    linear, relu, product_of = (node for node in mirror.graph.nodes if node.op == "call_function")
    tiles = [
        plan_tile(mirror, linear, product, x=x, w=w, b=b),
        plan_tile(mirror, relu, activation, x=linear),
        plan_tile(mirror, product_of, last, x=relu, v=v),
    ]
    inputs = tuple(map(mirror.value, (x, w, b, v)))
    read = tuple(value for value in inputs if any(value in tile.operands() for tile in tiles))
    built = emit_network(mirror, tiles, read, [mirror.value(product_of)], {}, CompilationSettings())
    names = [name.rsplit("/", 1)[-1].split("#")[0] for name in layer_names(built)]
    return [name for name in names if f"trt.{name}" in layers()], built


@pytest.mark.parametrize("kind", ["RELU", "GELU_ERF", "GELU_TANH"])
@pytest.mark.parametrize("last", ["trt.elementwise(x, v, op=PROD)", "trt.elementwise(v, x, op=PROD)"])
def test_an_activation_of_a_biased_product_is_not_multiplied_at_once(kind: str, last: str) -> None:
    names, _ = emitted(WITH_BIAS, f"trt.activation(x, type={kind})", last)
    assert names[-3:] == ["activation", "elementwise", "elementwise"]


@pytest.mark.parametrize(
    "product",
    [
        f"trt.elementwise({PRODUCT}, {BIAS}, op=SUB)",
        f"trt.elementwise({BIAS}, {PRODUCT}, op=SUM)",
        f"trt.cast(trt.elementwise({IN_HALF}, {BIAS_IN_HALF}, op=SUM), to_type=f32)",
    ],
)
def test_however_the_bias_is_added(product: str) -> None:
    names, _ = emitted(product, "trt.activation(x, type=RELU)", "trt.elementwise(x, v, op=PROD)")
    assert names[-3:] == ["activation", "elementwise", "elementwise"]


def test_what_is_between_changes_nothing() -> None:
    _, built = emitted(WITH_BIAS, "trt.activation(x, type=RELU)", "trt.elementwise(x, v, op=PROD)")
    x, w, b, v = torch.randn(2, 4), torch.randn(3, 4), torch.randn(3), torch.randn(2, 3)
    (result,) = interpret(built, x, w, b, v)
    torch.testing.assert_close(result, torch.relu(functional.linear(x, w, b)) * v)


@pytest.mark.parametrize(
    ("product", "activation", "last"),
    [
        (PRODUCT, "trt.activation(x, type=RELU)", "trt.elementwise(x, v, op=PROD)"),
        (WITH_BIAS, "trt.activation(x, type=TANH)", "trt.elementwise(x, v, op=PROD)"),
        (WITH_BIAS, "trt.activation(x, type=RELU)", "trt.elementwise(x, v, op=SUM)"),
        (WITH_BIAS, "trt.unary(x, op=ABS)", "trt.elementwise(x, v, op=PROD)"),
    ],
)
def test_other_layers_follow_one_another_at_once(product: str, activation: str, last: str) -> None:
    names, _ = emitted(product, activation, last)
    assert names[-2:] == [activation.split("(")[0].removeprefix("trt."), "elementwise"]
    assert names.count("elementwise") == ("SUM" in product) + 1

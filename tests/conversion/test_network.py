"""Networks: names, addresses in errors, inputs and outputs, profiles, weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from engine.builder import build
from engine.conversion import emit_network
from engine.errors import ConversionError
from engine.graph.mirror import Mirror, Value
from engine.settings import CompilationSettings
from tests.conversion.plans import plan_tile
from tests.conversion.segments import emit, interpret, layer_names, ranges
from tests.graph.build import find, mirror_of

N = Dim("n", min=2, max=9)
SETTINGS = CompilationSettings()


def chain(mirror: Mirror) -> list[Any]:
    """Tiles for ``relu(x + 1)``."""
    add, relu = find(mirror, "aten.add.Tensor"), find(mirror, "aten.relu.default")
    x = mirror.placeholders[0]
    return [
        plan_tile(mirror, add, "trt.elementwise(x, full(1.0, x), op=SUM)", x=x),
        plan_tile(mirror, relu, "trt.activation(x, type=RELU)", x=add),
    ]


class ReluOfSum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + 1)


def test_layers_lead_back_to_rules_and_model_lines() -> None:
    mirror = mirror_of(ReluOfSum(), (torch.zeros(2, 3),))
    out = mirror.value(mirror.graph.output_node().args[0][0])
    built = emit_network(mirror, chain(mirror), [Value(mirror.placeholders[0])], [out], {}, SETTINGS, name="engine_3")
    assert layer_names(built) == list(built.layer_names)
    assert built.layer_names[1].startswith("sample.sample/add/elementwise")
    metadata = json.loads(built.network.get_layer(1).metadata)
    assert metadata["rule"] == "sample.sample"
    assert metadata["where"].startswith("sample.rules:1:")
    assert metadata["node"] == "add"
    assert metadata["source"].endswith(f"test_network.py:{ReluOfSum.forward.__code__.co_firstlineno + 1}")
    assert built.network.name == "engine_3"


def test_layers_of_one_place_in_a_rule_have_different_names() -> None:
    built = emit(
        lambda x, y: torch.cat([x.relu(), y.relu()]),
        (torch.zeros(2), torch.zeros(3)),
        "trt.concatenation([trt.activation(t, type=RELU) for t in [x, y]], axis=0)",
    )
    assert len(set(layer_names(built))) == 3


@pytest.mark.parametrize(
    ("function", "text", "message"),
    [
        (lambda x: x + 1, "trt.unary(x, op=ISNAN)", "TensorRT infers torch.bool, but the graph says torch.float32"),
        (lambda x: x[:, 1:], "trt.unary(x, op=ABS)", r"TensorRT infers shape \[2, 3\], but the graph says \[2, 2\]"),
        (lambda x: x + 1, "trt.elementwise(x, scalar(1.0, f32), op=SUM)", "mismatched inputs"),
        (
            lambda x: x + 1,
            "trt.elementwise(x, full(1, trt.cast(x, to_type=i64)), op=SUM)",
            "must have same input types",
        ),
        (lambda x: x + 1, "trt.softmax(x, axes=[0, 1])", "isSingleDimension"),
    ],
)
def test_a_refused_tile_is_named_with_both_addresses(function: Callable[..., Any], text: str, message: str) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        emit(function, (torch.zeros(2, 3),), text)
    error: Any = caught.value
    assert error.rule.id == "sample.sample"
    assert error.node.name in str(error)
    assert "sample.rules:1" in str(error)
    assert ", from " in str(error)


def test_an_input_that_cannot_be_is_blamed_on_its_reader() -> None:
    with pytest.raises(ConversionError, match="TensorRT has no float64 tensors") as caught:
        emit(lambda x: x + 0, (torch.zeros(2, 3, dtype=torch.float64),), "x")
    assert caught.value.node.name == "add"  # type: ignore[attr-defined]


def test_outputs_that_are_inputs_constants_or_twice_the_same() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = torch.relu(x + 1)
            return y, x + 0, self.table * 1, y * 1

    mirror = mirror_of(Module(), (torch.zeros(2, 3),))
    add, relu = find(mirror, "aten.add.Tensor"), find(mirror, "aten.relu.default")
    outputs = [mirror.value(node) for node in mirror.graph.output_node().args[0]]
    x = mirror.placeholders[0]
    tiles = [
        plan_tile(mirror, add, "trt.elementwise(x, full(1.0, x), op=SUM)", x=x),
        plan_tile(mirror, relu, "trt.activation(x, type=RELU)", x=add),
        plan_tile(mirror, outputs[1].node, "x", x=x),
        plan_tile(mirror, outputs[3].node, "y", y=relu),
    ]
    built = emit_network(mirror, tiles, [Value(x)], outputs, {}, SETTINGS)
    assert built.output_names == ("output0", "output1", "output2", "output3")
    assert build(built)
    value = torch.randn(2, 3)
    got = interpret(built, value)
    for tensor, expected in zip(
        got, (torch.relu(value + 1), value, torch.arange(3.0), torch.relu(value + 1)), strict=True
    ):
        torch.testing.assert_close(tensor, expected)


def test_an_input_may_have_the_name_of_an_output() -> None:
    class Module(nn.Module):
        def forward(self, output0: torch.Tensor) -> torch.Tensor:
            return output0 + 1

    mirror = mirror_of(Module(), (torch.zeros(2),))
    x, root = mirror.placeholders[0], find(mirror, "aten.add.Tensor")
    tile = plan_tile(mirror, root, "trt.elementwise(x, full(1.0, x), op=SUM)", x=x)
    built = emit_network(mirror, [tile], [Value(x)], [Value(root)], {}, SETTINGS)
    assert len({*built.input_names, *built.output_names}) == 2


def test_profiles_follow_expressions_of_symbols() -> None:
    mirror = mirror_of(lambda x: torch.cat([x, x, x[:1]]) + 1, (torch.zeros(4, 3),), ({0: N},))
    cat, add = find(mirror, "aten.cat.default"), find(mirror, "aten.add.Tensor")
    tile = plan_tile(mirror, add, "trt.elementwise(x, full(1.0, x), op=SUM)", x=cat)
    symbol = next(iter(mirror.shape_of(mirror.placeholders[0])[0].free_symbols))
    built = emit_network(mirror, [tile], [Value(cat)], [Value(add)], {symbol: (2, 3, 9)}, SETTINGS)
    low, best, high = built.profile.get_shape("cat")
    assert [tuple(low), tuple(best), tuple(high)] == [(5, 3), (7, 3), (19, 3)]
    assert built.input_specs[0].shape == (2 * symbol + 1, 3)
    assert build(built)


def test_a_static_network_has_no_profile() -> None:
    assert emit(lambda x: x + 1, (torch.zeros(2),), "trt.elementwise(x, full(1.0, x), op=SUM)").profile is None


def test_weights_are_pointers_and_equal_constants_are_one_layer() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight) @ self.weight + (x @ self.weight.t())

    module = Module()
    mirror = mirror_of(module, (torch.zeros(2, 3, dtype=torch.bfloat16),))
    root = mirror.value(mirror.graph.output_node().args[0][0])
    weight = next(node for node in mirror.graph.nodes if node.op == "get_attr")
    transposed = next(
        node for node in mirror.graph.nodes if mirror.op(node).startswith(("aten.t.", "aten.permute", "aten.transpose"))
    )
    text = "trt.elementwise(trt.matrix_multiply(trt.matrix_multiply(x, w), w), trt.matrix_multiply(x, v), op=SUM)"
    tile = plan_tile(mirror, root.node, text, x=mirror.placeholders[0], w=weight, v=transposed)
    built = emit_network(mirror, [tile], [Value(mirror.placeholders[0])], [root], {}, SETTINGS)
    constants = [name for name in layer_names(built) if name.startswith("constants/")]
    assert len(constants) == 2  # the weight, and its transpose, which is not contiguous
    pointers = {tensor.data_ptr() for tensor in built.weights.tensors}
    assert module.weight.data_ptr() in pointers
    x = torch.randn(2, 3, dtype=torch.bfloat16)
    torch.testing.assert_close(interpret(built, x)[0], module(x).detach(), rtol=0.05, atol=0.05)
    assert build(built)


def test_large_constants_of_one_number_are_not_stored() -> None:
    built = emit(
        lambda x: x + torch.full((64, 64), 2.0),
        (torch.zeros(64, 64),),
        "trt.elementwise(x, filled(2.0, [64, 64], f32), op=SUM)",
    )
    assert built.weights.nbytes <= 8
    torch.testing.assert_close(interpret(built, torch.zeros(64, 64))[0], torch.full((64, 64), 2.0))


def test_constants_may_have_run_time_shapes_and_numbers() -> None:
    built = emit(
        lambda x: x + x.shape[0],
        (torch.zeros(4, 3),),
        "trt.elementwise(x, filled(dim(x, 0), [dim(x, 0), 3], f32), op=SUM)",
        ({0: N},),
    )
    torch.testing.assert_close(interpret(built, torch.zeros(5, 3))[0], torch.full((5, 3), 5.0))
    assert build(built)


def test_empty_and_odd_constants() -> None:
    built = emit(
        lambda x: torch.cat([x, torch.zeros(0, 3)]),
        (torch.zeros(2, 3),),
        "trt.concatenation([x, filled(0.0, [0, 3], f32)], axis=0)",
    )
    assert build(built)
    assert interpret(built, torch.ones(2, 3))[0].tolist() == [[1.0] * 3] * 2


def test_unused_optional_slots_stay_empty_and_runtime_k_works() -> None:
    built = emit(
        lambda x: torch.topk(x, x.shape[0] - 1, 1),
        (torch.zeros(4, 12),),
        "trt.topk(x, op=MAX, k=dim(x, 0) - 1, axes=[1])",
        ({0: Dim("n", min=3, max=9)},),
    )
    x = torch.randn(5, 12)
    values, indices = interpret(built, x)
    expected = torch.topk(x, 4, 1)
    torch.testing.assert_close(values, expected.values)
    assert indices.tolist() == expected.indices.tolist()
    assert build(built)


def test_ranges_are_bounded_even_when_nothing_bounds_them() -> None:
    mirror = mirror_of(lambda x: torch.nonzero(x) + 1, (torch.zeros(2, 3),))
    source, root = find(mirror, "aten.nonzero.default"), find(mirror, "aten.add.Tensor")
    tile = plan_tile(mirror, root, "trt.elementwise(x, full(1, x), op=SUM)", x=source)
    built = emit_network(mirror, [tile], [Value(source)], [Value(root)], ranges(mirror), SETTINGS)
    low, best, high = built.profile.get_shape("nonzero")
    assert low[0] <= best[0] <= high[0] < 1 << 31
    assert build(built)

"""What TensorRT does not take is an error of the layer that was told it, and every attribute is read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import engine
from engine.conversion import scope
from engine.conversion.call_log import Said
from engine.conversion.emitter import TileRejected
from engine.conversion.network import empty_network
from engine.conversion.readback import lost, same
from engine.conversion.scope import NetworkScope, Rejected
from engine.dsl.bindings import Bindings
from engine.settings import CompilationSettings
from engine.tensorrt import load
from tests.conversion.plans import layers
from tests.conversion.segments import emit
from tests.conversion.test_layers import CASES, KERNEL, f16, f32, ints, present, to

ATTENTION = (f32(2, 4, 6, 16), f32(2, 4, 6, 16), f32(2, 4, 6, 16), f32(1, 1, 6, 6) > -1)


def attention(x: Any, y: Any, z: Any, u: Any) -> Any:
    return F.scaled_dot_product_attention(x, y, z, u, scale=1.0)


def layer_norm(x: Any, y: Any, z: Any) -> Any:
    return F.layer_norm(x, (8,), y.reshape(8), z.reshape(8))


# Each is told something that its layer does not take; what TensorRT says of it.
DROPPED: dict[str, tuple[Any, tuple[torch.Tensor, ...], str, str]] = {
    "attention_mask": (attention, ATTENTION, "trt.attention(x, y, z, u, causal=true, decomposable=true)", "mask"),
    "attention_v2_mask": (
        attention,
        ATTENTION,
        "trt.attention_v2(x, y, z, u, causal_kind=UPPER_LEFT, decomposable=true)",
        "mask",
    ),
    "attention_quantize": (
        attention,
        ATTENTION,
        "trt.attention(x, y, z, u, normalization_quantize_to_type=f32, decomposable=true)",
        "uantiz",
    ),
    "activation_alpha": (F.elu, (f32(2, 3),), "trt.activation(x, type=ELU, alpha=inf)", "alpha"),
    "activation_beta": (F.elu, (f32(2, 3),), "trt.activation(x, type=ELU, alpha=0.5, beta=-inf)", "beta"),
    "softmax_axes": (lambda x: x.softmax(1), (f32(2, 3, 4),), "trt.softmax(x, axes=[0, 1])", "axes"),
    "topk_indices": (
        lambda x: torch.topk(x, 3, 1),
        (f32(3, 8),),
        "trt.topk(x, op=MAX, k=3, axes=[1], indices_type=f32)",
        "isIndexType",
    ),
    "concatenation_axis": (
        lambda x, y: torch.cat([x, y], 1),
        (f32(2, 3), f32(2, 3)),
        "trt.concatenation([x, y], axis=9)",
        "axis",
    ),
    "pooling_padding": (
        lambda x: F.avg_pool2d(x, 2),
        (f32(1, 2, 4, 4),),
        "trt.pooling(x, type=AVERAGE, window=[2, 2], pre_padding=[-1, 0])",
        "setPrePadding",
    ),
    "lrn_window": (
        lambda x: F.local_response_norm(x, 3),
        (f32(2, 6, 3, 3),),
        "trt.lrn(x, window=40, alpha=0.01, beta=0.75, k=1.5)",
        "windowSize",
    ),
    "convolution_groups": (
        lambda x, y: F.conv2d(x, y, groups=2),
        (f32(2, 4, 9, 9), KERNEL),
        "trt.convolution_dynamic(x, y, groups=-2)",
        "nbGroups",
    ),
    "gather_batch_dims": (
        lambda x, y: x[:, y],
        (f32(4, 5, 6), ints(5, 2, 3)),
        "trt.gather(x, y, axis=1, batch_dims=5)",
        "num_elementwise_dims",
    ),
    "normalization_groups": (
        layer_norm,
        (f32(2, 3, 8), f32(1, 1, 8), f32(1, 1, 8)),
        "trt.normalization(x, y, z, axes=[2], epsilon=0.001, num_groups=-3)",
        "nbGroups",
    ),
    "one_hot_axis": (
        lambda x: F.one_hot(x, 4),
        (ints(4, 2, 3),),
        "trt.one_hot(x, tensor([0, 1], i64), 4, axis=11)",
        "axis",
    ),
}


@pytest.mark.parametrize("case", sorted(DROPPED))
def test_what_a_layer_drops_is_an_error_of_its_rule(case: str) -> None:
    function, inputs, text, says = DROPPED[case]
    name = text.split("(", 1)[0]
    if not present(layers()[name]):
        pytest.skip("not in the installed TensorRT")
    with pytest.raises(TileRejected, match=says) as caught:
        emit(function, inputs, text)
    assert f"{name} at sample.rules:1" in str(caught.value)
    assert "rule sample.sample" in str(caught.value)
    assert f"node {caught.value.node.name}" in str(caught.value)
    assert caught.value.rule.id == "sample.sample"


# Attributes that none of the layers in CASES is told.
MORE: dict[str, tuple[Any, tuple[torch.Tensor, ...], str]] = {
    "activation": (F.elu, (f32(2, 3),), "trt.activation(x, type=SELU, alpha=1.6732, beta=1.0507)"),
    "scale": (lambda x: x * 2, (f32(1, 2, 4),), "trt.scale(x, none, none, none, mode=UNIFORM, channel_axis=1)"),
    "quantize": (
        lambda x: to(x, torch.int8),
        (f32(4, 8),),
        "trt.quantize(x, tensor([0.1, 0.2, 0.3, 0.4], f32), to_type=i8, axis=0)",
    ),
    "random": (
        lambda x: x * 2,
        (f32(3),),
        "trt.fill(scalar(0.0, f32), scalar(1.0, f32), shape=[3], op=RANDOM_UNIFORM)",
    ),
    "attention": (attention, ATTENTION, "trt.attention(x, y, z, u, norm_op=SOFTMAX, decomposable=true)"),
    "rotary": (
        lambda x, y, z: x * 1,
        (f16(2, 4, 6, 16), f16(2, 6, 4), f16(2, 6, 4)),
        "trt.rotary_embedding(x, y, z, interleaved=true, dim=8)",
    ),
}
# What needs numbers in formats that a network of these tests has no tensors for.
NOT_TOLD = {
    ("trt.attention", "normalization_quantize_to_type"),
    ("trt.dequantize", "block_shape"),
    ("trt.dynamic_quantize", "axis"),
    ("trt.dynamic_quantize", "block_size"),
    ("trt.dynamic_quantize", "scale_type"),
    ("trt.dynamic_quantize", "to_type"),
    ("trt.nms", "topk_box_limit"),
    ("trt.nms", "bounding_box_format"),
    ("trt.nms", "indices_type"),
    ("trt.non_zero", "indices_type"),
    ("trt.quantize", "block_shape"),
}


def test_every_attribute_of_every_layer_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[tuple[str, str]] = set()

    def noting(layer: Any, said: Any) -> str | None:
        said = list(said)
        read.update((type(layer).__name__, item.name) for item in said if not item.call)
        return lost(layer, said)

    monkeypatch.setattr(scope, "lost", noting)
    said: dict[str, set[str]] = {}
    for function, inputs, text in [*MORE.values(), *CASES.values()]:
        name = "trt.fill" if "trt.fill" in text else text.split("(", 1)[0]
        words = {parameter.name for parameter in layers()[name].parameters if f"{parameter.name}=" in text}
        # Once more only where it says something that was not said before: most of the time goes into the capture.
        if present(layers()[name]) and (name not in said or words - said[name]):
            emit(function, inputs, text)
            said.setdefault(name, set()).update(words)
    bindings = Bindings(load())
    classes = {
        name: bindings.methods(layer.via.function.name)[0].returns for name, layer in layers().items() if present(layer)
    }
    missing = {
        (name, parameter.name)
        for name, kind in classes.items()
        for parameter in layers()[name].parameters
        if parameter.attribute
        and hasattr(getattr(load(), kind), parameter.property or parameter.name)
        and (kind, parameter.property or parameter.name) not in read
    }
    assert missing <= NOT_TOLD, missing - NOT_TOLD


def test_floats_are_compared_as_float32_and_lists_by_element() -> None:
    trt = load()
    assert same(0.1, 0.10000000149011612)
    assert same(1e-50, 0.0)
    assert not same(0.0, -0.0)
    assert not same(0.1, 0.2)
    assert not same(1e39, 0.0)
    assert same(float("nan"), float("nan"))
    assert same((1, 2), trt.Dims((1, 2)))
    assert not same((1, 2), trt.Dims((1, 2, 3)))
    assert same((1, 0), trt.Permutation([1, 0, 0, 0, 0, 0, 0, 0]))
    assert not same((1, 0), trt.Permutation([0, 1, 0, 0, 0, 0, 0, 0]))
    assert same([1.0, 2.5], [1.0, 2.5])
    assert not same([1.0, 2.5], None)
    assert not same(trt.PoolingType.MAX, trt.PoolingType.AVERAGE)
    assert not same(True, False)


def test_a_layer_that_keeps_another_value_without_a_word_is_noticed() -> None:
    trt = load()
    built = empty_network("sample", CompilationSettings())
    x = built.network.add_input("x", trt.float32, (1, 2, 4, 4))
    layer = built.network.add_activation(x, trt.ActivationType.ELU)
    layer.alpha = 0.25
    assert lost(layer, [Said(False, "alpha", 0.25)]) is None
    assert lost(layer, [Said(False, "alpha", 0.5), Said(False, "alpha", 0.25)]) is None  # the last word counts
    assert lost(layer, [Said(False, "alpha", 0.5)]) == "IActivationLayer did not keep alpha=0.5: it has 0.25"
    shuffle = built.network.add_shuffle(x)
    assert lost(shuffle, [Said(True, "set_input", [0, x])]) is None
    assert "as its input 0" in str(lost(shuffle, [Said(True, "set_input", [0, layer.get_output(0)])]))


def test_inputs_that_are_set_later_are_listened_to() -> None:
    trt = load()
    built = empty_network("sample", CompilationSettings())
    network = NetworkScope(built.network, built.logger)
    x = built.network.add_input("x", trt.float32, (2,))
    loop = built.network.add_loop()
    states: list[Any] = []
    network.add("add_recurrence", (x,), "state", then=states.append, owner=loop)
    with pytest.raises(Rejected, match="setInput"):
        network.tell(states[0], lambda layer: layer.set_input(3, x))
    network.tell(states[0], lambda layer: layer.set_input(1, x))


def test_an_error_in_the_log_while_an_output_is_read_is_an_error_of_the_layer() -> None:
    trt = load()
    built = empty_network("sample", CompilationSettings())
    network = NetworkScope(built.network, built.logger)
    x = built.network.add_input("x", trt.float32, (2, 3))
    layer = network.add("add_shuffle", (x,), "turned", then=lambda made: setattr(made, "first_transpose", (0, 0)))
    with pytest.raises(Rejected, match="first_transpose"):
        network.output(layer)


MASKED = """
convert masked_and_causal
  match aten.scaled_dot_product_attention(q: tensor[_, _, _, _], k, v, mask: tensor, 0.0, false, scale=_)
  emit  trt.attention(product(q, full(0.25, q)), k, v, mask, causal=true, decomposable=true)
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_rule_whose_layer_drops_a_mask_gives_way(device: str, tmp_path: Any) -> None:
    path = tmp_path / "masked.rules"
    path.write_text(MASKED)
    q, k, v, mask = (x.to(device) for x in ATTENTION)

    class Attention(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
            return F.scaled_dot_product_attention(q, k, v, mask)

    compiled = engine.compile(Attention(), (q, k, v, mask), rules=[path], min_block_size=1)
    (refusal,) = compiled.report.refusals
    assert "masked.masked_and_causal" in refusal.reason
    assert "setMask" in refusal.reason
    assert compiled.report.coverage == 1.0
    torch.testing.assert_close(compiled(q, k, v, mask), Attention()(q, k, v, mask), rtol=1e-2, atol=1e-2)

"""The layer catalogue against the installed TensorRT, and every layer emitted, built and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.builder import build
from engine.builder.builder import EngineRefused
from engine.conversion import emit_network
from engine.graph.mirror import Value
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities, load
from tests.conversion.plans import layers, plan_tile
from tests.conversion.segments import emit, interpret
from tests.graph.build import mirror_of

# What no rule may use: containers of other layers, obsolete forms, plugins, and layers that need several GPUs
# or setters that a declaration cannot express.
OUTSIDE = {
    "add_assertion",
    "add_constant",
    "add_dist_collective",
    "add_dynamic_quantize_v2",
    "add_if_conditional",
    "add_input",
    "add_loop",
    "add_moe",
    "add_padding_nd",
    "add_plugin",
    "add_plugin_v2",
    "add_plugin_v3",
    "add_scale",
}


def present(layer: Any) -> bool:
    return bool(layer.since is None or layer.since <= capabilities().version) and hasattr(
        load().INetworkDefinition, layer.via.function.name
    )


def test_every_layer_of_the_network_is_declared_or_left_out_on_purpose() -> None:
    methods = {name for name in dir(load().INetworkDefinition) if name.startswith("add_")}
    declared = {layer.via.function.name for layer in layers().values()}
    assert methods - declared - OUTSIDE == set()


@pytest.mark.parametrize("name", sorted(layers()))
def test_enums_exist(name: str) -> None:
    layer = layers()[name]
    if not present(layer):
        pytest.skip("not in the installed TensorRT")
    for parameter in layer.parameters:
        for kind in parameter.type.names:
            if kind[0].isupper():
                members = getattr(load(), kind).__members__
                if parameter.default is not None:
                    assert parameter.default.name in members


def f32(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def f16(*shape: int) -> torch.Tensor:
    return f32(*shape).half()


def ints(high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(7), dtype=dtype)


KERNEL = f32(6, 2, 3, 3)
BIAS = f32(6)
DECONV = f32(4, 3, 3, 3)


def conv(x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, KERNEL, BIAS, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)


def to(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.ops.aten._to_copy.default(x, dtype=dtype)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, a * s + b * c], -1)


CASES: dict[str, tuple[Any, tuple[torch.Tensor, ...], str]] = {
    "convolution": (
        lambda x, y, z: F.conv2d(x, y, z, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        (f32(2, 4, 9, 9), KERNEL, BIAS),
        "trt.convolution_dynamic(x, y, z, stride=[2, 1], pre_padding=[1, 0], post_padding=[1, 0], dilation=[1, 2], "
        "groups=2)",
    ),
    "deconvolution": (
        lambda x, y: F.conv_transpose2d(x, y, stride=2, padding=1, output_padding=1, groups=2),
        (f32(2, 4, 5, 5), DECONV),
        "trt.deconvolution_dynamic(x, y, stride=[2, 2], pre_padding=[1, 1], post_padding=[0, 0], groups=2)",
    ),
    "pooling": (
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        (f32(2, 4, 8, 8),),
        "trt.pooling(x, type=MAX, window=[3, 3], stride=[2, 2], pre_padding=[1, 1], post_padding=[1, 1], "
        "padding_mode=EXPLICIT_ROUND_UP)",
    ),
    "pooling_average": (
        lambda x: F.avg_pool3d(x, 2, 1, 1),
        (f32(1, 2, 4, 4, 4),),
        "trt.pooling(x, type=AVERAGE, window=[2, 2, 2], stride=[1, 1, 1], pre_padding=[1, 1, 1], "
        "post_padding=[1, 1, 1], average_count_excludes_padding=false)",
    ),
    "elementwise": (lambda x, y: x + y, (f32(2, 3), f32(1, 3)), "trt.elementwise(x, y, op=SUM)"),
    "elementwise_bool": (lambda x, y: x < y, (f32(2, 3), f32(2, 3)), "trt.elementwise(x, y, op=LESS)"),
    "elementwise_full": (lambda x: x * 2.5, (f16(2, 3),), "trt.elementwise(x, full(2.5, x), op=PROD)"),
    "unary": (lambda x: x.exp(), (f32(2, 3),), "trt.unary(x, op=EXP)"),
    "unary_bool": (lambda x: torch.isnan(x), (f32(2, 3),), "trt.unary(x, op=ISNAN)"),
    "activation": (
        lambda x: F.elu(x, 0.5),
        (f32(2, 3),),
        "trt.activation(x, type=ELU, alpha=0.5)",
    ),
    "parametric_relu": (
        lambda x, y: torch.where(x > 0, x, x * y),
        (f32(2, 3, 4), f32(1, 3, 1)),
        "trt.parametric_relu(x, y)",
    ),
    "select": (
        lambda x, y, z: torch.where(x, y, z),
        (f32(2, 1) > 0, f32(2, 3), f32(1, 3)),
        "trt.select(x, y, z)",
    ),
    "cast": (lambda x: to(x, torch.int64), (f32(2, 3) * 4,), "trt.cast(x, to_type=i64)"),
    "cast_u8": (lambda x: to(x, torch.uint8), (ints(9, 2, 3),), "trt.cast(x, to_type=u8)"),
    "identity": (lambda x: x.clone(), (f32(2, 3),), "trt.identity(x)"),
    "shuffle": (
        lambda x: x.permute(2, 0, 1).reshape(4, 6).transpose(0, 1),
        (f32(2, 3, 4),),
        "trt.shuffle(x, first_transpose=[2, 0, 1], reshape=[4, 6], second_transpose=[1, 0])",
    ),
    "slice": (lambda x: x[1:, 1:7:2], (f32(3, 8),), "trt.slice(x, start=[1, 1], shape=[2, 3], stride=[1, 2])"),
    "slice_axes": (lambda x: x[:, 1:7:2], (f32(3, 8),), "trt.slice(x, start=[1], shape=[3], stride=[2], axes=[1])"),
    "slice_fill": (
        lambda x: F.pad(x, (1, 2), value=3.0),
        (f32(3, 4),),
        "trt.slice(x, scalar(3.0, f32), start=[0, -1], shape=[3, 7], stride=[1, 1], mode=FILL)",
    ),
    "slice_expand": (lambda x: x.expand(3, 5), (f32(3, 1),), "trt.slice(x, start=[0, 0], shape=[3, 5], stride=[1, 0])"),
    "concatenation": (lambda x, y: torch.cat([x, y], 1), (f32(2, 3), f32(2, 1)), "trt.concatenation([x, y], axis=1)"),
    "squeeze": (lambda x: x.squeeze((1, 3)), (f32(2, 1, 3, 1),), "trt.squeeze(x, [1, 3])"),
    "unsqueeze": (lambda x: x[None, :, None], (f32(2, 3),), "trt.unsqueeze(x, [0, 2])"),
    "fill": (
        lambda x: torch.arange(2, 12, 3) + x,
        (ints(5, 1),),
        "trt.elementwise(trt.fill(scalar(2, i64), tensor([3], i64), shape=[4], op=LINSPACE, to_type=i64), x, op=SUM)",
    ),
    "resize": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        (f32(1, 2, 4, 4),),
        "trt.resize(x, shape=[1, 2, 8, 8], resize_mode=LINEAR, coordinate_transformation=HALF_PIXEL)",
    ),
    "resize_scales": (
        lambda x: F.interpolate(x, scale_factor=2.5, mode="nearest"),
        (f32(1, 2, 4, 4),),
        "trt.resize(x, scales=[1.0, 1.0, 2.5, 2.5], resize_mode=NEAREST)",
    ),
    "gather": (lambda x, y: x[:, y], (f32(4, 5, 6), ints(5, 2, 3)), "trt.gather(x, y, axis=1)"),
    "gather_elements": (
        lambda x, y: torch.gather(x, 1, y),
        (f32(4, 5), ints(5, 4, 2)),
        "trt.gather_v2(x, y, mode=ELEMENT, axis=1)",
    ),
    "gather_nd": (
        lambda x, y: x[y[:, 0], y[:, 1]],
        (f32(4, 5, 6), ints(4, 7, 2)),
        "trt.gather_v2(x, y, mode=ND)",
    ),
    "scatter": (
        lambda x, y, z: x.scatter(1, y, z),
        (f32(3, 4), torch.tensor([[0, 2], [1, 3], [3, 0]]), f32(3, 2)),
        "trt.scatter(x, y, z, mode=ELEMENT, axis=1)",
    ),
    "scatter_nd": (
        lambda x, y, z: x.index_put((y[:, 0],), z),
        (f32(5, 4), torch.tensor([[3], [1]]), f32(2, 4)),
        "trt.scatter(x, y, z, mode=ND)",
    ),
    "one_hot": (
        lambda x: F.one_hot(x, 4),
        (ints(4, 2, 3),),
        "trt.one_hot(x, tensor([0, 1], i64), 4, axis=2)",
    ),
    "grid_sample": (
        lambda x, y: F.grid_sample(x, y, align_corners=False),
        (f32(2, 3, 4, 4), f32(2, 5, 6, 2).tanh()),
        "trt.grid_sample(x, y, sample_mode=FILL)",
    ),
    "reduce": (
        lambda x: x.sum((0, 2), keepdim=True),
        (f32(2, 3, 4),),
        "trt.reduce(x, op=SUM, axes=[0, 2], keep_dims=true)",
    ),
    "reduce_all": (lambda x: x.amax(), (f32(2, 3),), "trt.reduce(x, op=MAX, axes=[0, 1])"),
    "topk": (
        lambda x: torch.topk(x, 3, 1, largest=False),
        (f32(3, 8),),
        "trt.topk(x, op=MIN, k=3, axes=[1])",
    ),
    "cumulative": (lambda x: x.cumsum(1), (f32(3, 4),), "trt.cumulative(x, 1)"),
    "softmax": (lambda x: x.softmax(1), (f32(2, 3, 4),), "trt.softmax(x, axes=[1])"),
    "lrn": (
        lambda x: F.local_response_norm(x, 3, 1e-2, 0.75, 1.5),
        (f32(2, 6, 3, 3),),
        "trt.lrn(x, window=3, alpha=0.01, beta=0.75, k=1.5)",
    ),
    "normalization": (
        lambda x, y, z: F.layer_norm(x, (8,), y.reshape(8), z.reshape(8), 1e-3),
        (f32(2, 3, 8), f32(1, 1, 8), f32(1, 1, 8)),
        "trt.normalization(x, y, z, axes=[2], epsilon=0.001)",
    ),
    "normalization_group": (
        lambda x, y, z: F.group_norm(x, 2, y.reshape(4), z.reshape(4)),
        (f32(2, 4, 5, 5), f32(1, 4, 1, 1), f32(1, 4, 1, 1)),
        "trt.normalization(x, y, z, axes=[2, 3], epsilon=0.00001, num_groups=2)",
    ),
    "normalization_v1": (
        lambda x, y, z: F.instance_norm(x) * y + z,
        (f32(2, 4, 5, 5), f32(1, 4, 1, 1), f32(1, 4, 1, 1)),
        "trt.normalization_v1(x, y, z, axes=[2, 3], epsilon=0.00001)",
    ),
    "matrix_multiply": (
        lambda x, y: x @ y.transpose(1, 2),
        (f32(2, 3, 4), f32(1, 5, 4)),
        "trt.matrix_multiply(x, y, op1=TRANSPOSE)",
    ),
    "matrix_vector": (lambda x, y: x @ y, (f32(3, 4), f32(4)), "trt.matrix_multiply(x, y, op1=VECTOR)"),
    "einsum": (
        lambda x, y: torch.einsum("bij,bjk->bki", x, y),
        (f32(2, 3, 4), f32(2, 4, 5)),
        'trt.einsum([x, y], equation="bij,bjk->bki")',
    ),
    "attention": (
        lambda x, y, z: F.scaled_dot_product_attention(x, y, z, scale=1.0),
        (f32(2, 4, 6, 16) / 4, f32(2, 4, 5, 16), f32(2, 4, 5, 16)),
        "trt.attention(x, y, z, decomposable=true)",
    ),
    "attention_mask": (
        lambda x, y, z, u: F.scaled_dot_product_attention(x, y, z, u, scale=1.0),
        (f32(2, 4, 6, 16) / 4, f32(2, 4, 5, 16), f32(2, 4, 5, 16), f32(1, 1, 6, 5) > -1),
        "trt.attention(x, y, z, u, decomposable=true)",
    ),
    "attention_v2": (
        lambda x, y, z: F.scaled_dot_product_attention(x, y, z, is_causal=True, scale=1.0),
        (f32(2, 4, 6, 16) / 4, f32(2, 4, 6, 16), f32(2, 4, 6, 16)),
        "trt.attention_v2(x, y, z, causal_kind=UPPER_LEFT, decomposable=true)",
    ),
    "rotary_embedding": (rope, (f16(2, 4, 6, 16), f16(2, 6, 8), f16(2, 6, 8)), "trt.rotary_embedding(x, y, z)"),
    "quantize": (
        lambda x: to(torch.clamp((x / 0.05).round(), -128, 127), torch.int8),
        (f32(4, 8),),
        "trt.quantize(x, scalar(0.05, f32), to_type=i8)",
    ),
    "dequantize": (
        lambda x, y: to(x, torch.float32) * y[:, None],
        (ints(100, 1, 8, dtype=torch.int8), f32(1).abs()),
        "trt.dequantize(x, y, to_type=f32, axis=0)",
    ),
    "reverse_sequence": (
        lambda x, y: torch.stack([x[0].flip(0), x[1]]) + 0 * y[:, None],
        (f32(2, 3), torch.tensor([3, 1])),
        "trt.reverse_sequence(x, y, batch_axis=0, sequence_axis=1)",
    ),
    "ragged_softmax": (
        lambda x, y: torch.softmax(x, 2) * (y > 0),
        (f32(1, 4, 7), torch.full((1, 4, 1), 7, dtype=torch.int32)),
        "trt.ragged_softmax(x, y)",
    ),
    "kv_cache_update": (
        lambda x, y, z: x + 0 * y.sum() + 0 * z.sum(),
        (f32(2, 4, 8, 16), f32(2, 4, 1, 16), torch.tensor([0, 3], dtype=torch.int32)),
        "trt.kv_cache_update(x, y, z)",
    ),
}
# The function has the right shape only: PyTorch has no such operation of one node.
SHAPE_ONLY = {"kv_cache_update"}
QUANTISED = {"quantize", "dequantize"}
# Quantised values may differ by one step.
TOLERANCE = {"quantize": 1.0, "rotary_embedding": 0.02}


@pytest.mark.parametrize("case", sorted(CASES))
def test_layer_is_emitted_built_and_right(case: str) -> None:
    function, inputs, text = CASES[case]
    name = text.split("(", 1)[0] if case != "fill" else "trt.fill"
    if not present(layers()[name]):
        pytest.skip("not in the installed TensorRT")
    if case in QUANTISED and capabilities().version < (11, 0) and not torch.cuda.is_available():
        pytest.skip("before 11.0 TensorRT asks the GPU before it builds quantised layers")
    built = emit(function, inputs, text)
    given = [inputs[int(binding.removeprefix("inputs_"))] for binding in built.input_names]
    assert len(build(built)) > 0
    if case in SHAPE_ONLY:
        return
    expected = function(*inputs)
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    tolerance = TOLERANCE.get(case, 1e-4 if expected[0].dtype == torch.float32 else 1e-2)
    for got, wanted in zip(interpret(built, *given), expected, strict=True):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["convolution", "deconvolution"])
def test_constant_kernels_are_weights(name: str) -> None:
    if name == "convolution":
        function: Any = conv
        text = (
            "trt.convolution(x, w, b, stride=[2, 1], pre_padding=[1, 0], post_padding=[1, 0], dilation=[1, 2], "
            "groups=2)"
        )
    else:

        def function(x: torch.Tensor) -> torch.Tensor:
            return F.conv_transpose2d(x, DECONV, BIAS, stride=2, padding=1, groups=2)

        text = "trt.deconvolution(x, w, b, stride=[2, 2], pre_padding=[1, 1], post_padding=[1, 1], groups=2)"
    x = f32(2, 4, 9, 9)
    mirror = mirror_of(function, (x,))
    root = mirror.graph.output_node().args[0][0]
    values = mirror.inputs(root)
    tile = plan_tile(mirror, root, text, x=values[0], w=values[1], b=values[2])
    built = emit_network(mirror, [tile], [values[0]], [Value(root, 0)], {}, CompilationSettings())
    assert built.network.num_layers == 1
    torch.testing.assert_close(interpret(built, x)[0], function(x), rtol=1e-4, atol=1e-4)


def test_data_dependent_layers_build_only_where_they_can() -> None:
    text = "trt.shuffle(trt.non_zero(x), first_transpose=[1, 0], reshape=shape(result))"
    built = emit(torch.nonzero, (f32(2, 3) > 0,), text)
    if not capabilities().rtx:
        assert build(built)
        return
    with pytest.raises(EngineRefused, match="non_zero") as caught:
        build(built)
    assert [name.split("/")[2].split("@")[0] for name in caught.value.failed_layers] == ["non_zero"]

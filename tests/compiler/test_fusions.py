"""Written-out forms in modules of public libraries, and the layers they become.

Each module is compiled to a real engine and run by the interpreter, in float32 and in float16.
"""

import pytest
import torch
from torch import nn

import engine
from tests.comparison import assert_agrees
from tests.layers import layer_kinds
from tests.models import declare_torchvision_operators

declare_torchvision_operators()

import transformers  # noqa: E402
from timm.layers.activations import hard_sigmoid, hard_swish  # noqa: E402
from timm.models.levit import LinearNorm  # noqa: E402
from timm.models.swin_transformer import SwinTransformerBlock  # noqa: E402
from timm.models.swin_transformer_v2 import SwinTransformerV2Block  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402
from transformers.models.bloom.modeling_bloom import BloomGelu  # noqa: E402
from transformers.models.cohere.modeling_cohere import CohereLayerNorm  # noqa: E402
from transformers.models.deberta.modeling_deberta import DebertaLayerNorm  # noqa: E402
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaRMSNorm  # noqa: E402
from transformers.models.t5.modeling_t5 import T5LayerNorm  # noqa: E402


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attention(nn.Module):
    """As textbooks write it: the scale divides, the softmax is wide, and dropout does nothing."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(16, 48)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, mask):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / (c // self.heads) ** 0.5 + mask
        weights = self.dropout(scores.float().softmax(-1).type_as(scores))
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


def _norm(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


_RMS = {"normalization.rms_norm_scaled", "normalization.rms_norm"}

FORMS = {
    "gelu_new": (ACT2FN["gelu_new"], {"activation.gelu_tanh"}),
    "gelu_fast": (ACT2FN["gelu_fast"], {"activation.gelu_tanh_factored"}),
    "gelu_python": (ACT2FN["gelu_python"], {"activation.gelu_erf"}),
    "bloom": (BloomGelu(), {"activation.gelu_tanh_factored"}),
    "hard_sigmoid": (Function(hard_sigmoid), {"activation.hardsigmoid_written"}),
    "hard_swish": (Function(hard_swish), {"activation.hardsigmoid_written"}),
    "hard_swish_divided_last": (
        Function(lambda x: x * nn.functional.relu6(x + 3) / 6),
        {"activation.hardswish_written"},
    ),
    "deberta": (_norm(DebertaLayerNorm(16)), {"normalization.layer_norm_divided"}),
    "cohere": (_norm(CohereLayerNorm(16)), {"normalization.layer_norm_multiplied", "normalization.layer_norm_scaled"}),
    "llama": (_norm(LlamaRMSNorm(16)), {"normalization.rms_norm_written", *_RMS}),
    "gemma": (_norm(GemmaRMSNorm(16)), {"normalization.rms_norm_written", *_RMS}),
    "t5": (_norm(T5LayerNorm(16)), _RMS),
    "rms_norm_of_squares": (
        Function(lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)),
        {"normalization.rms_norm_written"},
    ),
    "levit": (_norm(LinearNorm(16, 16)), {"normalization.linear_bn_flat"}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
@pytest.mark.parametrize("name", FORMS)
def test_written_form_is_its_layer(name, dtype):
    module, rules = FORMS[name]
    module = module.eval().to(dtype)
    x = torch.randn(2, 5, 16).to(dtype)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    compiled = engine.compile(Function(module).eval(), (x,), dynamic_shapes={"x": batch}, runtime="interpreter")
    assert compiled.report.coverage == 1.0
    assert rules <= set(compiled.report.rules_used)
    for size in (1, 2, 8):
        x = torch.randn(size, 5, 16).to(dtype)
        assert_agrees(compiled, module, x, tolerance=1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
def test_textbook_attention_is_one_layer(dtype):
    module = Attention(2).eval().to(dtype)
    length = torch.export.Dim("length", min=2, max=16)

    def inputs(size):
        mask = torch.zeros(size, size).masked_fill(torch.ones(size, size).triu(1).bool(), torch.finfo(dtype).min)
        return torch.randn(2, size, 16).to(dtype), mask.to(dtype)

    compiled = engine.compile(
        module, inputs(6), dynamic_shapes={"x": {1: length}, "mask": {0: length, 1: length}}, runtime="interpreter"
    )
    used = compiled.report.rules_used
    assert used["attention.written"] == used["attention.fused_attention"] == 1
    for size in (2, 6, 16):
        assert_agrees(compiled, module, *inputs(size), tolerance=1e-5 if dtype == torch.float32 else 4e-3)


_SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}

MODELS = {
    "Falcon": ("FalconModel", _SIZES, {"attention.written"}),
    "MPNet": ("MPNetModel", _SIZES | {"intermediate_size": 48}, {"attention.written"}),
    "CodeGen": (
        "CodeGenModel",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4},
        {"attention.written"},
    ),
    "Bloom": ("BloomModel", {"vocab_size": 64, "hidden_size": 32, "n_layer": 1, "n_head": 4},
              {"attention.written_in_batches"}),
    "DebertaV2": ("DebertaV2Model",
                  _SIZES | {"intermediate_size": 48, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                            "position_buckets": 8},
                  {"attention.written_in_batches"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_a_model_is_one_layer(name):
    model, sizes, rules = MODELS[name]
    config = getattr(transformers, f"{name}Config")(attn_implementation="eager", **sizes)
    config.use_cache = False
    module = getattr(transformers, model)(config).eval()
    shape = {0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("length", min=2, max=24)}
    tokens = torch.randint(2, 64, (2, 8))
    compiled = engine.compile(
        module, kwargs={"input_ids": tokens}, dynamic_shapes={"input_ids": shape}, runtime="interpreter"
    )
    assert compiled.report.coverage == 1.0
    assert rules <= set(compiled.report.rules_used)
    assert layer_kinds(compiled)["ATTENTION"] == 1
    for size in ((1, 2), (4, 24)):
        assert_agrees(compiled, module, input_ids=torch.randint(2, 64, size), tolerance=1e-4)


@pytest.mark.parametrize(
    ("block", "rules"),
    [
        (SwinTransformerBlock, {"attention.written_in_windows"}),
        (SwinTransformerV2Block, {"attention.written"}),
    ],
    ids=["swin", "swin-v2"],
)
def test_attention_in_windows_is_one_layer(block, rules):
    # Only the windows of a shifted block have masks; those of V2 do not become a layer.
    shift = 2 if block is SwinTransformerBlock else 0
    module = _norm(block(16, (8, 8), num_heads=2, window_size=4, shift_size=shift)).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=4)}
    x = torch.randn(2, 8, 8, 16)
    compiled = engine.compile(module, (x,), dynamic_shapes={"x": batch}, runtime="interpreter")
    assert compiled.report.coverage == 1.0
    assert rules <= set(compiled.report.rules_used)
    assert layer_kinds(compiled)["ATTENTION"] == 1
    for size in (1, 4):
        assert_agrees(compiled, module, torch.randn(size, 8, 8, 16), tolerance=1e-4)


class Filled(nn.Module):
    """Attention as minGPT writes it."""

    def __init__(self, fill):
        super().__init__()
        self.fill = fill

    def forward(self, q, k, v, mask):
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        return scores.masked_fill(mask, self.fill).softmax(-1) @ v


@pytest.mark.parametrize("fill", [float("-inf"), torch.finfo(torch.float32).min], ids=["infinity", "least"])
def test_filled_scores_are_a_mask(fill):
    length = torch.export.Dim("length", min=2, max=16)

    def inputs(n):
        return (*torch.randn(3, 2, 4, n, 8), torch.ones(n, n).triu(1).bool())

    dims = {name: {2: length} for name in "qkv"} | {"mask": {0: length, 1: length}}
    compiled = engine.compile(
        Filled(fill).eval(), inputs(6), dynamic_shapes=dims, runtime="interpreter", min_block_size=1
    )
    assert compiled.report.rules_used["attention.written"] == 1
    assert layer_kinds(compiled)["ATTENTION"] == 1
    for n in (2, 16):
        assert_agrees(compiled, Filled(fill), *inputs(n), tolerance=1e-5)
    if fill != float("-inf"):
        # A row of nothing but the least number weighs all keys alike; as a mask of bools it would give zeros.
        q, k, v, _ = inputs(6)
        assert_agrees(compiled, Filled(fill), q, k, v, torch.ones(6, 6).bool(), tolerance=1e-5)


def test_filled_scores_in_half_precision_stay_written_out():
    module = Filled(torch.finfo(torch.float16).min).eval()
    inputs = (*torch.randn(3, 2, 4, 6, 8).half(), torch.ones(6, 6).bool())
    compiled = engine.compile(module, inputs, runtime="interpreter", min_block_size=1)
    assert layer_kinds(compiled)["ATTENTION"] == 0
    assert_agrees(compiled, module, *inputs, tolerance=2e-3)


class WeightOnly(nn.Module):
    """A linear layer as torchao's ``Int8WeightOnlyConfig`` exports it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (24, 16)).to(torch.int8))
        self.register_buffer("scale", torch.rand(24, 1) / 100)

    def forward(self, x):
        y = torch.mm(x.reshape(-1, x.shape[-1]), self.weight.t().to(x.dtype)) * self.scale.to(x.dtype).view(-1)
        return y.reshape(*x.shape[:-1], -1).relu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
def test_int8_weights_reach_tensorrt(dtype):
    module = WeightOnly().eval()
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    x = torch.randn(2, 5, 16).to(dtype)
    compiled = engine.compile(module, (x,), dynamic_shapes={"x": batch}, runtime="interpreter", min_block_size=1)
    assert compiled.report.coverage == 1.0
    assert compiled.report.rules_used["quantization.linear_of_int8"] == 1
    assert layer_kinds(compiled)["DEQUANTIZE"] == 1
    for size in (1, 8):
        x = torch.randn(size, 5, 16).to(dtype)
        assert_agrees(compiled, module, x, tolerance=1e-5 if dtype == torch.float32 else 2e-3)


class Quantized(nn.Module):
    """A convolution and a linear layer as PT2E writes them: int8 weights, and activations with zero point ``zero``."""

    def __init__(self, per_channel, zero):
        super().__init__()
        self.per_channel, self.zero = per_channel, zero
        for name, layer in (("conv", nn.Conv2d(8, 16, 3, padding=1)), ("linear", nn.Linear(16, 8))):
            weight = layer.weight.detach()
            channels = weight.abs().flatten(1).amax(1) / 127
            scale = channels if per_channel else channels.amax()
            broad = scale.view(-1, *[1] * (weight.dim() - 1)) if per_channel else scale
            self.register_buffer(f"{name}_weight", (weight / broad).round().clamp(-127, 127).to(torch.int8))
            self.register_buffer(f"{name}_scale", scale)
            self.register_buffer(f"{name}_zero", torch.zeros(len(channels), dtype=torch.int64))
            self.register_buffer(f"{name}_bias", layer.bias.detach())
            setattr(self, f"{name}_number", float(channels.amax()))

    def _activation(self, x, scale):
        ops = torch.ops.quantized_decomposed
        how = (scale, self.zero, -128, 127, torch.int8)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *how), *how)

    def _weight(self, name):
        ops = torch.ops.quantized_decomposed
        weight = getattr(self, f"{name}_weight")
        if self.per_channel:
            scales, zeros = getattr(self, f"{name}_scale"), getattr(self, f"{name}_zero")
            return ops.dequantize_per_channel(weight, scales, zeros, 0, -127, 127, torch.int8)
        return ops.dequantize_per_tensor(weight, getattr(self, f"{name}_number"), 0, -127, 127, torch.int8)

    def forward(self, x):
        x = torch.conv2d(self._activation(x, 0.03), self._weight("conv"), self.conv_bias, padding=1).relu()
        x = self._activation(x.mean((2, 3)), 0.01)
        return nn.functional.linear(x, self._weight("linear"), self.linear_bias)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("zero", [0, 3])
def test_quantized_model_is_one_engine(per_channel, zero):
    pytest.importorskip("torch.ao.quantization.fx._decomposed")
    module = Quantized(per_channel, zero).eval()
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    compiled = engine.compile(module, (torch.randn(2, 8, 10, 10),), dynamic_shapes={"x": batch}, runtime="interpreter")
    used = compiled.report.rules_used
    assert compiled.report.coverage == 1.0
    assert compiled.report.refusals == []
    # The operands of the linear layer reach TensorRT in int8, whatever the zero point; those of the convolution are
    # rounded as floats, and its kernel is kept.
    assert used["quantization.rounded"] == 2
    assert used["quantization.linear_of_codes"] == used["quantization.quantize"] == 1
    assert used.get("quantization.dequantize_channels", 0) == (2 if per_channel else 0)
    assert used["quantization.dequantize"] == (1 if per_channel else 3)
    for size in (1, 8):
        assert_agrees(compiled, module, torch.randn(size, 8, 10, 10), tolerance=1e-4)


class TwoMemories(nn.Module):
    """One query for two sets of keys and values, as IP-Adapter has it."""

    def forward(self, q, k, v):
        attend = nn.functional.scaled_dot_product_attention
        return attend(q, k, v) + attend(q, k.sin(), v * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_layers_that_share_a_query(dtype):
    inputs = [torch.randn(2, 3, length, 16, dtype=dtype) for length in (5, 7, 7)]
    compiled = engine.compile(TwoMemories(), inputs, require_full_compilation=True, runtime="interpreter")
    assert layer_kinds(compiled)["ATTENTION"] == 2
    assert_agrees(compiled, TwoMemories(), *inputs, tolerance=1e-5 if dtype == torch.float32 else 2e-2)

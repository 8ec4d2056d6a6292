"""Written-out forms in modules of public libraries, and the layers they become.

Each module is compiled to a real engine and run by the interpreter, in float32 and in float16.
"""

import pytest
import torch
from torch import nn

import engine
from tests.comparison import assert_agrees
from tests.models import declare_torchvision_operators

declare_torchvision_operators()

from timm.layers.activations import hard_sigmoid, hard_swish  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402
from transformers.models.bloom.modeling_bloom import BloomGelu  # noqa: E402
from transformers.models.cohere.modeling_cohere import CohereLayerNorm  # noqa: E402
from transformers.models.deberta.modeling_deberta import DebertaLayerNorm  # noqa: E402


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
    assert used["attention.written_divided_and_masked"] == used["attention.fused_attention"] == 1
    for size in (2, 6, 16):
        assert_agrees(compiled, module, *inputs(size), tolerance=1e-5 if dtype == torch.float32 else 4e-3)


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
    # The weight of the linear layer reaches TensorRT in int8; activations do where it has their form.
    assert used[f"quantization.linear_of_quantized{'' if per_channel else '_evenly'}"] == 1
    assert used.get("quantization.quantize", 0) == used.get("quantization.dequantize", 0) == (0 if zero else 2)
    assert used.get("quantization.quantized_and_back", 0) == (2 if zero else 0)
    for size in (1, 8):
        assert_agrees(compiled, module, torch.randn(size, 8, 10, 10), tolerance=1e-4)

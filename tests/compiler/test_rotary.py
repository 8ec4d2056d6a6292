"""Rotary embeddings of transformers' models, and the layers they become.

Each model is compiled to a real engine with dynamic batch and length, and run by the interpreter at both ends of them.
"""

import subprocess
import sys

import pytest
import torch
import torch.onnx.ops
from torch import nn

import engine
from engine.dsl.ruleset import RuleSet
from tests.comparison import assert_agrees
from tests.layers import layer_kinds
from tests.models import declare_torchvision_operators

declare_torchvision_operators()

import transformers  # noqa: E402

_SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
          "num_attention_heads": 4}  # fmt: skip
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4, "bos_token_id": 0,
        "eos_token_id": 1}  # fmt: skip

# Model, sizes, and the rules that its form needs.
FORMS = {
    "Llama": (_GROUPED, {"rotary.rotary_of_halves": 2}),
    "Phi": (_GROUPED, {"rotary.rotary_of_halves": 2, "rotary.rotary_of_part": 2}),
    "GPTNeoX": (_SIZES, {"rotary.rotary_of_halves": 2, "rotary.rotary_of_part": 2}),
    "GPTJ": (_OLD, {"rotary.rotary_of_pairs": 2, "rotary.rotary_of_part_permuted": 2}),
    "Glm": (
        _GROUPED | {"head_dim": 8, "pad_token_id": 0},
        {"rotary.rotary_of_pairs": 2, "rotary.rotary_of_part": 2},
    ),
    "Cohere": (_GROUPED | {"eos_token_id": 1}, {"rotary.rotary_of_angles_in_pairs": 2}),
    "Llama4": (_GROUPED | {"head_dim": 8, "num_local_experts": 2}, {"rotary.rotary_of_complex": 1}),
}


def _model(name: str) -> nn.Module:
    sizes, _ = FORMS[name]
    config = getattr(transformers, f"{name}{'Text' if name == 'Llama4' else ''}Config")(
        use_cache=False, attn_implementation="eager", **sizes
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.mark.parametrize("name", FORMS)
def test_rotary_embedding_is_one_layer(name):
    model = _model(name)
    shape = {0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("length", min=2, max=40)}
    tokens = torch.randint(2, 64, (2, 8))
    compiled = engine.compile(
        model, kwargs={"input_ids": tokens}, dynamic_shapes={"input_ids": shape}, runtime="interpreter"
    )
    assert compiled.report.coverage == 1.0
    assert compiled.report.refusals == []
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 2
    assert FORMS[name][1].items() <= compiled.report.rules_used.items()
    for size in ((1, 2), (3, 17), (4, 40)):
        assert_agrees(compiled, model, input_ids=torch.randint(2, 64, size), tolerance=1e-4)


class Halves(nn.Module):
    """Half a head's angles, twice: as transformers', in the dtype of ``x``; ``scale`` as of YaRN."""

    def __init__(self, size, scale):
        super().__init__()
        self.register_buffer("frequencies", 10000 ** (-torch.arange(0, size, 2) / size))
        self.scale = scale

    def forward(self, x, positions):
        angles = positions[:, :, None].float() * self.frequencies
        angles = torch.cat((angles, angles), -1)
        cos, sin = (angles.cos() * self.scale).to(x.dtype)[:, None], (angles.sin() * self.scale).to(x.dtype)[:, None]
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


@pytest.mark.parametrize(
    ("dtype", "size", "scale"),
    [(torch.float32, 6, 1.25), (torch.float16, 64, 1.0), (torch.bfloat16, 8, 1.25)],
    ids=["f32", "f16", "bf16"],
)
def test_positions_that_differ_between_sequences(dtype, size, scale):
    module = Halves(size, scale).eval()
    batch, length = torch.export.Dim("batch", min=1, max=4), torch.export.Dim("length", min=2, max=16)

    def inputs(b, n):
        return torch.randn(b, 3, n, size).to(dtype), torch.randint(0, 50, (b, n))

    compiled = engine.compile(
        module,
        inputs(2, 5),
        dynamic_shapes={"x": {0: batch, 2: length}, "positions": {0: batch, 1: length}},
        runtime="interpreter",
    )
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 1
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    for b, n in ((1, 2), (2, 5), (4, 16)):
        assert_agrees(compiled, module, *inputs(b, n), tolerance=tolerance)


def test_angles_that_are_not_twice_the_same_stay_written_out():
    class Whole(Halves):
        def forward(self, x, positions):
            angles = positions[:, :, None].float() * torch.cat((self.frequencies, self.frequencies + 1))
            half = x.shape[-1] // 2
            turned = torch.cat((-x[..., half:], x[..., :half]), -1)
            return x * angles.cos()[:, None] + turned * angles.sin()[:, None]

    module = Whole(8, 1.0).eval()
    inputs = (torch.randn(2, 3, 5, 8), torch.arange(10).view(2, 5))
    compiled = engine.compile(module, inputs, runtime="interpreter")
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 0
    assert_agrees(compiled, module, *inputs, tolerance=1e-5)


class Called(nn.Module):
    def forward(self, x, cos, sin, positions):
        return torch.onnx.ops.rotary_embedding(x, cos, sin, positions).tanh()


def test_pytorch_op_with_a_table_of_positions():
    inputs = (torch.randn(2, 3, 5, 8), torch.randn(20, 4), torch.randn(20, 4), torch.randint(0, 20, (2, 5)))
    compiled = engine.compile(Called().eval(), inputs, runtime="interpreter", min_block_size=1)
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 1
    assert_agrees(compiled, Called(), *inputs, tolerance=1e-5)


def test_without_the_layer_it_is_products():
    module, inputs = Halves(8, 1.0).eval(), (torch.randn(2, 3, 5, 8), torch.arange(10).view(2, 5))
    rules = RuleSet.load().without("rotary.rotary")
    compiled = engine.compile(module, inputs, rules=[rules], runtime="interpreter")
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 0
    assert compiled.report.rules_used["rotary.rotary_in_parts"] == 1
    assert_agrees(compiled, module, *inputs, tolerance=1e-5)


def test_another_process_finds_the_op_where_pytorch_runs_it(tmp_path):
    module, inputs = Halves(8, 1.0).eval(), (torch.randn(2, 3, 5, 8), torch.arange(10).view(2, 5))
    compiled = engine.compile(
        module, inputs, runtime="interpreter", min_block_size=1, torch_executed_ops={"onnx.RotaryEmbedding"}
    )
    assert layer_kinds(compiled)["ROTARY_EMBEDDING"] == 0
    assert_agrees(compiled, module, *inputs, tolerance=1e-5)
    path = tmp_path / "rotary.pt2"
    engine.save(compiled, path, program=True)
    code = f"""
import torch, engine
module = engine.load({str(path)!r}, runtime="interpreter")
print(tuple(module(torch.randn(2, 3, 5, 8), torch.arange(10).view(2, 5)).shape))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert ran.stdout.split("\n")[0] == "(2, 3, 5, 8)", ran.stderr

"""Mixtures of experts with any number of tokens: their rows are sorted by expert, of which TensorRT sorts few."""

import pytest
import torch
from torch import nn

import engine
from tests.models import declare_torchvision_operators

TEXT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
MODELS = {
    "Mixtral": {"num_local_experts": 4, "head_dim": 8},
    "Olmoe": {"num_experts": 5},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "GptOss": {"num_local_experts": 4, "head_dim": 8},
    "DeepseekV3": {
        "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16, "q_lora_rank": 8,
        "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 0,
    },
}  # fmt: skip
# One is enough each time.
SOME = [pytest.param(name, marks=() if name == "Mixtral" else pytest.mark.slow) for name in MODELS]


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


@pytest.mark.parametrize("name", SOME)
def test_a_dynamic_number_of_tokens(name):
    declare_torchvision_operators()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TEXT, **MODELS[name], max_position_embeddings=4096)
    model = Logits(getattr(transformers, f"{name}ForCausalLM")(config).eval())
    ids = engine.Input(min_shape=(1, 1), opt_shape=(2, 12), max_shape=(4, 4096), dtype=torch.int64)
    compiled = engine.compile(model, [ids], runtime="interpreter")
    assert compiled.report.fallbacks == []
    assert len(compiled.report.segments) == 1
    for shape in ((1, 1), (3, 5), (4, 31), (1, 2500)):
        tokens = torch.randint(3, 64, shape)
        torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-4, atol=1e-5)


class Chosen(nn.Module):
    def forward(self, scores):
        ids = scores.topk(2).indices.reshape(-1)
        return torch.sort(ids)


def test_places_of_one_expert_stay_in_order():
    scores = engine.Input(min_shape=(1, 6), opt_shape=(8, 6), max_shape=(50000, 6))
    compiled = engine.compile(Chosen(), [scores], runtime="interpreter", min_block_size=1)
    assert compiled.report.rules_used["experts.sort_of_choices"] == 1
    for rows in (1, 7, 4000):
        x = torch.randn(rows, 6)
        values, at = compiled(x)
        expected = torch.sort(x.topk(2).indices.reshape(-1), stable=True)
        assert torch.equal(values, expected.values)
        assert torch.equal(at, expected.indices)


class Ordered(nn.Module):
    def forward(self, x):
        return *torch.sort(x, dim=0, descending=True), x.argsort(0), x.topk(3, 0).values


def test_a_sort_of_sizes_on_both_sides_of_what_a_layer_returns():
    x = engine.Input(min_shape=(3, 2), opt_shape=(50, 2), max_shape=(8000, 2))
    compiled = engine.compile(Ordered(), [x], runtime="interpreter", min_block_size=1)
    assert compiled.report.fallbacks == []
    for rows in (3, 4, 3840, 3841):
        x = torch.randn(rows, 2)
        for found, want in zip(compiled(x), Ordered()(x), strict=True):
            assert torch.equal(found, want)

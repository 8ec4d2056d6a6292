"""Adapters of peft, merged and not, are part of the one engine of their model."""

import pytest
import torch
from torch import nn

import engine
from tests.comparison import assert_agrees
from tests.models import declare_torchvision_operators

declare_torchvision_operators()
peft = pytest.importorskip("peft")


def language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, intermediate_size=64, use_cache=False, **sizes)).eval()


def adapted(model, **options):
    """With adapters that do something: they start as zeros."""
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **options)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def tokens(length=9, batch=2):
    return {"input_ids": torch.randint(0, 128, (batch, length), generator=torch.Generator().manual_seed(length))}


def whole(model, kwargs, dynamic_shapes=None):
    compiled = engine.compile(model, (), kwargs, dynamic_shapes=dynamic_shapes, runtime="interpreter")
    assert compiled.report.coverage == 1.0
    assert [segment.backend for segment in compiled.report.segments] == ["tensorrt"]
    return compiled


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "target_modules": "all-linear"}])
def test_adapters_that_are_not_merged(options):
    model = adapted(language_model(), **{"target_modules": ["q_proj", "v_proj"], **options})
    assert_agrees(whole(model, tokens()), model, **tokens(), tolerance=1e-4)
    with torch.no_grad(), model.disable_adapter():
        without = model(**tokens()).logits
    assert not torch.allclose(without, model(**tokens()).logits, atol=1e-3)


def test_merged_adapters():
    model = adapted(language_model(), target_modules=["q_proj", "v_proj"])
    model.merge_adapter()
    assert_agrees(whole(model, tokens()), model, **tokens())
    merged = model.merge_and_unload()
    assert_agrees(whole(merged, tokens()), merged, **tokens())


def test_the_adapter_that_is_active_when_compiling():
    model = adapted(language_model(), target_modules=["q_proj"])
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False))
    model.set_adapter("other")
    compiled = whole(model, tokens())
    assert_agrees(compiled, model, **tokens())
    found = compiled(**tokens()).logits
    model.set_adapter("default")
    assert torch.equal(compiled(**tokens()).logits, found)


@pytest.mark.parametrize("by_input", [True, False])
def test_lengths(by_input):
    """``forward`` of such a model takes whatever it is given."""
    model = adapted(language_model(), target_modules=["q_proj", "v_proj"])
    if by_input:
        ids = engine.Input(min_shape=(1, 2), opt_shape=(2, 9), max_shape=(4, 32), dtype=torch.int64)
        compiled = whole(model, {"input_ids": ids})
    else:
        dims = {0: torch.export.Dim("batch", min=1, max=4), 1: torch.export.Dim("length", min=2, max=32)}
        compiled = whole(model, tokens(), {"input_ids": dims})
    for length, batch in [(2, 1), (13, 3), (32, 4)]:
        assert_agrees(compiled, model, **tokens(length, batch))


def test_other_adapters_by_refit():
    model = adapted(language_model(), target_modules=["q_proj", "v_proj"])
    compiled = engine.compile(model, (), tokens(), runtime="interpreter", immutable_weights=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    assert_agrees(engine.refit(compiled, model.state_dict()), model, **tokens())

import pytest
import torch
from torch.utils import _pytree as pytree

from engine.capture import Range, capture
from tests.models import CACHED, ZOO

NAMES = ["resnet50", "mobilenet_v3_large", "vit_b_16", "BertModel", "GPT2LMHeadModel", "LlamaForCausalLM", "ViTModel",
         "UNet2DConditionModel"]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *CACHED])
def test_models_are_captured_with_a_dynamic_batch(name):
    entry = {**ZOO, **CACHED}[name]
    built = entry.build("small")
    captured = capture(built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes)
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    module = captured.module()
    for batch in (1, 3):
        other = entry.build("small", batch=batch)
        with torch.no_grad():
            expected = built.model(*other.args, **other.kwargs)
            outputs = module(*captured.bind(other.args, other.kwargs))
        found = captured.signature().unflatten(outputs)
        assert type(found) is type(expected)
        for want, got in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
            torch.testing.assert_close(got, want)


def test_building_twice_gives_the_same_model():
    first, second = (ZOO["resnet50"].build("small") for _ in range(2))
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.args[0], second.args[0])


def test_key_value_caches_are_inputs_too():
    import copy

    built = CACHED["LlamaForCausalLM+cache"].build("small")
    with torch.no_grad():
        cache = built.model(**built.kwargs).past_key_values
    token = torch.tensor([[3], [5]])
    call = {"input_ids": token, "past_key_values": copy.deepcopy(cache)}
    captured = capture(built.model, kwargs=call)
    assert len(captured.input_names) == 5
    assert captured.input_names[0] == "input_ids"
    assert all("past_key_values" in name for name in captured.input_names[1:])
    with torch.no_grad():
        expected = built.model(input_ids=token, past_key_values=copy.deepcopy(cache))
        found = captured.signature().unflatten(captured.module()(*captured.bind((), call)))
    torch.testing.assert_close(found.logits, expected.logits)
    for want, got in zip(expected.past_key_values.layers, found.past_key_values.layers, strict=True):
        torch.testing.assert_close(got.keys, want.keys)
        torch.testing.assert_close(got.values, want.values)

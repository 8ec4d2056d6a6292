"""The models of public libraries: whole, in one engine, at every batch size they were compiled for."""

import pytest
import torch

import engine
from tests.comparison import assert_agrees
from tests.models import ZOO

NAMES = ["resnet50", "mobilenet_v3_large", "vit_b_16", "BertModel", "GPT2LMHeadModel", "LlamaForCausalLM", "ViTModel",
         "UNet2DConditionModel"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_model_is_one_engine_that_agrees_at_every_batch(name):
    built = ZOO[name].build("small")
    state = {key: value.clone() for key, value in built.model.state_dict().items()}
    compiled = engine.compile(
        built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes, runtime="interpreter"
    )
    report = compiled.report
    assert report.coverage == 1.0
    assert [segment.backend for segment in report.segments] == ["tensorrt"]
    assert report.fallbacks == []
    assert report.refusals == []
    assert report.nodes > 10
    assert sum(report.rules_used.values()) >= report.segments[0].tiles
    assert 0 < report.timings.own < report.timings.total
    assert {"rules", "export", "rewrite", "tile", "emit", "build", "assemble"} <= set(report.timings.phases)
    assert report.engine_bytes > 0

    for batch in (1, 2, 5, 8):
        inputs = ZOO[name].build("small", batch=batch)
        assert_agrees(compiled, built.model, *inputs.args, tolerance=1e-3, **inputs.kwargs)
    beyond = ZOO[name].build("small", batch=9)
    with pytest.raises(engine.EngineError, match=r"has size 9; its range is 1\.\.8"):
        compiled(*beyond.args, **beyond.kwargs)

    assert not built.model.training
    assert all(torch.equal(value, state[key]) for key, value in built.model.state_dict().items())

"""The models of public libraries: whole, in one engine, at every size that they were compiled for.

Where a model cannot be whole, ``LEFT`` says which node stays in PyTorch and why; today none does.
"""

import pytest
import torch
from torch.utils import _pytree as pytree

import engine
from tests.comparison import assert_agrees
from tests.models import WRITTEN_OUT, ZOO
from tests.zoo.request import MAX_BATCH

# Model -> (node, part of the reason) of every node that stays in PyTorch.
LEFT: dict[str, list[tuple[str, str]]] = {}

BATCHES = (1, 3, 2, MAX_BATCH, 5)

# Text models: torch.export takes seconds for them with dynamic lengths, and minutes for images of dynamic size.
TEXT = [
    "BertModel", "RobertaForSequenceClassification", "DistilBertModel", "GPT2LMHeadModel", "LlamaForCausalLM",
    "Qwen3ForCausalLM", "T5ForConditionalGeneration", "CLIPModel", "Wav2Vec2Model",
]  # fmt: skip
IN_CI = [*((name, "extent") for name in TEXT), *((name, "batch") for name in ZOO if name not in TEXT)]
REST = [
    *((name, "static") for name in ZOO),
    *((name, "extent") for name, entry in ZOO.items() if entry.extents and not entry.fixed and name not in TEXT),
]


def _check_report(name, compiled):
    report = compiled.report
    assert [(f.node, f.reason) for f in report.fallbacks if (f.node, "") not in LEFT.get(name, [])] == []
    assert report.coverage == 1.0
    assert [segment.backend for segment in report.segments] == ["tensorrt"]
    assert report.nodes > 10
    assert sum(report.rules_used.values()) >= report.segments[0].tiles
    assert 0 < report.timings.own < report.timings.total
    assert {"rules", "export", "rewrite", "tile", "emit", "build", "assemble"} <= set(report.timings.phases)
    assert report.engine_bytes > 0


def _compile_and_compare(entry, sizes, dtype=torch.float32, tolerance=1e-3):
    """Compile a model of the zoo and compare it with eager at all its sizes.

    Args:
        sizes: ``"static"``, ``"batch"`` or ``"extent"``: which dims one engine takes at several sizes.
    """
    dynamic = {"static": False, "batch": True, "extent": "extent"}[sizes]
    # The example is neither the least nor the greatest size.
    usual = entry.extents[2] if sizes == "extent" else None
    built = _in(dtype, entry.build("small", dynamic=dynamic, extent=usual))
    state = {key: value.clone() for key, value in built.model.state_dict().items()}
    compiled = engine.compile(
        built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes, runtime="interpreter"
    )
    _check_report(entry.name, compiled)
    extents = entry.extents if sizes == "extent" else (None,) * len(BATCHES)
    for batch, extent in zip(BATCHES, extents, strict=True) if dynamic else [(2, None)]:
        inputs = _in(dtype, entry.build("small", batch=batch, extent=extent))
        assert_agrees(compiled, built.model, *inputs.args, tolerance=tolerance, **inputs.kwargs)
    beyond = entry.build("small", batch=MAX_BATCH + 1, extent=usual)
    if dynamic and dtype == torch.float32:
        with pytest.raises(engine.EngineError, match=r"has size 9; its range is 1\.\.8"):
            compiled(*beyond.args, **beyond.kwargs)
    assert not built.model.training
    assert all(torch.equal(value, state[key]) for key, value in built.model.state_dict().items())
    return compiled.report


def _in(dtype, built):
    def moved(value):
        return value.to(dtype) if value.is_floating_point() else value

    args, kwargs = pytree.tree_map_only(torch.Tensor, moved, (built.args, built.kwargs))
    return built._replace(model=built.model.to(dtype), args=args, kwargs=kwargs)


@pytest.mark.parametrize(("name", "sizes"), IN_CI)
def test_model_is_one_engine_that_agrees(name, sizes):
    _compile_and_compare(ZOO[name], sizes)


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.fixed])
def test_model_of_one_size_says_so(name):
    entry = ZOO[name]
    built = entry.build("small", dynamic="extent")
    with pytest.raises(engine.EngineError) as error:
        engine.coverage(built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes)
    assert entry.fixed in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), REST)
def test_model_is_one_engine_of_other_sizes(name, sizes):
    _compile_and_compare(ZOO[name], sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_model_in_half_precision_is_one_engine(name):
    _compile_and_compare(ZOO[name], "batch", torch.float16, tolerance=3e-2)


@pytest.mark.parametrize(
    ("name", "rules", "sizes"),
    [
        ("BertModel+eager", {"attention.written": 2}, "batch"),
        ("LlamaForCausalLM+eager", {"attention.written": 2, "attention_operands.grouped": 2}, "batch"),
        pytest.param("GPT2LMHeadModel+eager", {"attention.written": 2}, "extent",
                     marks=pytest.mark.slow),
        pytest.param("Qwen3ForCausalLM+eager", {"attention.written": 2, "attention_operands.grouped": 2},
                     "extent", marks=pytest.mark.slow),
        pytest.param("T5ForConditionalGeneration+eager", {"attention.written": 6}, "extent",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_written_out_attention_is_one_layer(name, rules, sizes):
    report = _compile_and_compare(WRITTEN_OUT[name], sizes)
    assert {rule: report.rules_used.get(rule) for rule in rules} == rules
    assert report.rules_used["attention.fused_attention"] == max(rules.values())
    assert "normalization.softmax" not in report.rules_used

"""A coverage report promises what a compile holds, and a compile that holds less than was planned says so."""

import warnings

import pytest
import torch
from torch import nn

import engine
from engine.errors import RefusalWarning
from tests.operators import halves, swirl  # noqa: F401  # registers the ops

# TensorRT adds tensors of one rank only; the rule does not say so.
TWO_RANKS = "convert mine\n  match engine_tests.swirl(x: f32[N, 1])\n  emit trt.elementwise(x, {second}, op=SUM)"


class Swirl(nn.Module):
    def forward(self, x):
        return swirl(x).relu()


def rules(text):
    return engine.RuleSet.from_text(text, builtin=True)


REFUSED = rules(TWO_RANKS.format(second="tensor([1.0], f32)"))
X = torch.randn(3, 1)


def test_what_tensorrt_refuses_is_in_the_coverage_report():
    report = engine.coverage(Swirl(), [X], rules=REFUSED, min_block_size=1)
    assert [fallback.node for fallback in report.fallbacks] == ["swirl"]
    assert "my.mine (my.rules:1): TensorRT rejected it" in report.fallbacks[0].reason
    assert report.unbuilt == "nothing was built: what only TensorRT's builder refuses is not known"
    assert report.unbuilt in str(report)


def test_a_compile_that_holds_less_than_planned_warns_at_the_users_line():
    promised = engine.coverage(Swirl(), [X], rules=REFUSED, min_block_size=1)
    with pytest.warns(RefusalWarning, match="Swirl: 50.0% of the nodes are in engines, 100.0% were planned") as caught:
        built = engine.compile(Swirl(), [X], rules=REFUSED, min_block_size=1)
    assert "my.mine (my.rules:1): TensorRT rejected it" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert built.report.coverage == promised.coverage == 0.5
    assert built.report.unbuilt == ""


def test_where_another_rule_takes_the_node_there_is_no_warning():
    text = (
        TWO_RANKS.format(second="tensor([1.0], f32)")
        + "\nconvert other\n  match engine_tests.swirl(x)\n  emit trt.elementwise(x, x, op=SUM)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RefusalWarning)
        built = engine.compile(Swirl(), [X], rules=rules(text), min_block_size=1)
    assert built.report.coverage == 1
    report = engine.coverage(Swirl(), [X], rules=rules(text), min_block_size=1)
    assert report.coverage == 1
    assert [refusal.node for refusal in report.refusals] == ["swirl"]


def test_networks_can_be_left_out():
    report = engine.coverage(Swirl(), [X], rules=REFUSED, min_block_size=1, networks=False)
    assert report.coverage == 1
    assert report.unbuilt == "no network was written (networks=False): what TensorRT refuses is not known"
    assert "emit" not in report.timings.phases


def test_of_a_model_without_values_only_rules_are_asked():
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    report = engine.coverage(model, [torch.randn(2, 4, device="meta")])
    assert report.coverage == 1
    assert "no network was written" in report.unbuilt
    assert "has no values" in report.unbuilt

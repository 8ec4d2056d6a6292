"""A fallback names the rules that were meant to rewrite it, with the test that failed and what it saw."""

import pytest
import torch
from torch import nn

import engine
from tests.operators import swirl

PAIR = torch.library.custom_op(
    "engine_tests::pair", lambda x: (x + 1, x * 2), mutates_args=(), schema="(Tensor x) -> (Tensor, Tensor)"
)
PAIR.register_fake(lambda x: (torch.empty_like(x), torch.empty_like(x)))


class Swirl(nn.Module):
    def forward(self, x):
        return swirl(x)


class Cosine(nn.Module):
    def forward(self, x):
        return swirl(x.cos()).sin()


class Doubled(nn.Module):
    def forward(self, x):
        return swirl(x) * 2.0


class Pair(nn.Module):
    def forward(self, x):
        first, second = torch.ops.engine_tests.pair(x)
        return first + second


def reason(model, x, text, op="engine_tests.swirl.default", builtin=False):
    rules = engine.RuleSet.from_text(text, builtin=builtin)
    report = engine.coverage(model, [x], rules=rules, min_block_size=1)
    return next(fallback.reason for fallback in report.fallbacks if fallback.op == op)


FIXED = torch.randn(3, 8)
RANGED = engine.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(64, 8))


@pytest.mark.parametrize(
    ("x", "pattern", "said"),
    [
        (FIXED, "x: floating[_, _, _]", ["my.mine (my.rules:1)", "expected rank 3", "f32[3, 8]"]),
        (FIXED, "x: i64", ["expected i64", "f32[3, 8]"]),
        (FIXED, "x: const f32[..]", ["expected a constant"]),
        (FIXED, "x: floating[.., N]\n  when N == 9", ["`N == 9` is false: N is 8"]),
        (FIXED, "x\n  when rank(x) > 2 and dtype(x) == f32", ["rank(x) is 2"]),
        (FIXED, "x\n  let n = dim(x, 1) * 2\n  when n > 99", ["`n > 99` is false: n is 16"]),
        (
            RANGED,
            "x: floating[M, _]\n  when M % 4 == 0",
            ["not known when compiling: M is 2..64; `4 * Dim(...)` settles"],
        ),
        (RANGED, "x\n  when dim(x, 0) >= 8", ["dim(x, 0) is 2..64; a range from 8 on settles it"]),
        (RANGED, "x: floating[M, _]\n  when M == 5", ["M is 2..64; a size of 5 that is not dynamic settles it"]),
        (FIXED, "x\n  needs trt > 99", ["my.mine (my.rules:1) is inactive here: needs trt > 99"]),
        (FIXED, "x\n  needs setting.use_fp32_acc", ["inactive here: needs use_fp32_acc=True"]),
    ],
)
def test_a_lower_rule_that_does_not_apply_is_named(x, pattern, said):
    head, _, steps = pattern.partition("\n")
    found = reason(Swirl(), x, f"lower mine\n  match engine_tests.swirl({head})\n{steps}\n  emit aten.relu(x)")
    assert "no rule converts engine_tests.swirl.default" in found
    for text in ("my.mine", "the `lower` rule", *said):
        assert text in found


def test_every_alternative_that_a_pattern_asks_for_is_named():
    alternatives = "(aten.exp(x) | aten.neg(x) | aten.sin(aten.sin(x)))"
    text = f"lower mine\n  match engine_tests.swirl({alternatives})\n  emit aten.relu(x)"
    found = reason(Cosine(), FIXED, text)
    assert "expected aten.exp.default or aten.neg.default or aten.sin.default, found %cos = aten.cos.default" in found


def test_a_rule_that_has_the_op_inside_and_nothing_reads_it_so_is_named():
    text = "lower mine\n  match aten.tanh(engine_tests.swirl(x))\n  emit aten.relu(x)"
    found = reason(Cosine(), FIXED, text, builtin=True)
    assert (
        "the `lower` rule my.mine (my.rules:1) has the op inside its pattern, which begins at aten.tanh.default"
        in found
    )


def test_a_number_of_the_run_that_is_no_whole_one_is_named():
    text = (
        "convert mine\n  match engine_tests.swirl(x)\n  emit trt.activation(x, type=LEAKY_RELU, alpha=dim(x, 0) * 0.5)"
    )
    found = reason(Swirl(), RANGED, text, builtin=True)
    assert " * 0.5 is known only when the engine runs, and only whole numbers are computed then" in found


def test_a_simplify_rule_that_would_not_shrink_the_graph_is_named():
    text = "simplify mine\n  match engine_tests.swirl(x)\n  emit aten.relu(aten.neg(x))"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINE_CHECK", "0")
        found = reason(Swirl(), FIXED, text)
    assert "the `simplify` rule my.mine (my.rules:1) does not apply" in found
    assert "must leave fewer" in found


def test_a_rule_that_gives_too_few_outputs_is_named():
    text = "lower mine\n  match engine_tests.pair(x)\n  emit aten.relu(x)"
    found = reason(Pair(), FIXED, text, "engine_tests.pair.default")
    assert "my.mine" in found
    assert "it gives output 0, and output 1 is used" in found


def test_a_rule_that_has_the_op_inside_its_pattern_is_named():
    text = "lower mine\n  match aten.mul.Tensor(engine_tests.swirl(x), 3.0)\n  emit aten.relu(x)"
    found = reason(Doubled(), FIXED, text, builtin=True)
    assert "the `lower` rule my.mine" in found
    assert "expected 3.0, found 2.0" in found


def test_of_several_rules_the_one_that_got_furthest_is_named():
    text = (
        "lower far\n  match engine_tests.swirl(x: f16)\n  emit aten.relu(x)\n"
        "lower near\n  match engine_tests.swirl(x: f32[_, N])\n  when N == 9\n  emit aten.relu(x)"
    )
    found = reason(Swirl(), FIXED, text)
    assert "my.near" in found
    assert "my.far" not in found


def test_the_remedy_for_a_size_that_nobody_can_settle_works():
    text = "lower mine\n  match engine_tests.swirl(x: floating[M, _])\n  when M % 4 == 0\n  emit aten.relu(x)"
    rules = engine.RuleSet.from_text(text)
    shapes = {"x": {0: 4 * torch.export.Dim("m", min=1, max=16)}}
    report = engine.coverage(Swirl(), [torch.randn(8, 8)], dynamic_shapes=shapes, rules=rules, min_block_size=1)
    assert report.rules_used == {"my.mine": 1}

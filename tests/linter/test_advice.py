"""What `engine rules check` says of rules that load: what can never apply, what was not checked, what is unfinished."""

import pytest

from engine.dsl.ruleset import RuleSet
from engine.linter.advice import advice


def said(text):
    found = advice(RuleSet.from_text(text), lambda rule: True)
    return [(item.fatal, item.message) for item in found]


TEST = "\n  test x: f32[2, 3]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lower r match atne.gelu(x) emit aten.relu(x)" + TEST,
         "nothing that is loaded registers atne.gelu; did you mean `aten.gelu`?"),
        ("lower r match torch.ops.aten.gelu(x) emit aten.relu(x)" + TEST, "rules write `aten.gelu`"),
        ("lower r match acme.thing(x) emit aten.relu(x)" + TEST, "engine --import MODULE"),
        ("lower r match aten.gelu(x) emit acme.thing(x)" + TEST, "nothing that is loaded registers acme.thing"),
        ("lower r match aten.gelu(x: f32[_, _]) when rank(x) > 2 emit aten.relu(x)" + TEST,
         "`rank(x) > 2` is always false: in the pattern `x` has rank 2"),
        ("lower r match aten.gelu(x: f32[A, A]) when not (rank(x) == 2 or A == 3) emit aten.relu(x)" + TEST,
         "always false"),
        ("lower r match aten.gelu(x: f32[_, _]) when rank(x) in [1, 3] emit aten.relu(x)" + TEST, "always false"),
        ("lower r match aten.gelu(x: f32[_, _]) when dim(x, 2) == 8 emit aten.relu(x)" + TEST,
         "asks for dim 2 of `x`, which has rank 2"),
        ("lower r match aten.max.dim(x, d, ..) emit (x, x, x)" + TEST,
         "it gives 3 values for 2 outputs of aten.max.dim"),
        ("lower r match aten.gelu(x) emit (x, x) if rank(x) == 1 else x" + TEST,
         "it gives 2 values for 1 output of aten.gelu"),
        ("simplify r match aten.neg(x) emit aten.abs(aten.abs(x))" + TEST, "this matches 1, and gives 2 or more"),
        ("def two(x) = aten.abs(aten.sin(x))\nsimplify r match aten.neg(x) let y = two(x) emit aten.cos(y)" + TEST,
         "gives 3 or more"),
    ],
)  # fmt: skip
def test_rules_that_never_apply_are_errors(text, message):
    found = said(text)
    assert [fatal for fatal, _ in found] == [True]
    assert message in found[0][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lower r match aten.gelu(x) emit aten.relu(x)", "it has no `test` line"),
        ("lower r match aten.gelu(x) emit aten.relu(x)\n  reject x: i64[2]", "it has no `test` line"),
        ("lower r match aten.gelu(x) let k = 3 emit aten.relu(x)" + TEST, "`let k` is not read"),
        ("lower r match aten.gelu(x) needs trt > 99 emit aten.relu(x)" + TEST, "it is inactive here: needs trt > 99"),
    ],
)
def test_what_is_unfinished_is_a_warning(text, message):
    found = said(text)
    assert [fatal for fatal, _ in found] == [False]
    assert message in found[0][1]


@pytest.mark.parametrize(
    "text",
    [
        "lower r match aten.gelu(x: f32[..]) when rank(x) == 3 emit aten.relu(x)" + TEST,
        "lower r match aten.gelu(x: f32[_, _]) when dim(x, -2) == 8 and rank(x) == 2 emit aten.relu(x)" + TEST,
        "lower r match aten.max.dim(x, d, ..) emit (x, x)" + TEST,
        "lower r match aten.gelu(x) let n = rank(x) let m = n + 1 when m == 3 emit aten.relu(x)" + TEST,
        "lower r match aten.gelu(x) let (a, b) = (1, rank(x)) when b == 3 emit aten.relu(x)" + TEST,
        "simplify r match aten.neg(x) emit x if rank(x) == 1 else aten.abs(aten.abs(x))" + TEST,
        "simplify r match aten.neg(aten.abs(x)) let y = aten.sin(x) emit y if rank(x) == 1 else y" + TEST,
        "def one(x, y) = x\nsimplify r match aten.neg(x) emit one(x, aten.abs(aten.abs(x)))" + TEST,
    ],
)
def test_rules_that_may_apply_are_fine(text):
    assert said(text) == []

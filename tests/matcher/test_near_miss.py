"""Why a rule does not match: the first condition that failed, with both values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.export import Dim

from engine.matcher.matcher import Matcher
from tests.graph.build import find, mirror_of
from tests.matcher.patterns import bind, op, rule, ty
from tests.matcher.test_matching import ADD, LINEAR, MUL, RELU

X = torch.randn(4, 6)


def why(function, node_op, rule_, inputs=(X,), dynamic=None, guards=None):  # type: ignore[no-untyped-def]
    mirror = mirror_of(function, list(inputs), dynamic)
    return Matcher([rule_], mirror).why_not(find(mirror, node_op), rule_, guards)


def test_wrong_root() -> None:
    miss = why(torch.relu, RELU, rule("r", op(MUL, "x", 2)))
    assert (miss.passed, miss.expected, miss.where) == (0, MUL, "relu")
    assert "aten.relu.default" in miss.actual


def test_wrong_literal() -> None:
    miss = why(lambda x: torch.relu(x) * 3, MUL, rule("r", op(MUL, op(RELU, "x"), 2)))
    assert (miss.where, miss.expected, miss.actual) == ("argument 'other' of mul", "2", "3")
    assert str(miss) == "test.r at mul: argument 'other' of mul: expected 2, found 3 (test.rules:1:1)"


def test_wrong_symbolic_dim() -> None:
    r = rule("r", op(RELU, bind("x", ty("floating", dims="4, _"))))
    miss = why(lambda x: torch.relu(x), RELU, r, dynamic=({0: Dim("B", min=2, max=9)},))
    assert miss.where == "dim 0 of argument 'self' of relu"
    assert miss.expected == "4"
    assert miss.actual.endswith("in [2, 9]")


def test_the_expansion_that_got_furthest_counts() -> None:
    r = rule("r", op(ADD, op(MUL, "x", 3), "y", unordered=True))
    miss = why(lambda x: x + x * 2, ADD, r)
    assert (miss.where, miss.expected, miss.actual) == ("argument 'other' of mul", "3", "2")


def test_shared_interior_names_the_other_user() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(x)
        return y * 2, torch.exp(y)

    miss = why(function, MUL, rule("r", op(MUL, op(RELU, "x"), 2)))
    assert miss.actual == "relu is also used by exp"


def test_types_constness_and_ranks() -> None:
    r = rule("r", op(RELU, bind("x", ty("integral"))))
    assert why(torch.relu, RELU, r).expected == "integral"
    r = rule("r", op(RELU, bind("x", ty("tensor", modifier="const"))))
    assert why(torch.relu, RELU, r).expected == "a constant"
    r = rule("r", op(RELU, bind("x", ty("tensor", dims="_, _, _"))))
    miss = why(torch.relu, RELU, r)
    assert (miss.expected, miss.actual) == (
        "rank 3",
        "%x: f32[4, 6]".replace("%x", miss.actual.split(":")[0]),
    )


def test_missing_second_root() -> None:
    r = rule("pair", op(LINEAR, "x", "a", None), op(LINEAR, "x", "b", None))
    miss = why(lambda x, w: F.linear(x, w), LINEAR, r, inputs=(X, torch.randn(3, 6)))
    assert not miss.matched
    assert "different nodes" in miss.expected


def test_guards_are_reported_when_the_pattern_fits() -> None:
    r = rule("r", op(RELU, "x"))
    miss = why(torch.relu, RELU, r, guards=lambda match: "guard 'rank(x) == 3' is false: rank(x) is 2")
    assert not miss.matched
    assert str(miss).endswith("the pattern fits, but guard 'rank(x) == 3' is false: rank(x) is 2")
    assert why(torch.relu, RELU, r).matched

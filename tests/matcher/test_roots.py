"""Patterns with several roots."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.dsl import tree
from engine.dsl.checks.patterns.roots import unconnected
from engine.errors import RuleError
from engine.matcher.automaton import Automaton
from engine.matcher.matcher import Matcher
from tests.graph.build import find, mirror_of
from tests.matcher.patterns import SPAN, bind, op, rule, ty
from tests.matcher.test_matching import ADD, LINEAR, MUL, RELU, all_matches, names

X = torch.randn(4, 6)
WEIGHTS = [torch.randn(n, 6) for n in (2, 3, 5)]


def projections(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return F.linear(x, a), torch.relu(F.linear(x, b)), F.linear(x, c)


def linears(*weights: str) -> tuple:  # type: ignore[type-arg]
    return tuple(op(LINEAR, "x", bind(f"w{n}", ty("floating", dims=f"{n}, K")), None) for n in weights)


def test_roots_are_found_through_a_shared_operand() -> None:
    mirror = mirror_of(projections, [X, *WEIGHTS])
    matches = all_matches(mirror, rule("qkv", *linears("A", "B", "C")))
    assert [names(match.roots) for match in matches] == [["linear", "linear_1", "linear_2"]] * 3  # once per root
    assert [matches[0].bindings[n] for n in "ABCK"] == [2, 3, 5, 6]
    assert matches[0].bindings == matches[1].bindings == matches[2].bindings


def test_interchangeable_roots_are_in_graph_order() -> None:
    mirror = mirror_of(projections, [X, *WEIGHTS])
    matcher = Matcher([rule("pair", *linears("A", "B"))], mirror)
    first = [names(match.roots) for match in matcher.matches(find(mirror, LINEAR, 0))]
    assert first == [["linear", "linear_1"], ["linear", "linear_2"]]
    last = [names(match.roots) for match in matcher.matches(find(mirror, LINEAR, 2))]
    assert last == [["linear", "linear_2"], ["linear_1", "linear_2"]]


def test_guarded_roots_are_tried_in_every_order() -> None:
    mirror = mirror_of(projections, [X, *WEIGHTS])
    guard = tree.Guard(SPAN, tree.Literal(SPAN, True))
    matcher = Matcher([rule("pair", *linears("A", "B"), steps=(guard,))], mirror)
    found = [names(match.roots) for match in matcher.matches(find(mirror, LINEAR, 0))]
    assert ["linear_1", "linear"] in found
    assert ["linear", "linear_1"] in found


def test_roots_that_depend_on_each_other_do_not_match() -> None:
    def function(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, a)
        return F.linear(x, torch.relu(y))

    mirror = mirror_of(function, [X, torch.randn(6, 6)])
    # relu(y) has the shape of a weight for x
    assert len([n for n in mirror.graph.nodes if mirror.op(n) == LINEAR]) == 2
    assert not all_matches(mirror, rule("pair", *linears("A", "B")))


def test_different_roots_of_one_operand() -> None:
    mirror = mirror_of(lambda x: torch.sin(x) + torch.cos(x), [X])
    pattern = rule("sincos", op("aten.cos.default", "x"), op("aten.sin.default", "x"))
    matches = all_matches(mirror, pattern)
    assert [names(match.roots) for match in matches] == [["cos", "sin"], ["cos", "sin"]]
    assert names(matches[0].nodes) == ["sin", "cos"]


def test_roots_are_found_through_interior_ops() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.exp(torch.relu(x)), torch.neg(torch.tanh(x))

    mirror = mirror_of(function, [X])
    pattern = rule("deep", op("aten.exp.default", op(RELU, "x")), op("aten.neg.default", op("aten.tanh.default", "x")))
    for match in all_matches(mirror, pattern):
        assert names(match.roots) == ["exp", "neg"]
        assert names(match.nodes) == ["relu", "exp", "tanh", "neg"]
    assert len(all_matches(mirror, pattern)) == 2


def test_a_root_inside_another_root() -> None:
    mirror = mirror_of(lambda x: (torch.relu(x) + x, torch.relu(x)), [X])
    mirror2 = mirror_of(_residual, [X])
    pattern = rule("residual", op(ADD, op(RELU, "x"), "x"), op(RELU, "x"))
    assert {tuple(names(match.roots)) for match in all_matches(mirror2, pattern)} == {("add", "relu")}
    assert {tuple(names(match.roots)) for match in all_matches(mirror, pattern)} == {
        ("add", "relu"),
        ("add", "relu_1"),
    }


def _residual(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.relu(x)
    return y + x, y


def test_roots_without_a_shared_tensor_are_refused() -> None:
    apart = rule("apart", op(RELU, "x"), op(MUL, "y", "z"))
    with pytest.raises(RuleError, match="shares no captured tensor"):
        Automaton([apart]).trie(RELU)
    # The checker of rules says the same before anything is matched.
    [problem] = unconnected(apart.id, apart.roots)
    assert "shares no captured tensor" in problem.message
    together = rule("together", op(RELU, "x"), op(MUL, "y", "x"))
    assert unconnected(together.id, together.roots) == []

"""Constant folding: the frontier, sharing, recipes and large values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import EngineError
from engine.graph.mirror import Mirror
from engine.graph.provenance import history
from engine.rewriter import folding
from engine.rewriter.folding import fold_constants
from tests.graph.build import find, mirror_of, run


class Scaled(nn.Module):
    """``x * exp(w).t() + (exp(w).t() + 1)``: an intermediate that is also on the frontier."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.w.exp().t()
        return x * w + (w + 1)


def constants_of(mirror: Mirror) -> list[str]:
    return [str(node.target) for node in mirror.graph.nodes if node.op == "get_attr"]


def ops_of(mirror: Mirror) -> list[str]:
    return [mirror.op(node) for node in mirror.graph.nodes if node.op == "call_function"]


def test_only_the_frontier_is_kept() -> None:
    model, x = Scaled(), torch.randn(3, 4)
    mirror = mirror_of(model, (x,))
    folded = fold_constants(mirror)
    assert ops_of(mirror) == ["aten.mul.Tensor", "aten.add.Tensor"]
    assert constants_of(mirror) == [item.name for item in folded] == ["t_folded", "add_folded"]
    torch.testing.assert_close(run(mirror, x)[0], model(x))


def test_recipes_start_from_the_weights() -> None:
    model = Scaled()
    mirror = mirror_of(model, (torch.randn(3, 4),))
    _, second = fold_constants(mirror)
    assert second.recipe.sources == ("function.w",) or second.recipe.sources == ("w",)
    assert second.recipe.nodes == ("exp", "t", "add")
    other = torch.randn(4, 3)
    fresh = second.recipe.evaluate({second.recipe.sources[0]: other})
    torch.testing.assert_close(fresh, other.exp().t() + 1)
    with pytest.raises(EngineError, match="needs"):
        second.recipe.evaluate({})


def test_provenance_names_the_folded_nodes() -> None:
    mirror = mirror_of(Scaled(), (torch.randn(3, 4),))
    fold_constants(mirror)
    node = find(mirror, "get_attr")
    (step,) = history(node)
    assert step.rule_id == "constant folding"
    assert step.nodes == ("exp", "t")
    assert node.meta["recipe"].nodes == step.nodes


class Twice(nn.Module):
    """The same value computed twice from the same weight, and once from a twin of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(3))
        self.b = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.a.exp() + self.a.exp() - self.b.exp()


def test_equal_recipes_are_shared_and_equal_weights_are_not() -> None:
    x = torch.randn(2, 3)
    mirror = mirror_of(Twice(), (x,))
    folded = fold_constants(mirror)
    assert [item.values for item in folded] == [("exp", "exp_1"), ("exp_2",)]
    torch.testing.assert_close(run(mirror, x)[0], Twice()(x))


def test_small_generated_constants_are_shared_by_content() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(4) * 2 + torch.ones(4).sub(1)

    x = torch.randn(4)
    mirror = mirror_of(model, (x,))
    (only,) = fold_constants(mirror)
    assert len(only.values) == 2
    assert only.recipe.sources == ()
    torch.testing.assert_close(run(mirror, x)[0], model(x))


def test_constant_output_and_multiple_outputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 2))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            a, b = self.w.split(2)
            return x + a, x - b, self.w * 2

    x = torch.randn(2, 2)
    model = Model()
    mirror = mirror_of(model, (x,))
    folded = fold_constants(mirror)
    assert [item.values[0] for item in folded] == ["split.0", "split.1", "mul"]
    for found, expected in zip(run(mirror, x), model(x), strict=True):
        torch.testing.assert_close(found, expected)


class Expanded(nn.Module):
    """One row, scaled and expanded to many."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.row * 2).expand(64, 8).contiguous()


def test_large_value_stays_an_op_that_a_rule_converts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "LARGE", 1024)
    x = torch.randn(64, 8)
    model = Expanded()
    mirror = mirror_of(model, (x,))
    (folded,) = fold_constants(mirror, convertible=lambda node: mirror.op(node) != "aten.clone.default")
    # The clone reads as much as it writes, so it folds; what grows is the expand below it.
    assert folded.values == ("clone",)
    mirror = mirror_of(lambda x: x + torch.full((64, 8), 3.0), (x,))
    assert fold_constants(mirror, convertible=lambda node: True) == ()
    assert ops_of(mirror) == ["aten.full.default", "aten.add.Tensor"]


def test_large_value_is_folded_when_no_rule_converts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "LARGE", 1024)
    x = torch.randn(64, 8)
    mirror = mirror_of(lambda x: x + torch.full((64, 8), 3.0), (x,))
    assert len(fold_constants(mirror, convertible=lambda node: False)) == 1
    torch.testing.assert_close(run(mirror, x)[0], x + 3)


def test_operands_of_a_large_value_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "LARGE", 1024)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = nn.Parameter(torch.randn(1, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (self.row * 2).expand(64, 8)

    x = torch.randn(64, 8)
    mirror = mirror_of(Model(), (x,))
    (folded,) = fold_constants(mirror, convertible=lambda node: True)
    assert folded.values == ("mul",)
    assert ops_of(mirror) == ["aten.expand.default", "aten.add.Tensor"]
    assert folded.bytes == 32


def test_random_values_are_not_folded() -> None:
    mirror = mirror_of(lambda x: x + torch.rand(4), (torch.randn(4),))
    assert fold_constants(mirror) == ()

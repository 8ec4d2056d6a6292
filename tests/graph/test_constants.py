"""Constness and constant values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from engine.errors import EngineError
from engine.graph.mirror import Value
from engine.weights.recipe import recipe
from tests.graph.build import find, mirror_of

aten = torch.ops.aten


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.t() * 2 + torch.ones(4, 1))


def test_constant_subgraphs_are_evaluated() -> None:
    model = Weighted()
    mirror = mirror_of(model, [torch.randn(2, 4)])
    add = find(mirror, "aten.add.Tensor")
    matmul = find(mirror, "aten.matmul.default")
    assert mirror.is_const(Value(add))
    assert not mirror.is_const(Value(matmul))
    result = mirror.constant(Value(add))
    torch.testing.assert_close(result, model.weight.t() * 2 + 1)
    assert not result.requires_grad
    assert mirror.constant(Value(add)) is result
    with pytest.raises(EngineError, match="not constant"):
        mirror.constant(Value(matmul))


def test_random_ops_are_not_constant() -> None:
    mirror = mirror_of(lambda x: x + torch.rand(3) + torch.zeros(3), [torch.randn(3)])
    assert not mirror.is_const(Value(find(mirror, "aten.rand.default")))
    assert mirror.is_const(Value(find(mirror, "aten.zeros.default")))


def test_symbolic_sizes_are_not_constant() -> None:
    mirror = mirror_of(lambda x: x + torch.ones(x.shape[0]), [torch.randn(3)], ({0: Dim("n", min=2, max=5)},))
    assert not mirror.is_const(Value(find(mirror, "aten.ones.default")))


def test_constness_follows_edits() -> None:
    mirror = mirror_of(lambda x: torch.exp(torch.neg(torch.relu(x))) + x, [torch.randn(3)])
    relu, neg, exp, add = (
        find(mirror, f"aten.{name}") for name in ("relu.default", "neg.default", "exp.default", "add.Tensor")
    )
    assert not mirror.is_const(Value(exp))
    one = mirror.constant_node(torch.ones(3), "one", relu)
    mirror.replace(Value(relu), Value(one))
    assert mirror.is_const(Value(exp))
    assert not mirror.is_const(Value(add))
    torch.testing.assert_close(mirror.constant(Value(exp)), torch.exp(-torch.ones(3)))
    two = mirror.constant_node(torch.full((3,), 2.0), "one", relu)
    assert set(mirror.constants) == {"one", "one_1"}
    mirror.replace(Value(one), Value(two))
    torch.testing.assert_close(mirror.constant(Value(exp)), torch.exp(-torch.full((3,), 2.0)))
    mirror.replace(Value(neg), Value(find(mirror, "placeholder")))
    assert not mirror.is_const(Value(exp))


def test_long_constant_chains_do_not_recurse() -> None:
    mirror = mirror_of(lambda x: torch.relu(x), [torch.randn(2)])
    relu = find(mirror, "aten.relu.default")
    node = mirror.constant_node(torch.zeros(2), "zero", relu)
    fake = node.meta["val"]
    for _ in range(3000):
        node = mirror.insert(aten.add.Tensor, (Value(node), 1, 1), relu, fake=fake)
    assert mirror.is_const(Value(node))
    torch.testing.assert_close(mirror.constant(Value(node)), torch.full((2,), 3000.0))


def test_unwritten_memory_is_folded_to_zeros() -> None:
    mirror = mirror_of(lambda x: x + torch.empty(3), [torch.randn(3)])
    empty = next(node for node in mirror.graph.nodes if "empty" in mirror.op(node))
    torch.testing.assert_close(mirror.constant(Value(empty)), torch.zeros(3))


@torch.library.custom_op("engine_constants::nonempty", mutates_args=())
def nonempty(x: torch.Tensor) -> torch.Tensor:
    return (x != 0).to(x.dtype)


nonempty.register_fake(torch.empty_like)


def test_an_op_of_somebody_else_with_such_a_name_keeps_its_result() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([0.0, 2.0, 3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + nonempty(self.table)

    mirror = mirror_of(Masked(), [torch.randn(3)])
    found = Value(find(mirror, "engine_constants.nonempty.default"))
    torch.testing.assert_close(mirror.constant(found), torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(recipe(mirror, found).evaluate(mirror.constants), torch.tensor([0.0, 1.0, 1.0]))


def test_several_outputs_of_one_constant_node() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(6.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = torch.split(self.table, [2, 4])
            return x + first.sum() + second.sum()

    mirror = mirror_of(Split(), [torch.randn(1)])
    split = find(mirror, "aten.split_with_sizes.default")
    torch.testing.assert_close(mirror.constant(Value(split, 1)), torch.arange(2.0, 6.0))
    assert mirror.is_const(Value(find(mirror, "aten.sum.default", 1)))

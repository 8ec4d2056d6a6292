"""Results that the model makes anew lie in memory of their own, whatever the rules leave of what made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import engine
from tests.comparison import assert_agrees
from tests.graph.build import Function


def memory(result: Any) -> list[int]:
    return [tensor.untyped_storage().data_ptr() for tensor in pytree.tree_leaves(result)]


# Of none of these is anything left that computes.
OF_INPUT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": lambda x: x.clone(),
    "plus_zero": lambda x: x + 0,
    "times_one": lambda x: x * 1,
    "first_power": lambda x: x**1,
    "copied": lambda x: x.to(x.dtype, copy=True),
    "joined_alone": lambda x: torch.cat([x]),
    "turned_twice": lambda x: x.t().contiguous().t(),
    "view_plus_zero": lambda x: x.view(4, 4) + 0,
    "expanded_clone": lambda x: x.expand_as(x).clone(),
}


@pytest.mark.parametrize("name", OF_INPUT)
def test_a_result_that_is_made_anew_is_not_the_input(name):
    model, x = Function(OF_INPUT[name]), torch.randn(4, 4)
    assert memory(model(x)) != memory(x)
    compiled = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)
    result = assert_agrees(compiled, model, x)
    before = x.clone()
    result += 1
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (y := x * 2, y.clone()),
        lambda x: (y := x * 2, y + 0, y * 1),
        lambda x: (x.relu(), x.relu().clone()),
        lambda x: (x @ x, x @ x),
        lambda x: (x.clone(), x.clone()),
    ],
    ids=["clone", "sums", "same_op", "same_product", "clones_of_input"],
)
def test_results_that_are_made_apart_lie_apart(function):
    model, x = Function(function), torch.randn(4, 4)
    compiled = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)
    results = assert_agrees(compiled, model, x)
    assert len({*memory(results), *memory(x)}) == len(results) + 1


def test_an_input_that_is_the_result_is_given_back():
    model, x = Function(lambda x: (x, x.relu(), x)), torch.randn(4, 4)
    compiled = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)
    first, other, last = compiled(x)
    assert memory(first) == memory(last) == memory(x) != memory(other)


def test_torch_compile_gives_results_of_their_own():
    x = torch.randn(4, 4)
    torch._dynamo.reset()
    compiled = torch.compile(
        Function(lambda x: (x + 0, x.sin())), backend="engine", options={"runtime": "interpreter", "min_block_size": 1}
    )
    with torch.no_grad():
        same, _ = compiled(x)
    assert torch.equal(same, x)
    assert memory(same) != memory(x)

"""Containers of tensors beside an ``Input``, and around one, as growing caches come."""

import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import engine
from engine.capture import Input, capture
from engine.errors import InputError
from tests.comparison import assert_agrees
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()

from transformers import DynamicCache  # noqa: E402

Rows = namedtuple("Rows", ["keys", "values"])


@dataclasses.dataclass
class Layer:
    keys: torch.Tensor
    values: torch.Tensor


def cache(rows=3):
    made = DynamicCache()
    for layer in range(2):
        made.update(*torch.randn(2, 1, 2, rows, 4), layer)
    return made


def ranged(low=1, high=8):
    return Input(min_shape=(low, 4), opt_shape=(3, 4), max_shape=(high, 4))


class Sum(nn.Module):
    def forward(self, x, *rest, **more):
        tensors = [leaf for leaf in pytree.tree_leaves((rest, more)) if isinstance(leaf, torch.Tensor)]
        return x * 2 + sum(tensor.sum() for tensor in tensors)


@pytest.mark.parametrize(
    "beside",
    [
        [torch.ones(2), [torch.ones(3), 1]],
        {"a": torch.ones(2), "b": (torch.ones(3), None)},
        OrderedDict(a=torch.ones(2)),
        Rows(torch.ones(2), torch.ones(3)),
        [Layer(torch.ones(2), torch.ones(3))],
        cache(),
        None,
        [],
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_beside_an_input(beside):
    count = len([leaf for leaf in pytree.tree_leaves(beside) if isinstance(leaf, torch.Tensor)])
    captured = capture(Sum(), [ranged(), beside])
    assert [(allowed.min, allowed.max) for allowed in captured.ranges.values()] == [(1, 8)]
    shapes = [argument.shape for argument in captured.arguments if argument.shape is not None]
    assert len(shapes) >= 1 + count
    assert [not isinstance(shape[0], int) for shape in shapes] == [True] + [False] * (len(shapes) - 1)


@pytest.mark.parametrize("container", [Layer, Rows, lambda a, b: [a, {"b": b}]], ids=["class", "tuple", "list"])
def test_an_input_inside_a_container(container):
    captured = capture(Sum(), [torch.ones(4), container(ranged(), torch.ones(2))])
    assert [(allowed.min, allowed.max) for allowed in captured.ranges.values()] == [(1, 8)]


class Step(nn.Module):
    """A token, and the keys and values of each layer, which grow by one."""

    def forward(self, x, past):
        grown = [(torch.cat([keys, x], 2), torch.cat([values, x + 1], 2)) for keys, values in past]
        for keys, values in grown:
            x = x + nn.functional.scaled_dot_product_attention(x, keys, values)
        return x, grown


@pytest.mark.parametrize("way", ["inputs", "one name"])
def test_a_growing_cache_that_begins_empty(way):
    def given(rows):
        return [tuple(torch.randn(2, 1, 2, rows, 8)) for _ in range(2)]

    model, x = Step().eval(), torch.randn(1, 2, 1, 8)
    if way == "inputs":
        rows = Input(min_shape=(1, 2, 0, 8), opt_shape=(1, 2, 5, 8), max_shape=(1, 2, 20, 8))
        asked = {"args": [x, [(rows, rows)] * 2]}
    else:
        past = {2: Dim("past", min=0, max=20)}
        asked = {"args": [x, given(5)], "dynamic_shapes": (None, [(past, past)] * 2)}
    compiled = engine.compile(model, **asked, runtime="interpreter", min_block_size=1)
    assert [segment.backend for segment in compiled.report.segments] == ["tensorrt"]
    for rows in (0, 1, 20):
        assert_agrees(compiled, model, x, given(rows))
    (keys, _), second = given(3)
    with pytest.raises(InputError, match=r"past\[0\]\[1\]"):
        compiled(x, [(keys, given(4)[0][1]), second])

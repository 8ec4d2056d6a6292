"""A compiled module is a snapshot: nothing that is done to the model afterwards, in whole or in part, shows in it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import engine
from engine.capture import capture
from engine.lowering.snapshot import ModelMemory


class Net(nn.Module):
    """Weights of every kind: folded, transposed, tied, views of one another, plain tensors in lists, constants."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.register_buffer("whole", torch.rand(2, 4))
        self.plain = [torch.rand(4), {"deep": torch.rand(1).expand(4)}]

    def forward(self, x):
        y = self.norm(self.conv(x)).relu().mean((2, 3))
        y = self.second(self.first(y)) @ self.first.weight * self.scale + self.whole[1] + self.whole.flip(1)[0]
        return {"y": y + self.plain[0] * self.plain[1]["deep"], "table": self.whole, "half": self.whole[:, 1:3]}


def everything(model):
    yield from model.state_dict(keep_vars=True).values()
    yield from (model.scale, model.plain[0], model.plain[1]["deep"][:1])


def equal(found, expected):
    return all(map(torch.equal, tree_leaves(found), expected))


WAYS = {
    "engine": {},
    "partly in PyTorch": {"torch_executed_ops": ["aten.linear", "aten.mul"], "min_block_size": 1},
    "all in PyTorch": {"min_block_size": 1000},
    "refittable": {"immutable_weights": False},
    "refittable, partly": {"immutable_weights": False, "torch_executed_ops": ["aten.linear"], "min_block_size": 1},
}


@pytest.mark.parametrize("source", ["module", "program", "graph"])
@pytest.mark.parametrize("way", WAYS)
def test_new_weights_of_the_model_do_not_show(way, source):
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    given = model
    if source == "program":
        given = torch.export.export(model, (x,)).run_decompositions({})
    if source == "graph":
        given = capture(model, (x,)).module()
    compiled = engine.compile(given, (x,) if source == "module" else None, runtime="interpreter", **WAYS[way])
    before = [value.clone() for value in tree_leaves(compiled(x))]
    with torch.no_grad():
        torch.testing.assert_close(before, tree_leaves(model(x)), atol=1e-4, rtol=1e-4)
        model.load_state_dict(Net().state_dict())
    assert equal(compiled(x), before)
    with torch.no_grad():
        for tensor in everything(model):
            tensor.zero_()
    if source == "program":
        for tensor in (*given.state_dict.values(), *given.constants.values()):
            tensor.data.zero_()
    assert equal(compiled(x), before)
    assert equal(copy.deepcopy(compiled)(x), before)


@pytest.mark.parametrize("way", ["refittable", "refittable, partly"])
def test_refit_takes_new_weights_and_shares_nothing(way):
    model, other, x = Net().eval(), Net().eval(), torch.randn(1, 3, 8, 8)
    other.scale.copy_(model.scale)
    other.plain = model.plain
    compiled = engine.compile(model, (x,), runtime="interpreter", **WAYS[way])
    before = [value.clone() for value in tree_leaves(compiled(x))]
    with torch.no_grad():
        expected = other(x)
    fresh = engine.refit(compiled, other)
    torch.testing.assert_close(fresh(x), expected, atol=1e-4, rtol=1e-4)
    after = [value.clone() for value in tree_leaves(fresh(x))]
    with torch.no_grad():
        for tensor in everything(other):
            tensor.zero_()
    assert equal(fresh(x), after)
    assert equal(compiled(x), before)


@pytest.mark.parametrize("way", ["engine", "all in PyTorch"])
def test_results_are_the_callers_own(way):
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    compiled = engine.compile(model, (x,), runtime="interpreter", **WAYS[way])
    table = model.whole.clone()
    for _ in range(2):
        result = compiled(x)
        assert torch.equal(result["table"], table)
        for value in result.values():
            value.detach().fill_(7)
    assert torch.equal(model.whole, table)


def test_a_graph_inside_an_op_is_copied():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x * self.weight, lambda x: x - self.weight, (x,))

    model, x = Branches().eval(), torch.rand(2, 3)
    for settings in ({}, {"torch_executed_ops": ["cond"], "min_block_size": 1}):
        compiled = engine.compile(model, (x,), runtime="interpreter", **settings)
        before = compiled(x).clone()
        saved = model.weight.detach().clone()
        with torch.no_grad():
            torch.testing.assert_close(before, model(x))
            model.weight.zero_()
        assert torch.equal(compiled(x), before)
        with torch.no_grad():
            model.weight.copy_(saved)


def test_torch_compile_sees_new_weights_whole():
    """Writes that PyTorch counts lead to a new build; others change nothing, never a part."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval(), torch.randn(2, 4)
    options = {"runtime": "interpreter", "min_block_size": 1, "torch_executed_ops": ["aten.relu"]}
    fast = torch.compile(model, backend="engine", options=options)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
        model.load_state_dict(copy.deepcopy(model).apply(lambda m: getattr(m, "reset_parameters", int)()).state_dict())
        torch.testing.assert_close(fast(x), model(x))
        before = fast(x).clone()
        model[2].weight.data.mul_(2)
        assert torch.equal(fast(x), before)


MEMORY = torch.arange(64, dtype=torch.float32)
VIEWS = {
    "whole": lambda t: t,
    "a part": lambda t: t[8:20],
    "strided": lambda t: t[::2],
    "sparse strides": lambda t: t.view(8, 8)[:, :1],
    "transposed": lambda t: t.view(8, 8).t(),
    "expanded": lambda t: t[:1].expand(5),
    "empty": lambda t: t[:0],
    "scalar": lambda t: t[3],
    "bytes at an odd place": lambda t: t.view(torch.uint8)[5:9],
    "complex, conjugated": lambda t: torch.view_as_complex(t.view(-1, 2)).conj(),
    "negated": lambda t: torch._neg_view(t),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_copies_are_equal_and_apart(view):
    whole = MEMORY.clone()
    tensor, other = view(whole), torch.ones(3)
    memory = ModelMemory([whole])
    copied, again, same = memory.copies([tensor, whole, other])
    assert same is other
    assert copied.dtype is tensor.dtype
    assert torch.equal(copied, tensor)
    expected = tensor.clone()
    whole.zero_()
    assert torch.equal(copied, expected)
    assert torch.equal(again, MEMORY)


def test_copies_share_what_their_tensors_share():
    whole = MEMORY.clone()
    first, second, apart = whole[:16], whole[8:24].view(4, 4), whole[40:]
    a, b, c = ModelMemory([whole]).copies([first, second, apart])
    a[8] = -1
    assert b[0, 0] == -1
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert c.untyped_storage().nbytes() == c.numel() * 4
    assert b.stride() == second.stride()

"""Every core op and every op of real models has a rule, a decomposition that rules take, or a stated reason."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from engine.dsl.ruleset import RuleSet
from engine.verify.core import core_overloads, uncovered

MODEL_OPS = [
    line.split()[0] for line in (Path(__file__).parent / "model_ops.txt").read_text().splitlines() if line[0] != "#"
]
LIBRARIES = {"higher_order", "torch", "_operator", "torchvision", "transformers", "quantized_decomposed"}


def _full(name):
    if name.startswith("hop."):
        return f"higher_order.{name.removeprefix('hop.')}"
    return name if name.partition(".")[0] in LIBRARIES else f"aten.{name}"


@pytest.mark.skipif(torch.__version__ < "2.13", reason="which overloads are core depends on the PyTorch")
def test_core_ops_without_a_rule(snapshot):
    assert uncovered(core_overloads(), RuleSet.load()) == snapshot


def test_ops_of_models_without_a_rule(snapshot):
    # What becomes of the ops of a package depends on whether this process has imported it.
    ops = [_full(name) for name in MODEL_OPS if not name.startswith("transformers.")]
    assert uncovered(ops, RuleSet.load()) == snapshot


def test_nothing_is_unaccounted_for():
    missing = uncovered([*core_overloads(), *map(_full, MODEL_OPS)], RuleSet.load())
    assert [op for op, what in missing.items() if what is None] == []


class Call(nn.Module):
    """One function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *operands):
        return self.function(*operands)


def _ints(*shape, high=4):
    return torch.randint(0, high, shape)


PLACES = torch.tensor([[0, 1, 1, 0], [2, 2, 2, 1], [0, 0, 3, 3]])
# Ops that reach rules through a decomposition, or whose result depends on values that test lines do not write.
WHOLE = {
    "im2col": (lambda x: F.unfold(x, (2, 3), dilation=(2, 1), stride=(1, 2)), [torch.randn(2, 3, 6, 7)]),
    "cdist": (lambda a, b: torch.cdist(a, b), [torch.randn(2, 3, 4), torch.randn(2, 5, 4)]),
    "argsort.stable": (lambda x: torch.argsort(x, dim=1, stable=True), [_ints(3, 9)]),
    "sort.stable": (lambda x: torch.sort(x, dim=0, descending=True, stable=True), [_ints(9, 3)]),
    "affine_grid": (lambda t: F.affine_grid(t, (2, 3, 4, 5), align_corners=False), [torch.randn(2, 2, 3)]),
    "bicubic_aa": (
        lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
        [torch.randn(1, 2, 9, 9)],
    ),
    "scatter_add": (lambda x, s: x.scatter_add(1, PLACES, s), [torch.randn(3, 5), torch.randn(3, 4)]),
    "index_add": (lambda x, s: x.index_add(0, PLACES[1], s), [torch.randn(4, 5), torch.randn(4, 5)]),
    "index_put": (lambda x, s: x.index_put((PLACES[1],), s, accumulate=True), [torch.randn(4, 5), torch.randn(4, 5)]),
    "einsum": (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [torch.randn(2, 3, 4), torch.randn(2, 4, 5)]),
    "trace": (lambda a: torch.einsum("ii", a), [torch.randn(3, 3)]),
    "searchsorted": (lambda s, v: torch.searchsorted(s, v), [torch.arange(6.0), torch.randn(4) * 3]),
    "bucketize": (lambda s, v: torch.bucketize(v, s, right=True), [torch.arange(6.0), _ints(4, 3).float()]),
    "repeat_interleave": (
        lambda x: torch.repeat_interleave(x, torch.tensor([1, 0, 3]), dim=0, output_size=4),
        [torch.randn(3, 4)],
    ),
    "masked_scatter": (lambda x, m, s: x.masked_scatter(m > 0, s), [torch.randn(4, 5) for _ in range(3)]),
    "erfinv": (torch.erfinv, [torch.linspace(-1, 1, 41)]),
    "histc": (lambda x: torch.histc(x, 4, 0, 3), [_ints(30, high=6).float()]),
    "lstm": (nn.LSTM(4, 5, batch_first=True).eval(), [torch.randn(2, 3, 4)]),
    "gru": (nn.GRU(4, 5, bidirectional=True).eval(), [torch.randn(3, 2, 4)]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_it_runs_whole(name):
    function, operands = WHOLE[name]
    model = function if isinstance(function, nn.Module) else Call(function)
    compiled = engine.compile(model, operands, min_block_size=1, require_full_compilation=True, runtime="interpreter")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*operands), model(*operands), rtol=1e-4, atol=1e-5)

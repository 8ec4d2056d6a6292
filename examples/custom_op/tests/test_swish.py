"""What the rules make of the op and of a model, as snapshots; and that the engine computes what PyTorch does."""

import pytest
import torch
from swish_ops import scaled_swish
from swish_ops.model import GatedBlock

import engine
from engine.testing import assert_covered, converts, partition, rewrites


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GatedBlock().eval()


def written_out(x):
    return x * torch.sigmoid(0.5 * x)


def test_what_is_written_out_becomes_the_op():
    graph = rewrites(written_out, [torch.ones(2, 3)])
    assert graph.splitlines() == [
        "x = input : float32[2, 3]",
        "scaled_swish_default = swish_ops.scaled_swish.default(x, 0.5) : float32[2, 3]  # swish.written_out",
        "return (scaled_swish_default,)",
    ]


def test_the_layers_of_the_op(snapshot):
    assert converts(lambda x: scaled_swish(x, 1.5), [torch.ones(2, 3)]) == snapshot


def test_the_model_is_one_engine(model, snapshot):
    assert partition(model, model.example_inputs) == snapshot


def test_the_model_is_covered_for_every_batch(model):
    x = engine.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(64, 8))
    assert_covered(model, [x])


def test_the_engine_computes_what_pytorch_does(model):
    compiled = engine.compile(model, [engine.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(64, 8))])
    x = torch.randn(5, 8)
    torch.testing.assert_close(compiled(x).cpu(), model(x), rtol=1e-3, atol=1e-3)

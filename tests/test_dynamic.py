"""Dynamic shapes: ranges from ``engine.Input`` and ``dynamic_shapes``, sizes in the results, symbols everywhere."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import CaptureError, InputError
from tests.comparison import assert_agrees
from tests.summaries import networks_text, start


class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)

    def forward(self, x):
        return self.conv(x).relu().flatten(2).mean(-1)


def test_a_range_of_batches_and_of_image_sizes():
    model = Pool().eval()
    x = engine.Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 24))
    compiled = engine.compile(model, [x])
    assert compiled.report.coverage == 1.0
    for shape in ((1, 3, 8, 8), (2, 3, 17, 23), (4, 3, 32, 24)):
        assert_agrees(compiled, model, torch.randn(shape))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_example_may_have_any_size_of_the_range(size):
    model = nn.Linear(8, 4).eval()
    batch = Dim("batch", min=1, max=4)
    compiled = engine.compile(model, [torch.randn(size, 8)], dynamic_shapes={"input": {0: batch}})
    for other in (1, 3, 4):
        assert_agrees(compiled, model, torch.randn(other, 8))


def test_a_size_of_the_input_in_the_computation():
    class Sizes(nn.Module):
        def forward(self, x):
            n, m = x.shape
            grid = torch.arange(m, device=x.device).expand(n, m)
            return x.flatten(), (x + grid) / n, torch.zeros(n, 2 * m), x.new_ones(m) * n

    model = Sizes().eval()
    dims = {0: Dim("n", min=1, max=6), 1: Dim("m", min=2, max=9)}
    compiled = engine.compile(model, [torch.randn(3, 4)], dynamic_shapes={"x": dims})
    assert compiled.report.coverage == 1.0
    for shape in ((1, 2), (3, 4), (6, 9)):
        assert_agrees(compiled, model, torch.randn(shape))


def test_sizes_as_results():
    class Sizes(nn.Module):
        def forward(self, x):
            return x.relu(), x.shape[0], x.shape[0] * 2 + 1

    model = Sizes().eval()
    compiled = engine.compile(model, [torch.randn(3, 4)], dynamic_shapes={"x": {0: Dim("n", min=1, max=6)}})
    result = assert_agrees(compiled, model, torch.randn(5, 4))
    assert result[1:] == (5, 11)


def test_a_size_as_input():
    class Count(nn.Module):
        def forward(self, x, n):
            return x * n + torch.arange(n).sum()

    model = Count().eval()
    compiled = engine.compile(
        model, [torch.randn(3, 4), 5], dynamic_shapes={"x": None, "n": Dim.DYNAMIC(min=2, max=16)}
    )
    for count in (2, 7, 16):
        assert_agrees(compiled, model, torch.randn(3, 4), count)
    with pytest.raises(InputError, match=r"input 'n' has size 17; its range is .*16"):
        compiled(torch.randn(3, 4), 17)


def test_related_dims_are_found_and_checked():
    class Add(nn.Module):
        def forward(self, x, y):
            return x + y

    model = Add().eval()
    ranged = engine.Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(8, 3))
    compiled = engine.compile(model, [ranged, ranged])
    assert_agrees(compiled, model, torch.randn(5, 3), torch.randn(5, 3))
    with pytest.raises(InputError, match="must equal dim 0 of input 'x'"):
        compiled(torch.randn(5, 3), torch.randn(4, 3))


def test_a_dim_that_the_model_fixes_is_an_error():
    class Fixed(nn.Module):
        def forward(self, x):
            return x + torch.ones(4, 3)

    with pytest.raises(CaptureError, match=r"dim 0|Constraints violated|batch"):
        engine.compile(Fixed(), [torch.randn(4, 3)], dynamic_shapes={"x": {0: Dim("batch", min=2, max=8)}})


def test_emitted_network_with_run_time_sizes(snapshot):
    class Merge(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] * x.shape[1], -1)[1:].flip(0)

    dims = {0: Dim("n", min=1, max=6), 1: Dim("m", min=2, max=9)}
    compilation = start(Merge().eval(), [torch.randn(3, 4, 2)], dynamic_shapes={"x": dims})
    assert networks_text(compilation) == snapshot

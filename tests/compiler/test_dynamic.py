"""Dynamic shapes: ranges from ``engine.Input`` and ``dynamic_shapes``, sizes in the results, symbols everywhere."""

import math

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import CaptureError, InputError
from engine.testing.helpers import start
from engine.testing.networks import networks_text
from tests.comparison import assert_agrees


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


def ranged(low, usual, high):
    return engine.Input(min_shape=low, opt_shape=usual, max_shape=high)


class Arithmetic(nn.Module):
    """All that real models do with sizes."""

    def forward(self, x):
        n, m = x.shape
        flat = x.flatten()
        return (
            flat[: n * m // 2],
            flat[-n:],
            x[:, : m - m % 2],
            x.new_zeros(torch.sym_max(n, m) - torch.sym_min(n, m) + 1),
            x.new_ones(torch.sym_ite(n > m, n, m)),
            torch.arange(math.ceil(m / 2)) + n**2,
            x * (n / m) + m**0.5,
            torch.full((n, m), -n),
            x * torch.sym_ite(n >= 3, 2, 5) + torch.sym_ite(n == m, 1, 0) - torch.sym_ite(n <= 4, 1, 3),
        )


def test_arithmetic_on_sizes():
    model = Arithmetic()
    compiled = engine.compile(
        model, [ranged((2, 2), (3, 4), (6, 9))], min_block_size=1, require_full_compilation=True
    )  # fmt: skip
    for shape in ((2, 2), (2, 3), (3, 4), (5, 2), (6, 9)):
        assert_agrees(compiled, model, torch.randn(shape))


class Meeting(nn.Module):
    """Sizes that are equal only when the engine runs."""

    def forward(self, x, y, z):
        joined = torch.cat([x, y], 1) + z
        scores = joined @ joined.mT
        places = torch.arange(joined.shape[1], device=x.device)
        mask = places[None, :] <= places[:, None]
        return (
            scores.masked_fill(~mask, float("-inf")).softmax(-1),
            scores.view(-1, scores.shape[1] * scores.shape[2]),
            y.flip(1) * z[:, : y.shape[1]],
            x[:, :1].expand(-1, z.shape[1], -1) - z,
        )


def test_sizes_that_meet_at_run_time():
    model = Meeting()
    inputs = [ranged((1, 2, 3), (2, 4, 3), (4, 9, 3)), ranged((1, 1, 3), (2, 3, 3), (4, 5, 3))]
    inputs.append(ranged((1, 3, 3), (2, 7, 3), (4, 14, 3)))
    compiled = engine.compile(model, inputs, min_block_size=1, require_full_compilation=True)
    for batch, first, second in ((1, 2, 1), (2, 4, 3), (3, 7, 2), (2, 5, 5), (4, 9, 5)):
        sizes = ((batch, first, 3), (batch, second, 3), (batch, first + second, 3))
        assert_agrees(compiled, model, *map(torch.randn, sizes))
    with pytest.raises(InputError, match=r"dim 1 of input 'z' has size 6"):
        compiled(torch.randn(1, 2, 3), torch.randn(1, 3, 3), torch.randn(1, 6, 3))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        y = self.linear(x).relu()
        return y, y.sum(1), torch.cat([y, x], -1).flatten(0, 1), x.softmax(-1), x.mT @ y, x.flip(1).cumsum(1)


@pytest.mark.parametrize(
    ("low", "high", "shapes"),
    [
        ((0, 4, 4), (4, 4, 4), [(0, 4, 4), (1, 4, 4), (2, 4, 4), (3, 4, 4), (4, 4, 4)]),
        ((1, 1, 4), (4, 8, 4), [(1, 1, 4), (4, 1, 4), (1, 8, 4), (2, 3, 4), (4, 8, 4)]),
        ((1, 0, 4), (4, 8, 4), [(1, 0, 4), (4, 0, 4), (1, 1, 4), (3, 5, 4), (4, 8, 4)]),
    ],
    ids=["no batch", "one", "nothing inside"],
)
def test_dims_of_none_and_of_one(low, high, shapes):
    model = Small().eval()
    compiled = engine.compile(
        model, [ranged(low, (2, 4, 4), high)], min_block_size=1, require_full_compilation=True
    )  # fmt: skip
    for shape in shapes:
        assert_agrees(compiled, model, torch.randn(shape))


def test_sizes_read_from_data():
    class Counted(nn.Module):
        def forward(self, x, counts):
            n = counts.max().item()
            torch._check(n >= 2)
            torch._check(n <= x.shape[1])
            return x.relu().sum(-1) + torch.arange(n, device=x.device).sum(), torch.zeros(n).cumsum(0) + 1, x[:, :n]

    model = Counted()
    inputs = [ranged((1, 3, 4), (2, 5, 4), (4, 9, 4)), torch.tensor([2, 3])]
    compiled = engine.compile(model, inputs, min_block_size=1, runtime="interpreter")
    for batch, time, count in ((1, 3, 2), (2, 5, 4), (3, 7, 7), (3, 4, 3), (4, 9, 9)):
        assert_agrees(compiled, model, torch.randn(batch, time, 4), torch.tensor([1, count]))


def test_places_found_in_data_cut_the_graph_and_nothing_else():
    class Found(nn.Module):
        def forward(self, x):
            y = (x * 2).relu()
            places = (y > 0.5).nonzero()
            return y.sum(-1), (places.float() * 2 + 1).sqrt().sum(0), places.shape[0]

    model = Found()
    compiled = engine.compile(
        model, [ranged((1, 3), (2, 5), (4, 9))], min_block_size=1, runtime="interpreter"
    )  # fmt: skip
    if compiled.report.coverage < 1.0:
        (fallback,) = compiled.report.fallbacks
        assert (fallback.op, "needs not rtx" in fallback.reason) == ("aten.nonzero.default", True)
        assert [segment.backend for segment in compiled.report.segments] == ["tensorrt", "torch", "tensorrt"]
    for x in (torch.randn(1, 3), torch.randn(2, 5), torch.randn(4, 9), torch.zeros(2, 4), torch.ones(3, 3)):
        assert_agrees(compiled, model, x)


def test_several_profiles():
    model = Meeting()

    def profiles(*sizes):
        return engine.Input(
            profiles=[
                {"min_shape": (*low, 3), "opt_shape": (*usual, 3), "max_shape": (*high, 3)}
                for low, usual, high in sizes
            ]
        )

    compiled = engine.compile(
        model,
        [
            profiles([(1, 2), (1, 2), (1, 4)], [(2, 6), (4, 8), (8, 8)]),
            profiles([(1, 1), (1, 2), (1, 2)], [(2, 2), (4, 4), (8, 8)]),
            profiles([(1, 3), (1, 4), (1, 6)], [(2, 8), (4, 12), (8, 16)]),
        ],
        min_block_size=1,
        require_full_compilation=True,
    )
    for batch, first, second in ((1, 2, 1), (1, 4, 2), (1, 3, 2), (2, 6, 2), (4, 8, 4), (8, 8, 8), (5, 7, 3)):
        sizes = ((batch, first, 3), (batch, second, 3), (batch, first + second, 3))
        assert_agrees(compiled, model, *map(torch.randn, sizes))


class PaddedToMultiples(nn.Module):
    """Pads to a multiple of 4 on both sides, goes down once and up again, and cuts the padding off."""

    def __init__(self, padding, mode, by_size):
        super().__init__()
        self.inside, self.outside = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.padding, self.mode, self.by_size = padding, mode, by_size

    def forward(self, x):
        rows, columns = x.shape[-2:]
        more, right = self.padding(rows, 4), self.padding(columns, 4)
        wide = self.inside(nn.functional.pad(x, (0, right, more // 2, more - more // 2)))
        small = nn.functional.max_pool2d(wide, 2)
        how = {"size": wide.shape[-2:]} if self.by_size else {"scale_factor": 2.0}
        large = nn.functional.interpolate(small, mode=self.mode, **how)
        top = more // 2
        return self.outside(torch.cat([wide, large], 1))[..., top : top + rows, :columns]


@pytest.mark.parametrize(
    ("padding", "mode", "by_size", "dtype"),
    [
        (lambda n, m: -n % m, "nearest", False, torch.float32),
        (lambda n, m: (m - n % m) % m, "bilinear", True, torch.float32),
        (lambda n, m: math.ceil(n / m) * m - n, "nearest-exact", True, torch.float16),
    ],
)
def test_padding_to_a_multiple_before_resizing(padding, mode, by_size, dtype):
    model = PaddedToMultiples(padding, mode, by_size).eval().to(dtype)
    dims = {2: Dim("rows", min=5, max=40), 3: Dim("columns", min=5, max=40)}
    compiled = engine.compile(model, [torch.randn(1, 2, 22, 33, dtype=dtype)], dynamic_shapes=(dims,))
    assert compiled.report.coverage == 1.0
    for size in ((5, 40), (40, 5), (21, 38), (16, 7)):
        x = torch.randn(1, 2, *size, dtype=dtype)
        assert_agrees(compiled, model, x, tolerance=1e-4 if dtype is torch.float32 else 1e-2)

"""The sizes that a segment is compiled for, and what of a call is held against them."""

import sympy
import torch

from engine.inductor.sizes import SizeRange, Sizes, TensorInput, contiguous_strides

N, M = sympy.symbols("n m", integer=True, positive=True)


def tensor(*shape):
    return TensorInput(shape, contiguous_strides(shape), torch.float32, torch.device("cpu"))


def test_calls_within_the_ranges_tell_their_sizes():
    sizes = Sizes.of([tensor(N, 4), tensor(2 * N + 1)], {N: (1, 3, 8)})
    assert sizes.values([torch.empty(5, 4), torch.empty(11)]) == {N: 5}
    assert sizes.values([torch.empty(5, 4), torch.empty(10)]) is None  # no 2 * n + 1
    assert sizes.values([torch.empty(9, 4), torch.empty(19)]) is None  # beyond the range
    assert sizes.values([torch.empty(1, 4), torch.empty(3)]) is None  # PyTorch takes sizes to be 2 or more
    assert sizes.values([torch.empty(5, 3), torch.empty(11)]) is None
    assert sizes.values([torch.empty(5, 4).double(), torch.empty(11)]) is None


def test_a_size_that_no_dim_tells_is_a_symbol_of_its_own():
    sizes = Sizes.of([tensor(2 * N, 3)], {N: (1, 4, 8)})
    ((symbol, allowed),) = sizes.ranges.items()
    assert symbol is not N
    assert allowed == SizeRange(2, 8, 16)
    assert sizes.inputs[0].strides == (3, 1)
    assert sizes.values([torch.empty(6, 3)]) == {symbol: 6}


def test_fake_inputs_are_related_as_the_sizes_are():
    sizes = Sizes.of([tensor(N, M), tensor(N * M), M], {N: (0, 1, 8), M: (2, 5, 5)})
    fakes = sizes.fake()
    first, second, size = fakes.values
    assert bool(second.shape[0] == first.shape[0] * first.shape[1])
    assert bool(first.shape[1] == size)
    assert fakes.env.guards == []
    assert [first.shape[0].node.hint, first.shape[1].node.hint] == [2, 5]


def test_sizes_of_the_data_have_no_bounds():
    sizes = Sizes.of([tensor(N, 2)], {})
    assert sizes.values([torch.empty(100_000, 2)]) == {N: 100_000}
    assert sizes.values([torch.empty(0, 2)]) is None

"""Reads by strides see memory as it lay when the model was captured, whatever an engine makes of it."""

import pytest
import torch
from torch import nn

import engine
from engine.errors import CaptureError


class Strided(nn.Module):
    def __init__(self, before, size, stride, offset=None):
        super().__init__()
        self.before, self.size, self.stride, self.offset = before, size, stride, offset

    def forward(self, x):
        return torch.as_strided(self.before(x), self.size, self.stride, self.offset)


X = torch.arange(24.0).reshape(2, 3, 4)
CASES = {
    "contiguous": (lambda x: x * 2, (2, 5), (1, 3), 2),
    "permuted": (lambda x: torch.relu(x.permute(2, 0, 1)), (3, 2), (2, 1), None),
    "expanded": (lambda x: x + 1, (4, 3), (0, 2), 1),
    "number": (lambda x: x.sum(), (2,), (0,), None),
    "nothing": (lambda x: x * 2, (0, 2), (1, 1), None),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_gather_in_the_order_of_memory(case):
    model = Strided(*CASES[case])
    compiled = engine.compile(model, (X,), min_block_size=1, runtime="interpreter")
    assert compiled.report.fallbacks == []
    assert torch.equal(compiled(X), model(X))


def test_a_dynamic_operand():
    model = Strided(lambda x: x * 2, (2, 3), (1, 2))
    shapes = engine.Input(min_shape=(2, 3, 4), opt_shape=(3, 3, 4), max_shape=(5, 3, 4))
    compiled = engine.compile(model, (shapes,), min_block_size=1, runtime="interpreter")
    assert compiled.report.fallbacks == []
    assert torch.equal(compiled(X), model(X))


def test_an_input_that_is_a_part_of_its_memory_is_read_in_pytorch():
    model, part = Strided(lambda x: x, (2, 2), (1, 4)), X[:, :, ::2]
    compiled = engine.compile(model, (part,), min_block_size=1, runtime="interpreter")
    assert [fallback.op for fallback in compiled.report.fallbacks] == ["aten.as_strided.default"]
    assert torch.equal(compiled(part), model(part))


def test_a_computed_view_of_a_part_is_refused():
    with pytest.raises(CaptureError, match="reads memory that is not its operand's"):
        engine.compile(Strided(lambda x: (x * 2)[:, 1:], (2, 2), (1, 4)), (X,), runtime="interpreter")


def test_an_operand_whose_size_is_read_from_data():
    """Strides over a size that may be zero are at least those of one element, and are still an order of memory."""

    class Read(nn.Module):
        def forward(self, x, count):
            n = count.item()
            torch._check(n >= 0)
            torch._check(n <= x.shape[1])
            rows = (x.flatten()[: 8 * n] * 2).view(2, n, 4)
            return torch.as_strided(rows, (2, n), (1, 4))

    model, args = Read(), (X, torch.tensor(2))
    compiled = engine.compile(model, args, min_block_size=1, runtime="interpreter")
    assert "aten.as_strided_copy.default" not in [fallback.op for fallback in compiled.report.fallbacks]
    assert torch.equal(compiled(*args), model(*args))

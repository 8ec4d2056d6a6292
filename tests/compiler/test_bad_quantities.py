"""Codes, scales and zero points that do not fit: the float path with a reason, or an error, never a wrong number."""

import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import nn
from torch.nn import functional

import engine
from engine.errors import EngineError

ROWS, COLUMNS, GROUP = 128, 256, 64
OPS = torch.ops.quantized_decomposed


class Weights(nn.Module):
    """A linear layer whose weight ``how`` makes of buffers."""

    def __init__(self, how, **buffers):
        super().__init__()
        self.how = how
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return functional.linear(x, self.how(self))


def groups(model):
    return OPS.dequantize_per_channel_group(model.q, model.s, model.z, -8, 7, torch.int8, GROUP, torch.float32)


def channels(model):
    low, high = (0, 255) if model.q.dtype == torch.uint8 else (-128, 127)
    return OPS.dequantize_per_channel(model.q, model.s, model.z, 0, low, high, model.q.dtype)


def blocks(model):
    return (model.q.to(model.s.dtype).reshape(ROWS, -1, GROUP) * model.s[:, :, None]).reshape(ROWS, COLUMNS).float()


def codes(least=-128, most=127, dtype=torch.int8):
    return torch.randint(least, most + 1, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0)).to(dtype)


def scales(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.int32)


EACH = (ROWS, COLUMNS // GROUP)
KEPT = {
    "codes beyond those that are declared": (groups, "int8", {"q": codes(), "s": scales(*EACH), "z": zeros(*EACH)}),
    "zero points beyond the codes": (groups, "int4", {"q": codes(-8, 7), "s": scales(*EACH), "z": zeros(*EACH) + 100}),
    "negative scales": (groups, "int4", {"q": codes(-8, 7), "s": -scales(*EACH), "z": zeros(*EACH)}),
    "scales of zero": (groups, "int4", {"q": codes(-8, 7), "s": scales(*EACH) * 0, "z": zeros(*EACH)}),
    "scales that are no numbers": (
        groups,
        "int4",
        {"q": codes(-8, 7), "s": scales(*EACH) * torch.nan, "z": zeros(*EACH)},
    ),
    "17 codes": (blocks, "int8", {"q": codes(-8, 8), "s": scales(*EACH)}),
}
FOLDED = {
    "zero points of channels": (channels, "int8", {"q": codes(), "s": scales(ROWS), "z": torch.arange(ROWS) - 64}),
    "zero points beyond int8": (channels, "int8", {"q": codes(), "s": scales(ROWS), "z": torch.full((ROWS,), 300)}),
    "unsigned codes": (channels, "uint8", {"q": codes(0, 255, torch.uint8), "s": scales(ROWS), "z": zeros(ROWS) + 128}),
    "one scale for all channels": (channels, "int8", {"q": codes(), "s": scales(1), "z": zeros(1)}),
    "codes beyond int8": (blocks, "int16", {"q": codes(-300, 300, torch.int16), "s": scales(*EACH)}),
    "scales in float64": (blocks, "int8", {"q": codes(), "s": scales(*EACH).double()}),
    "float8 of another kind": (
        blocks, "float8_e5m2", {"q": codes(-3, 3).float().to(torch.float8_e5m2), "s": scales(*EACH)},
    ),
    "float8 that is no number": (
        blocks, "float8_e4m3fn", {"q": (codes() * torch.nan).to(torch.float8_e4m3fn), "s": scales(*EACH)},
    ),
}  # fmt: skip
REFUSED = {
    "too few groups of scales": (groups, {"q": codes(-8, 7), "s": scales(ROWS, 3), "z": zeros(ROWS, 3)}),
    "scales of a row are missing": (groups, {"q": codes(-8, 7), "s": scales(ROWS - 1, 4), "z": zeros(ROWS - 1, 4)}),
    "scales of another axis": (channels, {"q": codes(), "s": scales(COLUMNS), "z": zeros(COLUMNS)}),
    "blocks that do not fit": (
        lambda model: (model.q.float().reshape(ROWS, -1, 50) * model.s).reshape(ROWS, COLUMNS),
        {"q": codes(), "s": scales(ROWS, 1, 1)},
    ),
}


def compiled(model):
    x = torch.randn(4, COLUMNS, generator=torch.Generator().manual_seed(2))
    found = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)
    torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-4, equal_nan=True)
    assert found.report.coverage == 1.0
    return found.report


@pytest.mark.parametrize("name", KEPT)
def test_odd_values_are_kept_and_right(name):
    how, dtype, buffers = KEPT[name]
    report = compiled(Weights(how, **buffers))
    assert dtype in report.weights.after


@pytest.mark.parametrize("name", FOLDED)
def test_what_no_rule_keeps_is_floats_with_a_reason(name):
    how, dtype, buffers = FOLDED[name]
    report = compiled(Weights(how, **buffers))
    assert set(report.weights.after) == {"float32"}
    (product,) = report.products
    assert f"the weights are {dtype} in the model and computed to floats" in product.why
    assert product.why in str(report)


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_an_error(name):
    how, buffers = REFUSED[name]
    model, x = Weights(how, **buffers), torch.randn(4, COLUMNS)
    with pytest.raises(RuntimeError):
        model(x)
    with pytest.raises(EngineError, match=r"size|shape|broadcast"):
        engine.compile(model, (x,), runtime="interpreter", min_block_size=1)


def test_floats_that_are_made_of_no_codes_have_no_reason():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.arange(COLUMNS, dtype=torch.int32))
            self.register_buffer("table", torch.randn(COLUMNS, ROWS))

        def forward(self, x):
            return x @ (self.table[self.places] * 2)

    assert [product.why for product in compiled(Table()).products] == [""]

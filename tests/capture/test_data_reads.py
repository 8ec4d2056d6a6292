"""Tensors that a model reads past the tracer: seen by it, or refused with the model's line, and never fake."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import engine
from engine.errors import CaptureError


@torch.library.custom_op("tests_data_reads::scaled", mutates_args=())
def scaled(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return x * by


scaled.register_fake(lambda x, by: torch.empty_like(x))


class Reads(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.layer = nn.Linear(4, 4)
        self.register_buffer("largest", torch.tensor(3.0))
        self.plain = torch.full((4,), 2.0)
        self.listed = [torch.full((4,), 5.0)]

    def forward(self, x):
        return self.how(self, x)


SEEN = {
    "a weight": lambda m, x: x * m.layer.weight.data.abs().max(),
    "a weight, transposed": lambda m, x: x @ m.layer.weight.T.data,
    "a buffer": lambda m, x: x + m.largest.data,
    "a plain tensor": lambda m, x: x + m.plain.data,
    "a tensor in a list": lambda m, x: x + m.listed[0].data,
    "an input": lambda m, x: x.data * 2,
    "a value": lambda m, x: (x * 2).data.relu(),
    "an op without a rule": lambda m, x: scaled(x, m.largest.data) + 1,
    "the same twice": lambda m, x: x * m.largest.data + m.largest.data.data,
    "as a plain tensor": lambda m, x: x * m.layer.weight.as_subclass(torch.Tensor)[0],
    "detach": lambda m, x: scaled(x, m.layer.weight.detach().max()),
    "torch.tensor": lambda m, x: x * m.largest.new_tensor(2.0) + torch.as_tensor(m.largest),
    "a write": lambda m, x: _added_in_place(x * 2),
}


def _added_in_place(y):
    y.data.add_(1)
    return y


@pytest.mark.parametrize("how", SEEN.values(), ids=SEEN)
def test_what_is_read_has_its_values(how):
    model, x = Reads(how).eval(), torch.randn(2, 4)
    with torch.no_grad():
        expected = model(x)
    result = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)(x)
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result, expected)


def _replaced(model, x):
    model.layer.weight.data = model.layer.weight.data * 2
    return model.layer(x)


def _replaced_by_copy(model, x):
    model.layer.weight.data.mul_(2)
    return model.layer(x)


def test_data_that_is_replaced_is_refused():
    model, x = Reads(_replaced).eval(), torch.randn(2, 4)
    before, values = model.layer.weight, model.layer.weight.detach().clone()
    with pytest.raises(CaptureError, match=r"(?s)replaces the \.data of a tensor in forward.*test_data_reads\.py:\d+"):
        engine.compile(model, (x,), runtime="interpreter")
    model.how = _replaced_by_copy
    # What is written to is state.
    model.how, eager = _replaced_by_copy, copy.deepcopy(model)
    eager.how = _replaced_by_copy
    compiled = engine.compile(model, (x,), runtime="interpreter")
    assert list(compiled.states) == ["layer.weight"]
    for _ in range(2):
        torch.testing.assert_close(compiled(x), eager(x).detach())
    assert model.layer.weight is before
    torch.testing.assert_close(before.detach(), values)


HARD = {
    "numpy": lambda m, x: x + torch.from_numpy(m.plain.numpy()),
    "a subclass made by hand": lambda m, x: scaled(x, torch.Tensor._make_subclass(torch.Tensor, m.largest)),
    "a copy": lambda m, x: x + copy.deepcopy(m.largest),
    "an old constructor": lambda m, x: scaled(x, torch.autograd.Variable(m.largest)),
    "a number": lambda m, x: x * float(m.largest),
    "an item": lambda m, x: x * m.largest.item(),
    "a list": lambda m, x: x * m.plain.tolist()[0],
}


@pytest.mark.parametrize("how", HARD.values(), ids=HARD)
def test_other_reads_are_right_or_refused(how):
    model, x = Reads(how).eval(), torch.randn(2, 4)
    with torch.no_grad():
        expected = model(x)
    try:
        result = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)(x)
    except CaptureError as error:
        assert "test_data_reads.py" in str(error)  # noqa: PT017
    else:
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, expected)


def test_reads_of_other_tensors_are_as_ever():
    from engine.capture.tracing.data_reads import traced_reads

    class Named(torch.Tensor):
        pass

    weight = nn.Parameter(torch.ones(2))

    def read():
        assert weight.data.data_ptr() == weight.data_ptr()
        assert not weight.data.requires_grad
        weight.data = torch.zeros(2)
        return type(weight.as_subclass(Named)) is Named and weight.as_subclass(torch.Tensor).requires_grad

    with traced_reads(), ThreadPoolExecutor(1) as other:
        assert other.submit(read).result()
    assert weight.tolist() == [0, 0]
    assert "data" not in vars(torch.Tensor)
    assert "as_subclass" not in vars(torch.Tensor)


def test_torch_compile_reads_data():
    model, x = Reads(SEEN["an op without a rule"]).eval(), torch.randn(2, 4)
    fast = torch.compile(model, backend="engine", options={"runtime": "interpreter", "min_block_size": 1})
    with torch.no_grad():
        result = fast(x)
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, model(x))


def test_a_program_with_a_fake_constant_is_refused():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = torch.full((4,), 2.0)

        def forward(self, x):
            return x * self.by

    x = torch.randn(2, 4)
    program = torch.export.export(Doubled(), (x,))
    mode = next(n.meta["val"].fake_mode for n in program.graph.nodes if isinstance(n.meta.get("val"), FakeTensor))
    program.constants["by"] = mode.from_tensor(torch.full((4,), 2.0))
    with pytest.raises(
        CaptureError, match=r"(?s)'by' of the captured graph has no values.*at .*test_data_reads\.py:\d+"
    ):
        engine.compile(program, runtime="interpreter")


def test_models_without_values_have_a_report_and_no_engine():
    model, x = nn.Linear(4, 4, device="meta").eval(), torch.randn(2, 4, device="meta")
    assert engine.coverage(model, (x,)).coverage == 1.0
    with pytest.raises(CaptureError, match="'weight' of Linear is on the meta device and has no values"):
        engine.compile(model, (x,), runtime="interpreter")
    with pytest.raises(engine.errors.InputError, match="'input' is on the meta device"):
        engine.compile(nn.ReLU(), (x,), runtime="interpreter")

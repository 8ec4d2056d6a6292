"""Programs as a whole: order, memory, errors, laziness."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest
import torch

from engine.errors import InputError, InterpreterError
from engine.interpreter import Program
from engine.interpreter import program as program_module
from tests.interpreter.case import Net, rand


def _program(net: Net, *outputs: Any) -> Program:
    for index, tensor in enumerate(outputs):
        tensor.name = f"out{index}"
        net.network.mark_output(tensor)
    return Program.from_network(net.network)


def _chain(count: int) -> Program:
    net = Net({"x": torch.zeros(4)}, None)
    value = net.inputs[0]
    for _ in range(count):
        value = net.ew(value, net.inputs[0], "SUM")
    return _program(net, value)


def test_names_and_run() -> None:
    net = Net({"a": torch.zeros(3), "b": torch.zeros(3)}, None)
    program = _program(net, net.ew(*net.inputs, "SUB"), net.ew(*net.inputs, "SUM"))
    assert program.input_names == ("a", "b")
    assert program.output_names == ("out0", "out1")
    a, b = rand(3), rand(3, seed=1)
    result = program.run({"b": b, "a": a})
    assert torch.equal(result["out0"], a - b)
    assert torch.equal(result["out1"], a + b)


def test_layers_added_after_their_users() -> None:
    net = Net({"x": torch.zeros(4, 4)}, None)
    layer = net.network.add_slice(net.inputs[0], (0, 0), (6, 4), (1, 1))
    layer.mode = net.trt.SampleMode.FILL
    early = net.network.add_shuffle(layer.get_output(0))
    layer.set_input(4, net.network.add_identity(net.const(torch.tensor(3.0))).get_output(0))
    program = _program(net, early.get_output(0))
    x = rand(4, 4)
    assert torch.equal(program(x)[0], torch.cat((x, torch.full((2, 4), 3.0))))


def test_intermediates_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    original = program_module._check_outputs

    def watched(step: Any, outputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal most
        original(step, outputs)
        alive.extend(weakref.ref(tensor) for tensor in outputs)
        most = max(most, sum(reference() is not None for reference in alive))

    monkeypatch.setattr(program_module, "_check_outputs", watched)
    result = _chain(30)(torch.ones(4))
    assert result[0].tolist() == [31.0] * 4
    assert most <= 3


def test_outputs_share_no_memory() -> None:
    net = Net({"x": torch.zeros(4)}, None)
    same = net.network.add_identity(net.inputs[0]).get_output(0)
    again = net.network.add_identity(net.inputs[0]).get_output(0)
    constant = net.network.add_identity(net.const(torch.ones(4))).get_output(0)
    program = _program(net, same, again, constant)
    x = rand(4)
    outputs = program(x)
    for tensor in outputs:
        tensor.zero_()
    assert torch.equal(program(x)[0], x)
    assert torch.equal(program(x)[2], torch.ones(4))
    assert len({x.data_ptr(), *(tensor.data_ptr() for tensor in outputs)}) == 4


def test_threads() -> None:
    program = _chain(50)
    results: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        results[index] = program(torch.full((4,), float(index)))[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[index], torch.full((4,), 51.0 * index)) for index in range(8))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "1 inputs, not 0"),
        ((torch.zeros(5),), r"must have shape \(4,\)"),
        ((torch.zeros(4, dtype=torch.float16),), "must be torch.float32"),
    ],
    ids=["count", "shape", "dtype"],
)
def test_wrong_inputs(inputs: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _chain(1)(*inputs)


def test_wrong_names() -> None:
    with pytest.raises(InputError, match="missing"):
        _chain(1).run({"y": torch.zeros(4)})


def test_error_names_the_layer() -> None:
    net = Net({"x": torch.zeros(4), "i": torch.zeros(2, 1, dtype=torch.int32), "u": torch.zeros(2)}, None)
    layer = net.network.add_scatter(*net.inputs, net.trt.ScatterMode.ND)
    layer.name, layer.metadata = "write", "rules/x.rules:3"
    program = _program(net, layer.get_output(0))
    with pytest.raises(InterpreterError) as caught:
        program(rand(4), torch.tensor([[0], [9]], dtype=torch.int32), rand(2))
    text = str(caught.value)
    assert "'write' (SCATTER) [rules/x.rules:3]" in text
    assert "float32[4], int32[2, 1], float32[2]" in text
    assert "out of bounds" in text


def test_assertion_that_fails() -> None:
    net = Net({"x": torch.zeros(3, 4), "y": torch.zeros(3, 4)}, {"x": (0,), "y": (0,)})
    x, y = net.inputs
    net.network.add_assertion(net.ew(net.shape(x), net.shape(y), "EQUAL"), "sizes must be equal")
    program = _program(net, net.network.add_identity(x).get_output(0))
    assert program(rand(2, 4), rand(2, 4))[0].shape == (2, 4)
    with pytest.raises(InterpreterError, match="assertion failed: sizes must be equal"):
        program(rand(2, 4), rand(3, 4))


def test_refused_layer() -> None:
    net = Net({"x": torch.zeros(3, 4), "y": torch.zeros(3, 5)}, None)
    net.ew(*net.inputs, "SUM")
    with pytest.raises(InterpreterError, match="TensorRT rejected layer"):
        Program.from_network(net.network)


def test_dynamic_shapes() -> None:
    net = Net({"x": torch.zeros(2, 3)}, {"x": (0, 1)})
    layer = net.network.add_shuffle(net.inputs[0])
    layer.reshape_dims = (-1,)
    program = _program(net, layer.get_output(0))
    for shape in ((2, 3), (1, 7), (0, 3)):
        assert program(torch.zeros(shape))[0].shape == (shape[0] * shape[1],)


def test_conditional_runs_only_the_side_it_takes() -> None:
    """The side not taken would fail: its index is out of bounds for a scatter."""
    inputs = {
        "c": torch.tensor(True),
        "x": torch.zeros(4),
        "i": torch.zeros(1, 1, dtype=torch.int32),
        "u": torch.zeros(1),
    }
    net = Net(inputs, None)
    c, x, i, u = net.inputs
    condition = net.network.add_if_conditional()
    condition.set_condition(c)
    xi, ii, ui = (condition.add_input(tensor).get_output(0) for tensor in (x, i, u))
    yes = net.ew(xi, xi, "SUM")
    no = net.network.add_scatter(xi, ii, ui, net.trt.ScatterMode.ND).get_output(0)
    program = _program(net, condition.add_output(yes, no).get_output(0))
    arguments = rand(4), torch.tensor([[9]], dtype=torch.int32), rand(1)
    assert torch.equal(program(torch.tensor(True), *arguments)[0], 2 * arguments[0])
    with pytest.raises(InterpreterError, match="out of bounds"):
        program(torch.tensor(False), *arguments)


def test_random_fill_follows_the_seed() -> None:
    net = Net({"x": torch.zeros(1)}, None)
    layer = net.network.add_fill((1000,), net.trt.FillOperation.RANDOM_UNIFORM)
    layer.alpha, layer.beta = 2.0, 3.0
    program = _program(net, layer.get_output(0))
    torch.manual_seed(0)
    first = program(torch.zeros(1))[0]
    torch.manual_seed(0)
    assert torch.equal(first, program(torch.zeros(1))[0])
    assert 2 <= first.min() < first.max() < 3


def test_packed_attention_equals_padded() -> None:
    lengths = [3, 5]
    q, k, v = (rand(8, 2, 16, seed=s, dtype=torch.float16) for s in range(3))
    cumulative = torch.tensor([0, 3, 8], dtype=torch.int32)
    net = Net({"q": q, "k": k, "v": v, "n": cumulative}, None)
    if not hasattr(net.trt, "AttentionIOForm"):
        pytest.skip("this TensorRT has no packed attention")
    attention = net.network.add_attention(*net.inputs[:3], net.trt.AttentionNormalizationOp.SOFTMAX, False)
    attention.query_form = attention.key_value_form = net.trt.AttentionIOForm.PACKED_NHD
    attention.query_lengths = attention.key_value_lengths = net.inputs[3]
    program = _program(net, attention.get_output(0))
    actual = program(q, k, v, cumulative)[0].float()
    for start, length in zip((0, 3), lengths, strict=True):
        part = [t[start : start + length].float().transpose(0, 1) for t in (q, k, v)]
        expected = ((part[0] @ part[1].mT).softmax(-1) @ part[2]).transpose(0, 1)
        torch.testing.assert_close(actual[start : start + length], expected, rtol=4e-3, atol=4e-3)

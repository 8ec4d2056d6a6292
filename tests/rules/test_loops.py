"""Loops in rules: built into a network, run by the interpreter, and refused where they make no sense."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError
from engine.graph.recurrence import whole_recurrence
from engine.verify.agreement import check
from tests.comparison import assert_agrees

LAYERS = Path(engine.__file__).parent.parent / "rules" / "layers.rules"
FORWARDS = "aten.cumsum(x: f32[_, _], 0, dtype=_)"
BACKWARDS = "aten.flip(aten.cumsum(aten.flip(x: f32[_, _], [0]), 0, dtype=_), [0])"
RUNNING = """
def one_trip(s, e, given) = after(trt.elementwise(trt.elementwise(s[0], e[0], op=SUM), given[0], op=PROD))

def after(y) = ([y], [y])

convert running
  match PATTERN
  let   zero = filled(0, [dim(x, 1)], f32)
  let   y = loop(one_trip, dim(x, 0), [zero], [x], given=[filled(1.0, [1], f32)], reverse=REVERSE)
  emit  y.1[0]
  test  x: f32[3, 4]
  test  x: f32[T=2..7, 4]
"""


def _verify(directory, text):
    path = directory / "mine.rules"
    path.write_text(text)
    rules = RuleSet.load(LAYERS, path, builtin=False)
    for test in rules.rules[0].tests:
        check(rules.rules[0], test, rules, engine=True)


@pytest.mark.parametrize(("pattern", "reverse"), [(FORWARDS, "false"), (BACKWARDS, "true")])
def test_a_loop_in_a_rule(tmp_path, pattern, reverse):
    _verify(tmp_path, RUNNING.replace("PATTERN", pattern).replace("REVERSE", reverse))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("([y], [y])", "([y, y], [y])"), "a loop of 1 states returns 2 for the next trip"),
        (("([y], [y])", "y"), "a trip returns a pair"),
        (("[x], given", "[x], axis=2, given"), "a loop along axis 2 of a tensor of rank 2"),
        (("([y], [y])", "([trt.cast(y, to_type=i32)], [y])"), "a state of a loop goes from f32"),
        (("dim(x, 0), [zero]", "1.5, [zero]"), "`trips` of `loop` is an int"),
    ],
)
def test_a_loop_that_makes_no_sense(tmp_path, change, reason):
    text = RUNNING.replace("PATTERN", FORWARDS).replace("REVERSE", "false").replace(*change)
    with pytest.raises(EngineError, match=reason):
        _verify(tmp_path, text)


RECURRENT = {
    "lstm": (nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), 1),
    "gru": (nn.GRU(4, 5), 0),
    "gru without biases": (nn.GRU(4, 5, bias=False), 0),
    "rnn": (nn.RNN(4, 5, nonlinearity="relu"), 0),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_sequence_of_any_length(name):
    model, axis = RECURRENT[name]
    dims = {axis: Dim("time", min=2, max=40), 1 - axis: Dim("batch", min=1, max=4)}
    compiled = engine.compile(
        model.eval(), [torch.randn(3, 3, 4)], dynamic_shapes={"input": dims}, require_full_compilation=True,
        min_block_size=1, runtime="interpreter",
    )  # fmt: skip
    for time, batch in ((2, 1), (19, 3), (40, 4)):
        shape = (time, batch, 4) if axis == 0 else (batch, time, 4)
        assert_agrees(compiled, model, torch.randn(shape))


def test_a_network_does_not_grow_with_the_sequence():
    model = nn.GRU(4, 5).eval()
    layers = []
    # A short one may have constants where a long one has them filled.
    for time in (200, 1000):
        compiled = engine.compile(model, [torch.randn(time, 2, 4)], min_block_size=1, runtime="interpreter")
        layers.append(sum(segment.layers for segment in compiled.report.segments))
    assert layers[0] == layers[1] < 60


def test_tracing_recurrence_whole_leaves_pytorch_as_it_was():
    op = torch.ops.aten.lstm.input
    before = dict(op.py_kernels), torch._decomp.decomposition_table[op]
    with whole_recurrence():
        assert dict(op.py_kernels) != before[0]
    assert (dict(op.py_kernels), torch._decomp.decomposition_table[op]) == before


class Stacked(nn.Module):
    """Recurrent layers with two activations behind each."""

    def __init__(self, kind, between):
        super().__init__()
        self.layers = nn.ModuleList(kind(8, 8) for _ in range(2))
        self.between = between

    def forward(self, x):
        for layer in self.layers:
            x = nn.functional.elu(self.between(nn.functional.elu(layer(x)[0], 0.5)))
        return x


@pytest.mark.parametrize(
    ("kind", "between", "dtype"),
    [
        (nn.LSTM, nn.Identity(), torch.float32),
        (nn.GRU, nn.Linear(8, 8), torch.float32),
        (nn.LSTM, nn.CELU(0.7), torch.float16),
    ],
    ids=["lstm", "gru", "half"],
)
def test_two_elus_behind_a_loop(kind, between, dtype):
    """TensorRT-RTX 1.6.1 builds no engine with two ELU layers there."""
    model = Stacked(kind, between).eval().to(dtype)
    compiled = engine.compile(
        model, (torch.randn(9, 1, 8, dtype=dtype),), dynamic_shapes=({0: Dim("t", min=2, max=20)},)
    )
    assert compiled.report.coverage == 1.0
    assert len(compiled.report.segments) == 1
    for steps in (2, 7, 20):
        x = torch.randn(steps, 1, 8, dtype=dtype)
        assert_agrees(compiled, model, x, tolerance=1e-4 if dtype is torch.float32 else 1e-2)

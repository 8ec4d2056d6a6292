"""Graphs of ATen ops that other tracers made: of any opset, with writes in place, with sizes of their own."""

import pytest
import torch
from torch import nn
from torch._decomp import core_aten_decompositions, decomposition_table
from torch._functorch.aot_autograd import aot_export_module
from torch.fx.experimental.proxy_tensor import make_fx

import engine
from engine.errors import CaptureError, InputError

A, P = torch.ops.aten, torch.ops.prims
X = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        self.register_buffer("places", torch.arange(4.0))

    def forward(self, x):
        y = self.head(self.norm(self.conv(x)).relu_().mean((2, 3)))
        y[:, :2] *= 2
        return (y + self.places).softmax(-1), y


def whole(graph, want, *args, given=None):
    compiled = engine.compile(graph, given, runtime="interpreter", min_block_size=1)
    assert compiled.report.fallbacks == []
    torch.testing.assert_close(compiled(*args), want)
    return compiled


FUNCTIONS = {
    "circular padding": lambda x: A._pad_circular(x, [1, 1, 1, 1]),
    "resize_": lambda x: (x + 1).resize_(2, 3, 32) * 2,
    "writes to a slice": lambda x: (y := x + 0, y[:, :1].add_(3))[0],
    "primitives": lambda x: P.mul(P.convert_element_type(x, torch.float16), P.convert_element_type(x, torch.float16)),
    "primitive views": lambda x: P.broadcast_in_dim(P.sum(P.transpose(x, [0, 1, 3, 2]), [1]), [2, 3, 8, 4], [0, 2, 3]),
    "a number's bits": lambda x: A.bitwise_or.Scalar_Tensor(5, (x > 0).int()),
    "a shifted number": lambda x: 1 << (x > 0).int(),
}


# Of one size, so that PyTorch cannot trace them for others.
STATIC = {"resize_", "primitive views"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, mode) for case in FUNCTIONS for mode in ("real", "symbolic") if mode == "real" or case not in STATIC],
)
def test_make_fx(case, mode):
    function = FUNCTIONS[case]
    whole(make_fx(function, tracing_mode=mode)(X), function(X), X)


@pytest.mark.parametrize("table", [None, core_aten_decompositions()], ids=["none", "core"])
def test_opsets(table):
    model = Net().eval()
    with torch.no_grad():
        whole(make_fx(model, decomposition_table=table)(X), model(X), X)


def test_an_opset_of_primitives():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.Flatten(), nn.Linear(72, 5))
    with torch.no_grad():
        whole(make_fx(model, decomposition_table=decomposition_table)(X), model(X), X)


def test_aot_export_module_takes_weights_as_inputs():
    model = Net().eval()
    with torch.no_grad():
        graph, signature = aot_export_module(model, [X], trace_joint=False)
        held = dict(model.named_parameters()) | dict(model.named_buffers())
        whole(graph, model(X), *(held[name] for name in (*signature.parameters, *signature.buffers)), X)


@pytest.mark.parametrize("table", [{}, None, decomposition_table], ids=["none", "core", "all"])
def test_exported_programs_of_any_table(table):
    model = Net().eval()
    program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("batch", max=8)},))
    program = program.run_decompositions(table)
    more = torch.cat([X, X, X[:1]])
    notes = whole(program, model(more), more).report.notes
    assert all("is a primitive" in note for note in notes)
    whole(program.module(), model(more), more, given=[more])


def test_sizes_of_a_symbolic_graph():
    graph = make_fx(lambda x: (x.flatten(2) + 1).relu_(), tracing_mode="symbolic")(X)
    for shape in ((1, 2, 3, 5), (7, 1, 4, 4)):
        x = torch.randn(shape)
        whole(graph, (x.flatten(2) + 1).relu(), x)


def test_ranges_that_are_asked_for():
    ranged = engine.Input(min_shape=(1, 3, 4, 8), opt_shape=(2, 3, 4, 8), max_shape=(9, 3, 4, 8))
    nine = torch.randn(9, 3, 4, 8)
    for mode in ("real", "symbolic"):
        graph = make_fx(lambda x: x.relu() + 1, tracing_mode=mode)(X)
        compiled = whole(graph, nine.relu() + 1, nine, given=[ranged])
        with pytest.raises(InputError, match="dim 0"):
            compiled(torch.randn(10, 3, 4, 8))


def test_ranges_within_those_of_a_program():
    program = torch.export.export(Net().eval(), (X,), dynamic_shapes=({0: torch.export.Dim("batch", max=8)},))
    ranged = engine.Input(min_shape=(2, 3, 4, 8), opt_shape=(2, 3, 4, 8), max_shape=(4, 3, 4, 8))
    compiled = engine.compile(program, [ranged], runtime="interpreter")
    with pytest.raises(InputError, match=r"2\.\.4|2 to 4|from 2"):
        compiled(torch.cat([X, X, X]))
    static = torch.export.export(Net().eval(), (X,))
    with pytest.raises(CaptureError, match="fixes it to 2"):
        engine.compile(static, [ranged], runtime="interpreter")


def test_containers():
    graph = make_fx(lambda a, b: {"sum": a["x"] + b[0], "rest": (a["y"] * 2, b[1])})(
        {"x": X, "y": X * 2}, (X * 3, X * 4)
    )
    compiled = engine.compile(graph, runtime="interpreter", min_block_size=1)
    result = compiled({"x": X, "y": X * 2}, (X * 3, X * 4))
    assert result.keys() == {"sum", "rest"}
    torch.testing.assert_close(result["sum"], X * 4)
    torch.testing.assert_close(result["rest"], (X * 4, X * 4))


def test_what_a_graph_writes_to():
    graph = make_fx(lambda x: (x.add_(1), x * 2)[1])(X.clone())
    compiled = engine.compile(graph, runtime="interpreter", min_block_size=1)
    x = X.clone()
    torch.testing.assert_close(compiled(x), (X + 1) * 2)
    torch.testing.assert_close(x, X + 1)


def test_sizes_as_inputs():
    graph = make_fx(lambda x, n: x.reshape(n, -1).sum(0), tracing_mode="symbolic")(X, 2)
    compiled = engine.compile(graph, runtime="interpreter", min_block_size=1)
    torch.testing.assert_close(compiled(X, 2), X.reshape(2, -1).sum(0))

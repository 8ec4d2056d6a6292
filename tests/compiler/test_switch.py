"""``torch.switch`` of PyTorch 2.14 in one engine, and what rules of users choose among several graphs by."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import FileError
from engine.files.graphs import GraphWriter, read_graph
from engine.testing.helpers import start
from engine.testing.networks import networks_text
from tests.comparison import assert_agrees
from tests.control_flow import Call

try:
    from torch._higher_order_ops.switch import switch
except ImportError:
    switch = None

with_switch = pytest.mark.skipif(switch is None, reason=f"torch {torch.__version__} has no switch; 2.14 has")


class Chosen(nn.Module):
    """Three branches with weights of their own, a convolution among them, and outputs of two kinds."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x, index):
        branches = (
            lambda y: (self.left(y).sin(), y > 0),
            lambda y: (self.right(y) * 2, y.abs() > 0.5),
            lambda y: (self.conv(y[:, None])[:, 0], y < 0),
        )
        value, mask = switch(index, branches, (x * 2,))
        return value.relu(), mask


@with_switch
@pytest.mark.parametrize("index", [torch.tensor(1), torch.tensor([2], dtype=torch.int32)], ids=["i64", "i32[1]"])
@pytest.mark.parametrize("dynamic", [None, [{0: Dim("rows", min=2, max=9)}, None]], ids=["static", "dynamic"])
def test_it_is_one_engine(dynamic, index):
    model = Chosen().eval()
    compiled = engine.compile(
        model, [torch.randn(6, 4), index], dynamic_shapes=dynamic, require_full_compilation=True, runtime="interpreter"
    )
    assert [segment.backend for segment in compiled.report.segments] == ["tensorrt"]
    rule = "control.switch" if dynamic is None else "control.switch_of_all"
    assert compiled.report.rules_used[rule] == 1
    for number in (-3, 0, 1, 2, 7):
        for rows in (6,) if dynamic is None else (2, 5, 9):
            assert_agrees(compiled, model, torch.randn(rows, 4), torch.full_like(index, number))


@with_switch
def test_a_size_chooses():
    model = Call(lambda x: switch(x.shape[0] - 2, (torch.sin, torch.cos, lambda y: y * x.shape[0]), (x,)))
    compiled = engine.compile(
        model,
        [torch.randn(3, 4)],
        dynamic_shapes=[{0: Dim("rows", min=2, max=9)}],
        require_full_compilation=True,
        runtime="interpreter",
    )
    for rows in (2, 3, 4, 9):
        assert_agrees(compiled, model, torch.randn(rows, 4))


@with_switch
def test_one_that_no_engine_runs_stays_whole_in_pytorch_and_in_files(tmp_path):
    model = Call(lambda x: switch(x.sum() > 0, (lambda y: y + torch.rand_like(y) * 0, lambda y: y * 2), (x,)))
    compiled = engine.compile(model, [torch.ones(3, 4)], min_block_size=1, runtime="interpreter")
    (fallback,) = (each for each in compiled.report.fallbacks if each.op == "higher_order.switch")
    assert "aten.rand_like" in fallback.reason
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    for module in (compiled, engine.load(tmp_path / "model.pt2", runtime="interpreter")):
        assert_agrees(module, model, torch.ones(3, 4))
        assert_agrees(module, model, -torch.ones(3, 4))


@with_switch
def test_files_that_give_it_something_else_than_graphs_are_refused():
    def call(x):
        return torch.ops.higher_order.switch(x.sum() > 0, [torch.sin, torch.cos], [x])

    module = torch.fx.experimental.proxy_tensor.make_fx(call)(torch.ones(3))
    data = GraphWriter().write(module)
    assert torch.equal(read_graph(data, {}, {})(torch.ones(3)), torch.ones(3).cos())
    (node,) = (item for item in data["nodes"] if str(item["target"]).endswith("switch"))
    for wrong in ([], node["args"][0], [node["args"][0]], [*node["args"][1], 3]):
        node["args"][1] = wrong
        with pytest.raises(FileError, match="the graph calls switch without a graph to run"):
            read_graph(data, {}, {})


# ------------------------------------------------------------------------------------ several conditions in a rule

RULE = """
convert three
  match higher_order.cond(p: bool[], then: graph, otherwise: graph, operands)
  emit  conditional({conditions}, {graphs}, operands)
  over  control.cond, control.cond_of_both
"""
NOT_P = "trt.unary(p, op=NOT)"


@pytest.mark.parametrize(
    ("conditions", "graphs", "conditionals", "sides"),
    [
        ("[false, p]", "[then, otherwise, then]", 1, ("cos", "sin")),
        ("[p, true]", "[then, otherwise, then]", 1, ("sin", "cos")),
        ("[false, false]", "[then, then, otherwise]", 0, ("cos", "cos")),
        (f"[p, {NOT_P}]", "[otherwise, then, otherwise]", 2, ("cos", "sin")),
        (f"[{NOT_P}, p, true]", "[then, otherwise, then, then]", 2, ("cos", "sin")),
    ],
)
def test_the_first_condition_that_holds_chooses(tmp_path, conditions, graphs, conditionals, sides):
    path = tmp_path / "mine.rules"
    path.write_text(RULE.format(conditions=conditions, graphs=graphs))
    model = Call(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)))
    compiled = engine.compile(
        model, [torch.ones(3)], rules=[path], require_full_compilation=True, runtime="interpreter"
    )
    assert compiled.report.rules_used["mine.three"] == 1
    for x, side in zip((torch.ones(3), -torch.ones(3)), sides, strict=True):
        torch.testing.assert_close(compiled(x), getattr(x, side)())
    text = networks_text(start(model, [torch.ones(3)], rules=[path], min_block_size=1))
    assert text.count(": CONDITION(") == conditionals, text


@pytest.mark.parametrize(
    ("conditions", "graphs", "reason"),
    [
        ("[p]", "[then]", "1 conditions choose among 2 graphs, not 1"),
        ("[1.5]", "[then, otherwise]", "a condition is a bool tensor without dims, got "),
        ("[p]", "[then, 3]", "`run` takes a graph, got "),
    ],
)
def test_what_cannot_choose_says_why(tmp_path, conditions, graphs, reason):
    path = tmp_path / "mine.rules"
    path.write_text(RULE.format(conditions=conditions, graphs=graphs))
    model = Call(lambda x: torch.cond(x.sum() > 0, torch.sin, lambda y: torch.rand_like(y), (x,)))
    report = engine.coverage(model, [torch.ones(3)], rules=[path], min_block_size=1)
    (fallback,) = (each for each in report.fallbacks if each.op == "higher_order.cond")
    assert reason in str(report.why(fallback.node)), str(report.why(fallback.node))

"""Control flow of the model, in one engine: agreement with PyTorch, and why some of it stays there."""

import json
import re

import pytest
import torch
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.export import Dim

import engine
from engine.builder import Blueprint
from engine.conversion import emit_network
from engine.errors import CoverageError
from engine.testing.helpers import start
from engine.testing.networks import networks_text
from tests.comparison import TOLERANCE, assert_agrees
from tests.control_flow import CASES, Call, Cell, Gated

RUNTIMES = [
    pytest.param("interpreter", "cpu", id="interpreter"),
    pytest.param("python", "cuda", id="python", marks=pytest.mark.gpu),
]


def _inputs(rows, device):
    """Inputs on which conditions go either way."""
    yield torch.rand(rows, 4, device=device)
    yield -torch.rand(rows, 4, device=device)
    yield torch.randn(rows, 4, device=device)


@pytest.mark.parametrize(("runtime", "device"), RUNTIMES)
@pytest.mark.parametrize("name", CASES)
def test_it_is_one_engine(name, runtime, device):
    case = CASES[name]
    model = case.model().eval().to(device)
    compiled = engine.compile(
        model, [torch.randn(case.rows, 4, device=device)], require_full_compilation=True, runtime=runtime
    )
    assert [segment.backend for segment in compiled.report.segments] == ["tensorrt"]
    for x in _inputs(case.rows, device):
        assert_agrees(compiled, model, x, tolerance=TOLERANCE[device])


@pytest.mark.parametrize(("runtime", "device"), RUNTIMES)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dynamic])
def test_it_takes_any_number_of_rows(name, runtime, device):
    case = CASES[name]
    model = case.model().eval().to(device)
    compiled = engine.compile(
        model, [torch.randn(case.rows, 4, device=device)], dynamic_shapes=[{0: Dim("rows", min=2, max=9)}],
        require_full_compilation=True, runtime=runtime,
    )  # fmt: skip
    for rows in (2, 5, 9):
        for x in _inputs(rows, device):
            assert_agrees(compiled, model, x, tolerance=TOLERANCE[device])


@pytest.mark.parametrize("name", ["deep", "counted", "running"])
def test_sizes_of_one_compilation_are_not_held_against_the_next(name):
    model = CASES[name].model().eval()
    rows, columns = Dim("rows", min=2, max=9), Dim("columns", min=2, max=9)
    for dims in ({0: rows}, {0: rows, 1: columns}):
        report = engine.coverage(model, [torch.randn(6, 4)], dynamic_shapes=[dims], min_block_size=1)
        assert [segment.backend for segment in report.segments] == ["tensorrt"]


# ------------------------------------------------------------------------------------ what stays in PyTorch, and why


def _random(x):
    return torch.cond(x.sum() > 0, lambda y: y + torch.rand_like(y), lambda y: y * 2, (x,))


def _sizes_differ(x):
    return torch.cond(x.sum() > 0, lambda y: y[:2] * 2, lambda y: y + 1, (x,))


def _random_deep_inside(x):
    def step(total, row):
        return total + row, torch.cond(row.sum() > 0, lambda a: a.exp(), lambda a: torch.rand_like(a), (row,))

    return scan(step, x[0] * 0, x, dim=0)[1]


def _counter_is_wanted(x):
    return while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, y * 1.5), (0, x))


REASONS = {
    "random": (_random, r"true_graph_0_rand_like \(aten\.rand_like\.default, .*\) inside true_graph_0 has no tile: "),
    "sizes_differ": (_sizes_differ, r"the graphs of a conditional return f32\[2, 4\] and f32\[6, 4\]"),
    "random_deep_inside": (
        _random_deep_inside,
        r"scan_combine_graph_0_cond \(higher_order\.cond, .*\) inside scan_combine_graph_0 has no tile: .*"
        r"scan_combine_graph_0_false_graph_0_rand_like \(aten\.rand_like\.default, .*\) inside",
    ),
    "counter_is_wanted": (
        _counter_is_wanted,
        "its output 0 is a Python number that is used, and engines return only tensors",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_no_engine_can_run_stays_in_pytorch_and_says_why(name):
    function, reason = REASONS[name]
    compiled = engine.compile(Call(function), [torch.randn(6, 4)], min_block_size=1, runtime="interpreter")
    [fallback] = compiled.report.fallbacks
    assert fallback.op.startswith("higher_order.")
    assert re.search(reason, fallback.reason), fallback.reason
    # Random numbers are PyTorch's own: the side without them is compared.
    x = -torch.rand(6, 4) if name == "random" else torch.rand(6, 4)
    assert_agrees(compiled, Call(function), x)


def test_a_setting_that_names_an_op_holds_inside_too():
    report = engine.coverage(Gated().eval(), [torch.randn(6, 4)], torch_executed_ops={"aten.sin"}, min_block_size=1)
    [fallback] = report.fallbacks
    assert fallback.op == "higher_order.cond"
    assert "torch_executed_ops names aten.sin" in fallback.reason


def test_doubles_inside_are_narrowed_too():
    model = Cell().double().eval()
    compiled = engine.compile(
        model, [torch.randn(6, 4).double()], truncate_double=True, min_block_size=1, runtime="interpreter"
    )
    assert {fallback.op for fallback in compiled.report.fallbacks} == {"aten._to_copy.default"}
    assert_agrees(compiled, model, torch.randn(6, 4).double())
    report = engine.coverage(model, [torch.randn(6, 4).double()], min_block_size=1)
    assert any("truncate_double=True" in fallback.reason for fallback in report.fallbacks)


def test_full_compilation_names_the_node_inside():
    with pytest.raises(CoverageError, match=r"true_graph_0_rand_like \(aten\.rand_like"):
        engine.compile(Call(_random), [torch.randn(6, 4)], require_full_compilation=True, runtime="interpreter")


def test_a_rule_of_the_user_is_used_inside(tmp_path):
    path = tmp_path / "mine.rules"
    path.write_text(
        "convert my_sin\n  match aten.sin(x: f32[..])\n"
        "  emit trt.elementwise(trt.unary(x, op=SIN), filled(0.0, [1 for _ in shape(x)], f32), op=SUM)\n"
        "  test x: f32[2, 3]\n"
    )
    model = Gated().eval()
    compiled = engine.compile(
        model, [torch.randn(6, 4)], rules=[path], require_full_compilation=True, runtime="interpreter"
    )
    assert compiled.report.rules_used["mine.my_sin"] == 1
    assert_agrees(compiled, model, torch.rand(6, 4))


# ------------------------------------------------------------------------------------ how it looks


NETWORKS = {
    "cond": lambda x: torch.cond(x.sum() > 0, lambda y: y.sin() * 2, lambda y: y.cos(), (x,)),
    "while_loop": lambda x: while_loop(lambda y: y.sum() < 9, lambda y: (y * 2 + 1,), (x,)),
    "scan": lambda x: scan(lambda c, row: (c + row, c * row), x[0] * 0, x, dim=0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, snapshot):
    compilation = start(
        Call(NETWORKS[name]), [torch.randn(6, 4)], dynamic_shapes=[{0: Dim("rows", min=2, max=9)}], min_block_size=1
    )
    assert networks_text(compilation) == snapshot


def test_graphs_inside_have_views_and_names():
    compiled = engine.compile(
        Call(CASES["choice_per_row"].model().function), [torch.randn(6, 4)], min_block_size=1, runtime="interpreter"
    )
    [node] = [data for _, data in compiled.graph.nodes(data=True) if data["graphs"]]
    assert (node["op"], node["graphs"]) == ("higher_order.scan", "scan_combine_graph_0")
    inside = compiled.inner_graphs
    assert list(inside) == [
        "scan_combine_graph_0", "scan_combine_graph_0_true_graph_0", "scan_combine_graph_0_false_graph_0"
    ]  # fmt: skip
    ops = [data["op"] for _, data in inside["scan_combine_graph_0_true_graph_0"].nodes(data=True)]
    assert "aten.add.Tensor" in ops


def test_layers_inside_say_where_they_come_from():
    program = torch.export.export(Gated().eval(), (torch.randn(6, 4),), strict=True)
    compilation = start(program, min_block_size=1)
    [segment] = compilation.partition.engines
    built = emit_network(
        compilation.mirror, segment.tiles, segment.inputs, segment.outputs, {}, compilation.settings, name="engine"
    )
    layers = [built.network.get_layer(index) for index in range(built.network.num_layers)]
    [sine] = [json.loads(layer.metadata) for layer in layers if "true_graph_0_sin/" in layer.name]
    assert sine["rule"].startswith("elementary.")
    assert re.search(r"tests/control_flow\.py:\d+$", sine["source"])


def test_a_side_is_counted_among_the_tiles_of_its_segment():
    # Nine tiles, two of them outside: no segment is too small for being one op.
    report = engine.coverage(Gated().eval(), [torch.randn(6, 4)], min_block_size=6)
    assert [segment.tiles >= 6 for segment in report.segments] == [True]


# ------------------------------------------------------------------------------------ weights, caches, files


def _seeded(seed):
    torch.manual_seed(seed)
    return Gated().eval()


def test_weights_inside_are_refitted():
    compiled = engine.compile(
        _seeded(0), [torch.randn(6, 4)], immutable_weights=False, min_block_size=1, runtime="interpreter"
    )
    engine.refit(compiled, _seeded(1), in_place=True)
    for x in _inputs(6, "cpu"):
        assert_agrees(compiled, _seeded(1), x)


def test_the_engine_cache_tells_networks_apart_by_what_is_inside(tmp_path):
    settings = {
        "cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": str(tmp_path),
        "min_block_size": 1, "runtime": "interpreter",
    }  # fmt: skip

    def outcome(model):
        compiled = engine.compile(model, [torch.randn(6, 4)], **settings)
        return [segment.cache for segment in compiled.report.segments]

    assert outcome(_seeded(0)) == ["miss"]
    assert outcome(_seeded(0)) == ["hit"]
    assert outcome(_seeded(1)) == ["miss"]
    assert outcome(Call(NETWORKS["cond"])) == ["miss"]
    assert outcome(Call(lambda x: torch.cond(x.sum() > 0, lambda y: y.cos(), lambda y: y.sin() * 2, (x,)))) == ["miss"]


def test_a_blueprint_builds_conditionals_and_loops_again():
    model = Call(CASES["choice_in_a_loop"].model().function)
    compilation = start(model, [torch.randn(6, 4)], min_block_size=1, immutable_weights=False)
    [segment] = compilation.partition.engines
    built = emit_network(
        compilation.mirror, segment.tiles, segment.inputs, segment.outputs, {}, compilation.settings, name="engine"
    )
    blueprint = Blueprint.from_json(json.loads(json.dumps(Blueprint.of(built).to_json())))
    weights = {name: weight.tensor for name, weight in built.weights.named.items()}
    assert blueprint.build(weights, compilation.settings)


def test_files_keep_it(tmp_path):
    model = CASES["loop_in_a_choice"].model()
    compiled = engine.compile(model, [torch.randn(6, 4)], min_block_size=1, runtime="interpreter")
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    for x in _inputs(6, "cpu"):
        assert_agrees(loaded, model, x)


def test_torch_compile_takes_it():
    model = Call(CASES["by_size"].model().function)
    compiled = torch.compile(model, backend="engine", options={"runtime": "interpreter", "min_block_size": 1})
    for rows in (6, 3):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)

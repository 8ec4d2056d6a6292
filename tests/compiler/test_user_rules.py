"""Rules of users: new ops, other rules for known ops, rules that TensorRT does not take, rules with mistakes."""

import pytest
import torch
from torch import nn

import engine
from engine.dsl import host as host_functions
from engine.errors import CoverageError, EngineError, RuleError
from engine.testing import portable
from engine.testing.graphs import partition_text
from tests.comparison import assert_agrees
from tests.graph.build import Function
from tests.operators import halves, swirl

SWIRL = """
convert swirl "sin(x) * x."
  match engine_tests.swirl(x: f32[..])
  emit  trt.elementwise(trt.unary(x, op=SIN), x, op=PROD)
  test  x: f32[2, 3]
"""


class Swirl(nn.Module):
    def forward(self, x):
        return swirl(x.relu()) + 1


@pytest.fixture
def rules(tmp_path):
    def write(text, name="my.rules"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_rule_for_a_custom_op(rules):
    path, model, x = rules(SWIRL), Swirl().eval(), torch.randn(2, 3)
    assert engine.coverage(model, [x], min_block_size=1).coverage < 1.0
    for given in ([path], [str(path)], [path.parent], [engine.RuleSet.load(path)], engine.RuleSet.load(path)):
        report = engine.coverage(model, [x], rules=given)
        assert report.coverage == 1.0
    compiled = engine.compile(model, [x], rules=[path], require_full_compilation=True)
    assert compiled.report.rules_used["my.swirl"] == 1
    assert compiled.report.overridden == ()
    assert_agrees(compiled, model, x)


def test_a_lowering_for_a_custom_op_with_two_outputs(rules):
    path = rules("""
lower halves "The left half scaled, the right half shifted."
  match engine_tests.halves(x: floating[_, 8], s)
  emit  (aten.mul.Tensor(aten.slice.Tensor(x, 1, 0, 4, 1), s), aten.sub.Tensor(aten.slice.Tensor(x, 1, 4, 8, 1), s))
  test  x: f32[2, 8], s = 2.0
""")

    class Model(nn.Module):
        def forward(self, x):
            left, right = halves(x, 3.0)
            return left + 1, right

    model = Model().eval()
    x = engine.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))
    compiled = engine.compile(model, [x], rules=[path])
    assert compiled.report.coverage == 1.0
    assert compiled.report.rules_used["my.halves"] == 1
    assert_agrees(compiled, model, torch.randn(3, 8))


def test_a_rule_of_the_user_is_tried_before_a_built_in_one(rules):
    path = rules("""
convert relu "By a maximum with zero, to see the difference."
  match aten.relu(x: f32[..])
  emit  trt.elementwise(x, full(0.0, x), op=MAX)
  test  x: f32[2, 3]
""")
    model, x = nn.ReLU(), torch.randn(2, 3)
    compiled = engine.compile(model, [x], rules=[path])
    assert compiled.report.rules_used == {"my.relu": 1}
    assert compiled.report.overridden == (("my.relu", "activation.relu"),)
    assert "my.relu overrides activation.relu" in str(compiled.report)
    assert_agrees(compiled, model, x)
    # Integers do not match the user's rule: the built-in one is still there.
    other = engine.compile(model, [torch.tensor([-1, 2])], rules=[path])
    assert other.report.rules_used == {"activation.relu": 1}
    assert other.report.overridden == ()


def test_the_nearest_rule_and_its_failed_test_are_named(rules, snapshot):
    path = rules(SWIRL.replace("x: f32[..]", "x: f32[_, _, 3]").replace("[2, 3]", "[2, 2, 3]"))
    report = engine.coverage(Swirl().eval(), [torch.randn(2, 3)], rules=[path], min_block_size=1)
    assert "nearest rule my.swirl" in report.fallbacks[0].reason
    assert partition_text(report) == snapshot
    with pytest.raises(CoverageError) as caught:
        engine.compile(Swirl().eval(), [torch.randn(2, 3)], rules=[path], require_full_compilation=True)
    assert portable(str(caught.value), rule_lines=True) == snapshot


# ------------------------------------------------------------------------------------ refusals

MIXED = """
convert relu "Mixes float32 with integers, which a strongly typed network does not take."
  match aten.relu(x: f32[..])
  emit  trt.elementwise(x, filled(0, ones(rank(x)), i64), op=MAX)
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(self.linear(x).relu()).sigmoid()


def test_a_refused_tile_gives_way_to_the_next_rule(rules, snapshot):
    path, model, x = rules(MIXED), Net().eval(), torch.randn(2, 8)
    compiled = engine.compile(model, [x], rules=[path], min_block_size=1)
    report = compiled.report
    assert report.coverage == 1.0
    assert report.fallbacks == []
    assert [(r.node, r.op) for r in report.refusals] == [("relu", "aten.relu.default")]
    assert "my.relu (" in report.refusals[0].reason
    assert "TensorRT rejected it: " in report.refusals[0].reason
    assert "my.relu" not in report.rules_used
    assert report.rules_used["activation.relu"] == 1
    assert "my.relu" in str(report)
    assert_agrees(compiled, model, x)
    assert partition_text(report) == snapshot


REFUSED_SWIRL = """
convert swirl "Mixes float32 with integers."
  match engine_tests.swirl(x: f32[..])
  emit  trt.elementwise(x, filled(0, ones(rank(x)), i64), op=PROD)
"""


def test_a_refused_tile_without_another_rule_runs_in_pytorch(rules, snapshot):
    path, model, x = rules(REFUSED_SWIRL), Swirl().eval(), torch.randn(2, 3)
    compiled = engine.compile(model, [x], rules=[path], min_block_size=1)
    report = compiled.report
    assert [segment.backend for segment in report.segments] == ["tensorrt", "torch", "tensorrt"]
    assert "my.swirl" in report.fallbacks[0].reason
    assert "TensorRT rejected it" in report.fallbacks[0].reason
    assert_agrees(compiled, model, x)
    assert partition_text(report) == snapshot
    with pytest.raises(CoverageError, match=r"my\.swirl .*TensorRT rejected it"):
        engine.compile(model, [x], rules=[path], require_full_compilation=True)


def test_a_wrong_shape_is_found_when_the_layer_is_added(rules):
    path = rules("""
convert swirl "Sums where nothing is to be summed."
  match engine_tests.swirl(x: f32[..])
  emit  trt.reduce(x, op=SUM, axes=[0], keep_dims=true)
""")
    model, x = Swirl().eval(), torch.randn(2, 3)
    compiled = engine.compile(model, [x], rules=[path], min_block_size=1)
    assert_agrees(compiled, model, x)
    assert [fallback.node for fallback in compiled.report.fallbacks] == ["swirl"]


def test_a_build_that_tensorrt_refuses_demotes_and_quotes_it():
    """Arithmetic of INT8 passes as layers are added and fails when the engine is built."""

    class Bytes(nn.Module):
        def forward(self, x, y):
            return (x + x) * 2, y.relu() + 1

    model = Bytes().eval()
    x, y = torch.ones(2, 3, dtype=torch.int8), torch.randn(2, 3)
    compiled = engine.compile(model, [x, y], min_block_size=1)
    assert_agrees(compiled, model, x, y)
    for refusal in compiled.report.refusals:
        assert "TensorRT could not build the engine" not in refusal.reason


# ------------------------------------------------------------------------------------ mistakes

BROKEN = """
convert one
  match aten.reluu(x)
  emit  trt.activation(x, type=RELU)

convert two
  match aten.relu(x)
  emit  trt.activation(x, type=RELUU)

convert three
  match aten.sigmoid(x)
  emit  aten.relu(x)

convert four
  match aten.tanh(x)
  emit  trt.activation(y, type=TANH)

lower five
  match aten.silu(x)
  emit  aten.mul.Tensor(x, aten.sigmoid(x, 3))
"""


def test_every_mistake_of_a_file_is_reported_at_once(rules, snapshot):
    path = rules(BROKEN)
    with pytest.raises(RuleError) as caught:
        engine.compile(Net(), [torch.randn(2, 8)], rules=[path])
    text = portable(str(caught.value), rule_lines=True)
    assert {diagnostic.span.line for diagnostic in caught.value.diagnostics} >= {3, 8, 12, 16, 20}
    assert text == snapshot


def test_a_file_that_does_not_parse(rules):
    path = rules("convert one\n  match aten.relu(x\n  emit x\n")
    with pytest.raises(RuleError, match=r"my\.rules:\d"):
        engine.coverage(Net(), [torch.randn(2, 8)], rules=[path])


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.rules"):
        engine.coverage(Net(), [torch.randn(2, 8)], rules=["nowhere.rules"])


# ------------------------------------------------------------------------------------ rules that break their word

UNRULY = """
extern host.unsteady(n: int) -> int

simplify grows
  match aten.silu(x)
  emit  aten.mul.Tensor(x, aten.sigmoid(x))
lower other_dtype
  match aten.relu(x)
  emit  aten.gt.Scalar(x, 0)
lower endless
  match aten.neg(x)
  emit  aten.neg(x)
  decreases 1
convert unsteady
  match aten.silu(x)
  when  host.unsteady(rank(x)) > 0
  emit  trt.activation(x, type=RELU)
convert large "None of it may be computed."
  match aten.relu(x)
  let   many = range(100000000000)
  when  len(many) > 0
  emit  trt.activation(x, type=TANH)
convert power
  match aten.neg(x)
  let   a = dim(x, 0) * dim(x, 0) * dim(x, 0) * dim(x, 0)
  let   b = a * a * a * a * a * a * a * a
  when  b * b * b * b * b * b * b * b > 0
  emit  trt.activation(x, type=TANH)
"""


class Three(nn.Module):
    def forward(self, x):
        return -nn.functional.silu(x).relu()


@pytest.mark.parametrize("dynamic", [False, True])
def test_no_rule_ends_a_compile(rules, monkeypatch, dynamic):
    def unsteady(n):
        raise ZeroDivisionError("not today")

    monkeypatch.setitem(host_functions._REGISTRY, "host.unsteady", unsteady)
    monkeypatch.setenv("ENGINE_CHECK", "0")
    shapes = ({0: torch.export.Dim("n", min=2, max=1 << 20)},) if dynamic else None
    model, x, path = Three(), torch.randn(3, 4), rules(UNRULY)
    compiled = engine.compile(model, (x,), dynamic_shapes=shapes, rules=[path], runtime="interpreter")
    report = compiled.report
    assert report.coverage == 1.0
    assert_agrees(compiled, model, x)
    lines = {"grows": 4, "other_dtype": 7, "endless": 10, "unsteady": 14}
    for name, line in lines.items():
        (note,) = (note for note in report.notes if f"my.{name} " in note or f"of my.{name} " in note)
        assert note.startswith(f"{path}:{line}: ")
    assert "host.unsteady raised ZeroDivisionError: not today" in str(report)
    monkeypatch.setenv("ENGINE_CHECK", "1")
    with pytest.raises(EngineError, match=r"my\.rules:"):
        engine.compile(model, (x,), dynamic_shapes=shapes, rules=[path], runtime="interpreter")


class Pooling(nn.Module):
    """A learned query attends over what it is given: its scale is folded, whatever rule takes it."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 3, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        query = self.query.expand(x.shape[0], -1, -1)
        return self.attention(query, x, x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_scaled_query_may_be_constant(dtype, dynamic):
    shapes = ({0: torch.export.Dim("b", min=1, max=4)},) if dynamic else None
    model, x = Pooling().eval().to(dtype), torch.randn(2, 5, 16).to(dtype)
    compiled = engine.compile(model, (x,), dynamic_shapes=shapes, runtime="interpreter", min_block_size=1)
    assert compiled.report.coverage == 1.0
    assert len(compiled.report.segments) == 1
    assert compiled.report.notes == ()
    assert_agrees(compiled, model, x, tolerance=1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize(
    ("given", "declared", "fits"),
    [
        ("abc", "int?", False),
        (True, "int", False),
        (None, "int", False),
        (None, "int?", True),
        (2, "float", True),
        ([1, "a"], "[int]", False),
        ((1, 2), "[int]", True),
        ((1, 2, 3), "(int, int)", False),
        ((1, [2]), "(int, [int])?", True),
        ({1: 2}, "[int]", False),
    ],
)
def test_a_host_function_is_held_to_the_type_it_is_declared_to_give(given, declared, fits, monkeypatch):
    monkeypatch.setenv("ENGINE_CHECK", "0")
    engine.rules.host("given_by_a_user")(lambda n: given)
    rules = engine.RuleSet.from_text(
        f"extern host.given_by_a_user(n: int) -> {declared}\n"
        "lower held\n  match aten.square(x: floating[.., N])\n"
        "  let   k = host.given_by_a_user(N)\n  when  k is none or not (k is none)\n  emit  aten.mul.Tensor(x, x)"
    )
    report = engine.coverage(Squared(), [torch.randn(2, 8)], rules=rules)
    assert report.rules_used.get("my.held", 0) == fits
    if not fits:
        (note,) = report.notes
        assert f"host.given_by_a_user gave {given!r}, and is declared to give {declared}" in note
        assert note.startswith("my.rules:2: my.held")
        assert "at square (" in note


@pytest.mark.parametrize("given", ["raises", "abc"])
def test_a_question_is_strict_about_host_functions_of_the_users_own_rules(given, rules, monkeypatch):
    monkeypatch.setenv("ENGINE_CHECK", "0")
    engine.rules.host("given_by_a_user")(lambda n: 1 // 0 if given == "raises" else given)
    path = rules(
        "extern host.given_by_a_user(n: int) -> int?\n"
        "lower held\n  match aten.square(x: floating[.., N])\n"
        "  when  k := host.given_by_a_user(N)\n  emit  aten.mul.Tensor(x, x)"
    )
    said = "raised ZeroDivisionError" if given == "raises" else "gave 'abc', and is declared to give int?"
    model, x = Squared(), [torch.randn(2, 8)]
    with pytest.raises(EngineError, match=rf"my\.rules:2: my\.held .*at square \(.*host\.given_by_a_user {said}"):
        engine.coverage(model, x, rules=path)
    (note,) = engine.compile(model, x, rules=path, runtime="interpreter").report.notes
    assert said in note


class Squared(torch.nn.Module):
    def forward(self, x):
        return torch.ops.aten.square(x)


TOKENS = """
convert by_tokens "Not erf: a layer is all that counts here."
  match aten.erf(x: f32[_, _])
  let   s = trt.reduce(x, op=MAX, axes=[1], keep_dims=false)
  emit  trt.dequantize(trt.quantize(x, s, to_type=i8, axis=0), s, to_type=f32, axis=0)
"""


def test_scales_of_a_call_along_an_axis_are_refused(tmp_path):
    path = tmp_path / "tokens.rules"
    path.write_text(TOKENS)
    model = Function(torch.erf)
    several, one = (engine.coverage(model, (torch.rand(rows, 8),), rules=[path], min_block_size=1) for rows in (3, 1))
    assert one.rules_used == {"tokens.by_tokens": 1}
    assert "tokens.by_tokens" not in several.rules_used

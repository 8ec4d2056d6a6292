"""What the linter finds in rules, and what it leaves alone."""

import pytest
import torch

import engine
from engine.dsl.ruleset import RuleSet
from engine.linter.search import lint

TEST = "\n  test  x: f32[2, 3]\n"


@pytest.fixture
def linted(tmp_path):
    def look(text):
        path = tmp_path / "my.rules"
        path.write_text(text)
        # Built-in rules take a while, and few of these need their layers and macros.
        builtin = any(word in text for word in ("trt.", "cast(", "silu"))
        return [(one.code, one.message) for one in lint(RuleSet.load(path, builtin=builtin), [path])]

    return look


def rule(body, kind="lower", test=TEST):
    return f"{kind} a\n  {body}{test}"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("def f(x) = aten.neg(aten.abs(x))\ndef g(x) = f(x)\n" + rule("match aten.gelu(x) emit aten.relu(x)"),
         "R101", "nothing uses this macro"),
        ("pattern p(x) = aten.relu(x)\n" + rule("match aten.gelu(x) emit aten.relu(x)"),
         "R101", "nothing uses this named pattern"),
        (rule("match aten.gelu(x: f32[_, _]) emit aten.relu(x) if rank(x) == 2 else aten.abs(x)"),
         "R101", "this side of the `if` is never taken: its test is always true"),
        (rule("match aten.gelu(x: f32[..]) emit aten.relu(x) if dtype(x) in integral else aten.abs(x)"),
         "R101", "its test is always false"),
        (rule("match aten.gelu(x) when rank(x) > 1, rank(x) > 1 emit aten.relu(x)"),
         "R103", "this guard stands here twice"),
        (rule("match aten.gelu(x) let r = rank(x) + 1 let s = rank(x) + 1 emit aten.relu(x) if r > s else x"),
         "R103", "`r` has this value already"),
        (rule("match aten.gelu(x) emit aten.relu(x)") + "  reject x: i64[2]\n  test x: f32[2,3]\n",
         "R103", "this line stands here twice"),
        ("def mine(y, s) = y if rank(y) == s else trt.shuffle(y, reshape=[..ones(s - rank(y)), ..shape(y)])\n"
         + rule("match aten.gelu(x) emit mine(trt.activation(x, type=RELU), 4)", "convert"),
         "R103", "`lift` is the same macro"),
        (rule("match aten.gelu(x) emit aten.relu(x)", test="\n  reject x: i64[2]\n"), "R104", "has no `test` line"),
        (rule("match aten.add.Tensor(x, y) emit aten.relu(x)"), "R105", "the operand `y` is not read"),
        (rule("match aten.gelu(x: f32[B, 3]) emit aten.relu(x)"), "R105", "the dim `B` is not read"),
        (rule("match aten.max.dim(x, 0, true) -> (v, i) emit (aten.neg(i), i)"), "R105", "the output `v` is not read"),
        (rule("match aten.gelu(x) let (a, b) = (rank(x), 2) emit aten.relu(x) if a > 1 else x"),
         "R105", "`b` is not read"),
        ("def f(x, y) = aten.relu(x)\n" + rule("match aten.gelu(x) emit f(x, 1)"), "R105", "the parameter `y`"),
        (rule("match aten.gelu(x) emit aten.relu(x) if all(true for v in shape(x)) else x"), "R105", "`v` is not read"),
        (rule("match aten.add.Tensor(x, y, ..) emit aten.maximum(x, y)", test="\n  test x: f32[2], y: f32[2]\n"),
         "R106", "`..` takes any value of `alpha`"),
        (rule("match aten.neg(aten.gelu(x, ..)) emit aten.relu(x)"), "R106", "`approximate`"),
        (rule("match aten.gelu(x: f32[_, _]) when rank(x) > 1 emit aten.relu(x)"),
         "R107", "the pattern makes this guard true"),
        (rule("match aten.gelu(x: f32[..]) when rank(x) > 1 and dtype(x) in floating emit aten.relu(x)"),
         "R107", "the pattern makes this guard true"),
        (rule("match aten.gelu(x: tensor) when x is not none emit aten.relu(x)"), "R107", "makes this guard true"),
        (rule("match aten.relu(x, ..) emit aten.neg(x)"), "R107", "`..` stands for no argument"),
        (rule("match aten.gelu(x) emit aten.relu(x) if rank(x) == 1 else aten.relu(x)"), "R107", "both sides"),
        (rule("match aten.gelu(x) let y = x emit aten.relu(y)"), "R107", "`y` is another name of `x`"),
        ("lower b\n  match aten.gelu(x: f32[..])\n  emit aten.relu(x)\n  over a" + TEST
         + rule("match aten.gelu(x) emit aten.neg(x)"), "R107", "comes first anyway"),
        ("lower b\n  match aten.gelu(x: f32[..])\n  emit aten.relu(x)\n  over a" + TEST
         + rule("match aten.gelu(x: i64[..]) emit aten.neg(x)"), "R107", "no node matches both rules"),
    ],
)  # fmt: skip
def test_found(text, code, said, linted):
    assert any(one == code and said in message for one, message in linted(text)), linted(text)


@pytest.mark.parametrize(
    "text",
    [
        # The same name twice is a condition; a name of a test line has a value.
        rule("match aten.maximum(x, x) emit aten.relu(x)"),
        rule("match aten.add.Tensor(x, y) emit aten.relu(x)", test="\n  test x: f32[2], y: f32[2]\n"),
        rule("match aten.gelu(x: f32[B, B]) emit aten.relu(x)"),
        # A capture with a type is a condition too.
        rule("match aten.add.Tensor(x, y: i64[..]) emit aten.relu(x)"),
        # What only says where a tensor lies, and what the result says as well.
        rule("match aten._to_copy(x, ..) emit cast(x, dtype(result))", "convert"),
        # Operands that may be absent are certain of nothing.
        rule("match aten.linear(x, w, b: f32[_]?) when b is not none, rank(b) == 1 emit aten.relu(b)",
             test="\n  test x: f32[2, 3], w: f32[4, 3], b: f32[4]\n"),
        # Both rules match some nodes, and neither is more specific.
        "lower b\n  match aten.gelu(x: f32[..])\n  emit aten.relu(x)\n  over a" + TEST
        + rule("match aten.gelu(x: tensor[_, _]) emit aten.neg(x)"),
        # A guard in the rule before lets others have their turn.
        "lower b\n  match aten.gelu(x)\n  when rank(x) == 3\n  emit aten.relu(x)\n  over a\n  test x: f32[2, 3, 4]\n"
        + rule("match aten.gelu(x: f32[..]) emit aten.neg(x)"),
        # Macros by name, with the parameters that `loop` and test lines want.
        "def step(states, elements, given) = ([sum_of(states[0], elements[0])], [])\n"
        + rule("match aten.sum.dim_IntList(x: f32[..], [0], false, dtype=none)\n"
               "  emit loop(step, dim(x, 0), [trt.reduce(x, op=SUM, axes=[0])], [x], given=[], axis=0, reverse=false)"
               ".0[0]", "convert"),
        "def nothing(x) = [scalar(1.0, f32)]\n"
        "convert a\n  match higher_order.cond(p, then: graph, otherwise: graph, xs)\n  emit run(then, xs)\n"
        "  test p = true, then = nothing, otherwise = nothing, xs: [f32[2]]\n",
    ],
)  # fmt: skip
def test_left_alone(text, linted):
    assert linted(text) == []


def test_user_rules_behind_their_own_rules_only(linted):
    # A user's rule in front of built-in ones is what users write rules for.
    assert linted(rule("match aten.silu(x) emit aten.mul.Tensor(x, aten.sigmoid(x))")) == []


def test_a_convert_rule_behind_a_built_in_lower_rule_never_has_its_turn(tmp_path):
    path = tmp_path / "my.rules"
    path.write_text("convert mine\n  match aten.selu(x: f32[..])\n  emit trt.activation(x, type=TANH)" + TEST)
    (found,) = lint(RuleSet.load(path), [path])
    assert found.code == "R102"
    assert 'without("activation.selu")' in found.hint
    # It is so: the rule never fires, and does where that one is left out.
    model = torch.nn.SELU().eval()

    def used(rules):
        report = engine.coverage(model, (torch.randn(2, 3),), rules=rules, networks=False)
        return {decision.rule for decision in report.query()}

    assert "my.mine" not in used(path)
    assert used(RuleSet.load(path).without("activation.selu")) == {"my.mine"}


def test_allowed(linted):
    wide = "match aten.gelu(x, ..) emit aten.relu(x)"
    assert [code for code, _ in linted(rule(wide))] == ["R106"]
    assert linted("# allow over-wide: both are the same here\n" + rule(wide)) == []
    assert linted("# Some rule.\n# allow R106: both are the same here\n" + rule(wide)) == []
    assert linted(f"lower a\n  {wide}  # allow over-wide: both are the same here{TEST}") == []
    # Another code, another rule, no reason, no such code, nothing there.
    assert [code for code, _ in linted("# allow dead: why\n" + rule(wide))] == ["R107", "R106"]
    other = "# allow over-wide: why\nlower b\n  match aten.relu(x)\n  emit aten.neg(x)" + TEST
    assert [code for code, _ in linted(other + rule(wide))] == ["R107", "R106"]
    assert "no reason" in linted("# allow over-wide\n" + rule(wide))[0][1]
    assert "no code `wide`" in linted("# allow wide: why\n" + rule("match aten.gelu(x) emit aten.relu(x)"))[0][1]


def test_families_count_once(linted):
    text = (
        "lower a for OP in aten.gelu, aten.silu, aten.relu\n  match OP(x)\n  let k = 1\n  emit aten.neg(x)\n"
        "  test x: f32[2]\n"
    )
    assert linted(text) == [("R105", "`let k` is not read")]

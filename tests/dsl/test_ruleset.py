import re
import subprocess
import sys

import pytest
import torch

from engine.dsl.checks.facts import emitted_ops
from engine.dsl.checks.needs import parse_version
from engine.dsl.host import host
from engine.dsl.ruleset import RuleSet
from engine.dsl.source import Source
from engine.errors import RuleError, SettingsError
from engine.pipeline.compilation import load_rules
from engine.settings import CompilationSettings
from engine.tensorrt import Capabilities, capabilities

RTX = Capabilities((11, 1), True, frozenset({"activation"}))
TENSORRT = Capabilities((10, 10), False, frozenset({"activation", "attention", "plugin"}))

LAYER = """
layer trt.activation(x: tensor, *, type: ActivationType) -> tensor
  gives (shape(x), dtype(x)) via add_activation(x, type)
"""


def rules(text, **options):
    return RuleSet.from_text(LAYER + text, **options)


def order(ruleset):
    return [rule.id.partition(".")[2] for rule in ruleset.rules]


def test_builtin_rules_load():
    loaded = RuleSet.load()
    assert loaded.rules
    assert not [rule for rule in loaded.rules if rule.level]
    assert {rule.kind for rule in loaded.phase("simplify", "lower")} <= {"simplify", "lower"}


@pytest.mark.parametrize(("version", "rtx"), [((10, 9), False), ((10, 16), True), ((11, 1), False), ((11, 2), True)])
def test_builtin_rules_load_for_every_tensorrt(version, rtx):
    # Rules that only another release needs are ordered and checked as well.
    here = capabilities()
    loaded = RuleSet.load(capabilities=Capabilities(version, rtx, here.features))
    assert any(rule.id == "convolution.conv_transpose3d_uneven" for rule in loaded.rules) == (rtx and version < (11, 0))


def test_importing_it_is_cheap():
    code = "import sys, engine.dsl.ruleset; assert 'lark' not in sys.modules and 'tensorrt_rtx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        ("rtx", [True, False]),
        ("not rtx", [False, True]),
        ("trt >= 10.9", [True, True]),
        ("trt >= 10.10", [True, True]),
        ("trt >= 10.15", [True, False]),
        ("trt < 11", [False, True]),
        ("trt == 11", [True, False]),
        ("cap.attention", [False, True]),
        ("cap.plugin and trt < 11, not rtx", [False, True]),
        ("rtx or cap.attention", [True, True]),
        ("not (rtx or cap.attention)", [False, False]),
        ("torch >= 2.11", [True, True]),
        ("torch < 2.11", [False, False]),
        ("torch == 2, rtx", [True, False]),
    ],
)
def test_needs(needs, wanted):
    text = f"convert r match aten.relu(x) needs {needs} emit trt.activation(x, type=RELU)"
    if "attention" in needs:
        text += "\nlayer trt.attention(q: tensor) -> tensor via add_attention(q)"
    assert [bool(rules(text, capabilities=target).rules) for target in (RTX, TENSORRT)] == wanted


def test_an_inactive_rule_says_what_it_needs():
    text = "convert r match aten.relu(x) needs not rtx emit trt.activation(x, type=RELU)"
    ((rule, reason),) = rules(text, capabilities=RTX).inactive
    assert rule.id == "my.r"
    assert reason == "needs not rtx, but TensorRT-RTX with the API of 11.1 is installed"


def test_a_rule_for_another_torch_may_name_ops_that_this_one_does_not_have():
    text = (
        "convert r for OP in aten.relu, aten.is_not_there match OP(x) needs torch >= 99.5, rtx\n"
        "  emit trt.activation(x, type=RELU)\n"
        "lower s match aten.gelu(x, approximate=a) needs torch < 2.0 emit aten.is_not_there_either(x)\n"
        "convert t match higher_order.is_not_there(x, g: [graph]) needs torch > 98 emit run(g[0], [x])\n"
        "  test x: f32[2], g = [sine]\n"
        "def sine(x) = [aten.sin(x)]\n"
    )
    for given in (RTX, TENSORRT):
        loaded = rules(text, capabilities=given)
        assert not loaded.rules
        reasons = {rule.id: reason for rule, reason in loaded.inactive}
        assert reasons["my.r[1]"] == f"needs torch >= 99.5, but torch {torch.__version__} is installed"
        assert reasons["my.s"] == f"needs torch < 2.0, but torch {torch.__version__} is installed"
        assert reasons["my.t"] == f"needs torch > 98, but torch {torch.__version__} is installed"
    with pytest.raises(RuleError, match=r"there is no op `aten\.is_not_there_either`"):
        rules(text.replace("torch < 2.0", "torch >= 2.0"))


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ("torch", "`torch` alone says nothing"),
        ("torch >= 2.14 and rtx", "a version of PyTorch stands alone in `needs`"),
        ("not torch >= 2.14", "a version of PyTorch stands alone in `needs`"),
        ("python >= 3.11", "only `trt` and `torch` have a version"),
    ],
)
def test_what_needs_cannot_say_of_torch(needs, said):
    with pytest.raises(RuleError, match=re.escape(said)):
        rules(f"convert r match aten.relu(x) needs {needs} emit trt.activation(x, type=RELU)")


def test_a_rule_that_a_setting_leaves_out():
    loaded = rules("convert r match aten.relu(x) needs not setting.use_fp32_acc emit trt.activation(x, type=RELU)")
    assert [rule.id for rule in loaded.with_settings(CompilationSettings()).rules] == ["my.r"]
    ((rule, reason),) = loaded.with_settings(CompilationSettings(use_fp32_acc=True)).inactive
    assert (rule.id, reason) == ("my.r", "needs use_fp32_acc=False")
    with pytest.raises(RuleError, match=r"unknown setting `use_fp16_acc`[\s\S]*did you mean `use_fp32_acc`"):
        rules("convert r match aten.relu(x) needs not setting.use_fp16_acc emit trt.activation(x, type=RELU)")


def test_a_macro_brings_the_needs_of_its_layers():
    text = "def act(x) = trt.activation(x, type=RELU)\nconvert r match aten.relu(x) emit act(x)"
    ((_, reason),) = rules(text, capabilities=Capabilities((10, 10), False, frozenset())).inactive
    assert reason == "trt.activation needs INetworkDefinition.add_activation, which TensorRT 10.10 does not have"


def test_a_layer_may_differ_between_versions():
    text = """
    layer trt.other(x: tensor, *, a: int) -> tensor via add_activation(x, a) until 11.0
    layer trt.other(x: tensor, *, b: int) -> tensor via add_activation(x, b) since 11.0
    """
    assert "a" in rules(text, capabilities=TENSORRT).layers["trt.other"].by_name
    assert "b" in rules(text, capabilities=RTX).layers["trt.other"].by_name


def test_versions_are_not_numbers():
    assert parse_version("10.15") > parse_version("10.9") > parse_version("10")


def test_ops_of_packages_that_are_not_loaded():
    ((_, reason),) = rules("simplify r match nowhere.op(nowhere.op(x)) emit x").inactive
    assert reason == "needs nowhere.op, which no loaded package registers"


def test_a_namespace_of_several_packages_may_lack_an_op():
    # Our own runtime registers its op there, whatever else is loaded.
    torch.library.define("tensorrt::of_another_package", "(Tensor x) -> Tensor")
    found = RuleSet.from_text("lower r\n  match tensorrt.is_not_there(x)\n  emit aten.relu(x)\n")
    ((_, reason),) = found.inactive
    assert reason == "needs tensorrt.is_not_there, which no loaded package registers"


# ------------------------------------------------------------------------------------------ precedence

NEG = "simplify {name} match {pattern} {more} emit x"


@pytest.mark.parametrize(
    ("general", "special"),
    [
        ("aten.mul.Tensor(x, k)", "aten.mul.Tensor(x, 2)"),
        ("aten.mul.Tensor(x, k)", "aten.mul.Tensor(x: floating[..], k)"),
        ("aten.mul.Tensor(x: floating[..], k)", "aten.mul.Tensor(x: f32[..], k)"),
        ("aten.mul.Tensor(x: f32[..], k)", "aten.mul.Tensor(x: f32[_, ..], k)"),
        ("aten.mul.Tensor(x: f32[_, ..], k)", "aten.mul.Tensor(x: f32[_, 3], k)"),
        ("aten.mul.Tensor(x: f32[..], k)", "aten.mul.Tensor(x: const f32[..], k)"),
        ("aten.mul.Tensor(x: tensor, k)", "aten.mul.Tensor(aten.neg(x), k)"),
        ("aten.mul.Tensor(&aten.neg(x), k)", "aten.mul.Tensor(aten.neg(x), k)"),
        ("aten.mul.Tensor(x, y)", "aten.mul.Tensor(x, x)"),
        ("aten.mul.Tensor{x, k}", "aten.mul.Tensor{x, 2}"),
        ("aten.mul.Tensor{x, k}", "aten.mul.Tensor(aten.neg(x), 2)"),
        ("aten.cat([x, ..xs], d)", "aten.cat([x, y], d)"),
        ("aten.cat(x, d)", "aten.cat([x, ..ys], d)"),
        ("aten.neg(aten.relu?(x))", "aten.neg(aten.relu(x: f32[..]))"),
        ("aten.add.Tensor(x, y, ..)", "aten.add.Tensor(x, y)"),
    ],
)
def test_specific_beats_general(general, special):
    texts = [NEG.format(name="b", pattern=special, more=""), NEG.format(name="a", pattern=general, more="")]
    for pair in (texts, texts[::-1]):
        assert order(rules("\n".join(pair))) == ["b", "a"]


def test_a_guard_makes_a_rule_more_specific():
    texts = [NEG.format(name=n, pattern="aten.neg(x)", more=m) for n, m in (("a", ""), ("z", "when rank(x) == 2"))]
    assert order(rules("\n".join(texts))) == ["z", "a"]


def test_guards_agree_whatever_the_names():
    first = NEG.format(name="b", pattern="aten.mul.Tensor(y, 2)", more="when rank(y) == 2").replace("emit x", "emit y")
    second = NEG.format(name="a", pattern="aten.mul.Tensor(x, k)", more="when rank(x) == 2")
    assert order(rules(first + "\n" + second)) == ["b", "a"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("when rank(x) == 2", "when rank(x) != 2"),
        ("when k is none", "when k is not none"),
        ("when k == 1", "when k == 2"),
        ("when rank(x) < 2", "when rank(x) >= 2"),
        ("when is_const(x)", "when not is_const(x)"),
    ],
)
def test_contrary_guards_never_meet(one, other):
    texts = [NEG.format(name=n, pattern="aten.mul.Tensor(x, k)", more=m) for n, m in (("a", one), ("b", other))]
    assert order(rules("\n".join(texts))) == ["a", "b"]


def test_over_decides_and_chains():
    text = "\n".join(
        NEG.format(name=name, pattern="aten.neg(x)", more=f"when {guard} {over}")
        for name, guard, over in (
            ("a", "rank(x) == 1", ""),
            ("b", "is_const(x)", "over a"),
            ("c", "dim(x, 0) == 1", "over b"),
        )
    )
    assert order(rules(text)) == ["c", "b", "a"]


def test_order_does_not_depend_on_the_text():
    texts = [NEG.format(name=name, pattern=f"aten.{name}(aten.{name}(x))", more="") for name in ("neg", "abs", "relu")]
    assert order(rules("\n".join(texts))) == order(rules("\n".join(texts[::-1]))) == ["abs", "neg", "relu"]


# ------------------------------------------------------------------------------------------ levels


@pytest.fixture
def user_file(tmp_path):
    def write(text, name="my.rules"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_user_rules_come_first(user_file):
    path = user_file("simplify mine match aten.neg(x) when rank(x) == 1 emit x")
    base = user_file(NEG.format(name="given", pattern="aten.neg(aten.neg(x))", more=""), "base.rules")
    from engine.dsl.source import read_sources

    loaded = RuleSet._of([*read_sources([base], 0), *read_sources([path], 2)], None)
    assert [rule.id for rule in loaded.rules] == ["my.mine", "base.given"]
    assert loaded.overridden == (("my.mine", "base.given"),)


def both(text, given, stem="one"):
    """A user's text beside a built-in one whose file has the same stem."""
    return RuleSet._of([Source("one.rules", "one", 0, given), Source(f"my/{stem}.rules", stem, 2, text)], None)


def test_a_user_file_of_the_same_name_takes_nothing_away():
    given = NEG.format(name="r", pattern="aten.abs(aten.abs(x))", more="")
    loaded = both(NEG.format(name="r", pattern="aten.neg(aten.neg(x))", more=""), given)
    assert {rule.id: rule.roots[0].op for rule in loaded.rules} == {
        "one.r": "aten.abs.default",
        "user_one.r": "aten.neg.default",
    }
    assert loaded.overridden == ()


def test_a_user_rule_of_the_same_file_name_and_op_comes_first():
    given = NEG.format(name="r", pattern="aten.neg(aten.neg(x))", more="")
    for more in ("", "over one.r"):
        loaded = both(NEG.format(name="r", pattern="aten.neg(aten.neg(x))", more=more), given)
        assert [rule.id for rule in loaded.rules] == ["user_one.r", "one.r"]
        assert loaded.overridden == (("user_one.r", "one.r"),)


def test_macros_and_patterns_of_users_have_names_of_their_own():
    given = (
        "pattern pair(x) = aten.neg(aten.neg(x))\ndef doubled(x) = aten.neg(x)\n"
        "simplify r match pair(x) emit x\nlower s match aten.sigmoid(x) emit doubled(x)\n"
    )
    text = (
        "pattern pair(x) = aten.abs(aten.abs(x))\ndef doubled(x) = aten.relu(x)\n"
        "simplify r match pair(doubled) emit doubled\nlower s match aten.tanh(x) emit doubled(x)\n"
    )
    loaded = both(text, given, "my")
    roots = {rule.id: rule.roots[0].op for rule in loaded.rules}
    assert roots["my.r"] == "aten.abs.default"
    assert roots["one.r"] == "aten.neg.default"
    emitted = {rule.id: emitted_ops(rule, loaded.macros) for rule in loaded.phase("lower")}
    assert emitted == {"my.s": ("aten.relu.default",), "one.s": ("aten.neg.default",)}


def test_loops_and_graphs_of_test_lines_take_a_users_own_macro():
    given = "def trip(a, b) = a\ndef graph_of(x) = [aten.neg(x), x, x]\n"
    text = (
        "def trip(states, elements, given) = (states, elements)\n"
        "def graph_of(x) = [aten.sin(x)]\n"
        "lower two match higher_order.cond(p, f: graph, g: graph, operands) emit operands\n"
        "  test p: bool[], f = graph_of, g = graph_of, operands: [f32[2]]\n"
    )
    loaded = both(text, given, "my")
    named = [binding.value.name for binding in loaded.rules[0].tests[0].bindings[1:3]]
    assert {len(loaded.macros[name].body.items) for name in named} == {1}


def test_a_mistake_in_a_users_macro_shows_the_name_as_it_is_written():
    given = "def twice(x) = x\n"
    with pytest.raises(RuleError, match="`twice` is defined twice"):
        both("def twice(x) = x\ndef twice(y) = y\n", given, "my")
    with pytest.raises(RuleError, match="`twice` has two parameters `x`"):
        both("def twice(x, x) = x\n", given, "my")


def test_directories_stand_for_their_files(tmp_path):
    for name, op in (("b", "neg"), ("a", "abs")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.rules").write_text(NEG.format(name="r", pattern=f"aten.{op}(x)", more=""))
    loaded = RuleSet.load(tmp_path, builtin=False)
    assert [rule.id for rule in loaded.rules] == ["a.r", "b.r"]


def test_missing_files():
    with pytest.raises(FileNotFoundError, match="no rules at"):
        RuleSet.load("nowhere.rules", builtin=False)


# ------------------------------------------------------------------------------------------ identity


def test_the_hash_is_of_the_content():
    text = NEG.format(name="r", pattern="aten.neg(aten.neg(x))", more="")
    assert rules(text).hash == rules(text).hash
    assert rules(text) == rules(text)
    assert rules(text).hash != rules(text + " ").hash
    assert rules(text, capabilities=RTX).hash != rules(text, capabilities=TENSORRT).hash


def test_a_set_is_frozen():
    loaded = rules("")
    with pytest.raises(AttributeError):
        loaded.rules = ()
    with pytest.raises(TypeError):
        loaded.layers["x"] = None


def test_the_text_of_a_rule_is_kept():
    text = NEG.format(name="r", pattern="aten.neg(aten.neg(x))", more="\n ")
    (rule,) = rules(text).rules
    assert rule.text == text
    assert rule.where == "my.rules:4"


def test_host_functions_are_found_by_name():
    @host("sevenfold")
    def sevenfold(a: int) -> int:
        return 7 * a

    loaded = rules("extern host.sevenfold(a: int) -> int")
    assert loaded.hosts["host.sevenfold"](6) == 42


def test_host_names_are_checked():
    with pytest.raises(ValueError, match="lower-case"):
        host("not a name")


def test_mistakes_of_all_files_are_told_together(tmp_path):
    (tmp_path / "a.rules").write_text("lower r match aten.relu(x")
    (tmp_path / "b.rules").write_text("lower r match aten.relu(x) emit y")
    with pytest.raises(RuleError) as refusal:
        RuleSet.load(tmp_path, builtin=False)
    assert len(refusal.value.diagnostics) == 2


def test_rules_can_be_left_out():
    everything = RuleSet.load()
    less = everything.without("rotary.rotary_of_*", "activation.gelu")
    gone = {rule.id for rule in everything.rules} - {rule.id for rule in less.rules}
    assert gone == {rule.id for rule, reason in less.inactive if reason == "left out"}
    assert {"rotary.rotary_of_halves", "activation.gelu[0]", "activation.gelu[1]"} <= gone
    assert "rotary.rotary" not in gone
    assert less != everything
    assert less == everything.without("activation.gelu", "rotary.rotary_of_*")
    assert [rule for rule in everything.rules if rule in less.rules] == list(less.rules)


def test_a_rule_that_is_not_there_cannot_be_left_out():
    with pytest.raises(SettingsError, match=r"no active rule is called rotary\.rotari; did you mean rotary\.rotary\?"):
        RuleSet.load().without("rotary.rotari")


def test_rules_become_active_when_the_package_of_their_op_is_imported():
    text = "convert late match engine_late.twice(x) emit trt.activation(x, type=RELU) test x: f32[2]"
    before = rules(text)
    assert [rule.id for rule, _ in before.inactive] == ["my.late"]
    with torch.library._scoped_library("engine_late", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeExplicitAutograd")
        after = rules(text)
        assert [rule.id for rule in after.rules] == ["my.late"]
        assert after.hash != before.hash
        assert rules(text) is after


# ------------------------------------------------------------------------------------------ what users pass


RELU = "convert relu\n  match aten.relu(x: f32[..])\n  emit  trt.elementwise(x, full(0.0, x), op=MAX)\n"


@pytest.fixture
def relu_file(user_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return user_file(RELU)


@pytest.mark.parametrize(
    "given",
    [
        lambda path: path.name,
        lambda path: path,
        lambda path: str(path),
        lambda path: [path.name],
        lambda path: (path,),
        lambda path: {path},
        lambda path: (item for item in [path]),
        lambda path: path.parent,
        lambda path: RuleSet.load(path),
        lambda path: [RuleSet.load(path)],
    ],
    ids=["name", "path", "text", "list", "tuple", "set", "generator", "folder", "set of rules", "list of one set"],
)
def test_what_users_pass_as_rules(relu_file, given):
    assert "my.relu" in {rule.id for rule in load_rules(given(relu_file)).rules}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda path: [RuleSet.load(), path], "takes one RuleSet or a list of paths, not both"),
        (lambda path: [RuleSet.load(), RuleSet.load(path)], 'RuleSet.load("one.rules", "other.rules")'),
        (lambda path: None, "pass a list of paths"),
        (lambda path: 3, "rules=3"),
        (lambda path: bytes(path), "pass a list of paths"),
        (lambda path: [[path]], "is no path of rules"),
        (lambda path: "", "the path of rules is empty"),
    ],
    ids=["set and file", "two sets", "none", "number", "bytes", "list in list", "empty"],
)
def test_what_is_no_rules_says_what_to_pass(relu_file, given, said):
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_rules(given(relu_file))


def test_layers_are_declared_by_the_built_in_rules():
    with pytest.raises(RuleError, match=r"there is no layer `trt\.elementwise`: .*builtin=True"):
        RuleSet.from_text(RELU)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xef\xbb\xbf" + RELU.encode(), None),
        (RELU.encode("utf-16"), "is not UTF-8"),
        ("# caf\u00e9\n".encode("latin-1") + RELU.encode(), "the byte 0xe9 is not UTF-8"),
        (bytes(range(256)), "is not UTF-8"),
        (b"\0" * 100, "my.rules:1"),
        (b"\x7fELF\2\1\1\0\0\0", "my.rules:1"),
    ],
    ids=["mark", "utf-16", "latin-1", "binary", "zeros", "program"],
)
def test_files_of_other_encodings(tmp_path, data, said):
    path = tmp_path / "my.rules"
    path.write_bytes(data)
    if said is None:
        assert "my.relu" in {rule.id for rule in load_rules(path).rules}
        return
    with pytest.raises(RuleError) as caught:
        load_rules(path)
    assert said in str(caught.value)


def test_files_that_are_edited_are_a_users(tmp_path):
    text = "lower gelu\n  match aten.erfinv(x)\n  emit aten.relu(x)\n"
    (tmp_path / "activation.rules").write_text(text)
    edited, loaded = RuleSet.of_texts({str(tmp_path / "activation.rules"): text}), RuleSet.load(tmp_path)
    assert [rule.id for rule in edited.rules] == [rule.id for rule in loaded.rules]
    (own,) = (rule for rule in edited.rules if rule.span.file.startswith(str(tmp_path)))
    assert own.id == "user_activation.gelu"

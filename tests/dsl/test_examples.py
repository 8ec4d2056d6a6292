"""The rules that the language was designed with."""

from pathlib import Path

import pytest

from engine.dsl.host import host
from engine.dsl.rule import Bind, Equals, ListMatch, OpMatch
from engine.dsl.ruleset import RuleSet
from engine.dsl.source import builtin_directory
from engine.tensorrt import Capabilities

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def examples():
    @host("einsum_ok")
    def einsum_ok(eq: str) -> bool:
        return "..." not in eq

    @host("einsum_plan")
    def einsum_plan(eq: str, ranks: list[int]) -> None:
        return None

    return RuleSet.load(builtin_directory() / "layers.rules", HERE / "examples.rules", builtin=False)


def find(rules, name):
    return next(rule for rule in rules.rules if rule.id == f"examples.{name}")


def test_all_are_active_or_say_why(examples):
    assert len(examples.rules) + len(examples.inactive) == 54
    assert all(reason for _, reason in examples.inactive)


def test_ranks_are_total(examples):
    assert [rule.rank for rule in examples.rules] == list(range(len(examples.rules)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("addmm_linear", "addmm"),
        ("index_one", "index_many"),
    ],
)
def test_the_more_specific_rule_comes_first(examples, first, second):
    assert find(examples, first).rank < find(examples, second).rank


def test_omitted_arguments_have_their_defaults(examples):
    root = find(examples, "index_put").roots[0]
    assert root.op == "aten.index_put.default"
    values = dict(root.arguments)
    assert isinstance(values[1], ListMatch)
    assert values[3] == Equals(False, False, root.span)


def test_names_and_positions_are_one(examples):
    root = find(examples, "conv[0]").roots[0]
    assert root.op == "aten.conv2d.default"
    assert [position for position, _ in root.arguments] == list(range(7))
    assert isinstance(root.arguments[3][1], Bind)


def test_family_members_are_rules(examples):
    kinds = [find(examples, f"binary[{k}]").roots[0].op for k in range(4)]
    assert kinds == ["aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor"]
    assert str(find(examples, "binary[3]").family["E"]) == "DIV"


def test_patterns_nest(examples):
    root = find(examples, "conv_bn").roots[0]
    inner = root.arguments[0][1]
    assert isinstance(inner, OpMatch)
    assert inner.op == "aten.conv2d.default"
    assert not inner.shared


def test_several_roots(examples):
    assert [root.op for root in find(examples, "qkv").roots] == ["aten.linear.default"] * 3


def test_versions_switch_layers_off():
    features = frozenset({"normalization", "normalization_v2", "shuffle", "attention", "slice"})
    old = RuleSet.load(
        builtin_directory() / "layers.rules",
        HERE / "examples.rules",
        builtin=False,
        capabilities=Capabilities((10, 9), False, features),
    )
    reasons = {rule.id: reason for rule, reason in old.inactive}
    assert (
        reasons["examples.layer_norm"]
        == "trt.normalization needs TensorRT 10.15 or later, but TensorRT 10.9 is installed"
    )
    assert "needs INetworkDefinition.add_gather" in reasons["examples.embedding"]
    assert {rule.id for rule in old.rules} >= {"examples.view[0]", "examples.slice", "examples.addmm"}
    assert "trt.gather" not in old.layers

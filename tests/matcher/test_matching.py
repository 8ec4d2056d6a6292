"""What patterns match, and what they bind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.export import Dim

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.graph.mirror import Mirror, Value
from engine.matcher.match import Match
from engine.matcher.matcher import Matcher
from tests.graph.build import find, mirror_of
from tests.matcher.patterns import SPAN, bind, items, near, op, rule, ty

MUL, ADD, RELU, LINEAR = "aten.mul.Tensor", "aten.add.Tensor", "aten.relu.default", "aten.linear.default"
X = torch.randn(4, 6)


def all_matches(mirror: Mirror, *rules: Rule) -> list[Match]:
    matcher = Matcher(rules, mirror)
    return [match for node in mirror.graph.nodes for match in matcher.matches(node)]


def names(nodes: Any) -> list[str]:
    return [node.name for node in nodes]


def test_captures_bind_values_sizes_lists_and_none() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(x), x], 1)

    mirror = mirror_of(function, [X])
    (match,) = all_matches(mirror, rule("cat", op("aten.cat.default", items(rest="xs"), "d")))
    x, relu = Value(find(mirror, "placeholder")), Value(find(mirror, RELU))
    assert match.bindings == {"xs": (relu, x), "d": 1}
    (match,) = all_matches(mirror, rule("cat", op("aten.cat.default", ["a", op(RELU, "y"), "b"], "d"))) or (None,)
    assert match is None  # three elements are asked for
    (match,) = all_matches(mirror, rule("cat", op("aten.cat.default", items(op(RELU, "y"), rest="more"), "d")))
    assert match.bindings == {"y": x, "more": (x,), "d": 1}
    assert names(match.nodes) == ["relu", "cat"]
    (match,) = all_matches(mirror, rule("cat", op("aten.cat.default", items(rest="more", after=("z",)), "d")))
    assert match.bindings == {"more": (relu,), "z": x, "d": 1}
    mirror = mirror_of(lambda x: F.linear(x, torch.ones(3, 6)), [X])
    (match,) = all_matches(mirror, rule("linear", op(LINEAR, "x", "w", "b")))
    assert match.bindings["b"] is None


def test_remaining_arguments_bind_in_schema_order() -> None:
    mirror = mirror_of(lambda x: torch.add(x, x, alpha=2), [X])
    (match,) = all_matches(mirror, rule("add", op(ADD, "x", rest="more")))
    assert match.bindings["more"] == (Value(find(mirror, "placeholder")), 2)


def test_omitted_arguments_must_have_their_defaults() -> None:
    plain = rule("add", op(ADD, "x", "y"))
    assert len(all_matches(mirror_of(lambda x: torch.add(x, x), [X]), plain)) == 1
    assert all_matches(mirror_of(lambda x: torch.add(x, x, alpha=2), [X]), plain) == []


@pytest.mark.parametrize(
    ("literal", "argument", "fits"),
    [
        (2, 2, True),
        (2, 2.0, True),
        (2.0, 2, True),
        (2, 3, False),
        (near(0.7978845608), 0.79788456, True),
        (near(0.7978845608), 0.797, False),
        (True, 1, False),
        (1, True, False),
    ],
)
def test_literals(literal: Any, argument: Any, fits: bool) -> None:
    mirror = mirror_of(lambda x: x * argument, [X])
    mul = find(mirror, MUL)
    mul.args = (mul.args[0], argument)  # export may have turned a bool into a number
    mirror = Mirror(mirror.graph, mirror.constants, mirror.fake_mode, mirror.shape_env)
    assert bool(all_matches(mirror, rule("mul", op(MUL, "x", literal)))) == fits


def test_literal_strings_dtypes_and_none() -> None:
    mirror = mirror_of(lambda x: F.gelu(x, approximate="tanh").sum(1, dtype=torch.float64), [X])
    gelu = "aten.gelu.default"
    assert all_matches(mirror, rule("g", op(gelu, "x", approximate='"tanh"')))
    assert not all_matches(mirror, rule("g", op(gelu, "x", approximate='"none"')))
    total = "aten.sum.dim_IntList"
    assert all_matches(mirror, rule("s", op(total, "x", [1], dtype=torch.float64)))
    assert not all_matches(mirror, rule("s", op(total, "x", [1], dtype=torch.float32)))
    assert not all_matches(mirror, rule("s", op(total, "x", [1])))  # the default dtype is none


def test_literals_against_symbolic_sizes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] * 3, -1).view(x.shape[0], 6)

    mirror = mirror_of(function, [X], ({0: Dim("B", min=2, max=9)},))
    view = "aten.view.default"
    matches = all_matches(mirror, rule("v", op(view, "x", ["n", 6])))
    assert [match.bindings["n"] for match in matches] == [mirror.shape_of(find(mirror, "placeholder"))[0]]
    assert not all_matches(mirror, rule("v", op(view, "x", [4, 6])))


def test_the_same_name_is_the_same_value() -> None:
    square = rule("square", op(MUL, "x", "x"))
    assert all_matches(mirror_of(lambda x: x * x, [X]), square)
    assert not all_matches(mirror_of(lambda x: x * torch.relu(x), [X]), square)


def test_two_reads_of_one_constant_are_the_same_value() -> None:
    graph = fx.Graph()
    a, b = (graph.create_node("get_attr", name) for name in ("w", "w"))
    weight = torch.ones(2)
    mode = mirror_of(lambda x: x, [X]).fake_mode
    product = graph.call_function(torch.ops.aten.mul.Tensor, (a, b))
    for node in (a, b, product):
        node.meta["val"] = mode.from_tensor(weight)
    graph.output((product,))
    assert all_matches(Mirror(graph, {"w": weight}, mode, None), rule("square", op(MUL, "x", "x")))


def test_symbolic_sizes_must_be_certainly_equal() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y], 0)

    same = rule(
        "c",
        op(
            "aten.cat.default",
            [bind("a", ty("tensor", dims="N, K")), bind("b", ty("tensor", dims="N, K"))],
            0,
        ),
    )
    dim = Dim("n", min=2, max=9)
    shapes = ({0: dim}, {0: dim})
    assert all_matches(mirror_of(function, [X, X], shapes), same)
    shapes = ({0: dim}, {0: Dim("m", min=2, max=9)})
    assert not all_matches(mirror_of(function, [X, torch.randn(5, 6)], shapes), same)


@pytest.mark.parametrize(
    ("type_", "fits"),
    [
        (ty("floating"), True),
        (ty("tensor"), True),
        (ty("f16", "f32"), True),
        (ty("integral"), False),
        (ty("f16"), False),
        (ty("floating", dims="4, 6"), True),
        (ty("floating", dims="_, 6"), True),
        (ty("floating", dims="A, B"), True),
        (ty("floating", dims="A, A"), False),
        (ty("floating", dims="4, 6, _"), False),
        (ty("floating", dims=".., 6"), True),
        (ty("floating", dims=".., 4"), False),
        (ty("floating", dims="4, .., 6"), True),
        (ty("floating", dims="_, _, .., _"), False),
        (ty("floating", dims="B=2..4, _"), True),
        (ty("floating", dims="B=5..9, _"), False),
        (ty("floating", modifier="const"), False),
        (ty("int"), False),
        (ty("scalar"), False),
    ],
)
def test_tensor_types(type_: tree.Type, fits: bool) -> None:
    mirror = mirror_of(lambda x: torch.relu(x), [X])
    assert bool(all_matches(mirror, rule("r", op(RELU, bind("x", type_))))) == fits


@pytest.mark.parametrize(
    ("type_", "argument", "fits"),
    [
        (ty("int"), 3, True),
        (ty("int"), 3.0, False),
        (ty("float"), 3.0, True),
        (ty("float"), 3, False),
        (ty("scalar"), 3, True),
        (ty("tensor"), 3, False),
        (ty("tensor", optional=True), 3, False),
        (ty("int", modifier="static"), 3, True),
        (ty("floating", dims=".."), 3, False),
    ],
)
def test_scalar_types(type_: tree.Type, argument: Any, fits: bool) -> None:
    mirror = mirror_of(lambda x: x * argument, [X])
    assert bool(all_matches(mirror, rule("r", op(MUL, "x", bind("y", type_))))) == fits


def test_list_types() -> None:
    mirror = mirror_of(lambda x: torch.cat([x, x], 0), [X])
    floats = tree.Type(SPAN, element=ty("floating", dims="_, 6"))
    ints = tree.Type(SPAN, element=ty("integral"))
    assert all_matches(mirror, rule("c", op("aten.cat.default", bind("xs", floats), 0)))
    assert not all_matches(mirror, rule("c", op("aten.cat.default", bind("xs", ints), 0)))


def test_static_ints_are_known() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.expand(3, x.shape[0])

    mirror = mirror_of(function, [torch.randn(4)], ({0: Dim("n", min=2, max=9)},))
    expand = "aten.expand.default"
    for index, known in enumerate((True, False)):
        sizes = ["_", "_"]
        sizes[index] = bind("n", ty("int", modifier="static"))  # type: ignore[call-overload]
        assert bool(all_matches(mirror, rule("e", op(expand, "x", items(*sizes), rest="_")))) == known


class WithBias(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize("bias", [True, False])
def test_optional_tensors_and_shared_dims(bias: bool) -> None:
    mirror = mirror_of(WithBias(bias), [X])
    b = bind("b", ty("floating", dims="N", modifier="const", optional=True))
    pattern = op(LINEAR, "x", bind("w", ty("floating", dims="N, K", modifier="const")), b)
    (match,) = all_matches(mirror, rule("linear", pattern))
    assert match.bindings["N"] == 3
    assert (match.bindings["b"] is not None) == bias
    pattern = op(LINEAR, "x", "w", bind("b", ty("floating", dims="M", optional=True)))
    (match,) = all_matches(mirror, rule("linear", pattern))
    assert match.bindings["M"] == (3 if bias else None)
    pattern = op(LINEAR, "x", "w", bind("b", ty("tensor")))
    assert bool(all_matches(mirror, rule("linear", pattern))) == bias


def test_interior_nodes_are_exclusive_unless_shared() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(x)
        return y + 1, torch.exp(y)

    mirror = mirror_of(function, [X])
    assert not all_matches(mirror, rule("r", op(ADD, op(RELU, "x"), 1)))
    (match,) = all_matches(mirror, rule("r", op(ADD, op(RELU, "x", shared=True), 1)))
    assert names(match.nodes) == ["relu", "add"]
    assert names(match.shared) == ["relu"]


def test_interior_nodes_that_are_graph_outputs_are_not_exclusive() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(x)
        return y + 1, y

    assert not all_matches(mirror_of(function, [X]), rule("r", op(ADD, op(RELU, "x"), 1)))


def test_users_inside_the_match_keep_it_exclusive() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        return torch.exp(y) + y

    mirror = mirror_of(function, [X])
    (match,) = all_matches(mirror, rule("r", op(ADD, op("aten.exp.default", op(RELU, "x")), op(RELU, "x"))))
    assert names(match.nodes) == ["relu", "exp", "add"]


def test_constant_interiors_are_shared_freely() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.w.t()
            return F.linear(x, w) * F.linear(x + 1, w)

    mirror = mirror_of(Twice(), [X])
    pattern = op(LINEAR, "x", op("aten.t.default", "w"), None)
    matches = all_matches(mirror, rule("linear", pattern))
    assert [names(match.shared) for match in matches] == [["t"], ["t"]]


def test_unordered_operands_match_in_either_order() -> None:
    pattern = rule("u", op(ADD, op(RELU, "x"), "y", unordered=True))
    for function in (lambda x: torch.relu(x) + x, lambda x: x + torch.relu(x)):
        mirror = mirror_of(function, [X])
        (match,) = all_matches(mirror, pattern)
        assert match.bindings == {
            "x": Value(find(mirror, "placeholder")),
            "y": Value(find(mirror, "placeholder")),
        }


def test_optional_ops() -> None:
    pattern = rule("o", op("aten.exp.default", op("aten.clamp.default", op(RELU, "x"), "low", "high", optional=True)))
    (match,) = all_matches(mirror_of(lambda x: torch.exp(torch.clamp(torch.relu(x), 0, 6)), [X]), pattern)
    assert (match.bindings["low"], match.bindings["high"], match.expansion) == (0, 6, 0)
    (match,) = all_matches(mirror_of(lambda x: torch.exp(torch.relu(x)), [X]), pattern)
    assert (match.bindings["low"], match.bindings["high"], match.expansion) == (None, None, 1)
    assert names(match.nodes) == ["relu", "exp"]


def test_outputs_are_bound_and_projected() -> None:
    mirror = mirror_of(lambda x: torch.max(x, 1)[1] + 1, [X])
    top = find(mirror, "aten.max.dim")
    (match,) = all_matches(mirror, rule("m", op("aten.max.dim", "x", 1, outputs=("v", "i"))))
    assert match.bindings["v"] == Value(top, 0)
    assert match.bindings["i"] == Value(top, 1)
    assert len(all_matches(mirror, rule("m", op(ADD, op("aten.max.dim", "x", 1, output=1), 1)))) == 1
    assert not all_matches(mirror, rule("m", op(ADD, op("aten.max.dim", "x", 1, output=0), 1)))
    assert len(all_matches(mirror, rule("m", op("aten.max.dim", "x", 1, output=1)))) == 1


def test_a_projected_root_needs_its_other_outputs_unused() -> None:
    mirror = mirror_of(lambda x: torch.max(x, 1), [X])
    assert not all_matches(mirror, rule("m", op("aten.max.dim", "x", 1, output=1)))


def test_rules_come_in_precedence_order() -> None:
    mirror = mirror_of(lambda x: torch.relu(x) * 2, [X])
    general = rule("general", op(MUL, "x", "y"), rank=2)
    literal = rule("literal", op(MUL, "x", 2), rank=1)
    nested = rule("nested", op(MUL, op(RELU, "x"), 2), rank=0)
    found = all_matches(mirror, nested, literal, general)
    assert [match.rule.id for match in found] == ["test.nested", "test.literal", "test.general"]


def test_stats_and_roots() -> None:
    mirror = mirror_of(lambda x: torch.relu(x) * 2 * 3, [X])
    rules = (
        rule("two", op(MUL, "x", 2)),
        rule("relu", op(RELU, "x"), rank=1),
        rule("none", op(ADD, "x", "y"), rank=2),
    )
    matcher = Matcher(rules, mirror)
    for node in mirror.graph.nodes:
        list(matcher.matches(node))
    stats = matcher.stats
    assert [(stats[r.id].attempts, stats[r.id].matches) for r in rules] == [(2, 1), (1, 1), (0, 0)]
    assert matcher.roots_of(MUL) == (rules[0],)
    assert matcher.depth == 1
    assert Matcher([rule("deep", op(MUL, op(RELU, op(RELU, "x")), 2))], mirror).depth == 3

"""Termination: the op order, fuel, `decreases`, and rules that break their promises."""

from __future__ import annotations

import pytest
import torch
from syrupy.assertion import SnapshotAssertion

from engine.dsl.checks.facts import emitted_ops
from engine.errors import EngineError
from engine.rewriter import Trace, rewrite
from engine.rewriter import rewriter as module
from engine.rewriter.fuel import Fuel, OpOrder
from tests.graph.build import mirror_of
from tests.rewriter.rules import context, ops, rewritten, rules_of

MACROS = """\
def twice(t) = aten.add.Tensor(t, t)
def four(t) = twice(aten.exp(t))
lower a for (OP, R) in (aten.square, aten.sin), (aten.sqrt, aten.cos)
  match OP(x)
  let   y = four(x)
  emit  R(aten.mul.Tensor(y, y) if rank(x) == 0 else y)
lower b
  match aten.sin(x)
  emit  aten.tan(x)
"""


def test_emitted_ops_follow_macros_families_and_branches() -> None:
    rules, macros = rules_of(MACROS)
    assert emitted_ops(rules[0], macros) == (
        "aten.add.Tensor",
        "aten.exp.default",
        "aten.sin.default",
        "aten.mul.Tensor",
    )
    assert emitted_ops(rules[1], macros)[2] == "aten.cos.default"


def test_phi_bounds_the_number_of_rewrites() -> None:
    rules, macros = rules_of(MACROS)
    order = OpOrder(rules, macros)
    assert order.phi("aten.tan.default") == 1
    assert order.phi("aten.sin.default") == 2
    assert order.phi("aten.square.default") == 1 + 1 + 1 + 2 + 1
    fuel = Fuel(order)
    fuel.grant(["aten.sin.default"])
    assert fuel.spend(rules[2], ["aten.tan.default"])
    assert fuel.spend(rules[2], ["aten.tan.default"])
    assert not fuel.spend(rules[2], ["aten.tan.default"])


def test_lists_are_charged_what_they_hold() -> None:
    text = """
    lower parts
      match aten.split_with_sizes(x, sizes, d)
      emit  [aten.square(aten.slice.Tensor(x, d, a, a + n)) for a, n in zip(prefix_sums(sizes), sizes)]
    lower square
      match aten.square(x)
      emit  aten.mul.Tensor(x, x)
    """
    rules, macros = rules_of(text)

    def model(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(x, [1, 1, 1, 1, 2])

    mirror = mirror_of(model, (torch.randn(6),))
    stats = rewrite(mirror, rules, context(mirror, macros), check=True)
    assert stats.applications == 6


PROMOTE = """\
lower promote
  match aten.add.Tensor(a: tensor, b: tensor)
  let   t = dtype(result)
  when  dtype(a) != t or dtype(b) != t
  emit  aten.add.Tensor(aten.to.dtype(a, t), aten.to.dtype(b, t))
"""


def test_a_rule_may_emit_its_own_op_if_a_measure_decreases() -> None:
    text = PROMOTE + "  decreases int(dtype(a) != t) + int(dtype(b) != t)\n"
    mirror, stats = rewritten(text, lambda x, y: x + y, (torch.randn(3), torch.arange(3)))
    assert stats.applications == 1
    assert ops(mirror)[-1] == "aten.add.Tensor"


def refused(text: str, model: object, inputs: object) -> str:
    rules, macros = rules_of(text)
    mirror = mirror_of(model, inputs)
    with pytest.raises(EngineError) as caught:
        rewrite(mirror, rules, context(mirror, macros), trace=Trace(), check=True)
    return str(caught.value)


def test_a_cycle_needs_a_measure(snapshot: SnapshotAssertion) -> None:
    assert refused(PROMOTE, lambda x: x + x, (torch.randn(3),)) == snapshot


def test_a_measure_must_decrease(snapshot: SnapshotAssertion) -> None:
    text = """\
    lower swap
      match aten.add.Tensor(a: tensor, b: tensor)
      emit  aten.add.Tensor(b, a)
      decreases 1
    """
    assert refused(text, lambda x, y: x + y, (torch.randn(3), torch.randn(3))) == snapshot


def test_a_measure_is_not_negative() -> None:
    text = PROMOTE + "  decreases 0 - 1\n"
    message = refused(text, lambda x, y: x + y, (torch.randn(3), torch.arange(3)))
    assert "is -1; it must not be negative" in message


def test_running_out_of_fuel_prints_the_last_applications(snapshot: SnapshotAssertion) -> None:
    text = """\
    lower square
      match aten.square(x)
      emit  aten.mul.Tensor(x, x)
    """
    rules, macros = rules_of(text)
    mirror = mirror_of(lambda x: x.square() + x.square(), (torch.randn(3),))
    rewriter = module.Rewriter(mirror, rules, context(mirror, macros), check=True)
    rewriter._fuel.left = 1
    with pytest.raises(EngineError) as caught:
        rewriter.run()
    assert str(caught.value) == snapshot


def test_phases_that_undo_each_other_are_reported() -> None:
    text = """\
    lower apart
      match aten.silu(x)
      emit  aten.mul.Tensor(x, aten.sigmoid(x))
    simplify together
      match aten.mul.Tensor(x, aten.sigmoid(x))
      emit  aten.silu(x)
    """
    message = refused(text, lambda x: torch.nn.functional.silu(x), (torch.randn(3),))
    assert message.startswith("`simplify` and `lower` rules undo each other")
    assert message.count("\n") == 20
    assert "lower test.apart (test.rules:1)" in message


def test_simplify_must_shrink_the_graph() -> None:
    text = """\
    simplify grows
      match aten.silu(x)
      emit  aten.mul.Tensor(x, aten.sigmoid(x))
    """
    message = refused(text, lambda x: torch.nn.functional.silu(x), (torch.randn(3),))
    assert message.startswith("test.rules:1: test.grows is a `simplify` rule")
    assert "it leaves 1 nodes more than it removes" in message


def test_simplify_waits_while_shared_nodes_survive() -> None:
    text = """\
    simplify views
      match aten.view(&aten.view(x, ..), size)
      emit  aten.view(x, size)
    """

    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.view(6)
        return y.view(3, 2), y

    trace = Trace()
    _, stats = rewritten(text, model, (torch.randn(2, 3),), trace=trace)
    assert stats.applications == 0
    assert list(trace.counters["test.views"].failures) == [
        "matched nodes stay for other users, so the graph would not get smaller"
    ]
    mirror, stats = rewritten(text, lambda x: x.view(6).view(3, 2), (torch.randn(2, 3),))
    assert stats.applications == 1
    assert ops(mirror) == ["aten.view.default"]

"""Rules that break their word are not applied, and that is told once; with checks on it is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import EngineError
from engine.evaluator import Context, Faults
from engine.rewriter import Trace
from engine.rewriter import rewriter as module
from tests.graph.build import mirror_of
from tests.rewriter.rules import ops, rules_of, same


def tried(text: str, model: Any, inputs: tuple[Any, ...], hosts: Any = None, check: bool = False) -> Any:
    """Rewrite without checks; the graph must compute what the model does. Gives the graph and what was told."""
    rules, macros = rules_of(text)
    mirror = mirror_of(model, inputs)
    context = Context(mirror, {}, macros, hosts or {}, faults=Faults(strict=check))
    stats = module.Rewriter(mirror, rules, context, trace=Trace(limit=50), check=check).run()
    same(mirror, model, inputs)
    return mirror, stats, context.faults.notes


X = (torch.randn(2, 3),)
GROWS = """\
simplify grows
  match aten.silu(x)
  emit  aten.mul.Tensor(x, aten.sigmoid(x))
"""
WRONG_DTYPE = """\
lower wrong
  match aten.exp(x)
  emit  aten.gt.Scalar(x, 0)
"""
WRONG_SHAPE = """\
lower wrong
  match aten.exp(x)
  emit  aten.unsqueeze(aten.expm1(x), 0)
"""
RAISES = """\
lower raises
  match aten.exp(x)
  when  len(rank(x)) == 2
  emit  aten.neg(x)
"""
NO_MEASURE = """\
lower swap
  match aten.add.Tensor(a: tensor, b: tensor)
  emit  aten.add.Tensor(b, a)
  decreases rank(a) // (rank(a) - 2)
"""
NEGATIVE = """\
lower swap
  match aten.add.Tensor(a: tensor, b: tensor)
  emit  aten.add.Tensor(b, a)
  decreases 0 - 1
"""
NO_INT8 = """\
lower literal
  match aten.exp(x)
  emit  aten.mul.Tensor(x, aten._to_copy(filled(300, [1], i8), dtype=dtype(x)))
"""


@pytest.mark.parametrize(
    ("text", "model", "said"),
    [
        (GROWS, nn.SiLU(), "leaves 1 nodes more than it removes"),
        (WRONG_DTYPE, torch.exp, "the dtype becomes torch.bool instead of torch.float32"),
        (WRONG_SHAPE, torch.exp, "the rank becomes 3 instead of 2"),
        (RAISES, torch.exp, "TypeError"),
        (NO_MEASURE, lambda x: x + x, "division by zero"),
        (NEGATIVE, lambda x: x + x, "it must not be negative"),
        (NO_INT8, torch.exp, "cannot be applied"),
    ],
)
def test_a_rule_that_breaks_its_word_is_not_applied(text: str, model: Any, said: str) -> None:
    _, stats, notes = tried(text, model, X)
    assert stats.applications == 0
    (note,) = notes
    assert said in note
    assert note.startswith("test.rules:1: ")
    assert "It is not applied there" in note
    with pytest.raises(EngineError) as caught:
        tried(text, model, X, check=True)
    assert said in str(caught.value)
    assert str(caught.value).startswith("test.rules:1: ")


def test_the_next_rule_gets_its_chance() -> None:
    text = NO_INT8 + "lower fine\n  match aten.exp(x)\n  emit aten.add.Scalar(aten.expm1(x), 1)\n"
    mirror, _, notes = tried(text, torch.exp, X)
    assert ops(mirror) == ["aten.expm1.default", "aten.add.Scalar"]
    assert len(notes) == 1


def test_a_fault_is_told_once_for_all_nodes() -> None:
    _, _, notes = tried(GROWS, lambda x: nn.functional.silu(nn.functional.silu(x)), X)
    assert len(notes) == 1
    assert "silu" in notes[0]


def test_host_functions_may_raise() -> None:
    def broken(n: int) -> int:
        raise KeyError("nothing under that name")

    text = """\
    extern host.broken(n: int) -> int
    lower asks
      match aten.exp(x)
      when  host.broken(rank(x)) > 0
      emit  aten.neg(x)
    """
    _, stats, (note,) = tried(text, torch.exp, X, {"host.broken": broken})
    assert stats.applications == 0
    assert "host.broken raised KeyError: 'nothing under that name' (test.rules:4)" in note


def test_a_measure_that_stays_ends_the_rule_and_not_the_rewriting() -> None:
    text = """\
    lower swap
      match aten.add.Tensor(a: tensor, b: tensor)
      emit  aten.add.Tensor(b, a)
      decreases 1
    lower square
      match aten.square(x)
      emit  aten.mul.Tensor(x, x)
    """
    mirror, stats, (note,) = tried(text, lambda x, y: (x + y).square(), (*X, torch.randn(2, 3)))
    assert stats.applications == 2
    assert "aten.mul.Tensor" in ops(mirror)
    assert "It is not applied any more" in note


def test_a_cycle_without_a_measure_is_left_out() -> None:
    text = """\
    lower around
      match aten.add.Tensor(a: tensor, b: tensor)
      emit  aten.add.Tensor(b, a)
    """
    _, stats, (note,) = tried(text, lambda x: x + x, X)
    assert stats.applications == 0
    assert "add a `decreases` clause" in note


def test_kinds_that_undo_each_other_come_to_an_end() -> None:
    text = """\
    lower apart
      match aten.silu(x)
      emit  aten.mul.Tensor(x, aten.sigmoid(x))
    simplify together
      match aten.mul.Tensor(x, aten.sigmoid(x))
      emit  aten.silu(x)
    """
    mirror, _, (note,) = tried(text, nn.SiLU(), X)
    assert ops(mirror) == ["aten.sigmoid.default", "aten.mul.Tensor"]
    assert "undo each other" in note
    assert "test.together" in note


def test_rules_that_multiply_nodes_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_APPLICATIONS", 20)
    monkeypatch.setattr(module, "_MOST_PER_NODE", 1)
    text = """\
    lower doubles
      match aten.mul.Scalar(x, s: float)
      emit  aten.add.Tensor(aten.mul.Scalar(x, s / 2), aten.mul.Scalar(x, s / 2))
      decreases int(s * 1099511627776.0)
    """
    _, stats, (note,) = tried(text, lambda x: torch.ops.aten.mul.Scalar(x, 1.0), X)
    assert stats.applications <= 30
    assert "more rewrites than nodes can need" in note


def test_without_fuel_the_rule_at_fault_is_set_aside() -> None:
    rules, macros = rules_of("lower square\n  match aten.square(x)\n  emit  aten.mul.Tensor(x, x)\n")

    def model(x: torch.Tensor) -> torch.Tensor:
        return x.square() + x.square() + x.square()

    mirror = mirror_of(model, X)
    context = Context(mirror, {}, macros, faults=Faults(strict=False))
    rewriter = module.Rewriter(mirror, rules, context, check=False)
    rewriter._fuel.left = 1
    assert rewriter.run().applications == 2
    same(mirror, model, X)
    assert "more rewrites than their op order allows" in context.faults.notes[0]


# ------------------------------------------------------------------------------------ constants

SCALED = """\
simplify scaled
  match aten.mul.Tensor(aten.mul.Tensor(w, a: float), x: tensor)
  emit  aten.mul.Scalar(aten.mul.Tensor(w, x), a)
simplify negated
  match aten.mul.Tensor(aten.neg(w), aten.exp(x))
  emit  aten.mul.Tensor(w, aten.div.Tensor(aten.exp(x), scalar(-1.0, f32)))
simplify inside
  match aten.sub.Tensor(x, aten.mul.Tensor(w, a: float))
  emit  aten.sub.Tensor(x, w, alpha=a)
"""


class Weighted(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, self.weight)


@pytest.mark.parametrize("check", [False, True])
def test_constants_count_where_nothing_else_decides(check: bool) -> None:
    # The product of the weight is folded: at run time the subtraction is one node, before and after.
    mirror, stats, notes = tried(SCALED, Weighted(lambda x, w: x - w * 2.0), X, check=check)
    assert ops(mirror) == ["aten.sub.Tensor"]
    assert (stats.applications, notes) == (1, ())


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: (w * 2.0) * x,  # two nodes at run time for one
        lambda x, w: -w * x.exp(),
        lambda x, w: (x - (scaled := w * 2.0), x.exp() + scaled),  # the constant stays for another user
    ],
)
def test_what_is_folded_anyway_is_no_fault(function: Any, check: bool) -> None:
    _, stats, notes = tried(SCALED, Weighted(function), X, check=check)
    assert (stats.applications, notes) == (0, ())

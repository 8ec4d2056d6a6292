"""Rewriting: what rules do to graphs, and in which order."""

from __future__ import annotations

import re

import pytest
import torch
from syrupy.assertion import SnapshotAssertion
from torch import nn
from torch.export import Dim

from engine.errors import EngineError
from engine.graph.provenance import history
from engine.rewriter import Trace, rewrite
from engine.testing.graphs import graph_text
from tests.graph.build import find, mirror_of
from tests.rewriter.rules import context, ops, rewritten, rules_of, same

BATCH = ({0: Dim("batch", min=2, max=8)},)


def test_a_lowering_keeps_the_graph_equal(snapshot: SnapshotAssertion) -> None:
    text = """
    lower addmm
      match aten.addmm(bias, a, b, beta=beta, alpha=alpha)
      emit  aten.add.Tensor(aten.mul.Tensor(aten.mm(a, b), alpha), bias)
    """
    mirror, stats = rewritten(
        text, lambda x, y, b: torch.addmm(b, x, y, alpha=2.0), (torch.randn(2, 3), torch.randn(3, 4), torch.randn(4))
    )
    assert stats.applications == 1
    assert graph_text(mirror) == snapshot


CHAIN = """\
lower a
  match aten.square(x)
  emit  aten.pow.Tensor_Scalar(x, 2)
lower b
  match aten.pow.Tensor_Scalar(x, 2)
  emit  aten.mul.Tensor(x, x)
"""


def test_new_nodes_are_looked_at_again() -> None:
    mirror, stats = rewritten(CHAIN, lambda x: x.square() + 1, (torch.randn(3),))
    assert ops(mirror) == ["aten.mul.Tensor", "aten.add.Tensor"]
    assert stats.applications == 2


def test_provenance_lists_every_rewrite() -> None:
    mirror, _ = rewritten(CHAIN, lambda x: x.square() + 1, (torch.randn(3),))
    node = find(mirror, "aten.mul.Tensor")
    assert [(step.rule_id, step.where, step.nodes) for step in history(node)] == [
        ("test.a", "test.rules:1", ("square",)),
        ("test.b", "test.rules:4", ("pow_tensor_scalar",)),
    ]
    assert "stack_trace" in node.meta


def test_trace_names_matched_and_new_nodes(snapshot: SnapshotAssertion) -> None:
    trace = Trace()
    rewritten(CHAIN, lambda x: x.square() + x.square(), (torch.randn(3),), trace=trace)
    assert str(trace) == snapshot
    assert {rule: counter.applications for rule, counter in trace.counters.items()} == {"test.a": 2, "test.b": 2}
    assert "test.a: 2 matches, 2 applications" in trace.summary()


def test_traces_are_deterministic() -> None:
    texts = []
    for _ in range(2):
        trace = Trace()
        rewritten(CHAIN, lambda x: x.square() * x.square() + x.square(), (torch.randn(3),), trace=trace)
        texts.append(str(trace))
    assert texts[0] == texts[1]


FUSION = """
simplify fused
  match aten.mul.Tensor(x, aten.sigmoid(x))
  emit  aten.silu(x)
"""


def test_a_fusion_waits_for_exclusive_use() -> None:
    x = torch.randn(3)
    mirror, _ = rewritten(FUSION, lambda x: x * x.sigmoid(), (x,))
    assert ops(mirror) == ["aten.silu.default"]

    def shared(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s = x.sigmoid()
        return x * s, s

    mirror, stats = rewritten(FUSION, shared, (x,))
    assert ops(mirror) == ["aten.sigmoid.default", "aten.mul.Tensor"]
    assert stats.applications == 0


SHAPE_ONLY = """
lower shape_only
  match aten.zeros_like(x: tensor, ..)
  emit  aten.full(shape(x), 0, dtype(x))
"""


def test_a_fall_of_the_use_count_makes_a_match() -> None:
    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s = x.sigmoid()
        return x * s, torch.zeros_like(s)

    mirror, stats = rewritten(FUSION + SHAPE_ONLY, model, (torch.randn(3),))
    assert ops(mirror) == ["aten.silu.default", "aten.full.default"]
    assert stats.applications == 2


def test_unused_outputs_are_looked_at_again() -> None:
    text = (
        SHAPE_ONLY
        + """
lower pool
  match aten.max_pool2d_with_indices(x, k, s, p, d, ceil) -> (y, idx)
  when  unused(idx)
  emit  (aten.max_pool2d(x, k, s, p, d, ceil), none)
"""
    )

    def model(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, i = torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2], [0, 0], [1, 1], False)
        return y, torch.zeros_like(i)

    mirror, stats = rewritten(text, model, (torch.randn(1, 2, 6, 6),))
    assert "aten.max_pool2d.default" in ops(mirror)
    assert stats.applications == 2


class Projections(nn.Module):
    """Query, key and value of one activation, with a node between them."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 4, bias=False)
        self.k = nn.Linear(8, 2, bias=False)
        self.v = nn.Linear(8, 2, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q = self.q(x).relu()
        k = self.k(x).sigmoid()
        return q, k, self.v(x)


QKV = """
simplify qkv
  match (aten.linear(x, wq: const floating[A, K]),
         aten.linear(x, wk: const floating[B, K]),
         aten.linear(x, wv: const floating[C, K]))
  let   y = aten.split_with_sizes(aten.linear(x, aten.cat([wq, wk, wv], 0)), [A, B, C], rank(x) - 1)
  emit  (y.0, y.1, y.2)
"""


@pytest.mark.parametrize("dynamic", [None, BATCH], ids=["static", "dynamic"])
def test_several_roots(dynamic: object, snapshot: SnapshotAssertion) -> None:
    mirror, stats = rewritten(QKV, Projections(), (torch.randn(2, 3, 8),), dynamic)
    assert stats.applications == 1
    assert graph_text(mirror) == snapshot


def test_shared_interiors_survive() -> None:
    text = """
    lower keep
      match aten.add.Tensor(&aten.exp(x), 1)
      emit  aten.sub.Tensor(aten.exp(x), -1)
    """
    mirror, _ = rewritten(text, lambda x: (x.exp() + 1, x.exp() * 2), (torch.randn(3),))
    assert ops(mirror).count("aten.exp.default") == 2

    def shared(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        e = x.exp()
        return e + 1, e * 2

    mirror, _ = rewritten(text, shared, (torch.randn(3),))
    assert ops(mirror).count("aten.exp.default") == 2


def test_an_existing_value_can_replace_the_root() -> None:
    text = """
    simplify identity
      match aten.add.Tensor(x: tensor, 0)
      when  dtype(x) == dtype(result)
      emit  x
    """
    mirror, _ = rewritten(text, lambda x: (x + 0) * 2, (torch.randn(3),))
    assert ops(mirror) == ["aten.mul.Tensor"]
    mirror, _ = rewritten(text, lambda x: x + 0, (torch.randn(3),))
    assert ops(mirror) == []


@pytest.mark.parametrize("dynamic", [None, BATCH], ids=["static", "dynamic"])
def test_literals_become_constants_or_ops(dynamic: object, snapshot: SnapshotAssertion) -> None:
    text = """
    lower zero
      match aten.mul.Tensor(x: tensor, 0)
      emit  filled(0.0, shape(x), dtype(x))
    lower two
      match aten.add.Tensor(x: tensor, 2)
      emit  aten.sub.Tensor(x, full(-2.0, x))
    """
    mirror, _ = rewritten(text, lambda x: (x * 0, x + 2, x.exp() + 2), (torch.randn(4, 3),), dynamic)
    assert graph_text(mirror) == snapshot


def test_sizes_computed_by_rules_are_symbolic(snapshot: SnapshotAssertion) -> None:
    text = """
    lower flat
      match aten.square(x)
      let   y = aten.view(x, [dim(x, 0) * dim(x, 1), dim(x, 2)])
      emit  aten.view(aten.mul.Tensor(y, y), shape(x))
    """
    mirror, _ = rewritten(text, lambda x: x.square(), (torch.randn(4, 3, 5),), BATCH)
    assert graph_text(mirror) == snapshot


def test_constant_subgraphs_are_left_alone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w.square()

    mirror, stats = rewritten(CHAIN, Model(), (torch.randn(3),))
    assert ops(mirror) == ["aten.square.default", "aten.mul.Tensor"]
    assert stats.applications == 0


def test_values_that_become_constant_are_looked_at_again() -> None:
    text = """
    lower zero
      match aten.zeros_like(x: tensor, ..)
      emit  filled(0.0, shape(x), dtype(x))
    lower constant
      match aten.mul.Tensor(x, c: const tensor)
      emit  aten.div.Tensor(x, aten.reciprocal(c))
    """

    def model(x: torch.Tensor) -> torch.Tensor:
        return x * (torch.zeros_like(x).exp().neg().sin() + 1).neg()

    mirror, stats = rewritten(text, model, (torch.randn(3),))
    assert "aten.div.Tensor" in ops(mirror)
    assert stats.applications == 2


def test_simplify_and_lower_take_turns() -> None:
    text = (
        FUSION
        + """
lower special
  match aten.special_expit(x)
  emit  aten.sigmoid(x)
"""
    )
    mirror, stats = rewritten(text, lambda x: x * torch.ops.aten.special_expit(x), (torch.randn(3),))
    assert ops(mirror) == ["aten.silu.default"]
    assert stats.rounds == 2


def test_precedence_decides() -> None:
    text = """
    lower first
      match aten.square(x)
      when  rank(x) == 3
      emit  aten.pow.Tensor_Scalar(x, 2)
    lower second
      match aten.square(x)
      emit  aten.mul.Tensor(x, x)
    """
    mirror, _ = rewritten(text, lambda x: x.square(), (torch.randn(3),))
    assert ops(mirror) == ["aten.mul.Tensor"]
    mirror, _ = rewritten(text, lambda x: x.square(), (torch.randn(3, 1, 1),))
    assert ops(mirror) == ["aten.pow.Tensor_Scalar"]


def test_multiple_outputs_are_replaced_one_by_one() -> None:
    text = """
    lower parts
      match aten.split_with_sizes(x, [a, b], d)
      emit  [aten.slice.Tensor(x, d, 0, a), aten.slice.Tensor(x, d, a, a + b)]
    """
    mirror, _ = rewritten(text, lambda x: torch.split(x, [1, 2])[1] * 2, (torch.randn(3),))
    assert ops(mirror) == ["aten.slice.Tensor", "aten.mul.Tensor"]


def refused(text: str, model: object, inputs: object) -> str:
    rules, macros = rules_of(text)
    mirror = mirror_of(model, inputs)
    with pytest.raises(EngineError) as caught:
        rewrite(mirror, rules, context(mirror, macros), check=True)
    return str(caught.value)


def test_a_rule_that_changes_the_dtype_is_named(snapshot: SnapshotAssertion) -> None:
    text = """
    lower wrong
      match aten.square(x)
      emit  aten.gt.Scalar(x, 0)
    """
    message = refused(text, lambda x: x.square(), (torch.randn(2),))
    assert re.sub(r"/\S+/(\w+\.py):\d+", r"\1", message) == snapshot


def test_a_rule_that_changes_the_shape_is_named() -> None:
    text = """
    lower wrong
      match aten.square(x)
      emit  aten.unsqueeze(x, 0)
    """
    message = refused(text, lambda x: x.square(), (torch.randn(2),))
    assert message.startswith("test.rules:1: test.wrong replaces square")
    assert "float32[2]" in message
    assert "float32[1, 2]" in message
    assert "the rank becomes 2 instead of 1" in message


@pytest.mark.parametrize(
    ("emitted", "what"),
    [("aten.gt.Scalar(x, 0)", "the dtype becomes torch.bool"), ("aten.unsqueeze(x, 0)", "the rank becomes 2")],
)
def test_where_rewrites_are_not_checked_such_a_rule_does_not_apply(emitted: str, what: str) -> None:
    rules, macros = rules_of(f"lower wrong\n  match aten.square(x)\n  emit  {emitted}\n")
    model, inputs = (lambda x: x.square()), (torch.randn(2),)
    mirror, trace = mirror_of(model, inputs), Trace()
    assert rewrite(mirror, rules, context(mirror, macros), trace=trace, check=False).applications == 0
    (reason,) = trace.counter("test.wrong").failures
    assert what in reason
    assert "float32[2]" in reason
    same(mirror, model, inputs)


def test_a_rewrite_of_a_graph_that_ran_out_of_rules_does_nothing() -> None:
    rules, macros = rules_of(CHAIN)
    model, inputs = (lambda x: x.square()), (torch.randn(3),)
    mirror = mirror_of(model, inputs)
    rewrite(mirror, rules, context(mirror, macros), check=True)
    assert rewrite(mirror, rules, context(mirror, macros), check=True).applications == 0
    same(mirror, model, inputs)

"""PyTorch's decompositions: what is spliced in, and what stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from engine.graph.provenance import history
from engine.rewriter import Trace, decompose, decomposition, lower_all
from tests.graph.build import find, mirror_of
from tests.rewriter.rules import context, ops, rules_of, same

BATCH = ({0: Dim("batch", min=2, max=8)},)
IMAGE = (4, 3, 8, 8)

CASES: list[tuple[str, Callable[[Any], Any], tuple[int, ...]]] = [
    ("aten.softplus.default", lambda x: F.softplus(x, beta=2.0), (4, 6)),
    ("aten.roll.default", lambda x: torch.roll(x, 1, 0), (4, 6)),
    ("aten.linear.default", lambda x: F.linear(x, x), (4, 6)),
    ("aten.upsample_bicubic2d.vec", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), IMAGE),
    ("aten.im2col.default", lambda x: F.unfold(x, (2, 2)), IMAGE),
    ("aten.instance_norm.default", F.instance_norm, IMAGE),
    ("aten.pixel_shuffle.default", lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), IMAGE),
    ("aten.scaled_dot_product_attention.default", lambda x: F.scaled_dot_product_attention(x, x, x), IMAGE),
    ("aten.einsum.default", lambda x: torch.einsum("bi,bj->ij", x, x), (4, 6)),
    ("aten.split.Tensor", lambda x: torch.split(x, 2, 1)[1], (4, 6)),
    ("aten.select_scatter.default", lambda x: torch.select_scatter(x, x[0], 0, 0), (4, 6)),
]


@pytest.mark.parametrize("dynamic", [None, BATCH], ids=["static", "dynamic"])
@pytest.mark.parametrize(("op", "model", "shape"), CASES, ids=[case[0] for case in CASES])
def test_expansion_computes_the_same(
    op: str, model: Callable[[Any], Any], shape: tuple[int, ...], dynamic: Any
) -> None:
    x = torch.randn(shape)
    mirror = mirror_of(model, (x,), dynamic)
    name = find(mirror, op).name
    new = decompose(mirror, find(mirror, op))
    assert new
    assert op not in ops(mirror)
    assert "aten.detach.default" not in ops(mirror)
    for node in new:
        assert history(node)[-1].rule_id == "torch decomposition"
        assert history(node)[-1].nodes == (name,)
        assert "stack_trace" in node.meta
        assert len(node.args) + len(node.kwargs) == len(node.target._schema.arguments)
    same(mirror, model, (x,))
    if dynamic is not None:
        other = torch.randn(7, *shape[1:])
        same(mirror, model, (other,))


def test_attention_does_not_depend_on_the_device_of_the_example() -> None:
    mirror = mirror_of(lambda x: F.scaled_dot_product_attention(x, x, x), (torch.randn(IMAGE),))
    decompose(mirror, find(mirror, "aten.scaled_dot_product_attention.default"))
    assert not [op for op in ops(mirror) if "flash" in op or "efficient" in op or "_for_cpu" in op]
    assert "aten.bmm.default" in ops(mirror)


def test_recurrence_is_not_taken_apart_step_by_step() -> None:
    mirror = mirror_of(torch.nn.LSTM(3, 4).eval(), (torch.randn(500, 2, 3),))
    before = ops(mirror)
    assert decompose(mirror, find(mirror, "aten.lstm.input")) is None
    assert ops(mirror) == before


@pytest.mark.parametrize(
    ("op", "model"),
    [
        ("aten.mul.Tensor", lambda x: x * 2),
        ("aten.relu.default", lambda x: x.relu()),
        ("aten.cumprod.default", lambda x: x.cumprod(0)),
    ],
)
def test_primitive_ops_stay(op: str, model: Callable[[Any], Any]) -> None:
    mirror = mirror_of(model, (torch.randn(4, 6),))
    before = list(mirror.graph.nodes)
    assert decompose(mirror, find(mirror, op)) is None
    assert list(mirror.graph.nodes) == before


@pytest.fixture
def halve() -> Iterator[Any]:
    """An op whose decomposition is right for one range of sizes only, as its author saw one example."""
    library = torch.library.Library("engine_test", "FRAGMENT")
    library.define("halve(Tensor x) -> Tensor")

    def real(x: torch.Tensor) -> torch.Tensor:
        return x * 0.5

    library.impl("halve", real, "CPU")
    library.impl("halve", torch.empty_like, "Meta")
    op = torch.ops.engine_test.halve.default
    decomposition._table()[op] = lambda x: x * 0.5 if x.shape[0] > 5 else x / 2
    yield op
    del decomposition._table()[op]
    library._destroy()


def test_a_decomposition_that_depends_on_a_size_is_refused(halve: Any) -> None:
    inputs = (torch.randn(7, 2),)
    mirror = mirror_of(lambda x: halve(x), inputs, BATCH)
    assert mirror.shape_env is not None
    guards, node = len(mirror.shape_env.guards), find(mirror, "engine_test.halve.default")
    lower_all(mirror, (), lambda node: False, context(mirror, {}), check=True)
    assert ops(mirror) == ["engine_test.halve.default"]
    assert "its decomposition fails" in node.meta["undecomposed"]
    assert len(mirror.shape_env.guards) == guards


def test_the_same_decomposition_is_right_for_one_size(halve: Any) -> None:
    inputs = (torch.randn(7, 2),)
    mirror = mirror_of(lambda x: halve(x), inputs)
    decompose(mirror, find(mirror, "engine_test.halve.default"))
    assert ops(mirror) == ["aten.mul.Tensor"]
    same(mirror, halve, inputs)


RULES = """\
lower mish
  match aten.mish(x)
  emit  aten.mul.Tensor(x, aten.tanh(aten.softplus(x)))
lower log1p
  match aten.log1p(x)
  emit  aten.log(aten.add.Tensor(x, 1))
"""
KNOWN = {"aten.mul.Tensor", "aten.tanh.default", "aten.exp.default", "aten.log.default", "aten.add.Tensor"}
KNOWN |= {"aten.gt.Scalar", "aten.where.self", "aten.div.Tensor"}


def test_new_nodes_go_through_the_rules() -> None:
    rules, macros = rules_of(RULES)
    model, inputs = F.mish, (torch.randn(4, 6),)
    mirror = mirror_of(model, inputs)
    trace = Trace()
    stats = lower_all(
        mirror, rules, lambda node: mirror.op(node) in KNOWN, context(mirror, macros), trace=trace, check=True
    )
    assert set(ops(mirror)) == KNOWN
    assert stats.applications == 2
    assert stats.decompositions == 1
    assert [item.rule for item in trace.applications] == ["test.mish", "torch decomposition", "test.log1p"]
    assert [step.rule_id for step in history(find(mirror, "aten.log.default"))] == [
        "test.mish",
        "torch decomposition",
        "test.log1p",
    ]
    same(mirror, model, inputs)


def test_rules_and_decompositions_do_not_undo_each_other_forever() -> None:
    rules, macros = rules_of(
        """\
        simplify mish
          match aten.mul.Tensor(x, aten.tanh(aten.softplus(x)))
          emit  aten.mish(x)
        """
    )
    inputs = (torch.randn(4),)
    mirror = mirror_of(F.mish, inputs)
    stats = lower_all(mirror, rules, lambda node: False, context(mirror, macros), check=True)
    assert ops(mirror) == ["aten.mish.default"]
    assert stats.decompositions == 1
    assert "led back" in find(mirror, "aten.mish.default").meta["undecomposed"]


def test_convertible_composites_stay_whole() -> None:
    mirror = mirror_of(F.silu, (torch.randn(4),))
    stats = lower_all(mirror, (), lambda node: True, context(mirror, {}), check=True)
    assert ops(mirror) == ["aten.silu.default"]
    assert stats.decompositions == 0


def test_everything_reaches_core_ops_without_rules() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        y = F.group_norm(x, 3).flatten(1)
        return F.huber_loss(y, F.hardswish(y), reduction="none").std(1)

    x = torch.randn(IMAGE)
    mirror = mirror_of(model, (x,))
    lower_all(mirror, (), lambda node: False, context(mirror, {}), check=True)
    same(mirror, model, (x,))
    core = {
        str(node.target) for node in mirror.graph.nodes if node.op == "call_function" and hasattr(node.target, "tags")
    }
    assert all(torch.Tag.core in _overload(op).tags for op in core)
    stuck = [node.meta["undecomposed"] for node in mirror.graph.nodes if "undecomposed" in node.meta]
    assert stuck
    assert any("no decomposition" in reason for reason in stuck)


def _overload(name: str) -> Any:
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)

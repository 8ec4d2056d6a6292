"""``engine rules list --stats``: what it counts, and what it says of the built-in rules."""

import dataclasses
import io
from pathlib import Path

import engine
from engine.commands.rule_statistics import Statistics
from engine.commands.tables import render_rule_stats
from engine.dsl.ruleset import RuleSet

LAYERS = Path(engine.__file__).parent.parent / "rules" / "layers.rules"
CURVES = """
extern host.test_statistics_factor(kind: str) -> float?

def factor(kind) = host.test_statistics_factor(kind)

convert softplus for OP in aten.relu, aten.relu6
  match OP(x)
  emit  trt.activation(x, type=RELU)
  test  x: f32[2, 3]
  reject x: i64[2, 3]

convert swish
  match aten.silu(x)
  let   k = factor("swish")
  emit  trt.activation(x, type=RELU) if k is none else x
  test  x: f32[2, 3]

simplify twice
  match aten.relu(aten.relu(x))
  emit  aten.relu(x)
  test  x: f32[2, 3]
"""
LATER = """
lower later
  match aten.tan(x)
  needs trt >= 99.0
  emit  aten.div.Tensor(aten.sin(x), aten.cos(x))
  test  x: f32[2, 3]
"""


@engine.rules.host("test_statistics_factor")
def _factor(kind: str) -> float | None:
    return {"swish": 1.0}.get(kind)


def test_what_is_counted(tmp_path, snapshot):
    (tmp_path / "curves.rules").write_text(CURVES)
    (tmp_path / "later.rules").write_text(LATER)
    found = Statistics.of(RuleSet.load(LAYERS, tmp_path, builtin=False))
    assert (found.total.rules, found.total.members, found.ops, found.host_lines) == (4, 5, 4, 3)
    assert found.host_ops == ("aten.silu.default",)
    assert found.inactive == (("later.later", found.inactive[0][1]),)
    assert found.package_lines > 10_000
    # Numbers of this package and the version of TensorRT are others tomorrow.
    stable = dataclasses.replace(found, package_lines=20_000, inactive=(("later.later", "needs trt >= 99.0"),))
    text = io.StringIO()
    render_rule_stats(stable, text)
    assert text.getvalue() == snapshot


def test_built_in_rules_need_next_to_no_python():
    found = Statistics.of(RuleSet.load())
    assert len(found.host_ops) <= 0.05 * found.ops
    assert found.total.tests >= 2 * found.total.rules
    assert sum(family.lines for family in found.families) == found.total.lines

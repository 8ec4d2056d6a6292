"""Tiles for tests: right sides of rules, evaluated on nodes of an exported graph without matching."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import fx

from engine.dsl import tree
from engine.dsl.rule import Layer, Rule
from engine.dsl.syntax.parser import parse
from engine.evaluator import Context, evaluate
from engine.evaluator.plan import AbstractTensor, Captured, Plan, calls_of
from engine.graph.mirror import Mirror, Value
from engine.partitioner.tile import Tile

RULES = Path(__file__).parents[2] / "rules"


@functools.cache
def layers() -> Mapping[str, Layer]:
    """The layer catalogue."""
    path = RULES / "layers.rules"
    items = parse(path.read_text(), "rules/layers.rules").layers
    return {item.name: layer_of(item) for item in items}


def layer_of(item: tree.LayerItem) -> Layer:
    """A declared layer as the checker makes it."""

    def version(text: str | None) -> tuple[int, int] | None:
        return None if text is None else (int(text.split(".")[0]), int(text.split(".")[1]))

    return Layer(
        item.name,
        item.parameters,
        item.outputs,
        item.gives,
        item.via,
        item.unless,
        item.apart,
        item.accumulates,
        version(item.since),
        version(item.until),
        item.span,
        {parameter.name: parameter for parameter in item.parameters},
    )


def plan_tile(mirror: Mirror, node: fx.Node, emit: str, **names: Any) -> Tile:
    """A tile whose rule emits ``emit`` for ``node``.

    ``names`` are the rule's variables; a :class:`Value` or a node stands for its tensor.
    """
    text = f"convert sample match aten.relu(x) emit {emit}"
    file = parse(text, "sample.rules")
    item = file.rules[0]
    context = Context(mirror, layers(), {})
    scope = {name: _captured(mirror, value) for name, value in names.items()}
    scope["result"] = _captured(mirror, Value(node, 0))
    emitted = evaluate(item.emit, scope, context)
    outputs = emitted if isinstance(emitted, tuple | list) else (emitted,)
    plan = Plan(tuple(outputs), calls_of(outputs))
    rule = Rule(
        id="sample.sample",
        kind="convert",
        level=0,
        doc="",
        roots=(),
        steps=(),
        emit=item.emit,
        needs=(),
        over=(),
        decreases=None,
        relax=(),
        tests=(),
        family={},
        span=item.span,
    )
    return Tile(node, rule, plan, (node,))


def _captured(mirror: Mirror, value: Any) -> Any:
    if isinstance(value, fx.Node):
        value = mirror.value(value)
    if isinstance(value, Value):
        return Captured(mirror.shape(value), mirror.dtype(value), value)
    if isinstance(value, list):
        return [_captured(mirror, item) for item in value]
    return value


__all__ = ["AbstractTensor", "layer_of", "layers", "plan_tile"]

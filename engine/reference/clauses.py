"""The clauses of a rule and the kinds of items: what each says."""

from __future__ import annotations

from collections.abc import Mapping

from engine.reference.entry import Entry

_CLAUSES: Mapping[str, tuple[str, str]] = {
    "match": ("match aten.linear(x: floating[.., K], w, b?)", "The pattern to look for."),
    "when": ("when guard, name := value", "What must hold as well; `:=` binds, and fails if the value is `none`."),
    "let": ("let name = value", "A name for a value, which is evaluated when it is first used."),
    "emit": ("emit value", "The right side: one tensor, or a tuple for several outputs or roots."),
    "needs": ("needs trt >= 10.14, torch >= 2.14, not rtx", "The rule is inactive where one of these does not hold."),
    "over": ("over other, file.other", "This rule is tried before those."),
    "decreases": ("decreases measure", "Of a `lower` rule in a cycle: a number >= 0 that its output makes smaller."),
    "relax": (
        "relax nan, ties", "How both sides may differ: nan signed_zero ties reassociation overflow uninitialized."
    ),
    "test": ("test x: f32[B=2..4, 3], k = 2", "An instance on which the rule must fire and both sides must agree."),
    "reject": ("reject x: i64[2]", "An instance on which the rule must not fire."),
    "simplify": ("simplify name \"doc\" match .. emit ..", "ATen to ATen, with fewer nodes than before."),
    "lower": ("lower name \"doc\" match .. emit ..", "ATen to ATen, down an acyclic order of ops."),
    "convert": ("convert name \"doc\" match .. emit ..", "ATen to TensorRT layers."),
    "def": ("def name(a, b) = expression", "A macro, which is expanded where it is called; it cannot be recursive."),
    "pattern": ("pattern name(a, b) = aten.op(a, b)", "A named pattern, which is expanded where it is used."),
    "extern": ("extern host.name(a: int) -> [int]?", "A pure Python function on static values, registered in Python."),
    "layer": ("layer trt.name(x: tensor, *, a: int) -> tensor via add_name(x)", "A TensorRT layer that rules may use."),
}  # fmt: skip


def clauses() -> dict[str, Entry]:
    """Every clause and kind of item by its word."""
    return {name: Entry("clause", name, example, doc) for name, (example, doc) in _CLAUSES.items()}


__all__ = ["clauses"]

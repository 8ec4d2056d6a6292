"""What becomes of each op: a rule, a decomposition by PyTorch, or a reason why it stays in PyTorch.

``python -m engine.verify.core`` lists the core ATen overloads that no rule is rooted at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

from engine.dsl import operators
from engine.dsl.ruleset import RuleSet
from engine.evaluator.op_calls import resolve
from engine.partitioner.unsupported import unsupported_reason
from engine.rewriter.decomposition import has_decomposition

# Why ops without a rule stay in PyTorch, or never reach rules; the first pattern that matches the full name counts.
REASONS: tuple[tuple[str, str], ...] = (
    (r"aten\.item\..*", "it returns a Python number, and engines return only tensors"),
    (r"aten\.sym_.*|operator\..*|_operator\..*|torch\.sym_.*", "arithmetic on sizes, computed by shape tensors"),
    (r"aten\.(_assert_tensor_metadata|_assert_scalar)\..*", "an assertion; capture checks or drops it"),
    (r"aten\.as_strided\..*", "is as_strided_copy when rules see it: capture flattens its operand"),
    (r"aten\.(new_)?empty_strided\..*", "sets the memory layout, which values in a graph do not have"),
    (r"aten\.\w+_\.\w+|aten\.\w+\.out", "writes to its operand; capture makes graphs functional"),
    (r"aten\.(tril|triu)_indices\..*", "a constant, folded before rules see it"),
    (r"higher_order\..*", "holds graphs of its own"),
    (r"torchvision\.nms\..*", "the size of its result depends on data, which TensorRT-RTX cannot do"),
    (r"transformers\.grouped_mm_fallback\..*", "rules take it where transformers is imported"),
    (r"(transformers|quantized_decomposed)\..*", "an op of a library that may not be imported"),
)


def core_overloads() -> list[str]:
    """Full names of the ATen overloads that the installed PyTorch calls core, sorted."""
    return sorted(_core())


def _core() -> Iterator[str]:
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::"):
            continue
        packet, _, overload = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if isinstance(op, torch._ops.OpOverload) and torch.Tag.core in op.tags:
            yield f"aten.{packet}.{overload or 'default'}"


def standing(op: str, rules: RuleSet) -> str | None:
    """``rule``, ``decomposition``, or why an op stays in PyTorch; None if nothing accounts for it.

    Args:
        op: a full overload name, as ``aten.add.Tensor``, or an op that takes graphs, as ``higher_order.cond``.
    """
    if any(root.op == op for rule in rules.rules for root in rule.roots):
        return "rule"
    graphs = operators.higher_order(op) if operators.is_higher_order(op) else None
    if graphs is not None and has_decomposition(graphs):
        return "decomposition"
    reason = next((reason for pattern, reason in REASONS if re.fullmatch(pattern, op)), None)
    if reason is not None or operators.find(op) is None:
        return reason
    target = resolve(op)[1]
    return unsupported_reason(target) or ("decomposition" if has_decomposition(target) else None)


def uncovered(ops: Iterable[str], rules: RuleSet) -> dict[str, str | None]:
    """The ops that have no rule, with what becomes of them."""
    found = ((op, standing(op, rules)) for op in ops)
    return {op: what for op, what in found if what != "rule"}


def main() -> None:
    """Print the core overloads without a rule."""
    overloads = core_overloads()
    rest = uncovered(overloads, RuleSet.load())
    print(f"{len(overloads) - len(rest)} of {len(overloads)} core overloads have a rule of their own")
    for op, what in rest.items():
        print(f"  {op:48} {what or 'unaccounted for'}")


if __name__ == "__main__":
    main()

__all__ = ["core_overloads", "standing", "uncovered"]

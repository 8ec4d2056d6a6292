"""Patterns that take calls with arguments of any value and do not look at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.dsl import operators, tree
from engine.dsl.rule import OpName, Rule
from engine.linter.finding import Finding
from engine.linter.subject import Subject, name_of, names_in

# Where a tensor lies and how it came there, which values in a graph do not say.
_NOWHERE = frozenset(
    {
        "layout",
        "device",
        "pin_memory",
        "memory_format",
        "non_blocking",
        "copy",
        "generator",
        "implicit",
        "requires_grad",
    }
)
# What only gradients ask for; the bag of an embedding does read its `padding_idx`.
_OF_GRADIENTS = frozenset({"sparse", "sparse_grad", "scale_grad_by_freq", "aten.embedding.default.padding_idx"})
# What the result says as well, where a rule reads it.
_OF_RESULT = frozenset({"dtype", "size", "out_dtype", "output_dtype"})


def over_wide(subject: Subject) -> Iterator[Finding]:
    """Ops with `..` that leaves arguments unseen which change the result."""
    for file, item, rules in subject.items():
        reads_result = "result" in names_in((item.steps, item.emit))
        for node in tree.walk(item.match):
            if isinstance(node, tree.OpPattern) and any(
                isinstance(part, tree.Rest) and part.name is None for part in node.arguments
            ):
                root = node is item.match
                unseen = _unseen(node, rules)
                if (root and reads_result) or node.outputs is not None:
                    unseen = [name for name in unseen if name not in _OF_RESULT]
                if unseen:
                    names = ", ".join(f"`{name}`" for name in unseen)
                    yield Finding(
                        "R106",
                        node.span,
                        f"`..` takes any value of {names}, and nothing looks at it",
                        name_of(file, item),
                        f"leave `..` out, or write `{unseen[0]}=_` if it does not matter",
                    )


def _unseen(node: tree.OpPattern, rules: Sequence[Rule]) -> list[str]:
    """The arguments that `..` stands for, of all members of a family."""
    names = [node.op]
    if node.op[:1].isupper():
        names = [value.name for rule in rules if isinstance(value := rule.family.get(node.op), OpName)]
    unseen: dict[str, None] = {}
    for name in names:
        operator = operators.find(name)
        if operator is None:
            continue
        keywords = {part.name for part in node.arguments if isinstance(part, tree.Keyword)}
        given = sum(not isinstance(part, tree.Keyword | tree.Rest) for part in node.arguments)
        for argument in operator.arguments[given:]:
            silent = {argument.name, f"{operator.name}.{argument.name}"} & (_NOWHERE | _OF_GRADIENTS)
            if argument.name not in keywords and not silent and argument.default is not ...:
                unseen[argument.name] = None
    return list(unseen)


__all__ = ["over_wide"]

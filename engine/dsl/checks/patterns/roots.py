"""Patterns of several roots: each root is found from the others, through a tensor that both capture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.dsl.forms import tensor_slots, within
from engine.dsl.rule import ArgumentPattern, Bind, ListMatch, OpMatch
from engine.errors import Diagnostic


def unconnected(rule: str, roots: Sequence[OpMatch]) -> list[Diagnostic]:
    """What is wrong with a plain pattern one of whose roots captures no tensor that the others capture.

    Args:
        rule: id of the rule, for the message.
        roots: the roots of a plain form of the pattern.
    """
    waiting = {index: set(_captured(root)) for index, root in enumerate(roots)}
    known = waiting.pop(0)
    while waiting:
        found = next((index for index, names in waiting.items() if names & known), None)
        if found is None:
            message = "this root of the tuple pattern shares no captured tensor with the other roots"
            hint = "capture one operand by the same name in each root"
            return [Diagnostic(f"rule {rule}: {message}", roots[next(iter(waiting))].span, hint=hint)]
        known |= waiting.pop(found)
    return []


def _captured(pattern: ArgumentPattern) -> Iterator[str]:
    """The names under which a pattern captures operands that are tensors, or elements of a list."""
    if isinstance(pattern, OpMatch):
        slots = tensor_slots(pattern.op)
        for position, argument in pattern.arguments:
            if isinstance(argument, OpMatch | ListMatch):
                yield from _captured(argument)
            elif isinstance(argument, Bind) and position in slots and argument.name != "_":
                yield argument.name
    elif isinstance(pattern, ListMatch):
        for item in within(pattern):
            if isinstance(item, Bind) and item.name != "_":
                yield item.name
            else:
                yield from _captured(item)


__all__ = ["unconnected"]

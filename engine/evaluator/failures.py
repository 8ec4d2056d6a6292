"""Why a rule does not apply: raised while it is evaluated, and the value that its caller gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import Span


class Failed(Exception):
    """The rule does not apply; ``span`` is where it says so, when known, ``values`` gives what it read."""

    def __init__(self, reason: str, span: Span | None = None, values: Callable[[], str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.span = span
        self.values = values


class Raised(Exception):
    """Something that a rule evaluates raised an exception of Python.

    Attributes:
        span: the place in the rule.
        host: it is a host function that is at fault, not the rule.
    """

    def __init__(self, reason: str, span: Span, host: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.span = span
        self.host = host

    @classmethod
    def of(cls, error: Exception, span: Span, said: str = "") -> Raised:
        """An exception with the place that it came from; one that has a place already keeps it.

        Args:
            said: which host function raised it, if one did.
        """
        if isinstance(error, Raised):
            return error
        first = str(error).strip().partition("\n")[0]
        return cls(f"{said}{type(error).__name__}" + (f": {first}" if first else ""), span, bool(said))


def located(error: Exception, span: Span) -> Exception:
    """What to raise for what came out of the expression at ``span``; the innermost place that is known stays."""
    if isinstance(error, Failed):
        if error.span is None:
            error.span = span
        return error
    raised = Raised.of(error, span)
    if raised is not error:
        raised.__cause__ = error
    return raised


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rule that matched structurally does not apply.

    Attributes:
        guarded: all of its guards held: it is meant for this, and could not be carried out.
        values: gives what the guard that failed read, as far as that is short.
    """

    reason: str
    span: Span | None = None
    guarded: bool = False
    values: Callable[[], str] | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        values = self.values() if self.values is not None else ""
        reason = f"{self.reason}: {values}" if values else self.reason
        return reason if self.span is None else f"{reason} ({self.span.file}:{self.span.line})"


__all__ = ["Failed", "Failure", "Raised", "located"]

"""Rules that turn out to be wrong while a model is compiled.

No rule ends a compile.  Where one raises, emits another dtype than it must, or does not get smaller as its kind
promises, it is not applied, the next rule gets its chance, and that is told once.  With ``ENGINE_CHECK=1``, as in
tests, it is an error.
"""

from __future__ import annotations

import os

from torch import fx

from engine.dsl.rule import Rule
from engine.errors import EngineError
from engine.graph.provenance import describe


def checking() -> bool:
    """Whether the environment asks for errors where rules break their word: ``ENGINE_CHECK=1``."""
    return os.environ.get("ENGINE_CHECK", "0") not in ("", "0")


class Faults:
    """What rules did wrong in one compilation, each rule and kind of fault once.

    Args:
        strict: raise what would be noted; by default what ``ENGINE_CHECK`` says.
        strict_hosts: raise where a host function of a user's rule raises or breaks its declaration.
    """

    def __init__(self, strict: bool | None = None, strict_hosts: bool = False) -> None:
        self.strict = checking() if strict is None else strict
        self.strict_hosts = strict_hosts
        self._notes: dict[tuple[str, str], str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each fault, with the rule's file and line and the first node, in order."""
        return tuple(self._notes.values())

    def tell(
        self,
        rule: Rule,
        node: fx.Node | None,
        message: str,
        *,
        kind: str,
        outcome: str = "It is not applied there",
        strict: bool | None = None,
        cause: BaseException | None = None,
    ) -> None:
        """Note what a rule did, or raise it.

        Args:
            node: where it was about to be applied.
            message: what is wrong, as a sentence; ``{at}`` in it becomes the node.
            kind: a word for this kind of fault; only the first of a kind is told of each rule.
            outcome: what becomes of the rule.

        Raises:
            EngineError: faults are strict.
        """
        at = "" if node is None else f" at {describe(node)}"
        text = f"{rule.where}: {message}".replace("{at}", at)
        if self.strict if strict is None else strict:
            raise EngineError(text) from cause
        self._notes.setdefault((rule.where, kind), f"{text.rstrip('.')}.  {outcome}")


__all__ = ["Faults", "checking"]

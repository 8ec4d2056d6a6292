"""Host functions: pure Python that a rule may call on static values, declared with ``extern``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

REGISTRY: dict[str, Callable[..., Any]] = {}


def host(name: str) -> Callable[[F], F]:
    """Register a function as ``host.<name>`` for rules.

    It must be pure and deterministic, take only static values or constant tensors, and return data; ``None``
    says that the rule does not apply.
    """

    def register(function: F) -> F:
        REGISTRY[f"host.{name}"] = function
        return function

    return register

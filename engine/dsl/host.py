"""Host functions: pure Python that a rule may call on static values, declared with ``extern``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_REGISTRY: dict[str, Callable[..., Any]] = {}


def host(name: str) -> Callable[[F], F]:
    """Register a function as ``host.<name>`` for rules.

    It must be pure and deterministic, take only static values or constant tensors, and return data, never nodes
    of a graph; ``None`` says that the rule does not apply.  Registering a name again replaces the function.

    Raises:
        ValueError: ``name`` is not a lower-case identifier.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
        raise ValueError(f"{name!r} cannot name a host function: use lower-case letters, digits and `_`")

    def register(function: F) -> F:
        _REGISTRY[f"host.{name}"] = function
        return function

    return register


def registered() -> Mapping[str, Callable[..., Any]]:
    """The registered functions by full name (``host.f``), as of now."""
    return dict(_REGISTRY)

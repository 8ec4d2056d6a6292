"""Host functions: pure Python that a rule may call on static values, declared with ``extern``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from engine.dsl import tree

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


class WrongResult(TypeError):
    """A host function gave something else than it is declared to give."""


def held_to(extern: tree.Extern, function: Callable[..., Any]) -> Callable[..., Any]:
    """A host function that raises :class:`WrongResult` where it breaks its declaration."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = function(*args, **kwargs)
        if not _is(given, extern.result):
            raise WrongResult(f"{extern.name} gave {given!r:.80}, and is declared to give {extern.result}")
        return given

    return checked


@functools.cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """The Python types of each sort; sympy is loaded late, because rules are checked without it."""
    import sympy
    import torch

    return {
        "int": (int, sympy.Expr),
        "float": (float, int, sympy.Expr),
        "scalar": (float, int, bool, sympy.Expr),
        "bool": (bool, sympy.Basic),
        "str": (str,),
        "dtype": (torch.dtype,),
    }


def _is(value: Any, kind: tree.Type) -> bool:
    """Whether a value has a declared type; what the declaration does not settle is taken."""
    if value is None:
        return kind.optional or not (kind.names or kind.element or kind.items)
    if kind.element is not None:
        return isinstance(value, list | tuple) and all(_is(item, kind.element) for item in value)
    if kind.items is not None:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(kind.items)
            and all(part is None or _is(item, part) for item, part in zip(value, kind.items, strict=True))
        )
    kinds = _kinds()
    if not all(name in kinds for name in kind.names):
        return True
    return any(
        isinstance(value, kinds[name]) and (name in ("bool", "scalar") or not isinstance(value, bool))
        for name in kind.names
    )

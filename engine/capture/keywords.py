"""Keyword arguments that ``forward`` takes by ``**kwargs``: torch.export is told their names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from engine.process.replaced_forward import replaced_forward


@contextmanager
def named_keywords(model: nn.Module, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Iterator[Any]:
    """Let ``forward`` have a parameter for each keyword that it is given, and give ``dynamic_shapes`` in these names.

    Adapters, wrappers and decorators pass on what they are given (``forward(self, *args, **kwargs)``). Up to 2.13
    torch.export counts such arguments twice and takes no dynamic sizes for them.
    """
    forward = model.forward
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):
        yield dynamic_shapes
        return
    given = [name for name in kwargs or () if name not in signature.parameters]
    collecting = next((one for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD), None)
    if collecting is None or not given:
        yield dynamic_shapes
        return
    parameters = [one for one in signature.parameters.values() if one is not collecting]
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given]

    def named(*args: Any, **keywords: Any) -> Any:
        return forward(*args, **keywords)

    named.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with replaced_forward(model, named):
        yield _by_names(dynamic_shapes, collecting.name, set(given))


def _by_names(dynamic_shapes: Any, collecting: str, given: set[str]) -> Any:
    """``dynamic_shapes`` of arguments by their own names, where they are of the one that collects them."""
    inner = dynamic_shapes.get(collecting) if isinstance(dynamic_shapes, Mapping) else None
    if not isinstance(inner, Mapping) or not set(inner) <= given:
        return dynamic_shapes
    return {**{name: spec for name, spec in dynamic_shapes.items() if name != collecting}, **inner}


__all__ = ["named_keywords"]

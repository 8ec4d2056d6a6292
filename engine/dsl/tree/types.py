"""Types: sorts, dtypes with shapes, lists and tuples of them."""

from __future__ import annotations

from dataclasses import dataclass

from engine.dsl.tree.node import Node


@dataclass(frozen=True, slots=True)
class Dim(Node):
    """One dimension of a shape: a number, a name with an optional range, ``_`` or ``..``."""

    name: str | None = None  # "B" binds or compares a symbolic int; None with size None is `_`
    size: int | None = None
    range: tuple[int, int] | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Type(Node):
    """A sort, a dtype class with a shape, a list, a tuple or an enum type.

    ``names`` are alternatives: dtypes (``f32``), dtype classes (``floating``, ``integral``, ``tensor``),
    sorts (``int``, ``float``, ``bool``, ``str``, ``dtype``, ``scalar``, ``weights``, ``axes``) or one TensorRT
    enum class (``SampleMode``).
    """

    names: tuple[str, ...] = ()
    dims: tuple[Dim, ...] | None = None
    modifier: str | None = None  # "const" | "static"
    optional: bool = False
    element: Type | None = None  # [element]
    items: tuple[Type, ...] | None = None  # (a, b)

    def __str__(self) -> str:
        """The type as a rule writes it."""
        if self.element is not None:
            text = f"[{self.element}]"
        elif self.items is not None:
            text = f"({', '.join('_' if item is None else str(item) for item in self.items)})"
        else:
            text = "|".join(self.names)
        if self.dims is not None:
            text += f"[{', '.join('..' if d.rest else str(d.name or d.size or '_') for d in self.dims)}]"
        return (f"{self.modifier} " if self.modifier else "") + text + ("?" if self.optional else "")


__all__ = ["Dim", "Type"]

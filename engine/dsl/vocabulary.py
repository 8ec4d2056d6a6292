"""The words of the language that are not syntax: dtypes, sorts, phases and named constants."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PHASES = ("simplify", "lower", "convert")
# What a rule may give otherwise than its left side; `uninitialized` memory holds anything, and `overflow` is that
# of numbers on the way to the result.
RELAXATIONS = ("nan", "signed_zero", "ties", "reassociation", "overflow", "uninitialized")
SORTS = frozenset({"int", "float", "bool", "str", "dtype", "scalar", "weights", "axes", "graph"})

# Functions that run graphs of the model; a plan says where in the rule, so `engine.evaluator.graphs` evaluates them.
OF_GRAPHS: Mapping[str, tuple[int, int | None]] = {"run": (2, 2), "conditional": (4, 4)}


@functools.cache
def dtypes() -> Mapping[str, torch.dtype]:
    """Dtypes by their names in rules."""
    from engine.dtypes import DTYPES

    return DTYPES


@functools.cache
def dtype_names() -> Mapping[torch.dtype, str]:
    """Names in rules by dtype."""
    return {dtype: name for name, dtype in dtypes().items()}


@functools.cache
def dtype_classes() -> Mapping[str, frozenset[str]]:
    """Dtype classes (``floating``, ``tensor``, ...) with the names of their dtypes."""
    from engine.dtypes import CLASSES

    names = dtype_names()
    return {name: frozenset(names[dtype] for dtype in members) for name, members in CLASSES.items()}


@functools.cache
def constants() -> frozenset[str]:
    """Names that every expression may use: dtypes, dtype classes, ``pi`` and the like."""
    from engine.evaluator.builtins import CONSTANTS

    return frozenset(CONSTANTS)


@functools.cache
def functions() -> Mapping[str, tuple[int, int | None]]:
    """Builtin functions with the least and the largest number of arguments."""
    from engine.evaluator.builtins import SIGNATURES

    return SIGNATURES


def expand_dtypes(names: Iterable[str]) -> frozenset[str]:
    """The dtypes that alternatives of a type allow: ``floating|i8`` as a set of dtype names."""
    classes = dtype_classes()
    return frozenset(dtype for name in names for dtype in classes.get(name, (name,)))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is most likely a misspelling of."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def suggestion(word: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint that names the nearest known word."""
    found = nearest(word, known)
    return otherwise if found is None else f"did you mean `{found}`?"

"""The words of the language that are not syntax: dtypes, sorts, phases and named constants."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.dsl.recorded.standing_in import Records, records

if TYPE_CHECKING:
    import torch

PHASES = ("simplify", "lower", "convert")
# What a rule may give otherwise than its left side; `uninitialized` memory holds anything, and `overflow` is that
# of numbers on the way to the result.
RELAXATIONS = ("nan", "signed_zero", "ties", "reassociation", "overflow", "uninitialized")
SORTS = frozenset({"int", "float", "bool", "str", "dtype", "scalar", "weights", "axes", "graph"})
# Where a rule to begin with leaves open what it emits; `_0`, `_1` follow where an op has several outputs.
UNSAID = "WHAT_IT_COMPUTES"

# Functions that run graphs of the model; a plan says where in the rule, so `engine.evaluator.graphs` evaluates them.
OF_GRAPHS: Mapping[str, tuple[int, int | None]] = {"run": (2, 2), "conditional": (3, 3)}


# Functions with the least and the largest number of arguments; `engine.evaluator.builtins` has what they do.
SIGNATURES: Mapping[str, tuple[int, int | None]] = {
    "rank": (1, 1),
    "shape": (1, 1),
    "dim": (2, 2),
    "dtype": (1, 1),
    "numel": (1, 1),
    "multiplied": (1, 1),
    "is_const": (1, 1),
    "is_fixed": (1, 1),
    "is_shared": (1, 1),
    "is_code": (3, 3),
    "is_kept": (1, 1),
    "block_shape": (2, 2),
    "converted": (2, 2),
    "is_full": (2, 2),
    "is_between": (3, 3),
    "has_full_row": (2, 2),
    "is_known": (1, 1),
    "is_tensor": (1, 1),
    "values": (1, 1),
    "item": (1, 1),
    "unused": (1, 1),
    "overwritten": (1, 1),
    "len": (1, 1),
    "range": (1, 3),
    "zip": (1, None),
    "enumerate": (1, 1),
    "reversed": (1, 1),
    "sorted": (1, 1),
    "present": (1, 1),
    "all": (1, 1),
    "any": (1, 1),
    "sum": (1, 1),
    "prod": (1, 1),
    "min": (1, None),
    "max": (1, None),
    "abs": (1, 1),
    "clamp": (3, 3),
    "prefix_sums": (1, 1),
    "broadcast": (1, 1),
    "full": (2, 2),
    "scalar": (2, 2),
    "tensor": (2, 2),
    "filled": (3, 3),
    "promote": (1, None),
    "sqrt": (1, 1),
    "exp": (1, 1),
    "log": (1, 1),
    "cos": (1, 1),
    "sin": (1, 1),
    "floor": (1, 1),
    "ceil": (1, 1),
    "round": (1, 1),
    "rounded": (2, 2),
    "ldexp": (2, 2),
    "exponent": (1, 1),
    "int": (1, 1),
    "float": (1, 1),
    "bool": (1, 1),
    "epsilon": (1, 1),
    "smallest": (1, 1),
    "largest": (1, 1),
    **OF_GRAPHS,
}


def dtypes() -> Mapping[str, torch.dtype]:
    """Dtypes by their names in rules."""
    return _words(records())[0]


def dtype_names() -> Mapping[torch.dtype, str]:
    """Names in rules by dtype."""
    return _words(records())[1]


def dtype_classes() -> Mapping[str, frozenset[str]]:
    """Dtype classes (``floating``, ``tensor``, ...) with the names of their dtypes."""
    return _words(records())[2]


def constants() -> Mapping[str, Any]:
    """Names that every expression may use, with their values: dtypes, dtype classes, ``pi`` and the like."""
    return _words(records())[3]


@functools.lru_cache(maxsize=2)
def _words(
    recorded: Records | None,
) -> tuple[Mapping[str, Any], Mapping[Any, str], Mapping[str, Any], Mapping[str, Any]]:
    """What the four functions above give, of PyTorch itself or of what stands in for it."""
    if recorded is not None:
        members, classes = recorded.dtypes, recorded.classes
    else:
        from engine.dtypes import CLASSES, DTYPES

        members, classes = DTYPES, CLASSES
    names = {dtype: name for name, dtype in members.items()}
    by_class = {name: frozenset(names[dtype] for dtype in those) for name, those in classes.items()}
    return members, names, by_class, {"pi": math.pi, "inf": math.inf, "nan": math.nan, **members, **classes}


def expand_dtypes(names: Iterable[str]) -> frozenset[str]:
    """The dtypes that alternatives of a type allow: ``floating|i8`` as a set of dtype names."""
    classes = dtype_classes()
    return frozenset(dtype for name in names for dtype in classes.get(name, (name,)))


# What other languages call the words of this one.
_CALLED = {
    "float64": "f64", "double": "f64", "float32": "f32", "float16": "f16", "half": "f16", "bfloat16": "bf16",
    "int64": "i64", "long": "i64", "int32": "i32", "int16": "i16", "short": "i16", "int8": "i8", "uint8": "u8",
    "boolean": "bool", "complex32": "c32", "complex64": "c64", "complex128": "c128", "float8_e4m3fn": "f8",
    "integer": "int", "string": "str", "number": "scalar", "constant": "const",
    "add": "SUM", "plus": "SUM", "mul": "PROD", "multiply": "PROD", "minus": "SUB", "subtract": "SUB",
    "divide": "DIV", "maximum": "MAX", "minimum": "MIN", "eq": "EQUAL", "gt": "GREATER", "lt": "LESS",
    "matches": "match", "emits": "emit", "gives": "emit", "returns": "emit", "where": "when", "requires": "needs",
    "require": "needs", "tests": "test", "rejects": "reject", "before": "over", "size": "shape", "ndim": "rank",
}  # fmt: skip
# Words that are listed where none of them is near.
_MOST_LISTED = 24


def near_words(word: str, known: Iterable[str]) -> list[str]:
    """The known words that ``word`` may be meant for, the likeliest first; none that only look a little like it.

    Those are what other languages call it, the same in other letters, longer names of which it is a part, and
    misspellings: about one letter in four.
    """
    there = sorted(set(known))
    called = _CALLED.get(word.lower())
    if called in there:
        return [called]
    same = [other for other in there if other.lower() == word.lower()]
    if same:
        return same
    parts = [other for other in there if word.lower() in other.lower().replace(".", "_").split("_")]
    if len(word) > 1 and 0 < len(parts) <= 3:
        return parts
    return difflib.get_close_matches(word, there, n=1, cutoff=0.75 if len(word) < 6 else 0.65)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is most likely meant for."""
    found = near_words(word, known)
    return found[0] if found else None


def suggestion(word: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A hint that names the nearest known words, or else says what there is.

    Args:
        otherwise: what to say where no word is near; by default the known words are listed.
    """
    there = sorted(set(known))
    found = near_words(word, there)
    if found:
        return f"did you mean {' or '.join(f'`{other}`' for other in found)}?"
    if otherwise is not None or not there:
        return otherwise
    more = f" and {len(there) - _MOST_LISTED} more" if len(there) > _MOST_LISTED else ""
    return f"there are {', '.join(there[:_MOST_LISTED])}{more}"

"""The parser of the language: made from the grammar once, and then read back as tables in a tenth of the time."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from engine.dsl import cache

# Part of the name of what is kept: change it with the form.
_FORMAT = 2
# JSON has no objects whose keys are numbers; this is before those.
_NUMBER = "#"


@functools.cache
def parser() -> Lark:
    """The parser, from the cache of rules where it was made before with this grammar and this version of lark."""
    grammar = resources.files("engine.dsl.syntax").joinpath("grammar.lark").read_text(encoding="utf-8")
    conditions = json.dumps([_FORMAT, lark.__version__, grammar])
    name = f"grammar-{hashlib.blake2b(conditions.encode(), digest_size=20).hexdigest()}"
    kept = cache.load_tables(name)
    if kept is not None:
        try:
            data, memo = json.loads(kept, object_hook=_decoded)
            return Lark._load_from_dict(data, memo)
        except Exception:  # whatever somebody wrote there: it is made again
            pass
    made = Lark(grammar, parser="lalr", propagate_positions=True)
    tables = made.memo_serialize([TerminalDef, Rule])
    cache.store_tables(name, json.dumps([_encoded(part) for part in tables], separators=(",", ":")))
    return made


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"{_NUMBER}{key}" if isinstance(key, int) else key: _encoded(item) for key, item in value.items()}
    return [_encoded(item) for item in value] if isinstance(value, list | tuple) else value


def _decoded(found: dict[str, Any]) -> dict[Any, Any]:
    if next(iter(found), "").startswith(_NUMBER):
        return {int(key.removeprefix(_NUMBER)): item for key, item in found.items()}
    return found


__all__ = ["parser"]

"""Checked rules as JSON, for the cache, and back.

JSON and not pickle: reading a file must never run code.  What a rule does and what it matches are texts of their
own that are decoded when they are first read, because few of the rules apply to one model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.dsl import rule as rules
from engine.dsl import tree
from engine.dsl.rule import EnumToken, Facts, Layer, OpName, Rule
from engine.dsl.vocabulary import dtype_names, dtypes
from engine.errors import Span

# Part of the cache's key: change it with the format.
FORMAT = 9

_TUPLE, _DTYPE, _ENUM, _OP, _MAP = -1, -2, -3, -4, -5
_CLASSES: tuple[type, ...] = (
    *sorted(
        (
            cls
            for cls in vars(tree).values()
            if isinstance(cls, type) and issubclass(cls, tree.Node) and cls is not tree.Node
        ),
        key=lambda cls: cls.__name__,
    ),
    rules.OpMatch,
    rules.ListMatch,
    rules.Equals,
    rules.Bind,
    rules.Anything,
    rules.OneOf,
    rules.Layer,
)
_NUMBERS = {cls: number for number, cls in enumerate(_CLASSES)}
_FIELDS: dict[type, tuple[str, ...]] = {cls: tuple(f.name for f in dataclasses.fields(cls)) for cls in _CLASSES}
_SPAN_AT = tuple(_FIELDS[cls].index("span") + 1 for cls in _CLASSES)
# Fields of a rule that are decoded on demand: those of its body are the same for all members of a family.
_BODY = ("steps", "emit", "decreases", "tests")
_HEAD = ("doc", "roots", "over", "relax", "family", "text")
# Those that are there at once, in the order that they have in the list that a rule is.
_PLAIN = ("id", "kind", "level", "rank")
_AT_ONCE = (*_PLAIN, "span", "needs")
# Where they begin, after the number of its body, its head, the ops of its roots and what its text says of it.
_FIRST = 6


class CachedRule(Rule):
    """A rule that is decoded when it is first read, but for what every compilation asks of every rule."""

    __slots__ = ("_body", "_decoder", "_facts", "_raw")

    @property
    def root_ops(self) -> tuple[str, ...]:
        """The ops of its roots, each once."""
        return tuple(self._raw[2])

    @property
    def facts(self) -> Facts | None:
        """What its text says of it."""
        return self._facts

    def ranked(self, rank: int) -> Rule:
        """The same rule at another place in the order, still undecoded."""
        if self.rank == rank:
            return self
        copy = object.__new__(CachedRule)
        for name in (*_AT_ONCE, "_body", "_decoder", "_facts", "_raw"):
            object.__setattr__(copy, name, getattr(self, name))
        object.__setattr__(copy, "rank", rank)
        return copy

    def __getattr__(self, name: str) -> Any:
        fields: tuple[str, ...] = _BODY if name in _BODY else _HEAD
        if name in _BODY:
            text = self._body
        elif name in _HEAD:
            text = self._raw[1]
        else:
            raise AttributeError(name)
        for field, value in zip(fields, self._decoder.decode(json.loads(text)), strict=True):
            object.__setattr__(self, field, value)
        return getattr(self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in (*_AT_ONCE, *_HEAD, *_BODY))

    __hash__ = Rule.__hash__


class CachedItems(Mapping[str, Any]):
    """Layers or macros by name, decoded when they are first read."""

    def __init__(self, texts: Mapping[str, str], decoder: Decoder) -> None:
        self._texts = texts
        self._decoder = decoder
        self._items: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._items:
            self._items[name] = self._decoder.decode(json.loads(self._texts[name]))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class CachedTuple(Sequence[Any]):
    """A tuple that is decoded when it is first read."""

    def __init__(self, text: str, decoder: Decoder) -> None:
        self._text = text
        self._decoder = decoder
        self._items: tuple[Any, ...] | None = None

    def _read(self) -> tuple[Any, ...]:
        if self._items is None:
            self._items = self._decoder.decode(json.loads(self._text))
        return self._items  # type: ignore[return-value]

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())


class Encoder:
    """Turns values into JSON; ``files`` are the paths that spans refer to by number."""

    def __init__(self, like: Decoder | None = None, macros: Mapping[str, tree.Macro] | None = None) -> None:
        """Start anew, or so that what ``like`` has not decoded yet is taken over as it is.

        Args:
            macros: that the rules use.
        """
        self._macros = {} if macros is None else macros
        self.files: list[str] = [] if like is None else list(like.files)
        self._like = like

    def encode(self, value: Any) -> Any:
        """A value as lists, numbers and strings."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple | list | CachedTuple):
            return [_TUPLE, *map(self.encode, value)]
        if isinstance(value, Span):
            return self._span(value)
        number = _NUMBERS.get(type(value))
        if number is not None:
            return [number, *(self.encode(getattr(value, name)) for name in _FIELDS[type(value)] if name != "by_name")]
        if isinstance(value, EnumToken):
            return [_ENUM, value.name]
        if isinstance(value, OpName):
            return [_OP, value.name]
        if isinstance(value, dict):
            return [_MAP, *(part for key, item in value.items() for part in (key, self.encode(item)))]
        if value in dtype_names():
            return [_DTYPE, dtype_names()[value]]
        raise TypeError(f"cannot encode {value!r}")

    def items(self, items: Mapping[str, Any]) -> dict[str, str]:
        """Layers or macros by name, each a text of its own."""
        if isinstance(items, CachedItems) and items._decoder is self._like:
            return dict(items._texts)
        return {name: json.dumps(self.encode(item)) for name, item in items.items()}

    def rule(self, rule: Rule, bodies: dict[str, int]) -> list[Any]:
        """A rule as its head and the number of its body."""
        if isinstance(rule, CachedRule) and rule._decoder is self._like:
            raw = list(rule._raw)
            raw[_FIRST + _PLAIN.index("rank")] = rule.rank
            return [bodies.setdefault(rule._body, len(bodies)), *raw[1:]]
        body = json.dumps(self.encode(tuple(getattr(rule, name) for name in _BODY)))
        from engine.dsl.checks.facts import facts_of

        number = bodies.setdefault(body, len(bodies))
        facts = facts_of(rule, self._macros)
        return [
            number,
            json.dumps(self.encode(tuple(getattr(rule, name) for name in _HEAD))),
            list(rule.root_ops),
            facts.looks,
            list(facts.emits),
            facts.decreases,
            *(self.encode(getattr(rule, name)) for name in _AT_ONCE),
        ]

    def _span(self, span: Span) -> str:
        if span.file not in self.files:
            self.files.append(span.file)
        # A string decodes faster than a list of numbers and is looked up whole.
        return f"{self.files.index(span.file)}:{span.line}:{span.column}:{span.end_line}:{span.end_column}"


class Decoder:
    """Turns JSON back into values."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self._spans: dict[str, Span] = {}

    def decode(self, value: Any) -> Any:
        """A value from lists, numbers and strings."""
        if type(value) is not list:
            return value
        number = value[0]
        if number >= 0:
            return self._node(number, value)
        if number == _TUPLE:
            return tuple([self.decode(item) for item in value[1:]])
        if number == _MAP:
            return {key: self.decode(item) for key, item in zip(value[1::2], value[2::2], strict=True)}
        if number == _DTYPE:
            return dtypes()[value[1]]
        return EnumToken(value[1]) if number == _ENUM else OpName(value[1])

    def rule(self, value: list[Any], bodies: list[str]) -> Rule:
        """A rule from the list that it is, and its body."""
        rule = object.__new__(CachedRule)
        assign = object.__setattr__
        for name, item in zip(_PLAIN, value[_FIRST:], strict=False):
            assign(rule, name, item)
        span, needs = value[_FIRST + len(_PLAIN) :]
        assign(rule, "span", self._span(span))
        assign(rule, "needs", self.decode(needs))
        assign(rule, "_body", bodies[value[0]])
        assign(rule, "_decoder", self)
        assign(rule, "_facts", Facts(int(value[3]), tuple(map(str, value[4])), bool(value[5])))
        assign(rule, "_raw", value)
        return rule

    def _node(self, number: int, value: list[Any]) -> Any:
        decode, place = self.decode, _SPAN_AT[number]
        values = [item if type(item) is not list else decode(item) for item in value]
        values[place] = self._span(value[place])
        cls = _CLASSES[number]
        if cls is Layer:
            values.append({parameter.name: parameter for parameter in values[2]})
        return cls(*values[1:])

    def _span(self, text: str) -> Span:
        span = self._spans.get(text)
        if span is None:
            file, line, column, end_line, end_column = map(int, text.split(":"))
            span = self._spans[text] = Span(self.files[file], line, column, end_line, end_column)
        return span

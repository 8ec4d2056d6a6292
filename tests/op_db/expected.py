"""What the tests expect of each entry and dtype, as data: ``outcomes.json``, and ``reasons.toml`` for what it says."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

OUTCOMES = Path(__file__).with_name("outcomes.json")
Item = TypeVar("Item")
REASONS = Path(__file__).with_name("reasons.toml")


class Unit(NamedTuple):
    """One entry in one dtype: how many samples it has, and what became of those that were run, by number.

    ``operands`` has the ops that samples which pass were captured as, and the dtypes these work on.
    """

    entry: str
    dtype: str
    samples: int
    became: dict[int, str]
    operands: dict[str, set[str]]

    @property
    def in_quarter(self) -> bool:
        """Whether the unit is in the fixed quarter that is run each time."""
        return in_quarter(self.entry, self.dtype)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many samples had each outcome, in a fixed order."""
        return dict(sorted(Counter(self.became.values()).items()))

    def some(self, most: int) -> list[int]:
        """The numbers of at most so many of the samples that were run, evenly spaced, the first among them."""
        return spread(sorted(self.became), most)


def in_quarter(entry: str, dtype: str) -> bool:
    """Whether an entry in a dtype is in the fixed quarter."""
    return hashlib.sha256(f"{entry} {dtype}".encode()).digest()[0] % 4 == 0


def load() -> dict[str, Any]:
    """The file as it is."""
    return dict(json.loads(OUTCOMES.read_text())) if OUTCOMES.exists() else {"entries": {}}


def units(data: dict[str, Any] | None = None) -> Iterator[Unit]:
    """Every unit that is written down."""
    for entry, about in (data or load())["entries"].items():
        for dtype, unit in about["dtypes"].items():
            became = {number: text for text, ranges in unit["outcomes"].items() for number in _numbers(ranges)}
            operands = {op: set(dtypes.split()) for op, dtypes in unit.get("operands", {}).items()}
            yield Unit(entry, dtype, unit["samples"], became, operands)


def written(unit: Unit) -> dict[str, Any]:
    """A unit as it is written down: the numbers of the samples that had each outcome, as ``"0-3 7"``."""
    ranges = {text: _ranges(n for n, had in sorted(unit.became.items()) if had == text) for text in unit.outcomes}
    operands = {op: " ".join(sorted(dtypes)) for op, dtypes in sorted(unit.operands.items())}
    return {"samples": unit.samples, "outcomes": ranges, "operands": operands}


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return " ".join("-".join(map(str, run)) for run in runs)


def _numbers(ranges: str) -> Iterator[int]:
    for run in ranges.split():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)


def save(data: dict[str, Any]) -> None:
    """Write the file, one line a unit."""
    lines = []
    for name, about in sorted(data["entries"].items()):
        head = json.dumps({key: about[key] for key in ("listed", "ops")})[1:-1]
        rows = ",\n".join(f"   {json.dumps(dtype)}: {json.dumps(about['dtypes'][dtype])}" for dtype in about["dtypes"])
        lines.append(f'  {json.dumps(name)}: {{{head}, "dtypes": {{\n{rows}}}}}')
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in data.items() if key != "entries")
    text = "{\n" + head + ' "entries": {\n' + ",\n".join(lines) + "\n }\n}\n"
    temporary = OUTCOMES.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, OUTCOMES)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spaced, the first among them."""
    return [items[index * len(items) // most] for index in range(most)] if most < len(items) else list(items)


def spoils(outcome: str) -> bool:
    """Whether a sample of such an outcome would keep others from being judged in the same engine."""
    return outcome.startswith("not captured") or "TensorRT rejected it" in outcome


@functools.cache
def _reasons() -> tuple[tuple[re.Pattern[str], str], ...]:
    table = tomllib.loads(REASONS.read_text())["reason"]
    return tuple((re.compile(row["text"]), row["says"]) for row in table)


def says(text: str) -> str | None:
    """What an outcome other than ``passed`` and ``constant`` means, in words; None if nobody has said so yet."""
    return next((words for pattern, words in _reasons() if pattern.search(text)), None)

"""What the tests expect of each entry and dtype, as data: ``outcomes.json``, and ``reasons.toml`` for what it says."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.op_db.outcome import Outcome
from tests.op_db.samples import Call

OUTCOMES = Path(__file__).with_name("outcomes.json")
REASONS = Path(__file__).with_name("reasons.toml")


class Unit(NamedTuple):
    """One entry in one dtype; of its ``samples`` samples ``run`` are run, and this became of them."""

    entry: str
    dtype: str
    samples: int
    run: int
    outcomes: dict[str, int]

    @property
    def in_quarter(self) -> bool:
        """Whether the unit is in the fixed quarter that is run each time."""
        return in_quarter(self.entry, self.dtype)


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
            yield Unit(entry, dtype, unit["samples"], unit["run"], unit["outcomes"])


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


def spread(calls: Sequence[Call], run: int) -> list[Call]:
    """``run`` of the samples, evenly spaced, the first among them."""
    return [calls[index * len(calls) // run] for index in range(run)] if run < len(calls) else list(calls)


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many samples had each outcome, in a fixed order."""
    return dict(sorted(Counter(outcome.text for outcome in outcomes).items()))


@functools.cache
def _reasons() -> tuple[tuple[re.Pattern[str], str], ...]:
    table = tomllib.loads(REASONS.read_text())["reason"]
    return tuple((re.compile(row["text"]), row["says"]) for row in table)


def says(text: str) -> str | None:
    """What an outcome other than ``passed`` and ``constant`` means, in words; None if nobody has said so yet."""
    return next((words for pattern, words in _reasons() if pattern.search(text)), None)

"""``docs/ops.md``, and the counts in ``README.md``, from the rules and the outcomes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import engine
from engine.verify.core import core_overloads
from engine.verify.ops_page import Verified, table
from tests.op_db import expected
from tests.op_db.scope import listed_ops

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ops.md"
README = ROOT / "README.md"
MARKS = ("<!-- op_db: written by `python -m tests.op_db --docs` -->", "<!-- /op_db -->")
SHORT = {"float32": "f32", "float16": "f16", "int64": "i64", "bool": "bool"}
FINE = ("passed", "constant")


def page(data: dict[str, Any]) -> str:
    """The text of ``docs/ops.md``."""
    return f"""# Ops

Written by `python -m tests.op_db --docs`; a test checks that it is current.

{counts(data)}
Samples that pass run in an engine, or are constants, and agree with eager PyTorch; the others stay in PyTorch, for the
reasons under "limits". *Dynamic* says that rules are tested with symbolic sizes. *Needs* is what the installed TensorRT
must be where every rule for the op asks for something. Dtypes that TensorRT does not have stay in PyTorch for every op.

{table(engine.RuleSet.load(), verified(data), sorted(listed_ops() & set(core_overloads())))}"""


def counts(data: dict[str, Any]) -> str:
    """How many entries and samples of the operator database pass, as Markdown."""
    rows = ["| operator database | entries | entries x dtypes | samples run | in an engine or constant | in PyTorch |"]
    rows += ["| not captured | wrong |", "|---|---|---|---|---|---|---|---|"]
    rows[0:2] = [rows[0] + rows[1][1:]]
    for title, listed in (("ops of real models and core ATen", True), ("other ops", False)):
        kinds: Counter[str] = Counter()
        units = [unit for unit in expected.units(data) if data["entries"][unit.entry]["listed"] == listed]
        for unit in units:
            for text, count in unit.outcomes.items():
                kinds[text.partition(":")[0]] += count
        numbers = [
            len({unit.entry for unit in units}), len(units), sum(len(unit.became) for unit in units),
            kinds["passed"] + kinds["constant"], kinds["in PyTorch"], kinds["not captured"], kinds["failed"],
        ]  # fmt: skip
        rows.append(f"| {title} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    return "\n".join(rows) + "\n"


def verified(data: dict[str, Any]) -> dict[str, Verified]:
    """By op, of the entries that are that op alone."""
    found: dict[str, Verified] = {}
    for unit in expected.units(data):
        ops = [op if op.startswith("aten.") else f"aten.{op}" for op in data["entries"][unit.entry]["ops"]]
        if len(ops) != 1:
            continue
        about = found.setdefault(ops[0], Verified())
        dtype = SHORT[unit.dtype]
        about.run[dtype] = about.run.get(dtype, 0) + len(unit.became)
        about.passed[dtype] = about.passed.get(dtype, 0) + sum(
            count for text, count in unit.outcomes.items() if text.partition(":")[0] in FINE
        )
        about.limits.update(dict.fromkeys(expected.says(text) or text for text in unit.outcomes if text not in FINE))
    return found


def write(data: dict[str, Any]) -> None:
    """Write the page, and the counts into the README where it has the marks for them."""
    _replace(PAGE, page(data))
    text = README.read_text()
    if all(mark in text for mark in MARKS):
        _replace(README, with_counts(text, data))


def with_counts(text: str, data: dict[str, Any]) -> str:
    """A text with the counts between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{counts(data)}{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

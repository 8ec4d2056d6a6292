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
from tests.op_db.operands import SHORT
from tests.op_db.samples import DTYPES
from tests.op_db.scope import listed_ops
from tests.rules import operator_results

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ops.md"
README = ROOT / "README.md"
MARKS = ("<!-- op_db: written by `python -m tests.op_db --docs` -->", "<!-- /op_db -->")
FINE = ("passed", "constant")


def page(data: dict[str, Any]) -> str:
    """The text of ``docs/ops.md``."""
    return f"""# Ops

Written by `python -m tests.op_db --docs`; a test checks that it is current.

{counts(data)}
Samples that pass run in an engine, or are constants, and agree with eager PyTorch; the others stay in PyTorch, for the
reasons under "limits". *Dtypes* are those of the first operand in tests where the op was in an engine and agreed with
eager PyTorch; float64 is computed in float32 with `truncate_double=True`, int16 in int32 with `widen_int16=True`.
*Dynamic* says that rules are tested with symbolic sizes. *TensorRT* is the first version with the layers that the op
needs, 10.9 being the oldest that is supported; TensorRT-RTX 1.4 counts as 10.16, 1.6 as 11.1.

{table(engine.RuleSet.load(), verified(data), sorted(listed_ops() & set(core_overloads())))}"""


def counts(data: dict[str, Any]) -> str:
    """How many entries and samples of the operator database pass, as Markdown."""
    head = ["operator database", "entries", "entries x dtypes", "samples", "run", "in an engine or constant"]
    head += ["in PyTorch", "not captured", "wrong"]
    rows = [head, ["---"] * len(head)]
    for title, listed in (("ops of real models and core ATen", True), ("other ops", False)):
        kinds: Counter[str] = Counter()
        units = [unit for unit in expected.units(data) if data["entries"][unit.entry]["listed"] == listed]
        for unit in units:
            for text, count in unit.outcomes.items():
                kinds[text.partition(":")[0]] += count
        numbers = [
            len({unit.entry for unit in units}), len(units), sum(unit.samples for unit in units),
            sum(len(unit.became) for unit in units), kinds["passed"] + kinds["constant"], kinds["in PyTorch"],
            kinds["not captured"], kinds["failed"],
        ]  # fmt: skip
        rows.append([title, *(f"{number:,}" for number in numbers)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def verified(data: dict[str, Any]) -> dict[str, Verified]:
    """By op: what samples of the operator database and the calls of every op showed."""
    found: dict[str, Verified] = {}
    for unit in expected.units(data):
        for op, dtypes in unit.operands.items():
            found.setdefault(_full(op), Verified()).dtypes |= dtypes - {""}
        # A reason is for certain that of an op where the entry is that op alone.
        ops = data["entries"][unit.entry]["ops"]
        if len(ops) == 1:
            if "passed" in unit.outcomes and not unit.operands:
                found.setdefault(_full(ops[0]), Verified()).dtypes.add(SHORT[DTYPES[unit.dtype]])
            limits = [expected.says(text) or text for text in unit.outcomes if text not in FINE]
            found.setdefault(_full(ops[0]), Verified()).limits.update(dict.fromkeys(limits))
    for op, by_dtype in operator_results.load().items():
        about = found.setdefault(_full(op), Verified())
        for dtype, text in by_dtype.items():
            if text == "passed":
                about.dtypes.add(dtype)
            elif dtype not in about.dtypes:
                about.limits[f"{dtype}: {expected.says(text) or text}"] = None
    return found


def _full(op: str) -> str:
    return op if op.startswith(("aten.", "transformers.", "quantized_decomposed.")) else f"aten.{op}"


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

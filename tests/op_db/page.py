"""``docs/ops.md``, and the counts in ``README.md``, from the rules and the outcomes."""

from __future__ import annotations

import os
import re
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
EIGHT_BITS = ("i8", "u8")  # of these the column of dtypes says enough


# How engines compute in each dtype.
HOW = {
    "f32": "as it is",
    "f16": "as it is; matrix products are summed in float32",
    "bf16": "as it is; matrix products are summed in float32",
    "i64": "as it is",
    "i32": "as it is",
    "bool": "as it is; counted in int32",
    "i8": "in int32 inside the engine, and wraps around as in PyTorch; quantised weights stay int8",
    "u8": "in int32 inside the engine, and wraps around as in PyTorch",
    "f64": "in float32 with `truncate_double=True`; PyTorch casts what enters and leaves",
    "i16": "in int32 with `widen_int16=True`; PyTorch casts what enters and leaves, where it wraps around",
}


def page(data: dict[str, Any]) -> str:
    """The text of ``docs/ops.md``."""
    return f"""# Ops

Written by `python -m tests.op_db --docs`; a test checks that it is current.

A model runs in engines as far as rules take its ops, or PyTorch decomposes them into ops that rules take. `engine
coverage MODEL` shows for one model which nodes do, and why the others stay in PyTorch. This page shows it op by op:
[what was tested](#what-was-tested), [in which dtypes](#dtypes), and a [table of all ops](#all-ops).

## What was tested

{counts(data)}
A sample is one call from PyTorch's operator database, as eager PyTorch is tested with; it runs in a real engine build,
read back and computed on a CPU, and is compared with eager PyTorch. *Constant*: nothing was left for an engine to do.
*In PyTorch*: some node of it stays there, and the result agrees. *Not captured*: `torch.export` makes no graph, or
an argument or result is not a dense tensor. *Of real models* are ops of 318 architectures.

What keeps samples out of engines:

{kept_out(data)}
## Dtypes

Every op of real models is called in every dtype that PyTorch has it in: with every rank from 0 to 8, operands that are
broadcast, empty tensors, and arguments that are not the default.

{by_dtype()}
## All ops

| column | says |
| --- | --- |
| rules | that take the op; with `none` it stays in PyTorch |
| dtypes | of the first operand, where the op was in an engine and agreed with eager PyTorch |
| dynamic | rules are tested with symbolic sizes; an op that is lowered to others is as dynamic as they are |
| TensorRT | the first version with the layers that it needs, of 10.9 and later; RTX 1.4 counts as 10.16, 1.6 as 11.1 |
| limits | what keeps some calls in PyTorch, and where results may differ |

Where no dtype is given, no call of the tests above has the op; the test lines of its rules do.

{table(engine.RuleSet.load(), verified(data), sorted(listed_ops() & set(core_overloads())))}"""


def kept_out(data: dict[str, Any]) -> str:
    """Reasons and how many samples each kept out of engines, as Markdown."""
    found: dict[str, list[int]] = {}
    for unit in expected.units(data):
        for text, count in unit.outcomes.items():
            if text.partition(":")[0] not in FINE:
                row = found.setdefault(expected.says(text) or text, [0, 0])
                row[0 if data["entries"][unit.entry]["listed"] else 1] += count
    rows = [["reason", "samples of real models and core ATen", "other samples"], ["---"] * 3]
    ordered = sorted(found.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
    rows += [[reason, *(f"{number:,}" for number in numbers)] for reason, numbers in ordered]
    return _markdown(rows)


def by_dtype() -> str:
    """How many ops of the table of calls are in engines in each dtype, as Markdown."""
    results = operator_results.load()
    rows = [["dtype", "in engines", "ops that PyTorch has in it", "in an engine in every call"], ["---"] * 4]
    for dtype, how in HOW.items():
        texts = [by_dtype[dtype] for by_dtype in results.values() if dtype in by_dtype]
        rows.append([dtype, how, str(len(texts)), str(sum(text.startswith("passed") for text in texts))])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


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
    return _markdown(rows)


def verified(data: dict[str, Any]) -> dict[str, Verified]:
    """By op: what samples of the operator database and the calls of every op showed."""
    found: dict[str, Verified] = {}
    for unit in expected.units(data):
        for op, dtypes in unit.operands.items():
            found.setdefault(_full(op), Verified()).dtypes |= dtypes - {""}
        # A reason may be that of an op where the entry's first sample is that op alone.
        ops = data["entries"][unit.entry]["ops"]
        if len(ops) == 1:
            if "passed" in unit.outcomes and not unit.operands:
                found.setdefault(_full(ops[0]), Verified()).dtypes.add(SHORT[DTYPES[unit.dtype]])
            limits = [expected.says(text) or text for text in unit.outcomes if _is_of(text, _full(ops[0]))]
            found.setdefault(_full(ops[0]), Verified()).limits.update(dict.fromkeys(limits))
    for op, by_dtype in operator_results.load().items():
        about = found.setdefault(_full(op), Verified())
        for dtype, text in by_dtype.items():
            if text.startswith("passed"):
                about.dtypes.add(dtype)
            elif dtype not in about.dtypes and dtype not in EIGHT_BITS:
                about.limits[f"{dtype}: {expected.says(text) or text}"] = None
    return found


def _is_of(text: str, op: str) -> bool:
    """Whether an outcome that keeps samples out of engines may be that of an op, and not of what else they call."""
    if text in FINE or text.startswith("not captured"):
        return False
    named = re.search(r"\b(\w+\.\w+)\.(\w+)", text)
    if text.startswith("in PyTorch: draws") or (named and op.startswith(f"{named[1]}.")):
        return op in text
    return True


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

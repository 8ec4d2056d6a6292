"""What became of the calls of ``operator_calls``: run, written to ``operators.json`` and read from there.

``python -m tests.rules.operator_results [OP ...]`` shows it; with ``--write`` it writes the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("ENGINE_CHECK", "1")

import engine
from engine.settings import CompilationSettings
from tests.op_db.expected import spread
from tests.op_db.judge import SETTINGS as PLAIN
from tests.op_db.judge import judge
from tests.op_db.outcome import BETWEEN_CASTS, Outcome
from tests.op_db.samples import Call
from tests.rules.operator_calls import DTYPES, INSIDE, ROWS, calls

RESULTS = Path(__file__).with_name("operators.json")
OPS = tuple(dict.fromkeys([*ROWS, *INSIDE]))
FINE = ("passed", "constant", BETWEEN_CASTS.text)
TOGETHER = 192
SOME = 4  # calls of an op in float32 that run each time
STOOD_IN_FOR = ("f64", "i16", "i8", "u8")
# What TensorRT lacks is computed in what it has, where a setting says so.
SETTINGS = {
    "f64": CompilationSettings.from_kwargs(min_block_size=1, truncate_double=True),
    "i16": CompilationSettings.from_kwargs(min_block_size=1, widen_int16=True),
}

# By op and dtype: "passed", or what became of the first call that did not, or that did only between casts.
Results = dict[str, dict[str, str]]


class Part(NamedTuple):
    """One call of an op in a dtype."""

    op: str
    dtype: str
    number: int
    call: Call


def parts(ops: Iterable[str] = OPS, *, dtypes: Iterable[str] = DTYPES, whole: bool = True) -> Iterator[Part]:
    """The calls of ops; unless ``whole``, a few in float32, evenly spaced, and the first in other dtypes."""
    for dtype in dtypes:
        for op in ops:
            found = list(enumerate(calls(op, dtype)))
            some = found if whole else spread(found, SOME if dtype == "f32" else 1)
            yield from (Part(op, dtype, number, call) for number, call in some)


def in_sample(op: str, dtype: str) -> bool:
    """Whether an op is tested each time in a dtype: of those that others stand in for, a fixed eighth of the ops."""
    return dtype not in STOOD_IN_FOR or hashlib.sha256(f"{op} {dtype}".encode()).digest()[0] % 8 == 0


def outcomes(some: Sequence[Part], rules: engine.RuleSet) -> list[Outcome]:
    """What becomes of each of these calls; a call whose graph does not hold its op fails."""
    found: dict[int, Outcome] = {}
    for settings in dict.fromkeys(_settings(part) for part in some):
        numbers = [number for number, part in enumerate(some) if _settings(part) == settings]
        verdicts = judge([some[number].call for number in numbers], rules, settings=settings)
        for number, judged in zip(numbers, verdicts, strict=True):
            lost = judged.outcome.kind == "passed" and not _is_in(some[number].op, judged.operands)
            found[number] = Outcome("failed", "the op is not in the graph") if lost else judged.outcome
    return [found[number] for number in range(len(some))]


def _settings(part: Part) -> CompilationSettings:
    return SETTINGS.get(part.dtype, PLAIN)


# What capture makes of ops before rules see them.
_BECOMES = {
    "as_strided.default": "as_strided_copy.default",
    "_native_batch_norm_legit.default": "_native_batch_norm_legit_functional.default",
}
_BENEATH = ("_fft_c2c", "_fft_r2c", "_fft_c2r")


def _is_in(op: str, ops: Iterable[str]) -> bool:
    # The transforms are what fft_* is decomposed into when a rule is through with its norm.
    return op.startswith(_BENEATH) or f"aten.{_BECOMES.get(op, op)}" in ops


def load() -> Results:
    """The file as it is."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def save(results: Results) -> None:
    """Write the file, one line an op."""
    ordered = {op: {dtype: results[op][dtype] for dtype in DTYPES if dtype in results[op]} for op in sorted(results)}
    lines = (f" {json.dumps(op)}: {json.dumps(by_dtype)}" for op, by_dtype in ordered.items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.rules.operator_results", description=__doc__)
    parser.add_argument("ops", nargs="*", help="ops without `aten.`; all if none is given")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="all if not given")
    parser.add_argument("--first", action="store_true", help="only the first call of each, and a few in float32")
    parser.add_argument("--write", action="store_true", help="write down what became of them")
    options = parser.parse_args()
    rules, results = engine.RuleSet.load(), load()
    every = list(parts(options.ops or OPS, dtypes=options.dtype or DTYPES, whole=not options.first))
    for part in every:
        results.setdefault(part.op, {}).pop(part.dtype, None)
    for start in range(0, len(every), TOGETHER):
        some = every[start : start + TOGETHER]
        for part, outcome in zip(some, outcomes(some, rules), strict=True):
            if outcome.text not in FINE:
                print(f"{part.op} {part.dtype} {part.number}: {outcome.text}", flush=True)
            known = results[part.op].setdefault(part.dtype, "passed")
            if (known in FINE and outcome.text not in FINE) or (known == "passed" and outcome == BETWEEN_CASTS):
                results[part.op][part.dtype] = outcome.text
        print(f"{start + len(some)} of {len(every)}", flush=True)
        if options.write:
            save(results)


if __name__ == "__main__":
    main()

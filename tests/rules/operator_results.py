"""What became of the calls of ``operator_calls``: run, written to ``operators.json`` and read from there.

``python -m tests.rules.operator_results [OP ...]`` shows it; with ``--write`` it writes the file.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("ENGINE_CHECK", "1")

import engine
from tests.op_db.judge import judge
from tests.op_db.outcome import Outcome
from tests.op_db.samples import Call
from tests.rules.operator_calls import DTYPES, INSIDE, ROWS, calls

RESULTS = Path(__file__).with_name("operators.json")
OPS = tuple(dict.fromkeys([*ROWS, *INSIDE]))
# float64 and int16 are for those who ask for the casts.
SETTINGS = engine.CompilationSettings.from_kwargs(min_block_size=1, truncate_double=True, widen_int16=True)
FINE = ("passed", "constant")
TOGETHER = 192

# By op and dtype: "passed", or what became of the calls that did not.
Results = dict[str, dict[str, str]]


class Part(NamedTuple):
    """One call of an op in a dtype."""

    op: str
    dtype: str
    call: Call


def parts(ops: Iterable[str] = OPS, *, whole: bool = True) -> Iterator[Part]:
    """The calls of ops in every dtype; unless ``whole``, only the first in other dtypes than float32."""
    for dtype in DTYPES:
        for op in ops:
            found = calls(op, dtype)
            yield from (Part(op, dtype, call) for call in (found if whole or dtype == "f32" else found[:1]))


def outcomes(some: Sequence[Part], rules: engine.RuleSet) -> list[Outcome]:
    """What becomes of each of these calls; a call whose graph does not hold its op fails."""
    found = []
    for part, judged in zip(some, judge([part.call for part in some], rules, settings=SETTINGS), strict=True):
        lost = judged.outcome.kind == "passed" and not _is_in(part.op, judged.operands)
        found.append(Outcome("failed", "the op is not in the graph") if lost else judged.outcome)
    return found


# What capture makes of ops before rules see them.
_BECOMES = {"as_strided.default": "as_strided_copy.default"}
_BENEATH = ("_fft_c2c", "_fft_r2c", "_fft_c2r")


def _is_in(op: str, ops: Iterable[str]) -> bool:
    # The transforms are what fft_* is decomposed into when a rule is through with its norm.
    return op.startswith(_BENEATH) or f"aten.{_BECOMES.get(op, op)}" in ops


def collected(some: Sequence[Part], became: Sequence[Outcome]) -> Results:
    """By op and dtype: whether all calls passed, and what the first that did not shows."""
    results: Results = {}
    for part, outcome in zip(some, became, strict=True):
        known = results.setdefault(part.op, {})
        if outcome.text not in FINE and known.get(part.dtype, "passed") == "passed":
            known[part.dtype] = outcome.text
        known.setdefault(part.dtype, "passed")
    return results


def load() -> Results:
    """The file as it is."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def save(results: Results) -> None:
    """Write the file, one line an op."""
    lines = (f" {json.dumps(op)}: {json.dumps(results[op])}" for op in sorted(results))
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.rules.operator_results", description=__doc__)
    parser.add_argument("ops", nargs="*", help="ops without `aten.`; all if none is given")
    parser.add_argument("--write", action="store_true", help="write down what became of them")
    options = parser.parse_args()
    rules, results = engine.RuleSet.load(), load()
    every = list(parts(options.ops or OPS))
    fresh: Results = {}
    for start in range(0, len(every), TOGETHER):
        some = every[start : start + TOGETHER]
        for op, by_dtype in collected(some, outcomes(some, rules)).items():
            for dtype, text in by_dtype.items():
                if text != "passed":
                    print(f"{op} {dtype}: {text}", flush=True)
                if fresh.setdefault(op, {}).get(dtype, "passed") == "passed":
                    fresh[op][dtype] = text
        print(f"{start + len(some)} of {len(every)}", flush=True)
    if options.write:
        save({op: fresh.get(op, results.get(op, {})) for op in OPS})


if __name__ == "__main__":
    main()

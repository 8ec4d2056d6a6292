"""``python -m tests.op_db``: run entries of the operator database, and show or write down what became of them.

python -m tests.op_db nn.functional.conv2d sort     # some entries, all samples
python -m tests.op_db --write                       # everything: minutes, and the file to review
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("ENGINE_CHECK", "1")

import torch

import engine
from tests.op_db import expected, page
from tests.op_db.judge import judge
from tests.op_db.operands import add
from tests.op_db.samples import DTYPES, Batch, Call, calls, dtypes_of, entries
from tests.op_db.scope import is_listed, ops_of

# Samples that are judged before what became of them is written down; some engines hold samples of several entries.
AT_ONCE = 256


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.op_db", description=__doc__)
    parser.add_argument("entries", nargs="*", help="names of entries; all if none is given")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="all if not given")
    parser.add_argument("--most", type=int, default=1 << 30, help="only so many samples of each entry, evenly spaced")
    parser.add_argument("--gpu", action="store_true", help="run the engines on a GPU instead of the interpreter")
    parser.add_argument("--listed", action="store_true", help="only entries that are written down as on the lists")
    parser.add_argument("--write", action="store_true", help="write the outcomes down")
    parser.add_argument("--missing", action="store_true", help="only what is not written down yet for so many samples")
    parser.add_argument("--quarter", action="store_true", help="only the quarter that is tested each time")
    parser.add_argument("--summary", action="store_true", help="only count what is written down")
    parser.add_argument("--docs", action="store_true", help="write docs/ops.md from what is written down")
    options = parser.parse_args()
    data = expected.load()
    if options.docs:
        page.write(data)
    elif not options.summary:
        _run(options, data)
    summarise(data)


def _run(options: argparse.Namespace, data: dict[str, Any]) -> None:
    rules = engine.RuleSet.load()
    data["torch"] = torch.__version__.partition("+")[0]
    begin = time.perf_counter()
    waiting: list[tuple[str, str, int, list[int], list[Call]]] = []
    for name, dtype in _asked(options, data):
        samples = calls(name, dtype)
        numbers = expected.spread(range(len(samples)), options.most)
        waiting.append((name, dtype, len(samples), numbers, [samples[number] for number in numbers]))
        if sum(len(some) for *_, some in waiting) >= AT_ONCE:
            _judge(waiting, rules, options, data)
            waiting = []
    _judge(waiting, rules, options, data)
    print(f"{time.perf_counter() - begin:.0f} s")


def _asked(options: argparse.Namespace, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Entries and dtypes that the options name."""
    known = {(unit.entry, unit.dtype): unit for unit in expected.units(data)}
    for name, entry in entries().items():
        if options.entries and name not in options.entries:
            continue
        if options.listed and not data["entries"].get(name, {}).get("listed"):
            continue
        for dtype in dtypes_of(entry):
            unit = known.get((name, dtype))
            if options.dtype and dtype not in options.dtype:
                continue
            if options.missing and unit is not None and len(unit.became) >= min(options.most, unit.samples):
                continue
            if options.quarter and not expected.in_quarter(name, dtype):
                continue
            yield name, dtype


def _judge(
    waiting: list[tuple[str, str, int, list[int], list[Call]]],
    rules: engine.RuleSet,
    options: argparse.Namespace,
    data: dict[str, Any],
) -> None:
    start = time.perf_counter()
    judged = iter(judge([call for *_, some in waiting for call in some], rules, "cuda" if options.gpu else "cpu"))
    for name, dtype, samples, numbers, some in waiting:
        unit = expected.Unit(name, dtype, samples, {}, {})
        for number in numbers:
            outcome, operands = next(judged)
            unit.became[number] = outcome.text
            add(unit.operands, operands)
        print(f"{name} {dtype}", flush=True)
        for text, count in unit.outcomes.items():
            print(f"    {count:5} {text}", flush=True)
        if name not in data["entries"]:
            data["entries"][name] = _about(some)
        data["entries"][name]["dtypes"][dtype] = expected.written(unit)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    if options.write:
        expected.save(data)


def _about(some: list[Call]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ops, decomposed = ops_of(Batch(some[:1]))
    return {"listed": is_listed(ops) or is_listed(decomposed), "ops": ops, "dtypes": {}}


def summarise(data: dict[str, Any]) -> None:
    """Print counts of entries, units and samples, and what keeps samples in PyTorch."""
    for title, listed in (("of the lists and core", True), ("beyond them", False)):
        units = [unit for unit in expected.units(data) if data["entries"][unit.entry]["listed"] == listed]
        kinds: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for unit in units:
            for text, count in unit.outcomes.items():
                kinds[text.partition(":")[0]] += count
                if text not in ("passed", "constant"):
                    reasons[expected.says(text) or f"UNEXPLAINED {text}"] += count
        print(
            f"{title}: {len({unit.entry for unit in units})} entries, {len(units)} with their dtypes, "
            f"{sum(len(unit.became) for unit in units)} of {sum(unit.samples for unit in units)} samples: {dict(kinds)}"
        )
        for reason, count in reasons.most_common():
            print(f"    {count:6} {reason}")


if __name__ == "__main__":
    main()

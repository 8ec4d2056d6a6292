"""What became of each cell: ``results.json``, in the repository."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from engine.storage.whole_file import write_whole
from tests.matrix.cells import PYTHON, TENSORRT_RTX, TORCH, Cell

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Result:
    """What a cell did.

    Attributes:
        day: when it ran, as in 2026-01-31.
        sources: stands for the sources that ran (`tests.matrix.cells.digest`).
        passed, failed, skipped: counts of tests.
        failures: the tests that failed, at most 20.
        problem: why no test ran; empty where they did.
        cpp: the layout by which the C++ path knows the TensorRT, or why the path is not there.
        import_seconds: seconds of CPU of ``import torch, engine``.
        compile_seconds: seconds of CPU of a first small model, with all that is loaded for it, and no cache.
        seconds: all tests, on the clock.
    """

    day: str
    sources: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[str, ...] = ()
    problem: str = ""
    cpp: str = ""
    import_seconds: float = 0.0
    compile_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether tests ran and all of them passed."""
        return not self.problem and self.failed == 0 and self.passed > 0


Results = dict[Cell, Result]


def load(path: Path = RESULTS) -> Results:
    """The results that are written down."""
    found: Results = {}
    for entry in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
        cell = Cell(entry.pop("torch"), entry.pop("tensorrt_rtx"), entry.pop("python"))
        found[cell] = Result(**{**entry, "failures": tuple(entry.get("failures", ()))})
    return found


def save(results: Results, path: Path = RESULTS) -> None:
    """Write the results down, in a fixed order, one line for each cell; what is empty is left out."""
    lines = []
    for cell, result in sorted(results.items(), key=lambda item: _order(item[0])):
        about = {name: value for name, value in dataclasses.asdict(result).items() if value not in ("", (), 0, 0.0)}
        lines.append(json.dumps({**cell._asdict(), **about}))
    write_whole(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _order(cell: Cell) -> tuple[int, ...]:
    lists = (TORCH, TENSORRT_RTX, PYTHON)
    return tuple(known.index(one) if one in known else -1 for one, known in zip(cell, lists, strict=True))

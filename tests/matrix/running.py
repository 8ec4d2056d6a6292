"""Run the chosen tests of one cell."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.matrix.cells import CHOSEN, Cell, digest
from tests.matrix.environments import Environments, Unavailable
from tests.matrix.results import Result

MOST_FAILURES = 20
_PROBE = "tests/matrix/probe.py"
_HOURS = 2


class _NoAnswerError(Exception):
    """The Python of a cell ends with an error before any test."""


def run(cell: Cell, environments: Environments) -> Result:
    """Run a cell; what keeps it from running is a result too.

    Raises:
        Unavailable: this machine has not got one of the releases: that says nothing about them.
    """
    python, tree = environments.python(cell), environments.tree(cell)
    day, sources = datetime.date.today().isoformat(), digest(tree)
    with _environment(cell, environments) as environment:
        try:
            about = _asked(cell, python, tree, environment)
        except _NoAnswerError as problem:
            return Result(day, sources, problem=str(problem))
        report = Path(environment["ENGINE_CACHE_DIR"]) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        done = _call([*command, f"--junitxml={report}", *CHOSEN], tree, environment)
        if not report.exists():
            return Result(day, sources, problem=_last(done.stdout + done.stderr), **about)
        return Result(day, sources, **read(report), **about)


def times(cell: Cell, environments: Environments) -> dict[str, Any]:
    """What a cell says of itself: its times, and the layout of its TensorRT.

    Raises:
        Unavailable: this machine has not got it, or it does not run.
    """
    with _environment(cell, environments) as environment:
        try:
            return _asked(cell, environments.python(cell), environments.tree(cell), environment)
        except _NoAnswerError as problem:
            raise Unavailable(str(problem)) from None


@contextmanager
def _environment(cell: Cell, environments: Environments) -> Iterator[dict[str, str]]:
    """The variables under which a cell runs, with a cache of its own that is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ENGINE_"))}
    path = os.pathsep.join([str(environments.tree(cell)), str(environments.rtx(cell))])
    with tempfile.TemporaryDirectory(prefix="engine-matrix-") as folder:
        yield {**kept, "PYTHONPATH": path, "ENGINE_CACHE_DIR": folder}


def _asked(cell: Cell, python: Path, tree: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = _call([str(python), _PROBE], tree, environment)
    if done.returncode != 0:
        raise _NoAnswerError(_last(done.stderr))
    about = json.loads(done.stdout.splitlines()[-1])
    found = Cell(about.pop("torch"), about.pop("tensorrt_rtx"), about.pop("python"))
    if found != cell:
        raise Unavailable(f"what was installed is {found}, not {cell}")
    return dict(about)


def read(report: Path) -> dict[str, Any]:
    """Counts and failures of pytest's report in JUnit's format."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures = []
    root = ElementTree.parse(report).getroot()
    for case in root.iter("testcase"):
        kinds = {child.tag for child in case}
        became = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[became] += 1
        if became == "failed":
            failures.append(f"{case.get('classname')}::{case.get('name')}")
    seconds = sum(float(suite.get("time", 0)) for suite in root.iter("testsuite"))
    return {**counts, "failures": tuple(sorted(set(failures))[:MOST_FAILURES]), "seconds": round(seconds)}


def _call(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_HOURS * 3600
    )


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it ended without a word"

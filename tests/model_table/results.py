"""The answers in ``results.jsonl``: a line for each model and form."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Answers", "Key", "append", "provenance", "read", "regressions", "write"]

RESULTS = Path(__file__).with_name("results.jsonl")
_ROOT = RESULTS.parents[2]

Key = tuple[str, str, str]  # library, model, form
Answers = dict[Key, dict[str, Any]]


def read(path: Path = RESULTS) -> Answers:
    """The answers in a file; later lines win."""
    answers: Answers = {}
    # What follows the last end of line is of a run that was interrupted.
    for line in path.read_text().split("\n")[:-1] if path.exists() else ():
        entry = json.loads(line)
        answers[entry["library"], entry["model"], entry["form"]] = entry
    return answers


def append(entry: dict[str, Any], path: Path) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def write(answers: Answers, path: Path = RESULTS) -> None:
    """The answers in the order of their keys, each once."""
    path.write_text("".join(json.dumps(answers[key]) + "\n" for key in sorted(answers)))


def regressions(before: Answers, after: Answers) -> list[str]:
    """What was whole and is not, or was right in parts and is neither, in words."""
    rank = {"whole": 0, "multiples": 1, "parts": 1}
    found = []
    for key, row in after.items():
        was = before.get(key, {"outcome": ""})["outcome"]
        if rank.get(row["outcome"], 2) > rank.get(was, 2):
            found.append(f"{' '.join(key)}: {was}, now {row['outcome']}: {row.get('reason', '')}")
    return found


def provenance(library: str) -> dict[str, str]:
    """What a line is true of: the day, the commit (with ``+`` where the compiler was changed since) and versions."""
    tensorrt = next(name for name in ("tensorrt", "tensorrt-rtx") if _version(name))
    changed = "+" if _git("status", "--porcelain", "engine", "rules") else ""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD") + changed,
        "versions": ", ".join(f"{name} {_version(name)}" for name in dict.fromkeys(("torch", tensorrt, library))),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()

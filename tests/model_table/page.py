"""``docs/models.md``, from the answers."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.model_table.forms import FORMS
from tests.model_table.judge import OUTCOMES
from tests.model_table.results import Answers, Key

__all__ = ["NOT_COUNTED", "PAGE", "text"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"

# In these forms there is nothing that an engine could be compared with.
NOT_COUNTED = ("no eager", "one size", "no batch")
_COLUMNS = {
    "float32-static": "float32",
    "float16-static": "float16",
    "bfloat16-static": "bfloat16",
    "float32-batch": "dynamic batch",
    "float32-sizes": "dynamic batch and sizes",
    "float16-sizes": "dynamic batch and sizes, float16",
}

Row = dict[str, Any]


def text(answers: Answers, models: Sequence[tuple[str, str]]) -> str:
    """The page.

    Args:
        answers: what was run.
        models: library and name of every model, in the order of the page.
    """
    known = {(*model, form): answers.get((*model, form)) for model in models for form in FORMS}
    rows = {key: row for key, row in known.items() if row is not None}
    libraries = list(dict.fromkeys(library for library, _ in models))
    return f"""# Models

Written by `python -m tests.model_table --docs`; a test checks that it agrees with `tests/model_table/results.jsonl`.

Models of public libraries with random weights: all that torchvision registers, without its quantised copies, at the
smallest images that they take; 80 of timm, the smallest of each family; models of transformers and diffusers in small
configurations. Each is compiled in six forms, its engines are built, and their networks run on a CPU in the
interpreter of TensorRT networks: what is said here of values is said of that. *Whole* is one engine with every node in
it, and values that are no farther from the model in float64 than 8 times what eager PyTorch's are in the same dtype (or
32 units in the last place) at every size. Where a size is dynamic, both ends of its range and up to five sizes in
between are run, which are primes where the model takes any size. RAFT runs with 4 updates instead of 12.

Of {len(known):,} forms of {len(models)} models {len(rows):,} were run: {_runs(rows.values())}. The others are empty
below, and nothing is said of them: small models are run first, so that shares of those that were run are not shares of
all. A `+` at a commit means that the compiler was being changed.

## Summary

{_summary(libraries, rows, models)}

*Counted* are the forms that PyTorch itself runs and that the model's own code allows. *Error* is the median of our
distance from float64 over eager's, of those that are whole.

## What stays out

{_left(rows)}

## All models

Whole: our largest distance from float64 over eager's in the same dtype, in parentheses the number of sizes, and what
they are multiples of if the model does not take any. Otherwise the outcome, which the list above explains.

{_tables(libraries, known, models)}"""


def _runs(rows: Iterable[Row]) -> str:
    counts = Counter((row["date"], row["commit"]) for row in rows)
    return (
        "; ".join(f"{count} on {date} at `{commit}`" for (date, commit), count in sorted(counts.items())) or "none yet"
    )


def _summary(libraries: Sequence[str], rows: dict[Key, Row], models: Sequence[tuple[str, str]]) -> str:
    lines = [
        "| library | form | models | run | counted | whole | per cent | error |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for library in (*libraries, "all"):
        for form in FORMS:
            asked = [model for model in models if library in (model[0], "all")]
            run = [rows[*model, form] for model in asked if (*model, form) in rows]
            counted = [row for row in run if row["outcome"] not in NOT_COUNTED]
            whole = [row for row in counted if row["outcome"] == "whole"]
            share = f"{len(whole) / len(counted):.1%}" if counted else ""
            ratios = [ratio for row in whole if (ratio := _ratio(row)) is not None]
            error = f"{statistics.median(ratios):.2f}" if ratios else ""
            numbers = f"{len(asked)} | {len(run)} | {len(counted)} | {len(whole)} | {share} | {error}"
            lines.append(f"| {library} | {_COLUMNS[form]} | {numbers} |")
    return "\n".join(lines)


def _ratio(row: Row) -> float | None:
    error, eager = row.get("error"), row.get("eager")
    return error / eager if error is not None and eager else None


def _left(rows: dict[Key, Row]) -> str:
    """By outcome and words: which models in which forms."""
    groups: dict[str, dict[tuple[str, str], dict[str, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for (library, model, form), row in rows.items():
        if row["outcome"] not in ("whole", "no batch"):
            reason = row.get("reason", "")
            groups[row["outcome"]][library, reason].setdefault(model, []).append(_COLUMNS[form])
    parts = []
    for outcome, meaning in OUTCOMES.items():
        if outcome in groups:
            found = groups[outcome]
            count = sum(len(forms) for models in found.values() for forms in models.values())
            parts.append(f"**{outcome}** ({count}): {meaning}.\n")
            for (_, reason), models in found.items():
                names = "; ".join(f"{model} ({', '.join(forms)})" for model, forms in models.items())
                parts.append(f"- {names}: {_code(reason)}" if reason else f"- {names}")
            parts.append("")
    return "\n".join(parts).rstrip() or "Nothing of what was run."


def _code(words: str) -> str:
    """Words of a program, of which Markdown is not to make anything."""
    return f"`` {words} ``"


def _tables(libraries: Sequence[str], known: dict[Key, Row | None], models: Sequence[tuple[str, str]]) -> str:
    parts = []
    for library in libraries:
        versions = sorted({row["versions"] for key, row in known.items() if row is not None and key[0] == library})
        lines = [f"### {library}", "", *(f"With {each}." for each in versions), ""]
        lines += [f"| model | {' | '.join(_COLUMNS.values())} |", f"|---|{'---|' * len(_COLUMNS)}"]
        for model in models:
            if model[0] == library:
                cells = [_cell(known[*model, form]) for form in _COLUMNS]
                lines.append(f"| {model[1]} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["outcome"] == "multiples":
        return f"of {row['step']} alone ({len(row['sizes'])})"
    if row["outcome"] == "parts":
        return f"parts: {row['coverage']:.1%}, engines: {row['engines']}"
    if row["outcome"] != "whole":
        return row["outcome"]
    ratio = _ratio(row)
    said = f"{ratio:.2f}" if ratio is not None else "whole"
    step = f", of {row['step']}" if row.get("step", 1) > 1 else ""
    return said if len(row["sizes"]) == 1 else f"{said} ({len(row['sizes'])}{step})"

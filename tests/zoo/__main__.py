"""Ask for the coverage of every model in every form, and keep the answers.

    python -m tests.zoo                      all models, in all forms; goes on where an earlier run ended
    python -m tests.zoo SamModel --again     one model anew
    python -m tests.zoo --table              what is known so far

Answers are lines of a JSON file, ``build/zoo.jsonl`` unless ``--results`` names another.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.models import ZOO
from tests.zoo.forms import FORMS, Form, Outcome, cast, covered
from tests.zoo.further import FURTHER

ALL = {**ZOO, **FURTHER}
_FORMS = {str(form): form for form in FORMS}

Answers = dict[tuple[str, str], Outcome]


def answer(name: str, form: Form) -> Outcome:
    """What is said of a model in a form; a model that cannot even be built raises."""
    return covered(cast(form.dtype, ALL[name].build("small", dynamic=form.dynamic)))


def read(path: Path) -> Answers:
    """The answers in a file; later lines win."""
    answers: Answers = {}
    # What follows the last end of line is of a run that was interrupted.
    for line in path.read_text().split("\n")[:-1] if path.exists() else ():
        entry = json.loads(line)
        key = entry.pop("model"), entry.pop("form")
        answers[key] = Outcome(**entry)
    return answers


def _run(missing: list[tuple[str, str]], path: Path, console: Console) -> Answers:
    found: Answers = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description:45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, path.open("a") as file:
        task = progress.add_task("", total=len(missing))
        for name, form in missing:
            progress.update(task, description=f"{name} {form}")
            outcome = found[name, form] = answer(name, _FORMS[form])
            file.write(json.dumps({"model": name, "form": form, **outcome.to_json()}) + "\n")
            file.flush()
            if outcome.error or outcome.left:
                console.print(f"{name} {form}: {_brief(outcome)}", markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
            gc.collect()
    return found


def _brief(outcome: Outcome) -> str:
    if outcome.coverage is None:
        return outcome.error.splitlines()[0][:300]
    ops = sorted({op for _, op, _ in outcome.left})
    return f"{outcome.coverage:.1%}, {len(outcome.left)} nodes in PyTorch: {', '.join(ops)}"


def _table(names: Iterable[str], answers: Answers) -> Table:
    table = Table("model", *_FORMS)
    for name in names:
        cells = [answers.get((name, form)) for form in _FORMS]
        table.add_row(name, *(_cell(outcome) for outcome in cells))
    return table


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    return outcome.error.partition(":")[0] if outcome.coverage is None else f"{outcome.coverage:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The coverage of every model in every form.")
    parser.add_argument("models", nargs="*", help="names of models; all of them if left out")
    parser.add_argument("--form", action="append", choices=_FORMS, help="only this form; may be repeated")
    parser.add_argument("--again", action="store_true", help="ask again what is known already")
    parser.add_argument("--table", action="store_true", help="print what is known, and ask nothing")
    parser.add_argument("--results", type=Path, default=Path("build/zoo.jsonl"))
    options = parser.parse_args()
    unknown = [name for name in options.models if name not in ALL]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    names, console = options.models or list(ALL), Console()
    answers = read(options.results)
    if not options.table:
        asked = [(name, form) for name in names for form in options.form or _FORMS]
        missing = [each for each in asked if options.again or each not in answers]
        answers |= _run(missing, options.results, console)
    console.print(_table(names, answers))


if __name__ == "__main__":
    main()

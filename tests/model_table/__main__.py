"""Run the models of ``docs/models.md`` that were not run yet, and keep the answers.

    python -m tests.model_table                       all models in all forms; goes on where an earlier run ended
    python -m tests.model_table --only timm           one library; or a part of a model's name
    python -m tests.model_table --only swin --again   anew
    python -m tests.model_table --docs                write docs/models.md from the answers
    python -m tests.model_table --results build/models.jsonl --compare
                                                      into another file; ends with 1 where something became worse

Answers are lines of ``tests/model_table/results.jsonl``, unless ``--results`` names another file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.model_table import page
from tests.model_table.corpus import corpus
from tests.model_table.forms import FORMS
from tests.model_table.processes import Limits, answers
from tests.model_table.results import RESULTS, append, provenance, read, regressions, write


def main() -> None:
    parser = argparse.ArgumentParser(description="Which models are one engine, and how right it is.")
    parser.add_argument("--only", action="append", help="library, model, or part of its name; may be repeated")
    parser.add_argument("--form", action="append", choices=FORMS, help="only this form; may be repeated")
    parser.add_argument("--outcome", action="append", help="again, what had this outcome; may be repeated")
    parser.add_argument("--again", action="store_true", help="run what is known already")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seconds", type=float, default=300, help="of processor time, limit of each form")
    parser.add_argument("--memory", type=float, default=8, help="GiB, limit of each process")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--compare", action="store_true", help="what is worse than in the file of the repository?")
    parser.add_argument("--docs", action="store_true", help="write docs/models.md, and run nothing")
    options = parser.parse_args()
    if options.docs:
        page.PAGE.write_text(page.text(read(options.results), [*corpus()]))
        return
    known = read(options.results)
    work = []
    for key in corpus():
        if options.only and not any(each == key[0] or each in key[1] for each in options.only):
            continue
        rows = {form: known.get((*key, form)) for form in options.form or FORMS}
        forms = [
            form
            for form, row in rows.items()
            if row is None or options.again or row["outcome"] in (options.outcome or ())
        ]
        if forms:
            work.append((key, forms))
    _run(work, options)
    found = read(options.results)
    write(found, options.results)
    if options.compare and (worse := regressions(read(), found)):
        raise SystemExit("\n".join(["worse than before:", *worse]))


def _run(work: list[tuple[tuple[str, str], list[str]]], options: argparse.Namespace) -> None:
    console = Console()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stamps: dict[str, dict[str, str]] = {}
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=sum(len(forms) for _, forms in work))
        for (library, name), form, row in answers(
            work, options.jobs, Limits(options.seconds, int(options.memory * 2**30))
        ):
            stamp = stamps.setdefault(library, provenance(library))
            append({"library": library, "model": name, "form": form, **row.to_json(), **stamp}, options.results)
            if row.outcome != "whole":
                said = f"{name} {form}: {row.outcome}: {row.reason}"
                console.print(said, markup=False, highlight=False, soft_wrap=True)
            progress.update(task, advance=1, description=f"{library} {name} {form}")


if __name__ == "__main__":
    main()

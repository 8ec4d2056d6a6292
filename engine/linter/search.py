"""All searches of the linter, in the order of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.dsl import tree
from engine.dsl.ruleset import RuleSet
from engine.linter.allowances import without_allowed
from engine.linter.dead import dead
from engine.linter.duplicate import duplicate
from engine.linter.finding import Finding
from engine.linter.needless import needless
from engine.linter.over_wide import over_wide
from engine.linter.shadowed import shadowed
from engine.linter.subject import Subject, read_files, subject_of
from engine.linter.unread import unread
from engine.linter.untested import untested

SEARCHES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    dead, shadowed, duplicate, untested, unread, over_wide, needless,
)  # fmt: skip


def lint(ruleset: RuleSet, paths: Sequence[Path] = ()) -> list[Finding]:
    """What there is to say of the rules files at some paths, or of all files of a rule set.

    Args:
        ruleset: what the files were loaded with.

    Raises:
        RuleError: a file cannot be read or parsed.
    """
    return lint_files(ruleset, read_files(ruleset, paths))


def lint_files(ruleset: RuleSet, files: Sequence[tree.File]) -> list[Finding]:
    """What there is to say of files, in the order of their text.

    Args:
        ruleset: what the files were loaded with.
    """
    subject = subject_of(ruleset, files)
    found = dict.fromkeys(finding for search in SEARCHES for finding in search(subject))
    left = without_allowed(list(found), subject.files)
    return sorted(left, key=lambda one: (one.span.file, one.span.line, one.span.column, one.code, one.message))


__all__ = ["SEARCHES", "lint", "lint_files"]

"""What is wrong with a file as it is: mistakes first, and what the linter says of files without any."""

from __future__ import annotations

from collections.abc import Iterator

from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError, RuleError
from engine.language_server.buffer import Buffer
from engine.language_server.project import Project
from engine.linter.advice import advice
from engine.linter.finding import Finding, of_diagnostics
from engine.linter.search import lint_files


def diagnose(buffer: Buffer, project: Project, *, saved: bool = False) -> Iterator[list[Finding]]:
    """The findings of a file, in up to two steps: what keeps it from loading; and with that what the linter says.

    Args:
        saved: whether the text is that on disk; built-in files are checked as a whole only then, which takes seconds.
    """
    if buffer.builtin:
        mistakes = of_diagnostics(buffer.parsed[1])
        if not mistakes and saved:
            mistakes = _builtin_mistakes(buffer)
        yield mistakes
        return
    try:
        ruleset = ruleset_of(buffer, project)
    except RuleError as error:
        yield _own(of_diagnostics(error.diagnostics), buffer)
        return
    yield []
    found = [
        Finding(item.code, item.span, item.message, item.rule)
        for item in advice(ruleset, lambda rule: rule.span.file == buffer.path)
        if item.code not in ("R104", "R105")
    ]
    yield _own([*found, *lint_files(ruleset, (buffer.file,))], buffer)


def ruleset_of(buffer: Buffer, project: Project) -> RuleSet:
    """The built-in rules with those of a file, and with the files beside it where it needs them.

    Raises:
        RuleError: the file does not load.
    """
    if buffer.builtin:
        return RuleSet.load()
    try:
        return RuleSet.of_texts({buffer.path: buffer.text})
    except RuleError as error:
        alone = _own(of_diagnostics(error.diagnostics), buffer)
        others = {other.path: other.text for other in project.beside(buffer.path)}
        if buffer.parsed[1] or not others or not alone:
            raise
        try:
            return RuleSet.of_texts({buffer.path: buffer.text, **others})
        except RuleError as with_others:
            together = _own(of_diagnostics(with_others.diagnostics), buffer)
            if not together:  # what is wrong is in another file
                return RuleSet.load()
            raise (with_others if len(together) < len(alone) else error) from None


def _builtin_mistakes(buffer: Buffer) -> list[Finding]:
    try:
        RuleSet.load()
    except RuleError as error:
        return _own(of_diagnostics(error.diagnostics), buffer)
    except EngineError as error:
        return [Finding("R001", buffer.items[0].span, str(error))] if buffer.items else []
    return []


def _own(findings: list[Finding], buffer: Buffer) -> list[Finding]:
    return [finding for finding in findings if finding.span.file == buffer.path]


__all__ = ["diagnose", "ruleset_of"]

"""What is looked at: parsed files, and the checked rules that were made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.dsl.source import USER, builtin_directory, read_sources
from engine.dsl.syntax.parser import parse
from engine.errors import Span


@dataclass(frozen=True, slots=True)
class Subject:
    """What a search looks at.

    Attributes:
        files: the files that are searched, as they are written.
        ruleset: all rules, those of ``files`` among them.
        rules: the checked rules of ``files``, by the place of what they were written as; several for a family.
        mentioned: words of files that are not searched and can use what these define.
    """

    files: tuple[tree.File, ...]
    ruleset: RuleSet
    rules: Mapping[Span, Sequence[Rule]]
    mentioned: frozenset[str] = field(default_factory=frozenset)

    def items(self) -> Iterator[tuple[tree.File, tree.RuleItem, Sequence[Rule]]]:
        """Each rule as it is written, with the checked rules made of it."""
        for file in self.files:
            for item in file.rules:
                yield file, item, self.rules.get(item.span, ())


def read_files(ruleset: RuleSet, paths: Sequence[Path]) -> tuple[tree.File, ...]:
    """The files at some paths, or all files of a rule set.

    Raises:
        RuleError: a file cannot be read or has syntax errors.
    """
    given = read_sources(paths or ruleset.sources, level=USER)
    return tuple(parse(source.text, source.path, source.stem) for source in given)


def subject_of(ruleset: RuleSet, files: Sequence[tree.File]) -> Subject:
    """Files together with the rules that a rule set has of them."""
    rules: dict[Span, list[Rule]] = {}
    for rule in (*ruleset.rules, *(rule for rule, _ in ruleset.inactive)):
        rules.setdefault(_absolute(rule.span), []).append(rule)
    own = {item.span: rules.get(_absolute(item.span), ()) for file in files for item in file.rules}
    searched = {Path(file.path).resolve() for file in files}
    # Built-in rules do not use what a user defines.
    levels = set(map(_built_in, searched))
    unsearched = [Path(path).resolve() for path in ruleset.sources]
    others = [path for path in unsearched if path not in searched and _built_in(path) in levels]
    return Subject(tuple(files), ruleset, own, frozenset(_words(others)))


def _absolute(span: Span) -> Span:
    return Span(str(Path(span.file).resolve()), span.line, span.column, span.end_line, span.end_column)


def _built_in(path: Path) -> bool:
    return builtin_directory().resolve() in path.parents


def _words(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from re.findall(r"[a-z_]\w*", re.sub(r"#[^\n]*", "", path.read_text(encoding="utf-8")))


def name_of(file: tree.File, item: tree.RuleItem) -> str:
    """The id of a rule, for people."""
    return f"{file.stem}.{item.name}"


def names_in(value: object) -> set[str]:
    """The lower-case and upper-case names that expressions read."""
    return {node.name for node in tree.walk(value) if isinstance(node, tree.Name | tree.Upper)}


def bound_by(target: tree.Target) -> Iterator[tree.Target]:
    """The names that a target binds, each with its place."""
    if target.items is not None:
        for item in target.items:
            yield from bound_by(item)
    elif target.name not in (None, "_"):
        yield target


def read_later(
    steps: Sequence[tree.Let | tree.Guard], result: object
) -> Iterator[tuple[tree.Let | tree.Guard, tree.Target, set[str]]]:
    """Each step of a rule that binds names, its target, and the names that later steps and the result read."""
    reads = [*(names_in(step.value) for step in steps), names_in(result)]
    for number, step in enumerate(steps):
        if step.target is not None:
            yield step, step.target, set().union(*reads[number + 1 :])


__all__ = ["Subject", "bound_by", "name_of", "names_in", "read_files", "read_later", "subject_of"]

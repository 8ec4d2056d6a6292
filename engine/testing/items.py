"""What pytest collects of a rules file: a collector for each rule, an item for each of its lines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.commands.tables import render_finding
from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError
from engine.linter.advice import unregistered_ops
from engine.verify.agreement import check_forms
from engine.verify.branches import base
from engine.verify.findings import Finding
from engine.verify.instances import Inapplicable
from engine.verify.line import written


class RulesFile(pytest.File):
    """A rules file; it is loaded with the built-in rules, and with those of ``engine_rules``."""

    def collect(self) -> Iterator[pytest.Collector]:
        """A collector for each rule that is written in the file; members of a family share one."""
        ruleset = RuleSet.load(self.path, *self.config.getini("engine_rules"))
        families: dict[tuple[str, str], list[tuple[Rule, str]]] = {}
        for rule, reason in [*((rule, "") for rule in ruleset.rules), *ruleset.inactive]:
            if Path(rule.span.file).resolve() == self.path.resolve():
                families.setdefault((rule.kind, base(rule)), []).append((rule, reason))
        for members in sorted(families.values(), key=lambda members: members[0][0].span.line):
            members.sort(key=lambda member: member[0].id)
            name = base(members[0][0]).partition(".")[2]
            yield RuleLines.from_parent(self, name=name, members=members, ruleset=ruleset)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The mistakes of a file that does not load, as ``engine rules check`` shows them."""
        return str(excinfo.value) if isinstance(excinfo.value, EngineError) else super().repr_failure(excinfo)


class RuleLines(pytest.Collector):
    """A rule, or the members of a family."""

    def __init__(self, *, members: list[tuple[Rule, str]], ruleset: RuleSet, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = members
        self.ruleset = ruleset

    def collect(self) -> Iterator[pytest.Item]:
        """An item for each line."""
        seen: set[str] = set()
        for test in self.members[0][0].tests:
            name = written(test)
            if name in seen:
                name += f" (line {test.span.line})"
            seen.add(name)
            yield Line.from_parent(self, name=name, test=test)


class Line(pytest.Item):
    """A ``test`` or ``reject`` line, run for every member of a family whose ops take it."""

    parent: RuleLines

    def __init__(self, *, test: tree.Test, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.test = test

    def runtest(self) -> None:
        """Run the line; a rule that the installed TensorRT cannot serve is skipped."""
        reasons = []
        unfit = ""
        fits = False
        for rule, inactive in self.parent.members:
            if inactive:
                reasons.append(inactive)
                continue
            try:
                check_forms(rule, self.test, self.parent.ruleset)
            except Inapplicable as error:
                unfit = unfit or str(error).strip()
            except Exception as error:
                raise LineFailed(rule, self.test, error) from error
            else:
                fits = True
        if fits:
            return
        rule = self.parent.members[0][0]
        if unfit:
            raise LineFailed(rule, self.test, EngineError(f"it describes no instance of the rule: {unfit}"))
        missing = unregistered_ops(reasons[0])
        # Built-in rules have ops of libraries that need not be there.
        if missing is not None and rule.level > 0:
            hint = "import the module that does in conftest.py"
            raise LineFailed(rule, self.test, EngineError(f"nothing that is loaded registers {missing}; {hint}"))
        pytest.skip(f"inactive here: {reasons[0]}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What ``engine rules verify`` says of the line."""
        if not isinstance(excinfo.value, LineFailed):
            return super().repr_failure(excinfo, style)
        shown = io.StringIO()
        render_finding(excinfo.value.finding, shown)
        return shown.getvalue().rstrip()

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the line is."""
        return self.path, self.test.span.line - 1, f"{self.parent.name}: {self.name}"


class LineFailed(AssertionError):
    """A line does not show what it says.

    Attributes:
        finding: what is wrong, as a search for mistakes has it.
    """

    def __init__(self, rule: Rule, test: tree.Test, error: Exception) -> None:
        told = str(error).strip() if isinstance(error, EngineError) else f"{type(error).__name__}: {error}".strip()
        self.finding = Finding(rule, wrong=written(test), error=told)
        super().__init__(told)


__all__ = ["RulesFile"]

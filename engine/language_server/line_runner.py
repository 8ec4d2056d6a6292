"""Running the test lines of a file that is being edited."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.dsl import tree
from engine.dsl.rule import Rule
from engine.errors import EngineError, RuleError
from engine.language_server.buffer import Buffer
from engine.language_server.diagnose import ruleset_of
from engine.language_server.project import Project


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one test line.

    Attributes:
        good: whether both sides agree, or whether a `reject` line is rejected.
        said: what is wrong, or how many members of the family agree.
    """

    line: int
    good: bool
    said: str


def lines_of(buffer: Buffer) -> Iterator[tuple[tree.RuleItem, tree.Test]]:
    """The test lines of a file, with their rules."""
    for item in buffer.file.rules:
        for test in item.tests:
            yield item, test


def run_line(buffer: Buffer, line: int, project: Project) -> Outcome | None:
    """Run the test line that begins on a line; None if there is none."""
    found = next(((item, number) for item in buffer.file.rules for number, test in enumerate(item.tests)
                  if test.span.line == line), None)  # fmt: skip
    if found is None:
        return None
    item, number = found
    try:
        ruleset = ruleset_of(buffer, project)
    except RuleError as error:
        return Outcome(line, False, f"the file does not load: {str(error).splitlines()[0]}")
    rules = [rule for rule in ruleset.rules if rule.span == item.span]
    if not rules:
        return Outcome(line, False, _inactive(item, ruleset.inactive))
    return _run(rules, number, line, ruleset)


def _inactive(item: tree.RuleItem, inactive: tuple[tuple[Rule, str], ...]) -> str:
    reason = next((reason for rule, reason in inactive if rule.span == item.span), "it did not load")
    return f"the rule is inactive here: {reason}"


def _run(rules: list[Rule], number: int, line: int, ruleset: object) -> Outcome:
    from engine.verify.agreement import check
    from engine.verify.instances import Inapplicable

    agreed, unfit = 0, ""
    for rule in rules:
        try:
            check(rule, rule.tests[number], ruleset)  # type: ignore[arg-type]
            agreed += 1
        except Inapplicable as reason:  # a line says nothing about members whose ops refuse it
            unfit = str(reason).splitlines()[0]
        except (EngineError, AssertionError) as error:
            return Outcome(line, False, f"{rule.id}: {error}")
        except Exception as error:  # a host function of the user's, or a kernel of PyTorch
            return Outcome(line, False, f"{rule.id}: {type(error).__name__}: {error}")
    if not agreed:
        return Outcome(line, False, f"it describes no instance: {unfit}")
    return Outcome(line, True, f"{agreed} of {len(rules)} members agree" if len(rules) > 1 else "both sides agree")


__all__ = ["Outcome", "lines_of", "run_line"]

"""The page on writing rules does what it says: its files, its commands, and the good and bad examples of its laws."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from engine.commands.cli import cli
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError
from engine.linter.advice import advice
from engine.testing import rewrites
from engine.verify.branches import base
from engine.verify.mutation.judging import Judge
from engine.verify.mutation.mutants import by_family, mutants
from engine.verify.search import verify

PAGE = (Path(__file__).parents[1] / "docs" / "writing-rules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LAWS = [text for kind, text in BLOCKS if kind == "rules" and text.startswith(("# good", "# bad: "))]
FILES = {
    re.match(r"# ([\w.]+)\n", text)[1]: text
    for kind, text in BLOCKS
    if kind in ("python", "rules") and re.match(r"# [\w]+\.(py|rules)\n", text)
}
COMMANDS = [part for kind, text in BLOCKS if kind == "console" for part in text.strip().split("$ ")[1:]]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the files of the page; its module is imported once, because ops are registered once."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        yield folder


def test_the_page_has_files_commands_and_laws():
    assert set(FILES) == {"soft_ops.py", "soft.rules", "conftest.py", "test_soft_ops.py"}
    assert len(COMMANDS) == 7
    numbers = re.findall(r"^### (\d+)\. ", PAGE, re.MULTILINE)
    assert numbers == [str(number + 1) for number in range(len(numbers))]
    kinds = [text.startswith("# good") for text in LAWS]
    assert kinds.count(True) == len(numbers) <= kinds.count(False)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition("\n")[0])
def test_commands_say_what_the_page_says(command, project, monkeypatch):
    line, *said = command.strip().split("\n")
    name, *arguments = shlex.split(line)
    if name == "pytest":
        return  # below
    if "--new" in arguments:
        arguments[arguments.index("--new") + 1] = "new.rules"
    monkeypatch.setenv("ENGINE_CHECK", "0")
    done = CliRunner().invoke(cli, arguments)
    for text in said:
        assert " ".join(text.split()) in " ".join(done.output.split()), done.output


def test_the_tests_of_the_page_pass(project, pytester):
    for name in FILES:
        (pytester.path / name).write_text((project / name).read_text())
    pytester.syspathinsert()
    (command,) = [command for command in COMMANDS if command.startswith("pytest")]
    line, said = command.strip().split("\n")
    done = pytester.runpytest_inprocess("-p", "engine.testing.plugin", *line.split()[1:])
    done.assert_outcomes(passed=int(said.split()[0]))
    again = pytester.runpytest_inprocess("-p", "engine.testing.plugin")
    again.assert_outcomes(passed=int(said.split()[0]))


@pytest.mark.slow
@pytest.mark.parametrize("text", LAWS, ids=lambda text: "-".join(text.split()[1:4]))
def test_laws(text, project, monkeypatch):
    __import__("soft_ops")
    monkeypatch.setenv("ENGINE_CHECK", "1")
    said = "\n".join(what_is_wrong(text))
    if text.startswith("# good"):
        assert said == ""
    else:
        assert text.partition("\n")[0].removeprefix("# bad: ") in said


def what_is_wrong(text):
    """Everything that checking, searching, changing and using the rules of a text finds."""
    try:
        rules = RuleSet.from_text(text, builtin=True)
    except EngineError as error:
        yield str(error)
        return
    own = [rule for rule in rules.rules if rule.level > 0]
    yield from (item.message for item in advice(rules, lambda rule: rule in own))
    for finding in verify(rules, own, examples=12):
        yield from filter(None, (finding.error, finding.unfit))
        if finding.fine and any(rule.steps for rule in own):
            for members in by_family(own, base):
                found = (Judge(rules, members, 12).judge(mutant) for mutant in mutants(members, rules.layers))
                yield from (item.reason for item in found if item.outcome == "survived")
    model = re.search(r"^# model: (.*)$", text, re.MULTILINE)
    if model:
        try:
            rewrites(eval(model[1]), [torch.ones(2, 3)], rules=rules)
        except EngineError as error:
            yield str(error)

"""Every code is explained by an example that has it and one that has nothing."""

import pytest

from engine.commands.rules.selection import in_files
from engine.dsl.formatting.formatter import formatted
from engine.dsl.ruleset import RuleSet
from engine.errors import RuleError
from engine.linter.advice import advice
from engine.linter.codes import CODES, find
from engine.linter.search import lint


def found(path, text):
    """The codes of what every tool finds in a text."""
    path.write_text(text)
    try:
        ruleset = RuleSet.load(path, builtin=False)
    except RuleError:
        return {"R001"}
    codes = {item.code for item in advice(ruleset, in_files([path]))} | {one.code for one in lint(ruleset, [path])}
    return codes | ({"R201"} if formatted(text) != text else set())


@pytest.fixture
def path(tmp_path):
    # The layers are needed, and are looked at by nobody.
    return tmp_path / "my.rules"


LAYERS = "layer trt.activation(x: tensor, *, type: ActivationType) -> tensor\n  via add_activation(x, type)\n"


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.name)
def test_examples(code, path):
    layers = LAYERS + "\n" if "trt." in code.wrong else ""
    assert found(path, layers + code.wrong + "\n") == {code.code}
    assert found(path, layers + code.right + "\n") == set()


def test_codes_are_found_by_number_and_name():
    assert find("r101") is find("dead") is find("DEAD") is CODES["R101"]
    assert find("over_wide").code == "R106"


def test_explanations_say_all_of_it():
    for code in CODES.values():
        said = code.explained()
        assert said.startswith(f"{code.code} {code.name} (")
        assert code.why in said
        assert ("# allow" in said) == (not code.error)

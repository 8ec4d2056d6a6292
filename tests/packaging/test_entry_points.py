"""Rules that installed packages bring: found by entry points, listed with their origin, and left out where asked."""

import importlib
import itertools
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner

import engine
from engine.commands.cli import cli
from engine.errors import RuleError
from engine.testing import rewrites

HALF = """
def part(x) = aten.{op}(x)
lower half
  match aten.square(x: floating)
  emit  part(x)
  relax overflow
  test  x: f32[2]
"""
SINE = "lower sine\n  match aten.sin(x)\n  emit  aten.cos(x)\n  relax nan\n"
_numbers = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with an entry point into a folder of the path."""

    def package(name, value=None, version="1.2", code="", **files):
        folder = tmp_path / f"site{next(_numbers)}"
        module = folder / name
        module.mkdir(parents=True)
        (module / "__init__.py").write_text(code)
        for stem, text in files.items():
            (module / f"{stem}.rules").write_text(text)
        data = folder / f"{name}-{version}.dist-info"
        data.mkdir()
        (data / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (data / "entry_points.txt").write_text(f"[engine.rules]\n{name} = {value or name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)  # of another test
        monkeypatch.syspath_prepend(folder)
        return module

    return package


def used(**given):
    return rewrites(lambda x: x.square(), [torch.ones(2)], **given)


def test_rules_of_a_package_are_there_and_are_listed(package):
    package("halfpack", half=HALF.format(op="abs"))
    rules = engine.RuleSet.load()
    (rule,) = [rule for rule in rules.rules if rule.id == "half.half"]
    assert (rule.level, rules.origins[rule.span.file]) == (1, "halfpack 1.2")
    assert "aten.abs.default(x) : float32[2]  # half.half" in used()
    listed = CliRunner().invoke(cli, ["rules", "list", "--op", "aten.square"]).output
    assert "halfpack 1.2" in listed
    assert "half.rules:3" in listed
    assert "built in" in CliRunner().invoke(cli, ["rules", "list", "--op", "aten.relu"]).output


def test_what_is_installed_into_a_folder_later_is_there(package):
    folder = package("one", first=HALF.format(op="abs")).parent
    before = {rule.id for rule in engine.RuleSet.load().rules}
    for name in ("later", "later-1.2.dist-info"):
        (folder / name).mkdir()
    (folder / "later" / "__init__.py").write_text("")
    (folder / "later" / "second.rules").write_text(SINE)
    (folder / "later-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.2\n")
    (folder / "later-1.2.dist-info" / "entry_points.txt").write_text("[engine.rules]\nlater = later\n")
    importlib.invalidate_caches()
    assert {rule.id for rule in engine.RuleSet.load().rules} - before == {"second.sine"}
    shutil.rmtree(folder / "later-1.2.dist-info")
    assert {rule.id for rule in engine.RuleSet.load().rules} == before


def test_they_can_be_left_out_or_chosen(package, monkeypatch):
    package("one", first=HALF.format(op="abs"))
    package("two", second=SINE)
    for value, ids in (("builtin", set()), ("one", {"first.half"}), ("two, one", {"first.half", "second.sine"})):
        monkeypatch.setenv("ENGINE_RULES", value)
        assert {rule.id for rule in engine.RuleSet.load().rules if rule.level} == ids
    monkeypatch.setenv("ENGINE_RULES", "three")
    with pytest.raises(RuleError, match=r"ENGINE_RULES names 'three'; there are one, two\n.*ENGINE_RULES=builtin"):
        engine.RuleSet.load()
    assert {rule.level for rule in engine.RuleSet.load(builtin=False).rules} == set()


def test_rules_of_a_user_come_first(package, tmp_path):
    package("halfpack", half=HALF.format(op="abs"))
    mine = tmp_path / "half.rules"
    mine.write_text(HALF.format(op="neg"))
    assert "aten.neg.default(x) : float32[2]  # user_half.half" in used(rules=mine)
    rules = engine.RuleSet.load(mine)
    assert ("user_half.half", "half.half") in rules.overridden
    assert rules.origins.get(str(mine)) is None
    assert "yours" in CliRunner().invoke(cli, ["rules", "list", str(mine), "--op", "aten.square"]).output


def test_files_and_macros_of_several_packages_stand_side_by_side(package, tmp_path):
    package("one", half=HALF.format(op="abs"))
    other = HALF.format(op="exp").replace("aten.square(x: floating)", "aten.sign(x: floating)")
    package("two", half=other)
    mine = tmp_path / "mine.rules"
    mine.write_text(HALF.format(op="neg").replace("aten.square(x: floating)", "aten.ceil(x: floating)"))
    text = rewrites(lambda x: x.square() + x.sign() + x.ceil(), [torch.ones(2)], rules=mine)
    for made in (
        "abs.default(x) : float32[2]  # half",
        "exp.default(x) : float32[2]  # two_half",
        "neg.default(x) : float32[2]  # mine",
    ):
        assert made in text


def test_a_file_of_a_package_stays_the_packages(package):
    module = package("halfpack", half=HALF.format(op="abs"))
    assert engine.RuleSet.load(module / "half.rules") == engine.RuleSet.load()


def test_a_path_instead_of_a_package(package):
    module = package("pathpack", "pathpack:RULES", code="RULES = ['some/half.rules']\n")
    (module / "some").mkdir()
    (module / "some" / "half.rules").write_text(HALF.format(op="abs"))
    assert "half.half" in used()


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("badpack", "", "there is no .rules file in .*is it in the package's data"),
        ("badpack", "import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("badpack:RULES", "", "AttributeError"),
        ("badpack:RULES", "RULES = 'gone.rules'\n", "no rules at .*gone.rules"),
        ("badpack:RULES", "RULES = 3\n", "TypeError"),
        ("json.decoder", "", "json.decoder is not a package"),
    ],
)
def test_a_package_that_is_broken_is_named_with_the_way_out(package, monkeypatch, value, code, said):
    package("badpack", value, code=code)
    with pytest.raises(RuleError, match=said) as caught:
        engine.RuleSet.load()
    assert "badpack 1.2 (entry point badpack = " in str(caught.value)
    assert "ENGINE_RULES=builtin" in str(caught.value)
    monkeypatch.setenv("ENGINE_RULES", "builtin")
    engine.RuleSet.load()


def test_a_mistake_in_a_packages_rules_has_its_place(package):
    module = package("halfpack", half="lower half\n  match aten.squar(x)\n  emit  x\n")
    with pytest.raises(RuleError, match=r"half\.rules:2:9: error: there is no op `aten\.squar`") as caught:
        engine.RuleSet.load()
    assert str(module) in str(caught.value)

"""What type checkers and scripts of users see of the package."""

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import get_type_hints

import pytest

import engine
from engine.settings import CompilationSettings, Settings
from tests.packaging.conftest import install

pytestmark = pytest.mark.slow


USER = """
import torch
import engine

model = torch.nn.ReLU()
compiled = engine.compile(model, [torch.zeros(2)], min_block_size=1, torch_executed_ops=["aten.relu"])
reveal_type(engine.coverage(model, [torch.zeros(2)], truncate_double=True).coverage)
reveal_type(engine.RuleSet.load("my.rules"))
try:
    engine.compile(model, min_block_sise=1)
    engine.compile(model, min_block_size="1")
    engine.compile(model, cuda_graph_scope="modules")
except (engine.RuleError, engine.CoverageError) as error:
    reveal_type(error)
engine.nothing
"""

# Never leave the package: what a compile or a search does with what it has found.
INTERNAL = {"Disagreement", "EngineRefused", "Inapplicable", "NotApplied", "TileRejected"}


@pytest.mark.parametrize(
    "editable", [pytest.param(False, id="installed", marks=pytest.mark.slow), pytest.param(True, id="editable")]
)
def test_mypy_knows_settings_and_errors(installed, tmp_path, editable):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=100)
    python = tmp_path / "venv" / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    install(installed.with_name("sources"), site, *(["--editable"] if editable else []))
    (tmp_path / "user.py").write_text(USER)
    options = ["--ignore-missing-imports", "--cache-dir", tmp_path / "cache", "--python-executable", python]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout.splitlines()
    assert 'user.py:7: note: Revealed type is "float"' in done.stdout
    assert 'user.py:8: note: Revealed type is "engine.dsl.ruleset.RuleSet"' in done.stdout
    assert any("user.py:10: error" in line and "min_block_sise" in line for line in said)
    assert any("user.py:11: error" in line and 'expected "int"' in line for line in said)
    assert any("user.py:12: error" in line and "Literal['module', 'engine']" in line for line in said)
    assert any("user.py:14: note" in line and "RuleError" in line and "CoverageError" in line for line in said)
    assert any("user.py:15: error: Module has no attribute" in line for line in said)
    assert done.stdout.count(" error: ") == 4, done.stdout


def test_settings_as_keywords_are_the_settings():
    fields = {field.name for field in dataclasses.fields(CompilationSettings)}
    assert set(get_type_hints(Settings)) == fields
    assert Settings.__total__ is False
    for function in (engine.compile, engine.coverage):
        assert "Unpack[Settings]" in str(inspect.signature(function).parameters["settings"].annotation)


def test_every_error_is_public():
    for module in pkgutil.walk_packages(engine.__path__, "engine."):
        if not module.name.startswith("engine.runtime.lib") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, left = set(), [engine.EngineError]
    while left:
        error = left.pop()
        found.add(error)
        left += error.__subclasses__()
    ours = {error for error in found if error.__module__.startswith("engine.")}
    assert {error.__name__ for error in ours if getattr(engine, error.__name__, None) is not error} == INTERNAL
    assert {name for name in engine.__all__ if getattr(engine, name) in ours} == {e.__name__ for e in ours} - INTERNAL


def test_the_package_is_a_command(run):
    done = run("-m", "engine", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"engine, version {engine.__version__}")
    assert "Usage: python -m engine rules [OPTIONS]" in run("-m", "engine", "rules", "--help").stdout

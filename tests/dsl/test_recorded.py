"""Checking rules without PyTorch: records of its ops in the cache say the same, or PyTorch is asked."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from engine.dsl import operators
from engine.dsl.recorded import keeping
from engine.dsl.recorded.standing_in import PyTorchNeeded
from engine.dsl.source import builtin_directory
from engine.dtypes import CLASSES, DTYPES
from engine.storage import installed_pytorch

# Ops, dtypes, families, alternatives, graphs, loops, named patterns: everything that checks look up.
FILES = ("lowering/narrow", "lowering/spectral", "conversion/caches", "conversion/rotary", "conversion/recurrent")
CHECK = """
import sys
from engine.commands.cli import main
sys.argv[0] = "engine"
{first}
try:
    main()
finally:
    print("torch" in sys.modules)
"""
MINE = "lower mine\n  match aten.square(x)\n  emit  aten.mul.Tensor(x, x)\n  test  x: f32[2]\n"


def check(cache, *arguments, first=""):
    """`engine rules check` in a process of its own: its exit code, what it said, and whether it imported PyTorch."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(first=first), *arguments[:-1], "rules", "check", *map(str, arguments[-1])],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "ENGINE_CACHE_DIR": str(cache)},
    )  # fmt: skip
    *said, imported = done.stdout.splitlines()
    return done.returncode, "\n".join(said) + done.stderr, imported == "True"


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Two caches with the built-in rules and the records of PyTorch."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    code, said, imported = check(first, [])
    assert code == 0, said
    assert imported
    shutil.copytree(first, second, dirs_exist_ok=True)
    return first, second


def entries(cache):
    return {path.name: path.read_text() for path in (cache / "rules").glob("*.json")}


def test_what_is_checked_with_records_is_what_is_checked_with_pytorch(caches, tmp_path):
    for name in FILES:
        target = tmp_path / f"{name.partition('/')[2]}.rules"
        target.write_text((builtin_directory() / f"{name}.rules").read_text())
    before = entries(caches[0])
    without, with_pytorch = check(caches[0], [tmp_path]), check(caches[1], [tmp_path], first="import torch")
    assert without[2] is False, without[1]
    assert with_pytorch[2] is True
    assert without[:2] == with_pytorch[:2]
    assert without[0] == 0, without[1]
    assert entries(caches[0]) == entries(caches[1])
    (new,) = entries(caches[0]).keys() - before.keys()
    assert len(entries(caches[0])[new]) < max(map(len, before.values())) / 2


WRONG = [
    MINE.replace("aten.square", "aten.squarre"),
    MINE.replace("aten.square", "nowhere.square"),
    MINE.replace("aten.square", "quantized.square"),
    MINE.replace("aten.square", "higher_order.square"),
    MINE.replace("aten.square(x)", "aten.square(x, y)"),
    MINE.replace("f32[2]", "float32[2]"),
    MINE.replace("emit ", "emti "),
]
WITH_PYTORCH = """
import contextlib, io, json, sys, torch
from engine.commands.cli import main
done = []
for path in sys.argv[1:]:
    sys.argv = ["engine", "rules", "check", path]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main()
        except SystemExit as exit:
            code = exit.code
    done.append((code, output.getvalue().strip() + errors.getvalue()))
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def with_pytorch(caches, tmp_path_factory):
    """The files with mistakes, and what is said of each in a process that has PyTorch from the beginning."""
    folder = tmp_path_factory.mktemp("wrong")
    paths = [folder / f"wrong_{number}.rules" for number in range(len(WRONG))]
    for path, text in zip(paths, WRONG, strict=True):
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", WITH_PYTORCH, *map(str, paths)],
        capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "ENGINE_CACHE_DIR": str(caches[1])},
    )  # fmt: skip
    return list(zip(paths, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_mistakes_are_said_as_with_pytorch(caches, with_pytorch, number):
    path, said = with_pytorch[number]
    without = check(caches[0], [path])
    assert without[:2] == said
    assert without[0] == 1


def test_a_mistake_about_the_text_needs_no_pytorch(caches, tmp_path):
    path = tmp_path / "my.rules"
    path.write_text(MINE.replace("aten.square(x)", "aten.square(x, y)"))
    assert check(caches[0], [path])[2] is False


def test_other_registrations_are_not_kept(caches, tmp_path):
    (tmp_path / "cache" / "rules").mkdir(parents=True)
    for entry in (caches[0] / "rules").glob("*.json"):  # the built-in rules, without the records of PyTorch
        shutil.copy(entry, tmp_path / "cache" / "rules")
    (tmp_path / "mine.py").write_text("import torch\ntorch.library.define('aten::squarre', '(Tensor x) -> Tensor')\n")
    path = tmp_path / "my.rules"
    path.write_text(MINE.replace("aten.square(", "aten.squarre("))
    first = f"sys.path.insert(0, {str(tmp_path)!r})"
    code, said, _ = check(tmp_path / "cache", "--import", "mine", [path], first=first)
    assert code == 0, said
    assert not list((tmp_path / "cache" / "rules" / "tables").glob("pytorch-*"))
    path.write_text("# edited\n" + path.read_text())
    code, said, _ = check(tmp_path / "cache", [path])
    assert code == 1
    assert "there is no op `aten.squarre`" in said


def test_records_hold_every_op_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    assert operators.find("higher_order.cond") is not None
    keeping.keep()
    records = keeping.load()
    assert records is not None
    kept = 0
    for op in operators.registered():
        if records.ops[op.name] is None:
            with pytest.raises(PyTorchNeeded):
                records.find(op.name)
            continue
        found = records.find(op.name)
        assert found == op
        assert [type(argument.default) for argument in found.arguments] == [type(a.default) for a in op.arguments]
        kept += 1
    assert kept > 3000
    assert records.find("aten.relu") == operators.find("aten.relu")
    assert records.find("higher_order.cond") == operators.find("higher_order.cond")
    assert records.find("aten.no_such_op") is None
    with pytest.raises(PyTorchNeeded):
        records.find("quantized_decomposed.no_such_op")
    assert {name: repr(dtype) for name, dtype in records.dtypes.items()} == {n: repr(d) for n, d in DTYPES.items()}
    assert {n: [repr(d) for d in ds] for n, ds in records.classes.items()} == {
        n: [repr(d) for d in ds] for n, ds in CLASSES.items()
    }


def test_another_build_of_pytorch_has_other_records(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    keeping.keep()
    assert keeping.load() is not None
    build = installed_pytorch.build()
    assert torch.__version__ in build
    monkeypatch.setattr(installed_pytorch, "build", lambda: f"{build} and another op")
    assert keeping.load() is None
    monkeypatch.setattr(installed_pytorch, "build", lambda: None)  # other packages register ops when it is imported
    keeping.keep()
    assert keeping.load() is None
    assert len(list((tmp_path / "rules" / "tables").glob("pytorch-*"))) == 1


def test_the_version_is_known_without_the_import():
    code = (
        "import sys\nfrom engine.storage import installed_pytorch\n"
        "print(installed_pytorch.version(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(torch.__version__), "False"]


def test_where_pytorch_is_asked_after_all_nothing_of_the_records_is_left(caches, tmp_path):
    # The built-in files are read with what stands in for dtypes, before an op comes that only PyTorch can tell of.
    cache = shutil.copytree(caches[0], tmp_path / "cache")
    for path in (cache / "rules").glob("*.json"):
        path.unlink()
    mine = tmp_path / "mine.rules"
    mine.write_text(MINE.replace("square", "no_such_op"))
    code, said, imported = check(cache, [mine])
    assert (code, imported) == (1, True)
    assert "no_such_op" in said
    assert "Traceback" not in said

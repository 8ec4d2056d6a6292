"""What importing costs: a user who only asks for the version pays for nothing else."""

import json
import os
import subprocess
import sys


def loaded_after(code, *names, **environment):
    program = f"import sys, json\n{code}\nprint(json.dumps([n for n in {list(names)!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_loads_neither_tensorrt_nor_what_only_compiling_needs():
    heavy = ("tensorrt", "tensorrt_rtx", "lark", "networkx", "rich", "click", "torch.export.exported_program", "sympy")
    before = set(loaded_after("import torch", *heavy))
    assert set(loaded_after("import engine", *heavy)) - before == set()


def test_public_names_load_no_tensorrt():
    code = "import engine\n[getattr(engine, name) for name in engine.__all__]\nassert dir(engine)"
    assert loaded_after(code, "tensorrt", "tensorrt_rtx") == []


def test_the_time_of_an_import_beyond_torch():
    code = "import torch, time\nstart = time.perf_counter()\nimport engine\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    print(f"import engine takes {float(done.stdout):.3f} s beyond import torch")


def test_rules_from_the_cache_need_no_parser(tmp_path):
    code = "import engine\nprint(len(engine.RuleSet.load({}).rules))"
    (tmp_path / "my.rules").write_text(
        f"# {tmp_path}\nlower mine\n  match aten.square(x)\n  emit  aten.mul.Tensor(x, x)\n"
    )
    mine = code.format(repr(str(tmp_path / "my.rules")))
    loaded_after(code.format(""), "lark")  # the built-in rules, which another test may have parsed before
    assert loaded_after(code.format(""), "lark") == []
    assert loaded_after(mine, "lark") == ["lark"]
    assert loaded_after(mine, "lark") == []


def test_a_check_of_an_edited_file_loads_what_it_needs(tmp_path):
    path = tmp_path / "my.rules"
    code = (
        "from engine.commands.cli import cli\n"
        f"try:\n    cli(['rules', 'check', {str(path)!r}])\nexcept SystemExit as done:\n    assert done.code == 0, done"
    )
    heavy = ("torch", "numpy", "sympy", "networkx", "lark.load_grammar", "filelock", "hypothesis", "rich", "asyncio")
    ours = (
        "engine.evaluator",
        "engine.matcher",
        "engine.report",
        "engine.capture",
        "engine.verify",
        "engine.reference",
    )
    for number in range(2):
        path.write_text(
            f"# {number}\nlower mine\n  match aten.square(x)\n  emit  aten.mul.Tensor(x, x)\n  test  x: f32[2]\n"
        )
        # A folder of its own: what other tests register would have PyTorch asked again.
        loaded = loaded_after(code, *heavy, *ours, ENGINE_CACHE_DIR=str(tmp_path))
    assert loaded == ["lark.load_grammar"]  # lark imports it, whether a grammar is read or not


def test_the_plugin_of_pytest_loads_no_pytorch():
    assert loaded_after("import engine.testing.plugin", "torch", "networkx", "lark", "numpy") == []

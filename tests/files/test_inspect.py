"""``engine compile -o FILE.pt2`` and ``engine inspect``."""

import json

import pytest
import torch
from click.testing import CliRunner

import engine
from engine.commands.cli import cli


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU())
    program = torch.export.export(
        model, (torch.ones(3, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=9)},)
    )
    torch.export.save(program, folder / "model.pt2")
    arguments = ["compile", str(folder / "model.pt2"), "-o", str(folder / "compiled.pt2"), "--min-block-size", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return folder / "compiled.pt2"


def test_a_file_is_written_and_shown(saved):
    assert engine.load(saved).report.coverage == 1.0
    shown = CliRunner().invoke(cli, ["inspect", str(saved)], env={"COLUMNS": "200"}).output
    assert "coverage 100.0%" in shown
    row = next(line for line in shown.splitlines() if line.startswith("engine_0") and "float32" in line)
    assert "TensorRT" in row
    assert ", 8] -> " in row
    assert ", 16]" in row
    assert f"written by engine {engine.__version__} with PyTorch {torch.__version__}" in shown


def test_as_json(saved):
    found = json.loads(CliRunner().invoke(cli, ["inspect", str(saved), "--json"]).output)
    assert found["engines"][0]["output_specs"][0]["dtype"] == "float32"
    assert found["report"]["coverage"] == 1.0


def test_a_plan_is_shown(saved, tmp_path):
    held = engine.load(saved).graph_module.engine_0
    engine.save(held, tmp_path / "x.plan")
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "x.plan")], env={"COLUMNS": "200"}).output
    assert "float32" in shown


def test_damaged_and_foreign_files_are_an_error(saved, tmp_path):
    (tmp_path / "cut.pt2").write_bytes(saved.read_bytes()[:-10])
    for path in (tmp_path / "cut.pt2", saved.parent / "model.pt2"):
        result = CliRunner().invoke(cli, ["inspect", str(path)])
        assert isinstance(result.exception, engine.EngineError)
        assert path.name in str(result.exception)

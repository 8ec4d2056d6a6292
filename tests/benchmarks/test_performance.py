"""The harness that measures this package beside others: its rows, its page, and that it runs on the CPU."""

import json
import subprocess
import sys

import pytest

from benchmarks.performance.__main__ import ROOT, line, main
from benchmarks.performance.backends import BACKENDS
from benchmarks.performance.models import MODELS, build
from benchmarks.performance.page import TITLES, write_page
from tests.models import declare_torchvision_operators


def row(model, backend, **values):
    return {"model": model, "backend": backend, "dtype": "float16", **values}


def measured(device, *rows):
    machine = {
        "device": device,
        "date": "2000-01-01",
        "commit": "0" * 40,
        "cuda": "13.0",
        "python": "3.11",
        "packages": {"torch": "2.0"},
    }
    return {"machine": machine, "small": False, "at_once": 3, "rows": list(rows)}


def test_there_are_fifteen_models_and_a_title_for_every_backend():
    assert len(MODELS) == 15
    assert set(TITLES) == set(BACKENDS)


def test_models_are_built_the_same_each_time_and_none_gives_zeros():
    declare_torchvision_operators()
    first, again = build("vit_b_16 b8", True), build("vit_b_16 b8", True)
    assert all((a == b).all() for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert first.model.heads.head.weight.any()


def test_a_page_says_what_was_measured_and_what_failed(tmp_path):
    rows = [
        row("resnet50 b1", "engine", ms=2.0, p99=2.5, graph_ms=0.5, total=3.0, host=1.25, error=1e-3),
        row("resnet50 b1", "onnx", ms=1.0, p99=1.0, graph_ms=1.0, total=4.0, host=2.0, error=2e-3),
        row("resnet50 b1", "torch_tensorrt", error_text="compile: RuntimeError: no | context"),
    ]
    source = tmp_path / "h.json"
    source.write_text(json.dumps(measured("a GPU", *rows)))
    text = write_page([source], tmp_path).read_text()
    assert "| resnet50 b1 | 0.500 | 1.000 | - |" in text
    assert "geometric mean: 0.50." in text
    assert "- resnet50 b1, Torch-TensorRT: compile: RuntimeError: no \\| context" in text
    assert "0" * 40 in text
    assert "which seconds include: 3." in text


@pytest.mark.parametrize("change", [{"small": True}, {}])
def test_what_was_not_measured_on_a_gpu_makes_no_page(tmp_path, change):
    source = tmp_path / "h.json"
    source.write_text(json.dumps({**measured("cpu" if not change else "a GPU"), **change}))
    with pytest.raises(SystemExit, match="none of engines"):
        write_page([source], tmp_path)
    assert not (tmp_path / "performance.md").exists()


def test_what_is_unknown_is_an_error_before_anything_runs(capsys):
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--models", "resnet51"])
    assert "there is no model 'resnet51'" in capsys.readouterr().err


def test_a_row_that_failed_says_its_words():
    assert "FAILED compile: it does not" in line(row("a", "onnx", error_text="compile: it does not"))


@pytest.mark.slow
def test_it_runs_on_the_cpu(tmp_path):
    target = tmp_path / "cpu.json"
    command = [sys.executable, "-m", "benchmarks.performance", "--device", "cpu", "--small", "--budget", "0.05"]
    command += ["--models", "bert base b8 s128,resnet50 b1", "--backends", "eager,inductor,engine,torch_tensorrt"]
    command += ["--at-once", "2", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "these are no speeds of engines" in done.stdout
    data = json.loads(target.read_text())
    assert data["machine"]["commit"]
    found = {(each["model"], each["backend"]): each for each in data["rows"]}
    assert len(found) == 8
    for (_, backend), each in found.items():
        if backend == "torch_tensorrt":  # not installed, or without a GPU
            assert each["error_text"]
        else:
            assert each["error"] < 1e-3
            assert each["ms"] > 0
            assert each["p99"] > 0
            assert "error_text" not in each

"""``examples/tensor_parallel.py`` runs as its first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*RUN, str(ROOT / "examples" / "tensor_parallel.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    done = run("--layers", "1", "--width", "32", "--length", "4", "--steps", "1", "--save", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 ranks, largest difference" in done.stdout
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["index.json", "rank_0.pt2", "rank_1.pt2"]


@pytest.mark.slow
def test_the_example_runs_through_torch_compile_and_refuses_heads_that_ranks_do_not_divide():
    done = run("--layers", "1", "--steps", "1", "--backend")
    assert done.returncode == 0, done.stderr[-3000:]
    refused = run("--heads", "3", "--width", "48")
    assert refused.returncode != 0
    assert "2 ranks do not divide 3 heads" in refused.stderr

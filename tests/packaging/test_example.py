"""The project in ``examples/custom_op`` as a user has it: in a folder of its own, with the installed package."""

import shutil

from tests.packaging.conftest import ROOT


def test_the_example_passes_its_tests(run, tmp_path):
    # Not the sources of its package: the installed one is tested.
    for name in ("pyproject.toml", "tests", "swish_ops/swish.rules"):
        source, target = ROOT / "examples" / "custom_op" / name, tmp_path / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    # In a worker of xdist syrupy says nothing of its snapshots.
    done = run("-m", "pytest", "-p", "no:cacheprovider", "-v", "-c", "pyproject.toml", PYTEST_XDIST_WORKER="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "swish_ops/swish.rules::scaled_swish::test x: f32[2, 3], beta = 1.5 PASSED" in done.stdout
    assert "2 snapshots passed" in done.stdout

"""The package as users install it, and a project of theirs beside it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("engine", "rules", "setup.py", "pyproject.toml", "README.md")


def install(source: Path, target: Path, *arguments: str) -> None:
    """``pip install`` into a folder, without what the package depends on and without the C++ path."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(target), *arguments, str(source)],
        env={**os.environ, "PYTHON_ONLY": "1", "PIP_NO_COMPILE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed() -> Path:
    """A folder with the installed package and the example beside it; built once for all workers."""
    place = Path(os.environ["ENGINE_TEST_CACHE"]) / "installed"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            sources = place.with_name("sources")
            sources.mkdir()
            skipped = shutil.ignore_patterns("__pycache__", "*.so", "native.json")
            for name in SOURCES:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, sources / name, **({"ignore": skipped} if copy is shutil.copytree else {}))
            example = shutil.copytree(ROOT / "examples" / "custom_op", sources / "custom_op")
            made = place.with_name("installing")
            install(sources, made)
            install(example, made)
            made.rename(place)
    return place


@pytest.fixture
def run(installed, tmp_path):
    """Run a command of Python in a folder of a user, with the installed package and without this checkout."""

    def run(*arguments, folder=tmp_path, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(installed), "ENGINE_CHECK": "0", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run

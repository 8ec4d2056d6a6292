"""Environments of cells: PyTorch with its Python, TensorRT-RTX beside them, and the sources with the C++ path built.

uv makes them: files of its cache are linked, not copied, so that the libraries of CUDA are on the disk once.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.matrix.cells import ROOT, Cell
from tests.packaging.release import copy_sources

# What tests need besides the package; versions are those of requirements-test.txt.
NEEDED = ("pytest", "pytest-xdist", "hypothesis", "syrupy", "expecttest", "setuptools>=77")
PACKAGE = ("networkx", "lark", "sympy", "numpy", "click", "rich", "platformdirs", "filelock", "pygments")


class Unavailable(Exception):
    """A cell cannot be run here; the text says why."""


class Environments:
    """Makes what a cell needs, once, in a folder that other runs find again.

    Args:
        folder: where; some 7 GB for each PyTorch that is built for CUDA.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ready: set[Path] = set()

    def python(self, cell: Cell) -> Path:
        """The interpreter of a cell's environment, which has PyTorch and what tests need.

        Raises:
            Unavailable: there is no such Python or PyTorch here.
        """
        place = self.folder / f"python{cell.python}-torch{cell.torch}"
        python = place / "bin" / "python"
        if place not in self._ready:
            if not python.exists():
                self._uv("venv", "-q", "--python", find_python(cell.python), str(place))
            pins = ["--constraint", str(self._pins())]
            self._uv("pip", "install", "-q", "--python", str(python), *pins, f"torch=={cell.torch}", *PACKAGE, *NEEDED)
            self._ready.add(place)
        return python

    def rtx(self, cell: Cell) -> Path:
        """A folder for ``PYTHONPATH`` with a cell's TensorRT-RTX.

        Raises:
            Unavailable: there is none for this Python.
        """
        place = self.folder / f"python{cell.python}-rtx{cell.tensorrt_rtx}"
        if not (place / "tensorrt_rtx").exists():
            wanted = f"tensorrt-rtx=={cell.tensorrt_rtx}"
            self._uv("pip", "install", "-q", "--python", str(self.python(cell)), "--target", str(place), wanted)
        return place

    def tree(self, cell: Cell) -> Path:
        """A copy of the work tree, with the C++ path built against a cell's PyTorch and Python.

        Raises:
            Unavailable: it does not build.
        """
        place = self.folder / f"tree-python{cell.python}-torch{cell.torch}"
        if place not in self._ready:
            shutil.rmtree(place, ignore_errors=True)
            copy_sources(ROOT, place, committed=False)
            # Objects are kept for each PyTorch, whatever the Python.
            objects = str(self.folder / "objects")
            command = [str(self.python(cell)), "setup.py", "-q", "build_ext", "--inplace", "--build-temp", objects]
            _call(command, folder=place)
            self._ready.add(place)
        return place

    def _pins(self) -> Path:
        """The pinned releases, but those that cells choose."""
        path = self.folder / "constraints.txt"
        lines = (ROOT / "requirements-test.txt").read_text(encoding="utf-8").splitlines()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line for line in lines if not line.startswith(("torch", "tensorrt"))) + "\n")
        return path

    def _uv(self, *arguments: str) -> None:
        cache = {"UV_CACHE_DIR": str(self.folder / "uv")}
        # pip's own setting: where a PyTorch for CPUs lies on the disk, it is taken.
        links = {"UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in os.environ else {}
        _call([_uv(), *arguments], **cache, **links)


@functools.cache
def find_python(version: str) -> str:
    """An interpreter of a version: on the path, or one of pyenv.

    Raises:
        Unavailable: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)]
    for path in filter(None, found):
        asked = [str(path), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        # pyenv puts commands on the path that end with an error where their version is not chosen.
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == version:
            return str(path)
    raise Unavailable(f"there is no Python {version} here")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    path = str(beside) if beside.exists() else shutil.which("uv")
    if path is None:
        raise Unavailable("uv is not installed: `make test-matrix` installs it")
    return path


def _call(command: list[str], folder: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-2000:]}")

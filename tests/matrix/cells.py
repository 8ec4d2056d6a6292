"""Which releases are run together, and which tests."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# The last patch release of each minor version, oldest first.
TORCH = ("2.11.0", "2.12.1", "2.13.0", "2.14.1")
TENSORRT_RTX = ("1.4.0.76", "1.5.0.114", "1.6.1.120", "1.7.1.116")
PYTHON = ("3.11", "3.12", "3.13")

# Of each way from a model to a result one file at least, where releases differ most; a minute or two of one core.
CHOSEN = (
    "tests/test_readme.py",
    "tests/builder",
    "tests/conversion/test_network.py",
    "tests/files/test_save_load.py",
    "tests/runtime/test_controls.py",
    "tests/runtime/test_cpp_library.py",
    "tests/runtime/test_failures.py",
    "tests/runtime/test_module.py",
    "rules/conversion/linear.rules",
)
# What the results depend on, besides the releases.
SOURCES = ("engine", "rules", "setup.py")


class Cell(NamedTuple):
    """One release of each."""

    torch: str
    tensorrt_rtx: str
    python: str

    def __str__(self) -> str:
        return f"torch {self.torch}, TensorRT-RTX {self.tensorrt_rtx}, Python {self.python}"


def cells() -> Iterator[Cell]:
    """Every cell: all of the newest, all of the oldest, then what differs from the newest in one thing, then the rest.

    So a run that is interrupted has tried the bounds, and each release beside the newest of the others.
    """
    newest = Cell(TORCH[-1], TENSORRT_RTX[-1], PYTHON[0])
    oldest = Cell(TORCH[0], TENSORRT_RTX[0], PYTHON[0])

    def order(cell: Cell) -> tuple[int, ...]:
        different = sum(one != other for one, other in zip(cell, newest, strict=True))
        places = PYTHON.index(cell.python), -TORCH.index(cell.torch), -TENSORRT_RTX.index(cell.tensorrt_rtx)
        return (different if cell != oldest else 1, cell != oldest, *places)

    yield from sorted((Cell(*one) for one in itertools.product(TORCH, TENSORRT_RTX, PYTHON)), key=order)


def digest(root: Path = ROOT) -> str:
    """Twelve hex digits that stand for the sources that the results depend on, and for the chosen tests."""
    found = hashlib.sha256("\n".join(CHOSEN).encode())
    for path in sorted(path for name in SOURCES for path in (root / name, *(root / name).rglob("*"))):
        if path.is_file() and path.suffix in (".py", ".rules", ".cpp", ".h", ".lark"):
            found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]

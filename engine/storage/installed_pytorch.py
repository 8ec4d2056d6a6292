"""Which PyTorch is installed, told without importing it: that takes longer than checking the rules of a file."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

# What registers ops, in folders of the package: the libraries, and the modules that do so in Python.
_REGISTERING = (
    "_C*.so",
    "_C*.pyd",
    "lib/libtorch_cpu.*",
    "lib/torch_cpu.dll",
    "_ops.py",
    "_prims/*.py",
    "_higher_order_ops/*.py",
    "ao/quantization/fx/_decomposed.py",
    "onnx/ops/*.py",
)
_VERSION = re.compile(r"""^__version__ = ['"]([^'"]+)['"]$""", re.MULTILINE)


def folder() -> Path | None:
    """The folder of the package that an import would find; None if there is none."""
    loaded = sys.modules.get("torch")
    if loaded is not None:
        return Path(loaded.__path__[0])
    try:
        found = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found is not None else None
    return Path(places[0]) if places else None


@functools.cache
def version() -> str:
    """The version, as ``torch.__version__`` says it."""
    place = None if "torch" in sys.modules else folder()
    found = None if place is None else _VERSION.search(_text(place / "version.py"))
    if found is not None:
        return found[1]
    import torch

    return str(torch.__version__)


@functools.cache
def build() -> str | None:
    """Everything that decides which ops ``import torch`` registers, as a text.

    None where that cannot be told: the package is not as it is installed, or other packages extend it when it is
    imported (entry points of the group ``torch.backends``).
    """
    place = folder()
    if place is None or importlib.metadata.entry_points(group="torch.backends"):
        return None
    text = _text(place / "version.py")
    files = sorted(file for pattern in _REGISTERING for file in place.glob(pattern))
    if not text or not files:
        return None
    stats = [(file.relative_to(place).as_posix(), file.stat()) for file in files]
    return "\n".join([str(place), text, *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


__all__ = ["build", "folder", "version"]

"""Torch-TensorRT after this package: its C++ library registers ``tensorrt::Engine`` without asking, and PyTorch ends
the process where that name is taken.  The import is refused instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGE = "torch_tensorrt"
_LIBRARIES = ("libtorchtrt.so", "libtorchtrt_runtime.so")


class _Refusal(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path) if name == _PACKAGE else None
        if found is not None and _registers(found):
            raise ImportError(
                "this process has torch.classes.tensorrt.Engine from engine's C++ library, and Torch-TensorRT would "
                "register it a second time, which ends the process: import torch_tensorrt before the first module is "
                "compiled or loaded with engine, which then uses Torch-TensorRT's class",
                name=name,
            )
        return None


def _registers(spec: ModuleSpec) -> bool:
    """Whether a package brings a C++ library; one that was built without has nothing to register."""
    folders = [Path(folder) / "lib" for folder in spec.submodule_search_locations or ()]
    return any((folder / library).exists() for folder in folders for library in _LIBRARIES)


def refuse_second_runtime() -> None:
    """From now on importing Torch-TensorRT with its C++ library is an ImportError that says what to do."""
    if _PACKAGE not in sys.modules and not any(isinstance(finder, _Refusal) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refusal())

"""Plain TensorRT plans on disk, each with a JSON sidecar of names, shapes and dtypes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from engine.compiled.module import CompiledModule
from engine.files.plan_file import sidecar
from engine.runtime import TorchTensorRTModule


def require_free(folder: str | os.PathLike[str]) -> None:
    """Check that ``folder`` does not exist, is empty, or was written by :func:`write_plans`.

    Raises:
        FileExistsError: it holds something else.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file: plans are written to a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / "report.json").is_file():
        raise FileExistsError(f"{target} holds other files (and no report.json): choose a new folder for the plans")


def write_plans(compiled: CompiledModule, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every engine of a compiled module, and the report, into a new folder.

    The folder holds ``engine_0.plan``, ``engine_0.json``, ... and ``report.json``.  It appears whole or not at
    all; one that an earlier call wrote is replaced.

    Returns:
        The paths of the plans.

    Raises:
        OSError: the folder cannot be written, or holds something else.
    """
    require_free(folder)
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        names = []
        report = compiled.report
        built_by: dict[str, Any] = {
            "tensorrt": report.tensorrt,
            "compute_capabilities": report.compute_capabilities,
        }
        for name, module in compiled.graph_module.named_children():
            if isinstance(module, TorchTensorRTModule):
                (scratch / f"{name}.plan").write_bytes(module.plan)
                _write_json(scratch / f"{name}.json", sidecar(module, **built_by))
                names.append(f"{name}.plan")
        _write_json(scratch / "report.json", compiled.report.as_dict())
        scratch.chmod(0o755)
        if target.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.replace(target, old / target.name)
            os.replace(scratch, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return [target / name for name in names]


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, default=str) + "\n")

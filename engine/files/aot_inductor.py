"""A compiled module as an exported program, and as an AOTInductor package."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

from engine.compiled.module import CompiledModule
from engine.errors import SaveError
from engine.files.exportable import example_inputs, exportable
from engine.runtime.records.engine_op import require_class
from engine.storage.whole_file import replacing


def exported_program(module: CompiledModule) -> torch.export.ExportedProgram:
    """The program of ops and engines, with the dynamic dims of the module.

    Raises:
        SaveError: ``torch.export`` does not take the graph.
    """
    device = next((a.device for a in module._signature.arguments if a.device is not None), "cpu")
    inputs, dynamic_shapes = example_inputs(module, device)
    try:
        return torch.export.export(exportable(module), inputs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise SaveError(f"torch.export does not take the graph: {str(error).strip()[:2000]}") from error


def write_exported_program(module: CompiledModule, path: str | os.PathLike[str]) -> None:
    """Write what ``torch.export.load`` reads; it unpickles the engines, as it does all objects of C++ classes.

    Raises:
        SaveError: ``torch.export`` does not take the graph.
        RuntimeUnavailable: the C++ library is not there.
        OSError: the file cannot be written.
    """
    require_class('format="exported_program"')
    program = exported_program(module)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "program.pt2"
        torch.export.save(program, target)
        _move(target, path)


def write_aot_inductor(module: CompiledModule, path: str | os.PathLike[str]) -> None:
    """Compile what PyTorch runs with AOTInductor, and write one package with the engines.

    Raises:
        SaveError: ``torch.export`` or AOTInductor does not take the graph.
        RuntimeUnavailable: the C++ library is not there.
        OSError: the file cannot be written.
    """
    require_class('format="aot_inductor"')
    if TorchVersion(torch.__version__) < "2.12":
        raise SaveError(
            f"PyTorch {torch.__version__} ends the process when it loads an AOTInductor package that holds an engine "
            '(seen with 2.11.0): use format="torchscript", or PyTorch 2.12 or later'
        )
    program = exported_program(module)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "package.pt2"
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(target))
        except Exception as error:
            raise SaveError(f"AOTInductor does not take the graph: {str(error).strip()[:2000]}") from error
        _move(target, path)


def _move(source: Path, path: str | os.PathLike[str]) -> None:
    with replacing(path) as file, open(source, "rb") as made:
        shutil.copyfileobj(made, file)


__all__ = ["exported_program", "write_aot_inductor", "write_exported_program"]

"""``engine.save`` and ``engine.load``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.compiled.module import CompiledModule, DeferredModule
from engine.errors import SaveError, SettingsError
from engine.files.archive import Reader
from engine.files.module_file import inspect_module, read_module, write_module
from engine.files.plan_file import SUFFIXES, inspect_plan, read_plan, write_plan
from engine.files.sharded.folder import is_shared, read_shared, write_shared
from engine.files.sharded.groups import check_groups
from engine.process.pytorch_modes import apart
from engine.runtime import TorchTensorRTModule
from engine.runtime.selection import RUNTIMES
from engine.weights.known_ops import permissions

FORMATS = ("pt2", "plan", "torchscript", "exported_program", "aot_inductor")
_BY_SUFFIX = {".pt2": "pt2", ".ts": "torchscript", **dict.fromkeys(SUFFIXES, "plan")}


@apart()
def save(module: nn.Module, path: str | os.PathLike[str], *, format: str | None = None, program: bool = False) -> None:
    """Save a compiled module; the file appears whole or not at all, and the same module makes the same bytes.

    Args:
        module: what `engine.compile` or `engine.load` returned; for ``"plan"`` also a ``TorchTensorRTModule``.
        path: the file; for ``"plan"`` and a module of several engines, or with PyTorch nodes, a new folder.  For
            ``"pt2"`` and a module that exchanges tensors with other ranks a folder that all of them see and give, with
            a file for each rank and an index.
        format: ``"pt2"``: everything, for `engine.load`.  ``"plan"``: the TensorRT plan, with names and shapes in a
            JSON file beside it.  ``"torchscript"``: a TorchScript module that LibTorch loads, with this package's C++
            library.  ``"exported_program"``: what ``torch.export.load`` reads.  ``"aot_inductor"``: an AOTInductor
            package.  By default what the path's suffix says: ``.pt2``,
            ``.plan``, ``.engine``, ``.trt``, ``.ts``.
        program: keep in a ``"pt2"`` file what the interpreter runs, so that it can be called without a GPU.  The
            module must have been compiled for the interpreter; weights are then in the file twice.

    Raises:
        SaveError: the module is not compiled yet, or holds something that the format cannot hold.
        SettingsError: the format is not one of those above, or the suffix does not say it.
        OSError: the path cannot be written.
    """
    if isinstance(module, DeferredModule):
        if module.compiled is None:
            raise SaveError("the module is not compiled yet: its first call decides the shapes. Call it, then save it")
        module = module.compiled
    shared = isinstance(module, CompiledModule) and is_shared(module)
    if shared and format is None and not Path(path).suffix:
        format = "pt2"
    chosen = _format(path, format)
    if program and chosen != "pt2":
        raise SettingsError(f"program=True goes with pt2 files, not with {chosen}")
    if chosen == "plan" and isinstance(module, TorchTensorRTModule):
        write_plan(module, path)
    elif not isinstance(module, CompiledModule):
        hint = ': format="plan" saves one' if isinstance(module, TorchTensorRTModule) else ""
        raise SaveError(f"engine.save takes what engine.compile returns, not a {type(module).__name__}{hint}")
    elif chosen == "pt2" and shared:
        write_shared(module, path, program=program)
    elif chosen == "pt2":
        write_module(module, path, program=program)
    elif chosen == "plan":
        _write_plans(module, path)
    elif chosen == "torchscript":
        from engine.files.torchscript import write_torchscript

        write_torchscript(module, path)
    else:
        from engine.files.aot_inductor import write_aot_inductor, write_exported_program

        (write_aot_inductor if chosen == "aot_inductor" else write_exported_program)(module, path)


def _format(path: str | os.PathLike[str], format: str | None) -> str:
    if format is None:
        format = _BY_SUFFIX.get(Path(path).suffix)
        if format is None:
            raise SettingsError(
                f"{path}: the suffix does not say which format to save in; use .pt2, or pass format= "
                f"({', '.join(FORMATS)})"
            )
    if format not in FORMATS:
        raise SettingsError(f"format={format!r} is not one of {', '.join(FORMATS)}")
    return format


def _write_plans(module: CompiledModule, path: str | os.PathLike[str]) -> None:
    from engine.files.plan_folder import write_plans

    engines = [held for held in module.graph_module.children() if isinstance(held, TorchTensorRTModule)]
    if Path(path).suffix not in SUFFIXES:
        write_plans(module, path)
        return
    rest = [segment for segment in module.report.segments if segment.backend != "tensorrt"]
    if len(engines) != 1 or rest:
        raise SaveError(
            f"{path} would be one plan, and the module has {len(engines)} engines and {len(rest)} segments that run in "
            "PyTorch: give a folder (one plan per engine), or save it as .pt2"
        )
    report = module.report
    write_plan(engines[0], path, tensorrt=report.tensorrt, compute_capabilities=report.compute_capabilities)


@apart()
def load(
    path: str | os.PathLike[str],
    *,
    runtime: str = "auto",
    device: torch.device | str | int | None = None,
    allow_ops: Iterable[Any] = (),
    allow_host_code: bool = False,
) -> Any:
    """Load what `save` wrote.

    Nothing in the file is unpickled or run: its graph calls ops of a list that do nothing but compute tensors.  What
    a file from a stranger can do and what it cannot is in ``docs/files.md``.

    Args:
        path: a ``.pt2`` file; a plan, with its sidecar beside it; or the folder of a module of several ranks, which
            as many ranks load together.
        runtime: as in `engine.compile`; ``"interpreter"`` takes a file that was saved with ``program=True``.
        device: GPU that it will run on; by default the current one.  Without a GPU a file loads, shows its report,
            and says when it is called that it needs one.
        allow_ops: further ops that the graph of a ``.pt2`` file may call, such as custom ones that a package registers:
            ``"mylib.op"``, an overload of it, all of ``"mylib"``, or op objects.
        allow_host_code: run the machine code that the file has for PyTorch segments (``torch_segments="inductor"``),
            which can do whatever this process can; without it they are compiled again.

    Returns:
        A ``CompiledModule``; for a plan a ``TorchTensorRTModule``.

    Raises:
        FileError: the file is damaged, something else, or does what files may not do; nothing is left of it then.
        SettingsError: ``runtime``, ``device`` or ``allow_ops`` is nothing that there is.
        RuntimeUnavailable: its engines cannot run on this machine's GPU, or not in the way asked for.
        DistributedError: of a module of several ranks, another rank could not load its part.
        OSError: the file cannot be read.
    """
    if runtime not in RUNTIMES:
        raise SettingsError(f"runtime={runtime!r} is not one of {', '.join(RUNTIMES)}")
    if not isinstance(allow_host_code, bool):
        raise SettingsError(f"allow_host_code is True or False, not {allow_host_code!r}")
    target = _device(device)
    if Path(path).suffix in SUFFIXES:
        return read_plan(path, runtime=runtime, device=target)
    allowed = permissions(allow_ops)
    if Path(path).is_dir():
        return read_shared(path, runtime=runtime, device=target, allowed=allowed, host_code=allow_host_code)
    module = read_module(path, runtime=runtime, device=target, allowed=allowed, host_code=allow_host_code)
    check_groups(module)
    return module


def _device(device: torch.device | str | int | None) -> torch.device | None:
    if device is None or isinstance(device, torch.device):
        return device
    try:
        return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingsError(f"device={device!r} is not a device: {str(error).splitlines()[0]}") from None


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of `save` holds, read without TensorRT; ``report`` is an `engine.Report` in ``.pt2`` files.

    Raises:
        FileError: the file is damaged, or something else.
        OSError: the file cannot be read.
    """
    if Path(path).suffix in SUFFIXES:
        return inspect_plan(path)
    return inspect_module(path)


__all__ = ["FORMATS", "Reader", "inspect", "load", "save"]

"""The folder of a module that several ranks run together: ``rank_N.pt2`` for each, and ``index.json``."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from engine.compiled.module import CompiledModule
from engine.distributed.agreement import Agreement
from engine.errors import DistributedError, FileError, SaveError
from engine.files.module_file import read_module, write_module
from engine.files.sharded.groups import exchanging_groups, name_groups_anew
from engine.storage import strict_json
from engine.storage.regular_file import open_regular, read_regular

INDEX = "index.json"
_KIND = "engine module of several ranks"
_VERSION = 1
# Seconds to wait for a rank that writes its file, or reads it.
_PATIENCE = 1800.0


def is_shared(module: CompiledModule) -> bool:
    """Whether a module exchanges tensors with other ranks."""
    if not distributed.is_available() or not distributed.is_initialized():
        return False
    return any(len(ranks) > 1 for ranks in exchanging_groups(module).values())


def write_shared(module: CompiledModule, folder: str | os.PathLike[str], *, program: bool) -> None:
    """Write this rank's file; every rank calls this with one folder that all of them see.

    The index is written when all files are there, so that a folder with an index is whole.

    Raises:
        SaveError: the path is a file, another rank could not write, or the ranks do not see one folder.
    """
    target, rank = Path(folder), distributed.get_rank()
    if target.exists() and not target.is_dir():
        raise SaveError(
            f"{target} is a file, and a module of {distributed.get_world_size()} ranks is saved as a folder"
        )
    agreement = _all_ranks()
    try:
        target.mkdir(parents=True, exist_ok=True)
        file = target / _name(rank)
        write_module(module, file, program=program)
        groups = [[name, list(ranks)] for name, ranks in exchanging_groups(module).items()]
        mine = {"file": file.name, "seal": _seal(file), "groups": groups}
        told = agreement.gather(json.dumps(mine))
    except DistributedError as error:
        raise SaveError(f"{target} is not whole: {error}") from error
    except Exception as error:
        agreement.fail(error)
        raise
    problem = ""
    if rank == 0:
        problem = _written(target, module.report.model, [json.loads(told[each]) for each in sorted(told)])
    # Nobody goes on before the index is there.
    problem = _all_ranks().gather(problem)[0]
    if problem:
        raise SaveError(problem)


def _written(target: Path, model: str, files: list[dict[str, Any]]) -> str:
    """Write the index; returns what is in the way."""
    unseen = [entry["file"] for entry in files if not _is_same(target / entry["file"], entry["seal"])]
    if unseen:
        return (
            f"{target} is not one folder for all ranks: rank 0 does not see {unseen[0]} as its rank wrote it. Save to "
            "a file system that all hosts share"
        )
    index = {"kind": _KIND, "version": _VERSION, "model": model, "world_size": len(files), "files": files}
    scratch = target / f".{INDEX}.new"
    try:
        scratch.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, target / INDEX)
    except OSError as error:
        return f"rank 0 could not write {target / INDEX}: {error}"
    return ""


def read_shared(
    folder: str | os.PathLike[str],
    *,
    runtime: str,
    device: torch.device | None,
    allowed: frozenset[str],
    host_code: bool = False,
) -> CompiledModule:
    """Read this rank's part of what `write_shared` wrote; every rank calls this.

    Raises:
        FileError: the folder is not whole, was written by another number of ranks, or needs a process group that is
            not there.
        DistributedError: another rank could not read its part.
    """
    source = Path(folder)
    index = read_index(source)
    size = index["world_size"]
    here = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 0
    if here != size:
        now = f"this is one of {here}" if here else "torch.distributed is not initialised here"
        raise FileError(
            f"{source} was saved by {size} ranks, each with its shard of the weights, and {now}: run {size} processes "
            f"(torchrun --nproc-per-node {size}, and init_process_group), or compile the model for another number"
        )
    agreement = _all_ranks()
    try:
        entry = index["files"][distributed.get_rank()]
        file = source / entry["file"]
        if not _is_same(file, entry["seal"]):
            raise FileError(f"{file} is not the file that {source / INDEX} was written for")
        module = read_module(file, runtime=runtime, device=device, allowed=allowed, host_code=host_code)
        name_groups_anew(module, dict(entry["groups"]))
        seals = set(agreement.gather(json.dumps([each["seal"] for each in index["files"]])).values())
    except DistributedError:
        raise
    except Exception as error:
        agreement.fail(error)
        raise
    if len(seals) > 1:
        raise FileError(f"the ranks read different modules: {source} is not the same folder on all of them")
    return module


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The index of a folder, checked.

    Raises:
        FileError: there is none, or it is not one of `write_shared`.
    """
    path = Path(folder) / INDEX
    if not path.exists():
        raise FileError(
            f"{folder} is a folder without {INDEX}: no module of several ranks, or one that was not saved whole"
        )
    try:
        index = strict_json.parse(read_regular(path))
        if index["kind"] != _KIND or index["version"] != _VERSION:
            raise ValueError(f"it is {index['kind']!r}, version {index['version']!r}")
        files = index["files"]
        if not isinstance(files, list) or index["world_size"] != len(files) or not files:
            raise ValueError(f"it has {len(files)} files for {index['world_size']!r} ranks")
        for rank, entry in enumerate(files):
            groups = {str(name): [int(each) for each in ranks] for name, ranks in entry["groups"]}
            if (
                entry["file"] != _name(rank)
                or not isinstance(entry["seal"], str)
                or len(groups) != len(entry["groups"])
            ):
                raise ValueError(f"entry {rank} is not one of a rank's file")
    except FileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{path} is not an index of engine.save: {type(error).__name__}: {error}") from None
    return dict(index)


def _name(rank: int) -> str:
    return f"rank_{rank}.pt2"


def _all_ranks() -> Agreement:
    world: Any = distributed.group.WORLD
    return Agreement(_PATIENCE, [world.group_name])


def _is_same(file: Path, seal: str) -> bool:
    try:
        return _seal(file) == seal
    except (OSError, FileError, zipfile.BadZipFile):
        return False


def _seal(file: Path) -> str:
    """The digest of everything in a file, which is the comment of its archive."""
    with open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
        return archive.comment.decode("ascii", "replace")


__all__ = ["INDEX", "is_shared", "read_index", "read_shared", "write_shared"]

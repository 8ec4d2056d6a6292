"""The kernels that TensorRT-RTX compiles when engines are loaded and run, kept on disk between processes."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import filelock
import torch

from engine.errors import FileError
from engine.storage import strict_json
from engine.storage.cache_folder import ABANDONED, locked
from engine.storage.regular_file import read_regular
from engine.tensorrt import load

_MAGIC = b"engine runtime cache, format 1\n"
_WAIT = 30.0
"""Seconds to wait for another process that writes the file."""


class RuntimeCacheFile:
    """One file of compiled kernels: for one engine, TensorRT version and kind of GPU.

    The file holds what it is for and a checksum; one that is damaged, or for something else, is ignored with a
    warning and written anew.  Writers take turns by a lock file, and the file is replaced as a whole, so a reader
    sees the old one or the new one.  Of two processes that compiled different kernels the larger cache stays.

    Args:
        folder: where the file lies; made if it is missing.
        target: what compiled kernels depend on.
    """

    def __init__(self, folder: str | os.PathLike[str], target: dict[str, str]) -> None:
        self.target = target
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(target.values())).strip("-")
        self.path = Path(folder) / f"{name}.cache"
        self._digest = ""

    def read(self) -> bytes | None:
        """What the file holds; None where there is no usable file."""
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            return None
        except (OSError, FileError) as error:
            warnings.warn(f"the runtime cache {self.path} cannot be read: {error}", stacklevel=2)
            return None
        found = self._content(data)
        if found is None:
            warnings.warn(
                f"the runtime cache {self.path} is damaged or not for this TensorRT and GPU: it is rebuilt",
                stacklevel=2,
            )
        return found

    def write(self, content: bytes) -> bool:
        """Write the file unless it already holds this, or more; returns whether it was written.

        Raises:
            OSError: the folder cannot be written.
            filelock.Timeout: another process holds the lock file for long.
        """
        digest = hashlib.sha256(content).hexdigest()
        if digest == self._digest:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(f"{self.path}.lock", _WAIT):
            self._tidy()
            try:
                there = self._content(read_regular(self.path))
            except (OSError, FileError):
                there = None
            if there is not None and len(there) >= len(content):
                return False
            header = json.dumps({"target": self.target, "size": len(content), "sha256": digest}, sort_keys=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_MAGIC + header.encode() + b"\n" + content)
                os.replace(name, self.path)
            except BaseException:
                os.unlink(name)
                raise
        self._digest = digest
        return True

    def _tidy(self) -> None:
        """Remove what killed writers left: of this file, under its lock, all; of others what is old."""
        for path in self.path.parent.glob(f".{self.path.name}.*"):
            path.unlink(missing_ok=True)
        for path in self.path.parent.glob(".*.cache.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > ABANDONED:
                    path.unlink()

    def _content(self, data: bytes) -> bytes | None:
        if not data.startswith(_MAGIC):
            return None
        header, _, content = data[len(_MAGIC) :].partition(b"\n")
        try:
            fields = strict_json.parse(header)
        except ValueError:
            return None
        digest = hashlib.sha256(content).hexdigest()
        if fields != {"target": self.target, "size": len(content), "sha256": digest}:
            return None
        self._digest = digest
        return content


def cache_file(folder: str, device: int, plan: bytes | memoryview) -> RuntimeCacheFile:
    """The file of one engine: for its plan, the TensorRT that is loaded, and a CUDA device."""
    trt = load()
    major, minor = torch.cuda.get_device_capability(device)
    target = {
        "tensorrt": f"{trt.__name__} {trt.__version__}",
        "gpu": torch.cuda.get_device_name(device),
        "capability": f"sm{major}{minor}",
        "engine": hashlib.sha256(plan).hexdigest()[:16],
    }
    return RuntimeCacheFile(os.path.abspath(folder), target)


def write(file: RuntimeCacheFile, content: bytes) -> None:
    """Write what was compiled; a folder that cannot be written is a warning."""
    try:
        file.write(content)
    except (OSError, filelock.Timeout) as error:
        warnings.warn(f"the runtime cache {file.path} was not written: {error}", stacklevel=2)


def warn_of_refusal(file: RuntimeCacheFile) -> None:
    """Say that TensorRT does not take what a file holds."""
    warnings.warn(f"TensorRT does not take the runtime cache {file.path}: it is rebuilt", stacklevel=2)


class Configuration:
    """A ``trt.IRuntimeConfig`` of one context and its ``trt.IRuntimeCache``, None where TensorRT has none.

    They live as long as the context: TensorRT does not keep the cache.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.cache = config.create_runtime_cache() if hasattr(config, "create_runtime_cache") else None

    def kernels(self) -> bytes:
        """What the context compiled until now, and what it was given."""
        return b"" if self.cache is None else bytes(self.cache.serialize())


class Kernels:
    """What the contexts of one engine compiled, so that further ones take a tenth of the time to make.

    Each context has a cache of its own, which begins with what the first one compiled: with one that contexts share,
    TensorRT-RTX 1.6.1 crashes when they run in several threads.

    Args:
        file: where they are kept between processes; None for this process alone.
    """

    def __init__(self, file: RuntimeCacheFile | None) -> None:
        self._file = file
        self._content = None if file is None else file.read()
        self._kept = False
        self._made: weakref.WeakSet[Configuration] = weakref.WeakSet()
        if file is not None:
            # Kernels for the shapes of calls are compiled in the background: the last of them are saved at the end.
            atexit.register(_save_all, weakref.ref(self))

    def fill(self, configuration: Configuration) -> None:
        """Give a context that is to be made what is compiled already."""
        cache = configuration.cache
        if cache is not None and self._content and not cache.deserialize(self._content):
            if self._file is not None:
                warn_of_refusal(self._file)
            self._content = None
            cache.reset()

    def keep(self, made: Configuration) -> None:
        """Note that of a context, after it was made."""
        self._made.add(made)
        if not self._kept:
            self._kept = True
            self._content = made.kernels()
            if self._file is not None:
                write(self._file, self._content)

    def save(self) -> None:
        """Write the largest collection of a context."""
        if self._file is not None and self._made:
            write(self._file, max((each.kernels() for each in self._made), key=len))


def _save_all(kernels: weakref.ref[Kernels]) -> None:
    found = kernels()
    if found is not None:
        found.save()


__all__ = ["Configuration", "Kernels", "RuntimeCacheFile", "cache_file", "warn_of_refusal", "write"]

"""The kernels that TensorRT-RTX compiles when engines are loaded and run, kept on disk between processes."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import filelock
import torch

from engine.tensorrt import load

_MAGIC = b"engine runtime cache, format 1\n"
_WAIT = 30.0
"""Seconds to wait for another process that writes the file."""


class RuntimeCacheFile:
    """One file of compiled kernels: for one TensorRT version and one kind of GPU.

    The file holds what it is for and a checksum; one that is damaged, or for something else, is ignored with a
    warning and written anew.  Writers take turns by a lock file, and the file is replaced as a whole, so a reader
    sees the old one or the new one.  Of two processes that compiled different kernels the larger cache stays.

    Args:
        folder: where the file lies; made if it is missing.
        target: what compiled kernels depend on; by default `target_of` the current GPU.
    """

    def __init__(self, folder: str | os.PathLike[str], target: dict[str, str]) -> None:
        self.target = target
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(target.values())).strip("-")
        self.path = Path(folder) / f"{name}.cache"
        self._digest = ""

    def read(self) -> bytes | None:
        """What the file holds; None where there is no usable file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
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
        with filelock.FileLock(f"{self.path}.lock", timeout=_WAIT):
            try:
                there = self._content(self.path.read_bytes())
            except OSError:
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

    def _content(self, data: bytes) -> bytes | None:
        if not data.startswith(_MAGIC):
            return None
        header, _, content = data[len(_MAGIC) :].partition(b"\n")
        try:
            fields = json.loads(header)
        except ValueError:
            return None
        digest = hashlib.sha256(content).hexdigest()
        if fields != {"target": self.target, "size": len(content), "sha256": digest}:
            return None
        self._digest = digest
        return content


def target_of(device: int) -> dict[str, str]:
    """What kernels compiled on a CUDA device depend on: TensorRT, the GPU, and the CUDA of PyTorch."""
    trt = load()
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "tensorrt": f"{trt.__name__} {trt.__version__}",
        "gpu": torch.cuda.get_device_name(device),
        "capability": f"sm{major}{minor}",
    }


class RuntimeCache:
    """A ``trt.IRuntimeCache`` that engines share, and the file that it is kept in."""

    def __init__(self, config: Any, file: RuntimeCacheFile) -> None:
        self.cache = config.create_runtime_cache()
        self.file = file
        content = file.read()
        if content is not None and not self.cache.deserialize(content):
            warnings.warn(f"TensorRT does not take the runtime cache {file.path}: it is rebuilt", stacklevel=2)
            self.cache.reset()

    def save(self) -> bool:
        """Write what was compiled since; a folder that cannot be written is a warning. Returns whether it wrote."""
        try:
            return self.file.write(bytes(self.cache.serialize()))
        except (OSError, filelock.Timeout) as error:
            warnings.warn(f"the runtime cache {self.file.path} was not written: {error}", stacklevel=2)
            return False


_LOCK = threading.Lock()
_CACHES: dict[tuple[str, int], RuntimeCache] = {}


def runtime_cache(config: Any, folder: str, device: int) -> RuntimeCache:
    """The cache of this process for a folder and a CUDA device, read from its file when it is first asked for."""
    key = (os.path.abspath(folder), device)
    with _LOCK:
        found = _CACHES.get(key)
        if found is None:
            found = _CACHES[key] = RuntimeCache(config, RuntimeCacheFile(key[0], target_of(device)))
            # Kernels for the shapes of calls are compiled in the background: the last of them are saved at the end.
            atexit.register(found.save)
        return found


__all__ = ["RuntimeCache", "RuntimeCacheFile", "runtime_cache", "target_of"]

"""The container: a PyTorch export archive (``.pt2``) of raw members, each with its SHA-256.

The comment of the zip file holds the SHA-256 of everything in the file
that is not the content of a member, and the manifest holds that of every member, so that no byte can change
unnoticed.  Reading takes nothing from the file that was not checked, and opens no pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from engine.errors import FileError
from engine.storage import strict_json
from engine.storage.regular_file import open_regular
from engine.storage.unnamed_file import read_kept, release
from engine.storage.whole_file import replacing  # an archive is written as a whole: part of what it offers

MANIFEST = "extra/engine.json"
_ROOT = "archive/"
# Members of archives that torch.save, torch.jit.save and torch.export.save write.
_FOREIGN = ("/archive_format", "/data.pkl", "/version")
# What makes a zip file an archive of PyTorch.
_HEAD = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": sys.byteorder.encode(),
    ".data/version": b"3\n",
}
_SEAL = "engine sha256 "
_SEAL_LENGTH = len(_SEAL) + 64
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.\-]*(/[A-Za-z0-9_.][A-Za-z0-9_.\-]*)*")
_CHUNK = 1 << 24
_ALIGNMENT = 64
_LARGE = 1 << 30  # from here on sizes are written with 64 bits


class Writer:
    """Writes members to an archive, in the order they are added, the manifest last; a context manager.

    Not with PyTorch's own writer: it ends the process where a write fails, on a full disk, say.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", allowZip64=True)
        self._members: dict[str, dict[str, Any]] = {}
        for name, content in _HEAD.items():
            self._write(name, content)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        # After an error; the file goes, whatever is in it.
        with contextlib.suppress(Exception):
            self._zip.close()

    def add_bytes(self, name: str, data: bytes | memoryview) -> None:
        """Add a member."""
        if name in self._members:
            raise ValueError(f"two members are called {name!r}")
        self._members[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._write(name, data)

    def add_json(self, name: str, value: Any) -> None:
        """Add JSON as a member; keys are sorted, so that equal values have equal bytes."""
        self.add_bytes(name, write_json(value))

    def add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Add the elements of a tensor, in order, as raw bytes."""
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self.add_bytes(name, memoryview(flat.numpy().data))

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and the seal."""
        self._write(MANIFEST, write_json({**manifest, "members": self._members}))
        self._zip.comment = (_SEAL + "0" * 64).encode()
        self._zip.close()
        self._file.flush()
        size = self._file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(self._file) as archive:
            spans = _spans(self._file, archive, size)
        digest = _structure(self._file, spans, size - _SEAL_LENGTH)
        self._file.seek(size - 64)
        self._file.write(digest.encode())

    def _write(self, name: str, data: bytes | memoryview) -> None:
        info = zipfile.ZipInfo(_ROOT + name)  # with a fixed date
        info.create_system = 3
        info.external_attr = 0o644 << 16
        info.file_size, info.compress_size, info.CRC = len(data), 0, 0
        large = len(data) > _LARGE
        # Contents begin at multiples of 64, as PyTorch has it, so that they can be mapped into memory.
        start = self._file.tell() + len(info.FileHeader(large)) + 4
        padding = -start % _ALIGNMENT
        info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        with self._zip.open(info, "w", force_zip64=large) as member:
            for offset in range(0, len(data), _CHUNK):
                member.write(data[offset : offset + _CHUNK])


def write_json(value: Any) -> bytes:
    """JSON as bytes, with sorted keys; numbers that JSON does not have are an error."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


class Reader:
    """Checks an archive as it opens it, and returns its members.

    Raises:
        FileError: the file is no archive of this package, or damaged; or it is a pipe, a device or a folder.
        OSError: it is not there, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_regular(self.path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            self._zip = zipfile.ZipFile(self._file)
        except Exception as error:
            raise self._damaged(f"it is not a zip archive, or cut off ({error})") from None
        try:
            infos = self._checked_infos()
            comment = self._zip.comment.decode("ascii", "replace")
            if not comment.startswith(_SEAL) or len(comment) != _SEAL_LENGTH:
                raise self._damaged("it is not sealed as engine.save does it")
            spans = _spans(self._file, self._zip, size)
            if _structure(self._file, spans, size - _SEAL_LENGTH) != comment[len(_SEAL) :]:
                raise self._damaged("its structure does not have the SHA-256 that the file says")
        except FileError:
            raise
        except Exception as error:
            raise self._damaged(str(error)) from None
        self._infos = infos
        self._spans = spans
        self.manifest = self._json(self._file.read(self._span(MANIFEST)))
        members = self.manifest.get("members") if isinstance(self.manifest, dict) else None
        if not isinstance(members, dict):
            raise self._damaged("its manifest lists no members")
        self._members: dict[str, dict[str, Any]] = members
        missing = sorted(set(members) - set(infos))
        extra = sorted(set(infos) - set(members) - _HEAD.keys() - {MANIFEST})
        if missing or extra:
            raise self._damaged(f"members are missing ({missing}) or too many ({extra})")

    def _checked_infos(self) -> dict[str, zipfile.ZipInfo]:
        names = self._zip.namelist()
        if _ROOT + MANIFEST not in names and any(name.endswith(_FOREIGN) for name in names):
            raise FileError(
                f"{self.path} is an archive of PyTorch that engine.save did not write; torch.export.load reads "
                "exported programs"
            )
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.removeprefix(_ROOT)
            if name == info.filename or not _NAME.fullmatch(name) or ".." in name.split("/"):
                raise self._damaged(f"a member has the name {info.filename[:100]!r}")
            if name in infos:
                raise self._damaged(f"two members have the name {name!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise self._damaged(f"the member {name!r} is compressed or encrypted")
            infos[name] = info
        return infos

    def _damaged(self, why: str) -> FileError:
        return FileError(f"{self.path} is damaged: {why}")

    def _span(self, name: str) -> int:
        """Go to the content of a member; returns its length."""
        if name not in self._spans:
            raise self._damaged(f"the member {name!r} is missing")
        start, length = self._spans[name]
        self._file.seek(start)
        return length

    def _compare(self, name: str, data: bytes | bytearray | memoryview) -> None:
        entry = self._members.get(name)
        if not isinstance(entry, dict):
            raise self._damaged(f"the member {name!r} is missing")
        if entry.get("sha256") != hashlib.sha256(data).hexdigest() or entry.get("size") != len(data):
            raise self._damaged(f"the member {name!r} does not have the SHA-256 that the manifest says")

    def read(self, name: str) -> bytes:
        """The content of a member, after its SHA-256 was compared."""
        data = self._file.read(self._span(name))
        self._compare(name, data)
        return data

    def read_kept(self, name: str) -> bytes | memoryview:
        """Like `read`; much of it lies in a file without a name, and not in memory."""
        data = read_kept(self._file, self._span(name))
        self._compare(name, data)
        release(data)
        return data

    def read_writable(self, name: str) -> bytearray:
        """Like `read`, in memory that a tensor can own."""
        data = bytearray(self._span(name))
        self._file.readinto(data)
        self._compare(name, data)
        return data

    def read_json(self, name: str) -> Any:
        """The content of a JSON member."""
        return self._json(self.read(name))

    def _json(self, data: bytes) -> Any:
        try:
            return strict_json.parse(bytes(data))
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"JSON that cannot be read: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _spans(file: IO[bytes], archive: zipfile.ZipFile, size: int) -> dict[str, tuple[int, int]]:
    """Where the contents of members lie: name -> (offset, length); they do not overlap and lie in the file."""
    spans = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no header for member {info.filename!r}")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if info.header_offset < end or start + info.file_size > size:
            raise zipfile.BadZipFile(f"the member {info.filename!r} lies outside the file, or over another one")
        end = start + info.file_size
        spans[info.filename.removeprefix(_ROOT)] = (start, info.file_size)
    return spans


def _structure(file: IO[bytes], spans: Mapping[str, tuple[int, int]], size: int) -> str:
    """SHA-256 of the file's first ``size`` bytes without the contents of members; the manifest's stays in."""
    digest = hashlib.sha256()
    position = 0
    for name, (start, length) in sorted(spans.items(), key=lambda item: item[1]):
        _hash(file, position, start, digest)
        position = start if name == MANIFEST or name in _HEAD else start + length
    _hash(file, position, size, digest)
    return digest.hexdigest()


def _hash(file: IO[bytes], start: int, end: int, digest: Any) -> None:
    file.seek(start)
    while start < end:
        data = file.read(min(_CHUNK, end - start))
        if not data:
            raise zipfile.BadZipFile("the file ends early")
        digest.update(data)
        start += len(data)


__all__ = ["MANIFEST", "Reader", "Writer", "replacing", "write_json"]

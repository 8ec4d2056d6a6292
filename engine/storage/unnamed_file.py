"""Large contents that stay in a file without a name, and are mapped: the system takes their memory where it needs it.

Nobody else can shorten such a file or write to it, so what was checked once is what is read later, and a mapping of it
never loses its ground.  A file that has a name may be written to at any time: its content is copied.
"""

from __future__ import annotations

import logging
import mmap
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

_LOG = logging.getLogger("engine.storage")
# Contents up to this stay in memory, in bytes.
SMALL = 16 << 20
_PIECE = 4 << 20


class UnnamedFile:
    """A file that is written once, and goes with the last view of it.

    Attributes:
        error: why something could not be written.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._file = tempfile.TemporaryFile(prefix="engine.", suffix=".plan")  # noqa: SIM115
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes; 0 where they cannot be written."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            return 0
        self._size += len(data)
        return len(data)

    def view(self) -> memoryview:
        """What was written; nothing more can be.

        Raises:
            OSError: the last of it could not be written.
        """
        with self._file as file:
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Give up what was written."""
        self._file.close()


def has_room(size: int) -> bool:
    """Whether the folder for temporary files has room for twice so many bytes."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free > 2 * size
    except OSError as error:
        _LOG.info("it stays in memory: %s", error)
        return False


def read_kept(file: IO[bytes], size: int) -> bytes | memoryview:
    """The next bytes of a file, fewer where it ends: in memory if they are few or there is no room for a file.

    Raises:
        OSError: they cannot be read.
    """
    start = file.tell()
    found = _written(_pieces(file, size)) if size > SMALL and has_room(size) else None
    if found is None:
        file.seek(start)
        return file.read(size)
    return found


def kept(data: bytes) -> bytes | memoryview:
    """The same content where it need not stay in memory, if it is much and there is room."""
    if len(data) <= SMALL or not has_room(len(data)):
        return data
    whole = memoryview(data)
    return _written(whole[start : start + _PIECE] for start in range(0, len(data), _PIECE)) or data


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (piece := file.read(min(size, _PIECE))):
        yield piece
        size -= len(piece)


def _written(pieces: Iterable[bytes | memoryview]) -> memoryview | None:
    """A view of a file of these pieces; None where there are none, or they cannot be written."""
    target, empty = UnnamedFile(), True
    for piece in pieces:
        empty = False
        if not target.write(piece):
            break
    if empty or target.error is not None:
        target.close()
        return None
    try:
        return target.view()
    except OSError as error:
        _LOG.info("it stays in memory: %s", error)
        return None


def release(content: bytes | memoryview) -> None:
    """Let the system have back the memory of what lies in a file: it is read again where it is looked at again."""
    if isinstance(content, memoryview) and isinstance(content.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.obj.madvise(mmap.MADV_DONTNEED)


__all__ = ["SMALL", "UnnamedFile", "has_room", "kept", "read_kept", "release"]

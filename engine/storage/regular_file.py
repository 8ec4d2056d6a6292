"""Reading files that may be anything: a pipe, a device or a folder is never opened for long, or read."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from engine.errors import FileError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading, or a link to one.

    Raises:
        FileError: it is something else; the message says what.
        OSError: it is not there, or cannot be read.
    """
    try:
        # Opening a device can do something, so it is asked before, and a pipe after as well: it must not wait.
        _check(path, os.stat(path).st_mode)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{str(path)!r} is not the path of a file: {error}") from None
    try:
        _check(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file; errors as those of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _check(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "something else")
        raise FileError(f"{Path(path)} is {kind}, not a file")


__all__ = ["open_regular", "read_regular"]

"""Writing files that appear whole: whoever reads one sees all of it or what was there before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from engine.errors import FileError


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8 in place of what is there.

    Raises:
        FileError: it cannot be written; nothing of it is left then.
    """
    target = Path(path)
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".unfinished")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise FileError(f"{target} cannot be written: {error.strerror or error}") from None


__all__ = ["write_whole"]

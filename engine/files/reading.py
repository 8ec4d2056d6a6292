"""What goes wrong while a file is read, as one kind of error that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.errors import EngineError, FileError


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what readers of damaged content raise into a `FileError`, and name the file in every error of this package.

    Raises:
        FileError: instead of any error that is not one of this package's own, of the disk, or of the GPU's memory.
    """
    try:
        yield
    except EngineError as error:
        text = str(error)
        if str(path) not in text:
            error.args = (f"{path}: {text}", *error.args[1:])
        raise
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise FileError(f"{path} is damaged: {type(error).__name__}: {str(error)[:500]}") from error


__all__ = ["reading"]

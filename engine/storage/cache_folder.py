"""What the caches on disk share: locks that are waited for once, and files that killed writers left behind."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import filelock

try:
    import fcntl
except ImportError:  # Windows, where a file that is open for writing cannot be removed
    fcntl = None  # type: ignore[assignment]

_REMEMBERED = 300.0
"""Seconds for which a lock that was not to be had is not waited for again in this process."""
ABANDONED = 3600.0
"""Seconds after which an unfinished file belongs to a process that is gone, where its writer's lock does not say so."""

_given_up: dict[str, float] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], patience: float) -> Iterator[None]:
    """Hold a lock file.

    A process that is stuck with the lock costs this one ``patience`` once: after that the lock is tried without
    waiting, until it is free again, or for five minutes.

    Args:
        patience: seconds to wait.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be made.
    """
    name = os.path.abspath(path)
    with _guard:
        since = _given_up.get(name)
    hopeless = since is not None and time.monotonic() - since < _REMEMBERED
    lock = filelock.FileLock(name, timeout=0 if hopeless else patience)
    try:
        lock.acquire()
    except filelock.Timeout:
        if not hopeless:
            with _guard:
                _given_up[name] = time.monotonic()
        raise
    with _guard:
        _given_up.pop(name, None)
    try:
        yield
    finally:
        lock.release()


def mark_as_written(file: IO[bytes]) -> None:
    """Hold an unfinished file until it is closed, so that `remove_old` knows that somebody writes it."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: then its age decides
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_old(paths: Iterable[Path], age: float = ABANDONED) -> list[tuple[Path, int, bool]]:
    """Remove unfinished files that are older than any writer takes.

    Args:
        age: in seconds.

    Returns:
        Of the others the path, the size in bytes, and whether somebody still writes it as far as can be seen.
    """
    left = []
    for path in paths:
        try:
            stat = path.lstat()
            if time.time() - stat.st_mtime > age:
                path.unlink()
            else:
                left.append((path, stat.st_size, _is_written(path)))
        except FileNotFoundError:
            continue
        except OSError:  # of another user, say
            left.append((path, stat.st_size, True))
    return left


def _is_written(path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # of another user, say: its age decides
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


__all__ = ["ABANDONED", "locked", "mark_as_written", "remove_old"]

"""Finding and reading ``.rules`` files."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.dsl.checks.limits import LARGEST_FILE, MOST_ENTRIES, MOST_FILES
from engine.errors import Diagnostic, RuleError, SettingsError, Span


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a rules file; ``stem`` begins the ids of its rules, ``level`` is 0 for built-in files."""

    path: str
    stem: str
    level: int
    text: str


def builtin_directory() -> Path:
    """Where the built-in rules are: beside the package's modules in a wheel, ``rules/`` in a checkout.

    Raises:
        FileNotFoundError: the package is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "_rules", package.parent / "rules"):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"the built-in rules are missing: no {package / '_rules'}; reinstall the package")


def builtin_sources() -> list[Source]:
    """The built-in rules files."""
    return read_sources([builtin_directory()], level=0)


class RulesNotFound(RuleError, FileNotFoundError):
    """There are no rules at a path."""


def read_sources(paths: Iterable[str | Path], level: int) -> list[Source]:
    """Read files, and all ``.rules`` files under directories, in a fixed order.

    Only regular files are read, and no more of one than a rules file may have. Line ends of other systems become
    ``\\n``, and a byte order mark is left out.

    Raises:
        RulesNotFound: a path does not exist.
        RuleError: something is no rules file, cannot be read, is too large, or is not UTF-8.
        SettingsError: something is no path.
    """
    sources: dict[str, Source] = {}
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise SettingsError(f"{path!r} is no path of rules: pass the names of .rules files or folders, one by one")
        name = os.fspath(path)
        if not name:
            raise SettingsError("the path of rules is empty: pass the name of a .rules file or folder")
        try:
            kind = os.stat(name).st_mode
        except FileNotFoundError:
            raise RulesNotFound([_at(name, f"no rules at {name}")]) from None
        except (OSError, ValueError) as error:  # a loop of links; a name with a NUL
            raise RuleError([_at(name, f"this path cannot be read: {_said(error)}")]) from error
        for file in _under(name) if stat.S_ISDIR(kind) else [name]:
            sources.setdefault(os.path.realpath(file), Source(file, Path(file).stem, level, _read(file)))
            if len(sources) > MOST_FILES:
                raise RuleError([_at(name, f"there are more than {MOST_FILES} rules files")])
    return list(sources.values())


def _under(folder: str) -> list[str]:
    """The rules files under a folder; links to other folders are not followed."""
    found: list[str] = []
    left = MOST_ENTRIES

    def refused(error: OSError) -> None:
        raise RuleError([_at(str(error.filename), f"this folder cannot be read: {_said(error)}")]) from error

    for place, folders, files in os.walk(folder, onerror=refused):
        left -= len(folders) + len(files)
        if left < 0:
            raise RuleError([_at(folder, f"this folder holds more than {MOST_ENTRIES} files and folders")])
        found += [os.path.join(place, name) for name in files if name.endswith(".rules")]
    return [str(path) for path in sorted(map(Path, found))]


def _read(path: str) -> str:
    """The text of a rules file."""
    try:
        # Opening a pipe waits for a writer, unless it is told not to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RuleError([_at(path, "this is not a regular file")])
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(LARGEST_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RuleError([_at(path, f"this file cannot be read: {_said(error)}")]) from error
    if len(data) > LARGEST_FILE:
        raise RuleError([_at(path, f"this file is too large; one file has up to {LARGEST_FILE // 1024} KiB")])
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
        span = Span(path, len(before), len(before[-1]) + 1, len(before), len(before[-1]) + 2)
        message = f"the byte {data[error.start]:#04x} is not UTF-8: {error.reason}"
        hint = "save the file as UTF-8"
        raise RuleError([Diagnostic(message, span, hint=hint)]) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _at(path: str, message: str) -> Diagnostic:
    return Diagnostic(message, Span(path, 1, 1, 1, 1))


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

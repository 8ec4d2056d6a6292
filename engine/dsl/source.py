"""Finding and reading ``.rules`` files: the built-in ones, those that installed packages bring, those of users."""

from __future__ import annotations

import codecs
import functools
import importlib
import importlib.metadata
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.dsl.checks.limits import LARGEST_FILE, MOST_ENTRIES, MOST_FILES
from engine.errors import Diagnostic, RuleError, SettingsError, Span

BUILT_IN, PACKAGE, USER = 0, 1, 2
"""Levels of rules; a higher one wins."""

GROUP = "engine.rules"
"""The group of entry points by which installed packages bring rules."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a rules file.

    Attributes:
        stem: what the ids of its rules begin with.
        level: ``BUILT_IN``, ``PACKAGE`` or ``USER``.
        origin: ``built in``, or name and version of the package that brings it; empty for files of users.
    """

    path: str
    stem: str
    level: int
    text: str
    origin: str = ""


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
    return [replace(source, origin="built in") for source in read_sources([builtin_directory()], level=BUILT_IN)]


def package_sources() -> list[Source]:
    """The rules files of installed packages, in the order of the names of their entry points.

    An entry point of the group ``engine.rules`` names a package, whose ``.rules`` files are read, or an attribute of a
    module that is a path or several.  The module is imported, so that it can register ops and host functions.
    ``ENGINE_RULES=builtin`` leaves packages out; ``ENGINE_RULES=one,other`` takes only those entry points.

    Raises:
        RuleError: an entry point cannot be loaded or names no rules, or ``ENGINE_RULES`` names one that is not there.
    """
    wanted = [name.strip() for name in os.environ.get("ENGINE_RULES", "").split(",") if name.strip()]
    if wanted == ["builtin"]:
        return []
    found = _entry_points(tuple((folder, _changed(folder)) for folder in sys.path))
    missing = [name for name in wanted if name not in found and name != "builtin"]
    if missing:
        there = f"there are {', '.join(sorted(found))}" if found else "no installed package brings rules"
        hint = "ENGINE_RULES=builtin leaves all of them out"
        raise RuleError([Diagnostic(f"ENGINE_RULES names {missing[0]!r}; {there}", hint=hint)])
    sources: list[Source] = []
    for name in sorted(found):
        if not wanted or name in wanted:
            sources += _of_package(found[name])
    return sources


@functools.lru_cache(maxsize=4)
def _entry_points(_folders: tuple[tuple[str, int], ...]) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points by name, found once for folders of the path as they are: it reads a file of each distribution.

    One distribution may be found twice, in two folders of the path; the first is the one that is imported.
    """
    return {point.name: point for point in reversed(tuple(importlib.metadata.entry_points(group=GROUP)))}


def _changed(folder: str) -> int:
    """When something was last installed into a folder or removed, in nanoseconds; 0 if it is not there."""
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except (OSError, ValueError):
        return 0


def _of_package(point: importlib.metadata.EntryPoint) -> list[Source]:
    distribution = point.dist
    origin = f"{distribution.name} {distribution.version}" if distribution is not None else point.name
    try:
        paths = _paths(point)
        sources = read_sources(paths, level=PACKAGE)
        if not sources:
            raise ValueError(f"there is no .rules file in {', '.join(paths)}: is it in the package's data?")
    except Exception as error:  # whatever the import of a package raises
        hint = f"mend or remove {origin}; ENGINE_RULES=builtin leaves the rules of packages out"
        message = f"the rules of {origin} (entry point {point.name} = {point.value}) cannot be loaded"
        raise RuleError([Diagnostic(f"{message}: {type(error).__name__}: {error}", hint=hint)]) from error
    return [replace(source, origin=origin) for source in sources]


def _paths(point: importlib.metadata.EntryPoint) -> list[str]:
    """The files and folders that an entry point names."""
    module = importlib.import_module(point.module)
    if not point.attr:
        if not hasattr(module, "__path__"):
            raise ValueError(f"{point.module} is not a package: name one, or a path: {point.module}:RULES")
        return [str(folder) for folder in module.__path__]
    given = point.load()
    folder = Path(module.__file__ or "").parent
    return [str(folder / path) for path in ([given] if isinstance(given, str | os.PathLike) else given)]


class RulesNotFound(RuleError, FileNotFoundError):
    """There are no rules at a path."""


def read_sources(paths: Iterable[str | Path], level: int) -> list[Source]:
    """Read files, and all ``.rules`` files under directories, in a fixed order.

    Only regular files are read, and no more of one than a rules file may have. Line ends of other systems become
    ``\\n``, and a byte order mark is left out.

    Raises:
        RulesNotFound: a path does not exist, or is a folder without rules files.
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
        files = _under(name) if stat.S_ISDIR(kind) else [name]
        if not files and level == USER:  # one of a package's folders may be without
            raise RulesNotFound([_at(name, "this folder holds no .rules files")])
        for file in files:
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

"""Finding and reading ``.rules`` files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


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


def read_sources(paths: Iterable[str | Path], level: int) -> list[Source]:
    """Read files, and all ``.rules`` files under directories, in a fixed order.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    sources: dict[Path, Source] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*.rules"))
        elif path.is_file():
            found = [path]
        else:
            raise FileNotFoundError(f"no rules at {path}")
        for file in found:
            sources.setdefault(file.resolve(), Source(str(file), file.stem, level, file.read_text(encoding="utf-8")))
    return list(sources.values())

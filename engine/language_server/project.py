"""The files that belong together: open ones as they are edited, others as they lie on disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from engine.dsl.source import builtin_sources
from engine.dsl.vocabulary import PHASES
from engine.language_server.buffer import Buffer
from engine.reference.entry import Entry
from engine.reference.layers import layers_of
from engine.reference.macros import macros_of, patterns_of


class Project:
    """Open files, and those beside them."""

    def __init__(self) -> None:
        self.open: dict[str, Buffer] = {}

    def put(self, path: str, text: str) -> Buffer:
        """A new version of an open file."""
        known = self.open.get(path)
        if known is None or known.text != text:
            self.open[path] = Buffer(path, text)
        return self.open[path]

    def close(self, path: str) -> None:
        """A file that is not edited any more."""
        self.open.pop(path, None)

    def beside(self, path: str) -> list[Buffer]:
        """The other rules files in the folder of a file."""
        found = []
        for other in sorted(Path(path).parent.glob("*.rules")):
            name = str(other)
            if name != path:
                buffer = self.open.get(name) or _read(other)
                if buffer is not None:
                    found.append(buffer)
        return found

    def all(self, path: str) -> Iterator[Buffer]:
        """A file, those beside it, and the built-in ones."""
        seen = set()
        if path in self.open:
            seen.add(path)
            yield self.open[path]
        for buffer in (*self.beside(path), *self.builtin):
            if buffer.path not in seen:
                seen.add(buffer.path)
                yield self.open.get(buffer.path, buffer)

    @cached_property
    def builtin(self) -> list[Buffer]:
        """The built-in files."""
        return [Buffer(source.path, source.text) for source in builtin_sources()]

    @cached_property
    def catalogue(self) -> dict[str, Entry]:
        """The layers of the catalogue."""
        file = next(buffer for buffer in self.builtin if Path(buffer.path).name == "layers.rules")
        return layers_of(file.file)

    @cached_property
    def prelude(self) -> dict[str, Entry]:
        """The macros of the prelude."""
        file = next(buffer for buffer in self.builtin if Path(buffer.path).name == "prelude.rules")
        return macros_of(file.file)

    def layers(self, path: str) -> dict[str, Entry]:
        """The layers that a file may use."""
        own = [layers_of(buffer.file) for buffer in self._near(path) if buffer.file.layers]
        return {**self.catalogue, **{name: entry for found in own for name, entry in found.items()}}

    def macros(self, path: str) -> dict[str, Entry]:
        """The macros of a file and of those beside it, and those of the prelude."""
        found = dict(self.prelude)
        for buffer in reversed(self._near(path)):
            found |= macros_of(buffer.file)
        return found

    def patterns(self, path: str) -> dict[str, Entry]:
        """The named patterns of a file and of those beside it."""
        found: dict[str, Entry] = {}
        for buffer in reversed(self._near(path)):
            found |= patterns_of(buffer.file)
        return found

    def find(self, name: str, path: str) -> Entry | None:
        """A macro or named pattern of any file; of those of one name the nearest."""
        near = self.macros(path).get(name) or self.patterns(path).get(name)
        if near is not None:
            return near
        for buffer in self.builtin:
            if f"def {name}(" in buffer.text or f"pattern {name}(" in buffer.text:
                found = macros_of(buffer.file).get(name) or patterns_of(buffer.file).get(name)
                if found is not None:
                    return found
        return None

    def rule(self, name: str, path: str) -> tuple[Buffer, int, int] | None:
        """The file, line and column of a rule by its name in a file, or by its id."""
        stem, _, own = name.rpartition(".")
        for buffer in self.all(path):
            if (stem and Path(buffer.path).stem != stem) or (not stem and buffer.path != path):
                continue
            if not any(f"{kind} {own}" in buffer.text for kind in PHASES):
                continue
            for item in buffer.file.rules:
                if item.name == own:
                    return buffer, item.span.line, item.span.column
        return None

    def _near(self, path: str) -> list[Buffer]:
        own = [self.open[path]] if path in self.open else []
        return [*own, *self.beside(path)]


def _read(path: Path) -> Buffer | None:
    try:
        return Buffer(str(path), path.read_text(encoding="utf-8").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError):
        return None


__all__ = ["Project"]

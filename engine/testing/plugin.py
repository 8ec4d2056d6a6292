"""The plugin of pytest: each ``test`` and ``reject`` line of a ``.rules`` file is a test.

It is there in every run of pytest, so nothing of PyTorch is loaded before there is a rules file to run.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from engine.testing.text import add_root


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings of the plugin."""
    parser.addini(
        "engine_rules_files",
        "Which rules files are collected: patterns of names, or of paths from the root folder (default: *.rules).",
        type="args",
        default=["*.rules"],
    )
    parser.addini(
        "engine_rules",
        "Rules files and folders that are loaded with each of them: macros and named patterns that several share.",
        type="paths",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Paths in texts for snapshots are relative to the root folder."""
    add_root(config.rootpath)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect rules files."""
    if file_path.suffix != ".rules" or not _wanted(file_path, parent.config):
        return None
    from engine.testing.items import RulesFile

    return RulesFile.from_parent(parent, path=file_path)


def _wanted(path: Path, config: pytest.Config) -> bool:
    relative = path.relative_to(config.rootpath).as_posix() if path.is_relative_to(config.rootpath) else str(path)
    patterns: list[str] = config.getini("engine_rules_files")
    return any(fnmatchcase(relative if "/" in pattern else path.name, pattern) for pattern in patterns)

"""Text that is the same on every machine and from run to run: no folders, line numbers or numbers of symbols."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_roots: list[Path] = []


def add_root(folder: Path) -> None:
    """Write paths under a folder, such as that of the tests, as relative to it."""
    if folder not in _roots:
        _roots.insert(0, folder)


def portable(text: str, *, rule_lines: bool = False) -> str:
    """Text without the folders of this machine, and without the numbers of lines that an edit elsewhere moves.

    Paths are relative to pytest's root folder, to the current folder, or to that of a package; of other files only the
    name stays.

    Args:
        rule_lines: keep line numbers in rules files of users.
    """
    text = text.replace(f"{_PACKAGE / '_rules'}/", "rules/").replace(f"{_PACKAGE.parent}/rules/", "rules/")
    text = re.sub(r"[^\s'\"(]*/site-packages/", "", text)
    for root in (*_roots, Path.cwd(), _PACKAGE.parent):
        text = re.sub(rf"(?<![\w/]){re.escape(str(root))}/", "", text)
    text = re.sub(r"(?<![\w.])/(?:[^\s'\"():,]+/)*([^\s'\"():,/]+\.(?:py|rules))\b", r"\1", text)
    files = r"\.py|\brules/[\w/]+\.rules" if rule_lines else r"\.py|\.rules"
    return re.sub(rf"({files}):\d+(:\d+)?", r"\1:_", text)


def plain_symbols(text: str) -> str:
    """Text in which symbolic sizes are numbered in order: PyTorch's numbers depend on its version."""
    seen: dict[str, str] = {}
    return re.sub(r"\bs\d+\b", lambda match: seen.setdefault(match[0], f"s{len(seen)}"), text)


__all__ = ["add_root", "plain_symbols", "portable"]

"""``docs/reference.md``: everything that rules may write but ops, which PyTorch documents.

``python -m engine.reference.page FILE`` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from engine.linter.codes import CODES, Code
from engine.reference.clauses import clauses
from engine.reference.entry import Entry, table
from engine.reference.functions import functions
from engine.reference.layers import layers
from engine.reference.macros import macros
from engine.tensorrt import capabilities

_HEAD = """\
# Reference of the rules language

Written by `python -m engine.reference.page docs/reference.md`; a test checks that it is current. The same is on the
command line: `engine rules doc layer`, `engine rules doc trt.slice`, `engine rules doc aten.gelu`. How rules are put
together is in [the language](language.md); ops are PyTorch's, and [a table](ops.md) says which rules take them.
"""


def page() -> str:
    """The text of the page, for the installed TensorRT."""
    parts = [
        _HEAD,
        "## Clauses\n",
        table(("word", "example", "says"), [(f"`{e.name}`", f"`{e.signature}`", e.doc) for e in clauses().values()]),
        "\n## Functions\n",
        "Functions of known and symbolic values; a rule for which one fails does not apply.\n",
        table(("call", "gives"), [(f"`{e.signature}`", e.doc) for e in functions().values()]),
        "\n## Codes\n",
        "What `engine rules check`, `lint` and `fmt --check` find; `--explain CODE` says more, with an example.\n",
        table(("code", "name", "kind", "means"), [_code(code) for code in CODES.values()]),
        "\n## Macros\n",
        "Of `rules/prelude.rules`; every file may use them.\n",
        _entries(macros()),
        "\n## Layers\n",
        f"Of `rules/layers.rules`. Members of enums are those of {_target()}. An operand of type `weights` is a "
        "constant; an attribute that may arrive *at run time* comes through that input of the layer then.\n",
        _entries(layers()),
    ]
    return "\n".join(parts)


def _code(code: Code) -> tuple[str, ...]:
    return f"`{code.code}`", code.name, "error" if code.error else "warning", code.summary


def _entries(entries: Mapping[str, Entry]) -> str:
    return "\n".join(f"### `{entry.name}`\n\n{entry.markdown()}\n" for entry in entries.values())


def _target() -> str:
    here = capabilities()
    name = "TensorRT-RTX" if here.rtx else "TensorRT"
    return f"{name} (API {'.'.join(map(str, here.version[:2]))})"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")

__all__ = ["page"]

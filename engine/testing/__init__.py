"""Testing rules and models with pytest: what rules make of a model as text for snapshots, and coverage to insist on.

>>> from engine.testing import assert_covered, converts, partition, rewrites
>>> def test_square(snapshot):
...     assert rewrites(lambda x: x * x, [torch.ones(2)], rules="my.rules") == snapshot

`engine.testing.plugin` is a plugin of pytest that runs the test lines of ``.rules`` files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.testing.helpers import as_module, assert_covered, converts, partition, rewrites
    from engine.testing.text import portable

# Loaded late: pytest imports this package for its plugin, in projects that have nothing to do with PyTorch too.
_HOMES = {
    "as_module": "engine.testing.helpers",
    "assert_covered": "engine.testing.helpers",
    "converts": "engine.testing.helpers",
    "partition": "engine.testing.helpers",
    "portable": "engine.testing.text",
    "rewrites": "engine.testing.helpers",
}

__all__ = ["as_module", "assert_covered", "converts", "partition", "portable", "rewrites"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'engine.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Records in the place of PyTorch, for as long as a file of rules is checked.

Inside :func:`standing_in` ops are those of the records, and dtypes are stand-ins that are told apart and written like
PyTorch's.  What is checked there means the same, but must not be used to compile.  Where something is asked that the
records do not know, :class:`PyTorchNeeded` is raised, and the check is made again with PyTorch itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.dsl.operators import Operator


class PyTorchNeeded(Exception):
    """The records do not say what PyTorch would."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """Stands for one of PyTorch's dtypes."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, slots=True)
class Records:
    """What was kept of one build of PyTorch.

    Attributes:
        ops: by full name (``aten.add.Tensor``); all that are there once PyTorch is imported.
        partly: namespaces of which only those ops are known that rules have named so far.
        dtypes: by their names in rules.
        classes: of each class of dtypes that rules know the dtypes.
    """

    ops: Mapping[str, Operator | None]
    partly: frozenset[str]
    dtypes: Mapping[str, Any]
    classes: Mapping[str, tuple[Any, ...]]

    def find(self, name: str) -> Operator | None:
        """The overload that ``aten.linear`` or ``aten.add.Tensor`` names, None if there is none.

        Raises:
            PyTorchNeeded: that is not known.
        """
        namespace, _, rest = name.partition(".")
        full = name if namespace == "higher_order" or "." in rest else f"{name}.default"
        found = self.ops.get(full)
        if found is None and (namespace in self.partly or full in self.ops):
            raise PyTorchNeeded(name)
        return found


_records: Records | None = None


def records() -> Records | None:
    """The records that stand in for PyTorch now; None where PyTorch itself is asked."""
    return _records


@contextmanager
def standing_in(chosen: Records) -> Iterator[None]:
    """Let records stand in for PyTorch, which nothing has imported yet."""
    global _records
    assert "torch" not in sys.modules
    _records = chosen
    try:
        yield
    finally:
        _records = None


__all__ = ["Dtype", "PyTorchNeeded", "Records", "records", "standing_in"]

"""State that a model assigns and torch.export does not keep: it warns of that, and later calls would be wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch.export import ExportedProgram

from engine.errors import CaptureError

_ASSIGNED = re.compile(r"The tensor attributes? (.+?) (?:was|were) assigned during export")
_SIDE_EFFECTS = "certain side effects happened"


@contextmanager
def assignments() -> Iterator[list[str]]:
    """What torch.export warns of assignments while the body runs; its other warnings go on their way."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield found
    for warning in said:
        text = str(warning.message)
        if _ASSIGNED.search(text) or _SIDE_EFFECTS in text:
            found.append(text)
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def check_assignments(said: list[str], program: ExportedProgram, *, strict: bool) -> None:
    """Raises ``CaptureError`` where a model reads what it assigned in the call before, and the program does not.

    Args:
        said: what torch.export warned of.
        strict: in strict mode, assigned buffers are lost; in the other, tensors that are no buffers.
    """
    for text in said:
        attributes = _ASSIGNED.search(text)
        names = re.findall(r"[\w.]+", attributes[1].replace("self.", "")) if attributes else []
        name = next((name for name in names if name in program.constants), None)
        if name is None and strict and "_buffers" in text:
            name = "a buffer"
        if name is not None:
            what = name if name == "a buffer" else f"'{name}'"
            raise CaptureError(
                f"the model assigns {what}, which it also reads: torch.export keeps it as it is, and later calls would "
                "get the old value. Register it (register_buffer), with a shape that stays, and write to it in place "
                "(self.x.copy_(..))"
            )


__all__ = ["assignments", "check_assignments"]

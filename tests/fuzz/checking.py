"""The compiler's checks of itself, switched while a search runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "ENGINE_CHECK"


@contextmanager
def checking(on: bool) -> Iterator[None]:
    """Compile with the checks, or as users do; afterwards it is as it was."""
    before = os.environ.get(_NAME)
    os.environ[_NAME] = str(int(on))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_NAME, None)
        else:
            os.environ[_NAME] = before

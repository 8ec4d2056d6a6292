"""What became of a sample."""

from __future__ import annotations

import re
from typing import NamedTuple


class Outcome(NamedTuple):
    """One of five kinds, and the reason where there is one.

    ``passed``: in an engine, and it agrees; the reason says but for what.  ``constant``: nothing is left for an
    engine to do, and it agrees.  ``in PyTorch``: some node stays there, and it agrees.  ``not captured``:
    torch.export gives no graph, or what the sample takes or gives is no dense tensor.  ``failed``: a wrong result
    or a crash.
    """

    kind: str
    reason: str = ""

    @property
    def text(self) -> str:
        """Kind and reason in one line, as it is written down."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


PASSED, CONSTANT = Outcome("passed"), Outcome("constant")
# In an engine in another dtype, as a setting asks: PyTorch casts what enters and leaves.
BETWEEN_CASTS = Outcome("passed", "between casts in PyTorch")


def plain(reason: str) -> str:
    """A reason in one line, without what changes when rules are edited or samples are: places, names, sizes."""
    line = reason.strip().splitlines()[0] if reason.strip() else ""
    line = re.sub(r" ?\([^()]*\.rules:[\d:]+\)", "", line)
    line = re.sub(r"argument '(\w+)' of \w+: expected (.*), found .*: (\w+)\[.*", r"`\1`: expected \2, found \3", line)
    line = re.sub(r"argument '(\w+)' of \w+: ", r"`\1`: ", line)
    line = re.sub(r"/[^/ ]*/[^/ ]*/[^ ]*: ", ": ", line) if "TensorRT rejected" in line else line
    line = re.sub(r"%?\b\w+_default(_\d+)?\b|%\w+", "it", line)
    # Symbols of sizes, but not the dtype u8.
    line = re.sub(r"_?0x[0-9a-f]+|(?<!found )(?<!cannot be )(?<!constant of )\b(u|s|zuf)\d+\b", "_", line)
    return re.sub(r"\s+", " ", line)[:240]

"""What installing the package cost, each time it was measured: ``installations.json``, in the repository."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.storage.whole_file import write_whole

INSTALLATIONS = Path(__file__).with_name("installations.json")
WAYS = ("CPU", "CUDA")


@dataclass(frozen=True)
class Installation:
    """One way to install, as it went.

    Attributes:
        way: for what, as in the README's table.
        commit: whose sources; empty for those of the work tree.
        line: the commands that ran: those of the README, with its placeholder filled in.
        torch, tensorrt_rtx: what was installed, with PyTorch's build.
        day: when, as in 2026-01-31.
        cpp: whether the C++ path was built.
        cpu_seconds: of all processes together.
        seconds: on the clock, of a machine that had other work too.
        megabytes: of 10**6 bytes, of the whole environment on the disk; an empty one takes some 20.
    """

    way: str
    commit: str
    line: str
    torch: str
    tensorrt_rtx: str
    day: str
    cpp: bool
    cpu_seconds: int
    seconds: int
    megabytes: int


def load(path: Path = INSTALLATIONS) -> list[Installation]:
    """What is written down."""
    return [Installation(**one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def save(found: list[Installation], path: Path = INSTALLATIONS) -> None:
    """Write it down, one line each: by way, older commits first."""
    ordered = sorted(found, key=lambda one: (WAYS.index(one.way), one.commit == "", one.commit))
    write_whole(path, "[\n" + ",\n".join(json.dumps(asdict(one)) for one in ordered) + "\n]\n")

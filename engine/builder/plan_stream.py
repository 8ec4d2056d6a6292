"""Building a plan to where it stays: small ones in memory, others in a file without a name, which is mapped."""

from __future__ import annotations

import logging
import mmap
import shutil
import tempfile
from typing import Any

from engine.tensorrt import load

_LOG = logging.getLogger("engine.builder")
# Plans of networks with this much of weights stay in memory, in bytes: TensorRT writes pieces of 64 MiB.
_SMALL = 16 << 20


def build_plan(builder: Any, network: Any, config: Any, weights: int) -> memoryview | None:
    """The plan of a network; None where TensorRT does not build it.

    TensorRT-RTX 1.6 holds the weights once more while it writes a plan.  Written to a stream, the plan is not in memory
    beside them, and afterwards takes none that the system could not have back.

    Args:
        weights: bytes of the network's weights; where the folder for temporary files has no room for them, or TensorRT
            has no streams, the plan stays in memory.
    """
    streams = hasattr(builder, "build_serialized_network_to_stream")
    if weights <= _SMALL or not streams or not _has_room(weights):
        plan = builder.build_serialized_network(network, config)
        return None if plan is None else memoryview(plan).cast("B").toreadonly()
    target = _Target()
    trt = load()

    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return target.write(data)

    # TensorRT keeps no reference to it.
    writer = Writer()
    if not builder.build_serialized_network_to_stream(network, config, writer):
        target.close()
        if target.error is not None:
            raise target.error
        return None
    return target.plan()


class _Target:
    """The file that a plan is written to."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._file = tempfile.TemporaryFile(prefix="engine.", suffix=".plan")  # noqa: SIM115
        self._size = 0

    def write(self, data: bytes) -> int:
        """Take the next bytes; 0 where they cannot be written, which ends the build."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            return 0
        self._size += len(data)
        return len(data)

    def plan(self) -> memoryview:
        """What was written."""
        with self._file as file:
            file.flush()
            # The file has no name: nobody else can shorten it, and it goes with the last view of it.
            return memoryview(mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Give up what was written."""
        self._file.close()


def _has_room(weights: int) -> bool:
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free > 2 * weights
    except OSError as error:
        _LOG.info("plans stay in memory: %s", error)
        return False


__all__ = ["build_plan"]

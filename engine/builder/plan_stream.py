"""Building a plan to where it stays: small ones in memory, others in a file without a name, which is mapped."""

from __future__ import annotations

from typing import Any

from engine.storage.unnamed_file import SMALL, UnnamedFile, has_room
from engine.tensorrt import load


def build_plan(builder: Any, network: Any, config: Any, weights: int) -> memoryview | None:
    """The plan of a network; None where TensorRT does not build it.

    TensorRT-RTX 1.6 holds the weights once more while it writes a plan.  Written to a stream, the plan is not in memory
    beside them, and afterwards takes none that the system could not have back.

    Args:
        weights: bytes of the network's weights; where the folder for temporary files has no room for them, or TensorRT
            has no streams, the plan stays in memory.
    """
    streams = hasattr(builder, "build_serialized_network_to_stream")
    if weights <= SMALL or not streams or not has_room(weights):
        plan = builder.build_serialized_network(network, config)
        return None if plan is None else memoryview(plan).cast("B").toreadonly()
    target = UnnamedFile()
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
    return target.view()


__all__ = ["build_plan"]

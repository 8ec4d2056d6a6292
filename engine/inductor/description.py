"""What a report says of the segments that Inductor compiled, and of those that it did not."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from engine.inductor.grouping import torch_segments
from engine.report import Report

_BEGIN = "Inductor: "


def describe_torch_segments(report: Report, module: nn.Module) -> None:
    """Write to a report how the PyTorch segments of a module run, in place of what it said before."""
    held = {segment.name: segment for segment in torch_segments(module)}
    how = {name: segment.code.how for name, segment in held.items() if segment.code is not None}
    report.segments = [replace(segment, inductor=how.get(segment.name, "")) for segment in report.segments]
    notes = [note for note in report.notes if not note.startswith(_BEGIN)]
    for name, segment in held.items():
        if segment.code is None:
            notes.append(f"{_BEGIN}{name} runs op by op: {segment.reason or 'it was not compiled'}")
        elif segment.code.why:
            notes.append(f"{_BEGIN}{name} is compiled again when a file of it is loaded: {segment.code.why}")
    for segment_report in report.segments:
        if segment_report.backend != "tensorrt" and segment_report.name not in held:
            notes.append(
                f"{_BEGIN}{segment_report.name} runs op by op: it only looks at tensors in another shape, or takes "
                "numbers that are read from tensors"
            )
    report.notes = tuple(notes)


__all__ = ["describe_torch_segments"]

"""Models of transformers and diffusers: those of the zoo, in small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.model_table.randomness import settled
from tests.model_table.subject import Call, Made, Point, Ranges, Subject
from tests.models import ZOO, Entry
from tests.zoo import further_diffusers, further_transformers
from tests.zoo.request import MAX_BATCH, Built, Request

__all__ = ["subjects"]

# Least and greatest lengths of text, sides of images and so on, of entries that name none themselves.
_RANGES = {
    "_encoder": (3, 47), "_decoder": (3, 47), "_image": (32, 96), "_sound": (300, 700), "_made": (8, 40),
    "UNet1DModel": (32, 96), "AutoencoderOobleck": (64, 200),
    # Their code takes another way at the size that they were trained at, which is 8.
    "DiTTransformer2DModel": (16, 48), "PixArtTransformer2DModel": (16, 48), "CogVideoXTransformer3DModel": (16, 48),
}  # fmt: skip


def _entries(library: str) -> dict[str, Entry]:
    further = {"transformers": further_transformers, "diffusers": further_diffusers}[library].FURTHER
    home = f"tests.zoo.{library}_models"
    first = {name: entry for name, entry in ZOO.items() if entry.builder.__module__ == home}
    return first | {name: Entry(name, builder) for name, builder in further.items()}


def _range(entry: Entry) -> tuple[int, int] | None:
    if entry.extents:
        return entry.extents[0], entry.extents[-1]
    extents = _RANGES.get(entry.name, _RANGES.get(entry.builder.__qualname__.partition(".")[0]))
    # Not every model has an input whose size is free.
    point = Point(2, ())
    if extents is None or _text(_asked(entry, point)) == _text(_asked(entry, point, extents)):
        return None
    return extents


def _text(built: Built) -> str:
    return str(built.dynamic_shapes)


def _asked(entry: Entry, point: Point, extents: tuple[int, int] | None = None, step: int = 1) -> Built:
    extent = point.sizes[0] if point.sizes else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return entry.builder(Request(True, point.batch, extent, extents, step))


def _made(entry: Entry) -> Made:
    extents = _range(entry)
    point = Point(2, () if extents is None else extents[:1])
    return Made(settled(_asked(entry, point).model), () if extents is None else (extents,))


def _call(entry: Entry, point: Point) -> Call:
    built = _asked(entry, point)
    return built.args, built.kwargs


def _dims(entry: Entry, ranges: Ranges, step: int | None) -> Any:
    if step is None or not ranges:
        return _asked(entry, Point(2, ())).dynamic_shapes
    ((least, most),) = ranges
    return _asked(entry, Point(2, ()), (-(-least // step) * step, most), step).dynamic_shapes


def _subject(library: str, name: str, entry: Entry) -> Subject:
    steps = (entry.step,) if entry.extents else (1, 8, 32)
    made, call, dims = partial(_made, entry), partial(_call, entry), partial(_dims, entry)
    return Subject(name, library, made, call, dims, steps, MAX_BATCH)


def subjects(library: str) -> list[Subject]:
    """Those of a library, in the order of the zoo."""
    return [_subject(library, name, entry) for name, entry in _entries(library).items()]

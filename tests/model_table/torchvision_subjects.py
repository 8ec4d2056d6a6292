"""Every model that torchvision registers, without its quantised copies: those are quantised in other ways today."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.model_table.randomness import settled
from tests.model_table.subject import Call, Made, Point, Ranges, Subject, dynamic_dims, images
from tests.zoo.request import declare_torchvision_operators

__all__ = ["subjects"]

_SIDES = ((64, 128), (64, 128))
_DETECTORS = ("rcnn", "fcos", "retinanet", "ssd")
_VIDEOS = {"r3d_18": 4, "mc3_18": 4, "r2plus1d_18": 4, "s3d": 16, "swin3d_b": 4, "swin3d_s": 4, "swin3d_t": 4,
           "mvit_v1_b": 16, "mvit_v2_s": 16}  # fmt: skip
_UPDATES = 4  # of the flow, instead of 12


class _Flow(nn.Module):
    """A model of optical flow that gives its last estimate."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.model(first, second, num_flow_updates=_UPDATES)[-1]


def _sides(name: str) -> tuple[tuple[int, int], ...]:
    """The least sides that a model takes, and twice that."""
    if name.startswith("swin"):
        # A map that is no larger than a window of 7 is not shifted: from 225 pixels on none is.
        return ((232, 288), (232, 288))
    if name.startswith("vit"):
        return ((56, 112), (56, 112)) if name.endswith("14") else _SIDES
    if name.startswith(("mvit", "maxvit")) or name == "s3d":
        return ((224, 288), (224, 288))
    if name.startswith("inception"):
        return ((96, 160), (96, 160))
    return _SIDES


def _made(name: str) -> nn.Module:
    from torchvision.models import get_model, get_model_builder

    options: dict[str, Any] = {"weights": None}
    module = get_model_builder(name).__module__
    if "detection" in module or "segmentation" in module:
        options["weights_backbone"] = None
    if "detection" in module and "ssd" not in name:  # which are of one size
        options |= {"min_size": 64, "max_size": 64}
    if name.startswith("vit"):
        options["image_size"] = _sides(name)[0][0]
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False, "aux_logits": False}
    return get_model(name, **options).eval()


def _subject(name: str) -> Subject:
    ranges = _sides(name)
    if any(part in name for part in _DETECTORS):

        def pictures(point: Point) -> Call:
            return ([torch.rand(3, 64, 64)],), {}

        return Subject(name, "torchvision", lambda: Made(_made(name), ()), pictures, None)

    if name.startswith("raft"):
        ranges = ((128, 192), (128, 192))

        def pair(point: Point) -> Call:
            return (images(point).clamp(-1, 1), images(point).clamp(-1, 1)), {}

        def flow() -> Made:
            return Made(settled(_Flow(_made(name)), pair(Point(2, (128, 128)))), ranges)

        def pair_of_dims(ranges: Ranges, step: int | None) -> Any:
            return (dynamic_dims(ranges, step, 2, 3),) * 2

        return Subject(name, "torchvision", flow, pair, pair_of_dims, (8,))

    frames = _VIDEOS.get(name)

    def call(point: Point) -> Call:
        shape = (point.batch, 3, *point.sizes) if frames is None else (point.batch, 3, frames, *point.sizes)
        return (torch.randn(shape),), {}

    def make() -> Made:
        return Made(settled(_made(name), call(Point(2, tuple(low for low, _ in ranges)))), ranges)

    def dynamic(ranges: Ranges, step: int | None) -> Any:
        return (dynamic_dims(ranges, step, *((2, 3) if frames is None else (3, 4))),)

    return Subject(name, "torchvision", make, call, dynamic)


def subjects() -> list[Subject]:
    """In the order of their names."""
    declare_torchvision_operators()
    from torchvision.models import list_models

    return [_subject(name) for name in list_models() if not name.startswith("quantized_")]

"""What a builder is asked for, what it gives, and the inputs that several builders share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

MAX_BATCH = 8


class Built(NamedTuple):
    """A model with example inputs, and the dynamic dims of those inputs (None: everything static)."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any


@dataclass(frozen=True)
class Request:
    """Which variant of a model to build.

    Attributes:
        small: the structure in small widths and depths instead of the published configuration.
        batch: size of dim 0 of the inputs.
        extent: length of the sequence, or side of the image in pixels; None for the model's usual one.
        extents: (min, max) of the extent where it is a dynamic dim too; None where only the batch is.
        step: extents are multiples of this.
    """

    small: bool
    batch: int
    extent: int | None = None
    extents: tuple[int, int] | None = None
    step: int = 1

    def pick(self, small: Any, full: Any) -> Any:
        """The value of this variant."""
        return small if self.small else full

    def size(self, small: int, full: int) -> int:
        """The extent asked for, or the usual one."""
        return self.pick(small, full) if self.extent is None else self.extent

    def tokens(self, vocabulary: int, small: int = 16, full: int = 128) -> torch.Tensor:
        """Token ids: i64[batch, extent]."""
        return torch.randint(0, vocabulary, (self.batch, self.size(small, full)))

    def image(self, small: int, full: int, channels: int = 3) -> torch.Tensor:
        """Pixels: f32[batch, channels, extent, extent]."""
        side = self.size(small, full)
        return torch.randn(self.batch, channels, side, side)

    def dims(self, *axes: int) -> dict[int, Any]:
        """The dynamic dims of an input: dim 0, and ``axes`` where the extent is dynamic."""
        shape: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
        if self.extents is not None:
            low, high = (extent // self.step for extent in self.extents)
            extent = torch.export.Dim("extent", min=low, max=high)
            shape.update(dict.fromkeys(axes, extent if self.step == 1 else self.step * extent))
        return shape


def declare_torchvision_operators() -> None:
    """Declare the two operators that ``import torchvision`` expects.

    The wheel on PyPI is built for CUDA; next to a CPU-only PyTorch its extension does not load and
    the import fails because the operators do not exist.  Their schemas are all that it needs.
    """
    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[torch.library.Library] = []


def awake(model: nn.Module) -> None:
    """Give parameters that start at zero small random values.

    Biases, new heads and GRN weights start there; a comparison would not see what becomes of them.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.02)


def calibrated(built: Built, shape: tuple[int, ...], name: str | None = None) -> Built:
    """Batch norms with the statistics of a batch of random images of ``shape``, the input called ``name``.

    With those they start with, the activations of a deep random network vanish: in half precision every logit of
    mobilenet would be zero, and a comparison would compare nothing.
    """
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    built.model.train()
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        built.model(**{name: image}) if name else built.model(image)
    return built

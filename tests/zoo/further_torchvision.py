"""Further architectures of torchvision: whether they can be covered, in every float dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.request import Built, Request, calibrated

__all__ = ["FURTHER"]

Builder = Callable[[Request], Built]


def _registered(name: str, *shape: int, **options: Any) -> Builder:
    """A registered architecture without weights, given inputs of ``shape``."""

    def build(request: Request) -> Built:
        import torchvision

        model = torchvision.models.get_model(name, weights=None, **options)
        x = torch.randn(request.batch, *shape)
        return calibrated(Built(model, (x,), {}, (request.dims(),)), (2, *shape))

    return build


def _detector(name: str, **options: Any) -> Builder:
    """A detector, given a list of one image: there is no batch dim."""

    def build(request: Request) -> Built:
        import torchvision

        model = torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=64, **options
        )
        return Built(model, ([torch.randn(3, 64, 64)],), {}, None)

    return build


def _raft(request: Request) -> Built:
    from torchvision.models.optical_flow import raft_small

    class Flow(nn.Module):
        """The model with two updates instead of twelve."""

        def __init__(self) -> None:
            super().__init__()
            self.model = raft_small(weights=None)

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.model(first, second, num_flow_updates=2)[-1]

    images = {name: torch.randn(request.batch, 3, 128, 128).clamp(-1, 1) for name in ("first", "second")}
    return Built(Flow(), (), images, dict.fromkeys(images, request.dims()))


def _swin3d(request: Request) -> Built:
    from torchvision.models.video import SwinTransformer3d

    model = SwinTransformer3d([2, 4, 4], 16, [1, 2], [2, 2], [4, 2, 2], num_classes=10)
    return Built(model, (torch.randn(request.batch, 3, 4, 32, 32),), {}, {"x": request.dims()})


def _swin_v2(request: Request) -> Built:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    model = SwinTransformer(
        [4, 4], 16, [2, 1], [2, 2], [4, 4], num_classes=10, block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )  # fmt: skip
    return Built(model, (request.image(64, 64),), {}, {"x": request.dims()})


def _mvit(request: Request) -> Built:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
        MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
    ]
    model = MViT(
        spatial_size=(32, 32), temporal_size=4, block_setting=blocks, residual_pool=True, residual_with_cls_embed=False,
        rel_pos_embed=True, proj_after_attn=True, num_classes=10,
    )  # fmt: skip
    return Built(model, (torch.randn(request.batch, 3, 4, 32, 32),), {}, {"x": request.dims()})


FURTHER: dict[str, Builder] = {
    "googlenet": _registered("googlenet", 3, 64, 64, num_classes=10, init_weights=False, transform_input=True,
                             aux_logits=False),
    "lraspp_mobilenet_v3_large": _registered("lraspp_mobilenet_v3_large", 3, 64, 64, weights_backbone=None,
                                             num_classes=4),
    "mc3_18": _registered("mc3_18", 3, 8, 32, 32, num_classes=10),
    "mvit_v2": _mvit,
    "raft_small": _raft,
    "regnet_y_400mf": _registered("regnet_y_400mf", 3, 64, 64, num_classes=10),
    "shufflenet_v2_x0_5": _registered("shufflenet_v2_x0_5", 3, 64, 64, num_classes=10),
    "fcos_resnet50_fpn": _detector("fcos_resnet50_fpn"),
    "swin3d": _swin3d,
    "swin_v2": _swin_v2,
}  # fmt: skip

"""80 models of timm: of each family (a module of ``timm.models``) the smallest one, of the smallest families.

``python -m tests.model_table.timm_subjects`` counts parameters anew and prints the choice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.model_table.randomness import settled
from tests.model_table.subject import Call, Made, Point, Ranges, Subject, dynamic_dims, images

__all__ = ["CHOSEN", "subjects"]

CHOSEN = (
    "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32",
    "test_convnext", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s", "cspnext_tiny",
    "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_t8", "gcvit_xxtiny", "ghostnet_050",
    "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "adv_inception_v3", "lcnetv2_small", "levit_128s", "lowformer_b0", "test_mambaout",
    "test_coatnet", "poolformerv2_s12", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilevit_xxs",
    "mvitv2_tiny", "jx_nest_tiny", "test_nfnet", "pit_ti_224", "pvt_v2_b0", "rdnet_tiny", "regnetx_002",
    "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "test_resnet", "resnetv2_18", "rexnet_100",
    "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224",
    "twins_svt_small", "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos",
    "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p",
    "xcit_nano_12_p8_224",
)  # fmt: skip

# The least side that a model takes is one of these, or what it was published with.
_SIDES = (64, 96, 128)
_MANY = 80


def _created(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10, **options).eval()


def _least(name: str) -> tuple[nn.Module, int]:
    """A model, and the least side of images that it takes: those that know their image size are made for that side."""
    for side in _SIDES:
        for options in ({"img_size": side}, {}):
            try:
                model = _created(name, **options)
                with torch.no_grad():
                    model(torch.zeros(2, 3, side, side))
            except Exception:
                continue
            return model, side
    model = _created(name)
    return model, model.default_cfg["input_size"][-1]


def _made(name: str) -> Made:
    model, side = _least(name)
    return Made(settled(model, _call(Point(2, (side, side)))), ((side, 2 * side),) * 2)


def _call(point: Point) -> Call:
    return (images(point),), {}


def _dims(ranges: Ranges, step: int | None) -> Any:
    return (dynamic_dims(ranges, step, 2, 3),)


def subjects() -> list[Subject]:
    """In the order of their families."""
    return [Subject(name, "timm", partial(_made, name), _call, _dims) for name in CHOSEN]


def _choose() -> list[str]:
    """The names in ``CHOSEN``, from parameters counted without their memory."""
    import timm
    from timm.models import list_modules

    smallest = []
    for family in list_modules():
        sizes = []
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                model = timm.create_model(name)
            sizes.append((sum(parameter.numel() for parameter in model.parameters()), name))
        smallest.append((*min(sizes), family))
    return [name for _, name, family in sorted(sorted(smallest)[:_MANY], key=lambda one: one[2])]


if __name__ == "__main__":
    print("\n".join(_choose()))

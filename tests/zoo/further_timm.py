"""Further architectures of timm, made smaller than published: whether they can be covered, in every float dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.zoo.request import Built, Request, calibrated

__all__ = ["FURTHER"]

Builder = Callable[[Request], Built]


def _created(name: str, side: int = 64, **options: Any) -> Builder:
    """A registered architecture with ``options`` that make it small, given images of ``side``."""

    def build(request: Request) -> Built:
        import timm

        model = timm.create_model(name, num_classes=10, **options)
        return calibrated(Built(model, (request.image(side, side),), {}, {"x": request.dims(2, 3)}), (2, 3, side, side))

    return build


def _mvitv2(request: Request) -> Built:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    model = MultiScaleVit(MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=16), img_size=(64, 64), num_classes=10)
    return Built(model, (request.image(64, 64),), {}, {"x": request.dims()})


def _volo(request: Request) -> Built:
    from timm.models.volo import VOLO

    model = VOLO(
        layers=(1, 1, 1, 1), img_size=64, embed_dims=(16, 32, 32, 32), num_heads=(2, 2, 2, 2), mlp_ratio=2.0,
        downsamples=(True, False, False, False), outlook_attention=(True, False, False, False), stem_hidden_dim=16,
        num_classes=10,
    )  # fmt: skip
    return Built(model, (request.image(64, 64),), {}, {"x": request.dims()})


_TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}

FURTHER: dict[str, Builder] = {
    "beit_base_patch16_224": _created("beit_base_patch16_224", 32, **_TOKENS),
    "botnet26t_256": _created("botnet26t_256", 64, img_size=64),
    "cait_xxs24_224": _created("cait_xxs24_224", 32, **_TOKENS),
    "coat_tiny": _created("coat_tiny", 64, img_size=64),
    "crossvit_9_240": _created("crossvit_9_240", 240),
    "davit_tiny": _created("davit_tiny", 64, depths=(1, 1, 1, 1), embed_dims=(16, 32, 32, 32), num_heads=(2, 2, 2, 2),
                           window_size=2),
    "edgenext_xx_small": _created("edgenext_xx_small"),
    "efficientformerv2_s0": _created("efficientformerv2_s0", 64, img_size=64),
    "eva02_tiny_patch14_224": _created("eva02_tiny_patch14_224", 32, **_TOKENS),
    "fastvit_t8": _created("fastvit_t8", 64, layers=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32)),
    "gcvit_xxtiny": _created("gcvit_xxtiny", 64, img_size=64, window_size=(2, 2, 2, 2)),
    "ghostnetv3_100": _created("ghostnetv3_100"),
    "hgnetv2_b0": _created("hgnetv2_b0"),
    "hiera_tiny_224": _created("hiera_tiny_224", 64, img_size=(64, 64), embed_dim=16, stages=(1, 1, 1, 1)),
    "hrnet_w18_small": _created("hrnet_w18_small"),
    "inception_next_atto": _created("inception_next_atto", 64),
    "lambda_resnet26t": _created("lambda_resnet26t", 64),
    "mambaout_femto": _created("mambaout_femto", 64, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    "mvitv2": _mvitv2,
    "nf_regnet_b0": _created("nf_regnet_b0", 64),
    "pit_ti_224": _created("pit_ti_224", 64, img_size=64),
    "pvt_v2_b0": _created("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    "regnetz_b16": _created("regnetz_b16", 64),
    "repvit_m0_9": _created("repvit_m0_9", 64, embed_dim=(8, 16, 24, 32), depth=(1, 1, 1, 1)),
    "resnest14d": _created("resnest14d", 64),
    "samvit_base_patch16": _created("samvit_base_patch16", 64, **{**_TOKENS, "img_size": 64}, window_size=3),
    "sequencer2d_s": _created("sequencer2d_s", 64, img_size=64, layers=(1, 1, 1, 1), embed_dims=(16, 32, 32, 32),
                              hidden_sizes=(8, 8, 8, 8)),
    "swinv2_cr_tiny_224": _created("swinv2_cr_tiny_224", 64, img_size=64, embed_dim=16, depths=(1, 2, 1, 1),
                                   num_heads=(2, 2, 2, 2)),
    "tf_efficientnetv2_b0": _created("tf_efficientnetv2_b0", 64),
    "tiny_vit_5m_224": _created("tiny_vit_5m_224", 64, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1),
                                num_heads=(2, 2, 2, 2)),
    "tnt_s_patch16_224": _created("tnt_s_patch16_224", 32, img_size=32, depth=2),
    "twins_svt_small": _created("twins_svt_small", 64, img_size=64, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1),
                                num_heads=(2, 2, 2, 2)),
    "vit_base_patch16_siglip_224": _created("vit_base_patch16_siglip_224", 32, **_TOKENS),
    "vit_relpos_small_patch16_224": _created("vit_relpos_small_patch16_224", 32, **_TOKENS),
    "volo": _volo,
    "xcit_nano_12_p16_224": _created("xcit_nano_12_p16_224", 64, img_size=64, embed_dim=32, depth=2, num_heads=4),
}  # fmt: skip

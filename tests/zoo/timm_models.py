"""Models of timm, made without weights."""

from __future__ import annotations

from tests.zoo.request import Built, Request, calibrated


def deit_tiny_patch16_224(request: Request) -> Built:
    import timm

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    model = timm.create_model("deit_tiny_patch16_224", **request.pick(sizes, {}))
    return Built(model, (request.image(32, 224),), {}, {"x": request.dims(2, 3)})


def mixer_s32_224(request: Request) -> Built:
    from timm.models.mlp_mixer import MlpMixer

    if request.small:
        model = MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=32)
    else:
        model = MlpMixer(num_classes=1000, img_size=224, patch_size=32, num_blocks=8, embed_dim=512)
    return Built(model, (request.image(32, 224),), {}, {"x": request.dims(2, 3)})


def convnextv2_atto(request: Request) -> Built:
    import timm

    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 10}
    model = timm.create_model("convnextv2_atto", **request.pick(sizes, {}))
    return Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)})


def maxvit_nano_rw_256(request: Request) -> Built:
    import timm
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg, _rw_max_cfg

    if request.small:
        blocks = _rw_max_cfg(dim_head=8, rel_pos_dim=16)
        config = MaxxVitCfg(embed_dim=(16, 24), depths=(1, 1), block_type=("M",) * 2, stem_width=(8, 16), **blocks)
        model = MaxxVit(config, img_size=64, num_classes=10)
    else:
        model = timm.create_model("maxvit_nano_rw_256")
    return calibrated(
        Built(model, (request.image(64, 256),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 256, 256)),
    )


def levit_128s(request: Request) -> Built:
    import timm

    sizes = {
        "img_size": 64,
        "embed_dim": (16, 24, 32),
        "key_dim": 8,
        "num_heads": (2, 2, 4),
        "depth": (1, 1, 1),
        "num_classes": 10,
    }
    model = timm.create_model("levit_128s", **request.pick(sizes, {}))
    return calibrated(
        Built(model, (request.image(64, 224),), {}, {"x": request.dims(2, 3)}),
        request.pick((4, 3, 64, 64), (2, 3, 224, 224)),
    )

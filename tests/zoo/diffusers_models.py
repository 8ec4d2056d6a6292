"""Models of diffusers."""

from __future__ import annotations

import torch

from tests.zoo.request import Built, Request


def unet(request: Request) -> Built:
    from diffusers import UNet2DConditionModel

    if request.small:
        model = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        )
    else:  # Stable Diffusion 1.5
        model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    config = model.config
    sample = request.image(config.sample_size, config.sample_size, config.in_channels)
    text = torch.randn(request.batch, request.pick(8, 77), config.cross_attention_dim)
    return Built(
        model,
        (sample, torch.tensor(10, dtype=torch.int64), text),
        {"return_dict": False},
        {
            "sample": request.dims(2, 3),
            "timestep": None,
            "encoder_hidden_states": request.dims(),
            "return_dict": None,
        },
    )


def autoencoder_kl(request: Request) -> Built:
    from diffusers import AutoencoderKL

    if request.small:
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            sample_size=32,
        )
    else:  # Stable Diffusion 1.5
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
    return Built(
        model,
        (request.image(32, 256),),
        {"return_dict": False},
        {"sample": request.dims(2, 3), "return_dict": None},
    )

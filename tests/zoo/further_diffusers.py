"""Further architectures of diffusers, in small configurations: whether they can be covered, in every float dtype."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tests.zoo.request import Built, Request

__all__ = ["FURTHER"]

Builder = Callable[[Request], Built]


@dataclass(frozen=True)
class _Free:
    """A size of an input that may vary: the extent that is asked for, or the usual one."""

    usual: int


@dataclass(frozen=True)
class _Random:
    """A random input with these sizes after the batch."""

    shape: tuple[int | _Free, ...]

    def __call__(self, request: Request) -> torch.Tensor:
        sizes = (request.size(size.usual, size.usual) if isinstance(size, _Free) else size for size in self.shape)
        return torch.randn(request.batch, *sizes)

    def dims(self, request: Request) -> dict[int, Any]:
        return request.dims(*(axis for axis, size in enumerate(self.shape, 1) if isinstance(size, _Free)))


def _made(name: str, options: dict[str, Any], inputs: dict[str, Any]) -> Builder:
    """A model from its class name and options; inputs are functions of the batch size, or have no batch dim."""

    def build(request: Request) -> Built:
        import diffusers

        model = getattr(diffusers, name)(**options)
        kwargs: dict[str, Any] = {}
        shapes: dict[str, Any] = {}
        for key, value in inputs.items():
            if isinstance(value, _Random):
                kwargs[key], shapes[key] = value(request), value.dims(request)
            elif callable(value):
                kwargs[key], shapes[key] = value(request.batch), request.dims()
            else:
                kwargs[key], shapes[key] = value, pytree.tree_map(lambda _: None, value)
        if "return_dict" in inspect.signature(model.forward).parameters:
            kwargs["return_dict"], shapes["return_dict"] = False, None
        return Built(model, (), kwargs, shapes)

    return build


def _random(*shape: int | _Free) -> _Random:
    return _Random(shape)


def _each(value: float) -> Callable[[int], torch.Tensor]:
    """A number for each sample."""
    return lambda batch: torch.full((batch,), value)


def _ids(count: int) -> Callable[[int], torch.Tensor]:
    """Integers below ``count``, one for each sample."""
    return lambda batch: torch.arange(batch) % count


_SIDE, _LARGE, _WAVE = _Free(8), _Free(16), _Free(64)

_BLOCKS = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4}
_LEVELS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}

FURTHER: dict[str, Builder] = {
    "DiTTransformer2DModel": _made(
        "DiTTransformer2DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 8, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10},
        {"hidden_states": _random(4, _SIDE, _SIDE), "timestep": _ids(5), "class_labels": _ids(5)},
    ),
    "SD3Transformer2DModel": _made(
        "SD3Transformer2DModel",
        {**_BLOCKS, "num_layers": 2, "sample_size": 8, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 32,
         "caption_projection_dim": 32, "pooled_projection_dim": 16, "pos_embed_max_size": 20,
         "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        {"hidden_states": _random(4, _SIDE, _SIDE), "encoder_hidden_states": _random(6, 32),
         "pooled_projections": _random(16), "timestep": _each(7.0)},
    ),
    "FluxTransformer2DModel": _made(
        "FluxTransformer2DModel",
        {**_BLOCKS, "in_channels": 4, "num_single_layers": 1, "joint_attention_dim": 32, "pooled_projection_dim": 16,
         "axes_dims_rope": (2, 2, 4), "guidance_embeds": True},
        {"hidden_states": _random(16, 4), "encoder_hidden_states": _random(6, 32), "pooled_projections": _random(16),
         "timestep": _each(0.5), "guidance": _each(3.5), "img_ids": torch.rand(16, 3).round(),
         "txt_ids": torch.zeros(6, 3)},
    ),
    "PixArtTransformer2DModel": _made(
        "PixArtTransformer2DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 8, "sample_size": 8, "cross_attention_dim": 32,
         "caption_channels": 16, "use_additional_conditions": False},
        {"hidden_states": _random(4, _SIDE, _SIDE), "encoder_hidden_states": _random(6, 16), "timestep": _ids(5)},
    ),
    "HunyuanDiT2DModel": _made(
        "HunyuanDiT2DModel",
        {**_BLOCKS, "num_layers": 2, "in_channels": 4, "sample_size": 8, "patch_size": 2, "hidden_size": 32,
         "cross_attention_dim": 32, "cross_attention_dim_t5": 16, "pooled_projection_dim": 16, "text_len": 4,
         "text_len_t5": 4},
        {"hidden_states": _random(4, 8, 8), "timestep": _each(5.0), "encoder_hidden_states": _random(4, 32),
         "encoder_hidden_states_t5": _random(4, 16),
         "text_embedding_mask": lambda b: torch.ones(b, 4, dtype=torch.int64),
         "text_embedding_mask_t5": lambda b: torch.ones(b, 4, dtype=torch.int64),
         "image_meta_size": _random(6), "style": _ids(1), "image_rotary_emb": torch.randn(2, 16, 8)},
    ),
    "CogVideoXTransformer3DModel": _made(
        "CogVideoXTransformer3DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 16, "sample_width": 8,
         "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 6, "patch_size": 2},
        {"hidden_states": _random(2, 4, _SIDE, _SIDE), "encoder_hidden_states": _random(6, 16), "timestep": _ids(5)},
    ),
    "LTXVideoTransformer3DModel": _made(
        "LTXVideoTransformer3DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "caption_channels": 16},
        {"hidden_states": _random(16, 4), "encoder_hidden_states": _random(6, 16), "timestep": _ids(5),
         "encoder_attention_mask": lambda b: torch.ones(b, 6), "num_frames": 1, "height": 4, "width": 4},
    ),
    "WanTransformer3DModel": _made(
        "WanTransformer3DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
         "cross_attn_norm": True, "rope_max_seq_len": 32},
        {"hidden_states": _random(4, 2, _SIDE, _SIDE), "timestep": _ids(5), "encoder_hidden_states": _random(6, 16)},
    ),
    "AuraFlowTransformer2DModel": _made(
        "AuraFlowTransformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
         "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 16, "caption_projection_dim": 32,
         "out_channels": 4, "pos_embed_max_size": 400},
        {"hidden_states": _random(4, _SIDE, _SIDE), "encoder_hidden_states": _random(6, 16), "timestep": _each(0.5)},
    ),
    "SanaTransformer2DModel": _made(
        "SanaTransformer2DModel",
        {**_BLOCKS, "in_channels": 4, "out_channels": 4, "sample_size": 8, "num_cross_attention_heads": 4,
         "cross_attention_head_dim": 8, "cross_attention_dim": 32, "caption_channels": 16, "patch_size": 1},
        {"hidden_states": _random(4, _SIDE, _SIDE), "encoder_hidden_states": _random(6, 16), "timestep": _ids(5)},
    ),
    "Lumina2Transformer2DModel": _made(
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "in_channels": 4, "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1,
         "num_attention_heads": 4, "num_kv_heads": 2, "axes_dim_rope": (4, 2, 2), "axes_lens": (32, 16, 16),
         "cap_feat_dim": 16, "multiple_of": 16},
        {"hidden_states": _random(4, _SIDE, _SIDE), "timestep": _each(0.5), "encoder_hidden_states": _random(6, 16),
         "encoder_attention_mask": lambda b: torch.ones(b, 6, dtype=torch.bool)},
    ),
    "QwenImageTransformer2DModel": _made(
        "QwenImageTransformer2DModel",
        {**_BLOCKS, "in_channels": 16, "out_channels": 4, "joint_attention_dim": 16, "axes_dims_rope": (2, 2, 4)},
        {"hidden_states": _random(16, 16), "encoder_hidden_states": _random(6, 16), "timestep": _each(0.5),
         "encoder_hidden_states_mask": lambda b: torch.ones(b, 6, dtype=torch.bool), "img_shapes": [(1, 4, 4)]},
    ),
    "UVit2DModel": _made(
        "UVit2DModel",
        {"hidden_size": 32, "cond_embed_dim": 16, "micro_cond_encode_dim": 8, "micro_cond_embed_dim": 32,
         "encoder_hidden_size": 16, "vocab_size": 64, "codebook_size": 60, "in_channels": 16, "block_out_channels": 16,
         "num_res_blocks": 1, "block_num_heads": 2, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "sample_size": 8},
        {"input_ids": lambda b: torch.randint(0, 60, (b, 8, 8)), "encoder_hidden_states": _random(6, 16),
         "pooled_text_emb": _random(16), "micro_conds": lambda b: torch.full((b, 4), 8.0)},
    ),
    "UNet1DModel": _made(
        "UNet1DModel",
        {"sample_size": 32, "block_out_channels": (32, 32, 64), "layers_per_block": 1, "in_channels": 4,
         "out_channels": 4,
         "time_embedding_type": "fourier", "use_timestep_embedding": False,
         "extra_in_channels": 64},
        {"sample": _random(4, _Free(32)), "timestep": torch.tensor(3)},
    ),
    "UNet2DModel": _made(
        "UNet2DModel",
        {**_LEVELS, "sample_size": 16, "attention_head_dim": 8, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "num_class_embeds": 8},
        {"sample": _random(3, _LARGE, _LARGE), "timestep": torch.tensor(3), "class_labels": _ids(5)},
    ),
    "UNet3DConditionModel": _made(
        "UNet3DConditionModel",
        {**_LEVELS, "sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 4,
         "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D",
         "CrossAttnUpBlock3D")},
        {"sample": _random(4, 2, _SIDE, _SIDE), "timestep": torch.tensor(3), "encoder_hidden_states": _random(6, 16)},
    ),
    "UNetSpatioTemporalConditionModel": _made(
        "UNetSpatioTemporalConditionModel",
        {"sample_size": 8, "in_channels": 8, "block_out_channels": (32, 32), "layers_per_block": 1,
         "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
         "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), "cross_attention_dim": 16,
         "num_attention_heads": 4, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24},
        {"sample": _random(2, 8, _SIDE, _SIDE), "timestep": torch.tensor(3), "encoder_hidden_states": _random(1, 16),
         "added_time_ids": _random(3)},
    ),
    "AutoencoderTiny": _made(
        "AutoencoderTiny",
        {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
         "num_decoder_blocks": (1, 1)},
        {"sample": _random(3, _LARGE, _LARGE)},
    ),
    "AutoencoderDC": _made(
        "AutoencoderDC",
        {"latent_channels": 4, "attention_head_dim": 8, "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
         "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_block_out_channels": (8, 16),
         "decoder_block_out_channels": (8, 16), "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
         "encoder_qkv_multiscales": ((), (5,)), "decoder_qkv_multiscales": ((), (5,)),
         "downsample_block_type": "Conv", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu"},
        {"sample": _random(3, _LARGE, _LARGE)},
    ),
    "VQModel": _made(
        "VQModel",
        {**_LEVELS, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
         "num_vq_embeddings": 16, "vq_embed_dim": 4, "sample_size": 16},
        {"sample": _random(3, _LARGE, _LARGE)},
    ),
    "AutoencoderKLWan": _made(
        "AutoencoderKLWan",
        {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1,
         "temperal_downsample": [False, True, True],
         "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
        {"sample": _random(3, 1, _LARGE, _LARGE)},
    ),
    "AutoencoderOobleck": _made(
        "AutoencoderOobleck",
        {"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_channels": 8, "decoder_input_channels": 4,
         "audio_channels": 2, "channel_multiples": [1, 2]},
        {"sample": _random(2, _WAVE)},
    ),
    "ControlNetModel": _made(
        "ControlNetModel",
        {**_LEVELS, "in_channels": 4, "cross_attention_dim": 16, "attention_head_dim": 4,
         "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "conditioning_embedding_out_channels": (8, 16)},
        {"sample": _random(4, 16, 16), "timestep": torch.tensor(3), "encoder_hidden_states": _random(6, 16),
         "controlnet_cond": _random(3, 32, 32)},
    ),
}  # fmt: skip

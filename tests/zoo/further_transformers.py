"""Further architectures of transformers, in small configurations: whether they can be covered, in every float dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.request import Built, Request
from tests.zoo.transformers_models import padding_mask

__all__ = ["FURTHER"]

Builder = Callable[[Request], Built]

_VOCABULARY = 128
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_TEXT = {"vocab_size": _VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **_SIZES}
_IMAGE = {"image_size": 32, "patch_size": 8, **_SIZES}
_TWO_SIDES = {
    "vocab_size": _VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": False,
}
_CONVOLUTIONS = {"conv_dim": (8, 8, 8), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2)}
_SOUND = {**_SIZES, **_CONVOLUTIONS, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}


def _made(config: str, model: str, **options: Any) -> nn.Module:
    """A model from the names of its configuration class and of its own class."""
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**options))


def _encoder(config: str, model: str, length: int = 16, **options: Any) -> Builder:
    """Token ids with a padding mask."""

    def build(request: Request) -> Built:
        tokens = request.tokens(_VOCABULARY, length)
        kwargs = {"input_ids": tokens, "attention_mask": padding_mask(tokens)}
        return Built(_made(config, model, **options), (), kwargs, dict.fromkeys(kwargs, request.dims(1)))

    return build


def _decoder(config: str, model: str, length: int = 16, **options: Any) -> Builder:
    """Token ids alone."""

    def build(request: Request) -> Built:
        kwargs = {"input_ids": request.tokens(_VOCABULARY, length)}
        made = _made(config, model, **{"use_cache": False, **options})
        return Built(made, (), kwargs, {"input_ids": request.dims(1)})

    return build


def _translator(config: str, model: str, **options: Any) -> Builder:
    """Token ids with a padding mask for the encoder, token ids for the decoder."""

    def build(request: Request) -> Built:
        tokens = request.tokens(_VOCABULARY)
        kwargs = {
            "input_ids": tokens,
            "attention_mask": padding_mask(tokens),
            "decoder_input_ids": torch.randint(0, _VOCABULARY, (request.batch, 7)),
        }
        return Built(_made(config, model, **options), (), kwargs, dict.fromkeys(kwargs, request.dims()))

    return build


def _image(config: str, model: str, side: int = 32, **options: Any) -> Builder:
    """Pixels."""

    def build(request: Request) -> Built:
        kwargs = {"pixel_values": request.image(side, side)}
        return Built(_made(config, model, **options), (), kwargs, {"pixel_values": request.dims(2, 3)})

    return build


def _sound(config: str, model: str, length: int = 400, **options: Any) -> Builder:
    """A wave of sound."""

    def build(request: Request) -> Built:
        kwargs = {"input_values": torch.randn(request.batch, length)}
        return Built(_made(config, model, **options), (), kwargs, {"input_values": request.dims(1)})

    return build


def _given(make: Callable[[], nn.Module], **inputs: Callable[[int], torch.Tensor]) -> Builder:
    """A model with inputs of its own, each from the batch size."""

    def build(request: Request) -> Built:
        kwargs = {name: value(request.batch) for name, value in inputs.items()}
        return Built(make(), (), kwargs, dict.fromkeys(kwargs, request.dims()))

    return build


def _tokens(length: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.randint(3, _VOCABULARY, (batch, length))


def _random(*shape: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.randn(batch, *shape)


def _two_towers(name: str) -> nn.Module:
    """A model of text and images."""
    import transformers

    config = getattr(transformers, f"{name}Config")
    text = {**_TEXT, "max_position_embeddings": 16}
    extra: dict[str, Any] = {"projection_dim": 32}
    if name == "Siglip":
        text |= {"projection_size": 32}
        extra = {}
    return getattr(transformers, f"{name}Model")(config(text_config=text, vision_config=_IMAGE, **extra))


def _blip() -> nn.Module:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    text = {**_TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 16}
    return BlipForImageTextRetrieval(
        BlipConfig(text_config=text, vision_config=_IMAGE, projection_dim=16, image_text_hidden_size=16)
    )


def _clap() -> nn.Module:
    from transformers import ClapConfig, ClapModel

    audio = {
        "num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 8, "depths": [2, 2], "num_attention_heads": [2, 2], "hidden_size": 16,
        "projection_dim": 16, "enable_fusion": False, "num_classes": 4, "fusion_type": None,
    }  # fmt: skip
    text = {**_TEXT, "max_position_embeddings": 32, "projection_dim": 16, "pad_token_id": 1}
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))


def _swin_backbone() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[2, 2, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def _mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerModel

    return Mask2FormerModel(
        Mask2FormerConfig(
            backbone_config=_swin_backbone(), feature_size=32, mask_feature_size=32, hidden_dim=32,
            encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=3, num_attention_heads=2,
            dim_feedforward=32, num_queries=5, num_labels=4,
        )
    )  # fmt: skip


def _maskformer() -> nn.Module:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerModel

    decoder = DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5, use_timm_backbone=False,
        backbone_config=_swin_backbone(),
    )  # fmt: skip
    return MaskFormerModel(
        MaskFormerConfig(fpn_feature_size=32, mask_feature_size=32, backbone_config=_swin_backbone(),
                         decoder_config=decoder, num_labels=4)
    )  # fmt: skip


def _resnet_backbone() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _deformable_detr() -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    return DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            use_timm_backbone=False, backbone_config=_resnet_backbone(), d_model=32, encoder_layers=1,
            decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, num_queries=5, num_feature_levels=3, num_labels=4,
        )
    )  # fmt: skip


def _rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[16, 24, 32], encoder_ffn_dim=32,
            encoder_attention_heads=2, d_model=16, num_queries=5, decoder_in_channels=[16, 16, 16],
            decoder_ffn_dim=32, decoder_attention_heads=2, decoder_layers=2, num_labels=4,
        )
    )  # fmt: skip


def _depth_anything() -> nn.Module:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=2,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(backbone_config=backbone, patch_size=8, reassemble_hidden_size=32,
                            neck_hidden_sizes=[8, 16, 16, 16], fusion_hidden_size=16, head_hidden_size=8)
    )  # fmt: skip


def _sam() -> nn.Module:
    from transformers import SamConfig, SamModel

    vision = {**_SIZES, "image_size": 32, "patch_size": 4, "output_channels": 16, "mlp_dim": 64, "window_size": 3,
              "global_attn_indexes": [1], "num_pos_feats": 8}  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": 32, "patch_size": 4, "mask_input_channels": 4}
    mask = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16}  # fmt: skip
    return SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask))


def _owlvit() -> nn.Module:
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    text = {**_TEXT, "max_position_embeddings": 16}
    return OwlViTForObjectDetection(OwlViTConfig(text_config=text, vision_config=_IMAGE, projection_dim=32))


def _grounding_dino() -> nn.Module:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection

    return GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=_swin_backbone(), text_config=BertConfig(**_TEXT), d_model=32, encoder_layers=1,
            decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, num_queries=5, num_feature_levels=4, max_text_len=16,
        )
    )  # fmt: skip


def _speecht5() -> nn.Module:
    from transformers import SpeechT5Config, SpeechT5ForSpeechToText

    sizes = {name: value for name, value in _TWO_SIDES.items() if name not in ("d_model", "max_position_embeddings")}
    return SpeechT5ForSpeechToText(
        SpeechT5Config(**sizes, **_CONVOLUTIONS, hidden_size=32, max_speech_positions=64, max_text_positions=64,
                       num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4)
    )  # fmt: skip


def _llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**_IMAGE),
            text_config=LlamaConfig(**_TEXT, num_key_value_heads=2, use_cache=False),
            image_token_index=3, vision_feature_layer=-1,
        )
    )  # fmt: skip


def _image_tokens(batch: int) -> torch.Tensor:
    """16 image tokens (one per patch) before 8 words."""
    return torch.cat([torch.full((batch, 16), 3), torch.randint(4, _VOCABULARY, (batch, 8))], 1)


_SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
_MOE = {**_TEXT, "num_key_value_heads": 2, "num_experts_per_tok": 2}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}

FURTHER: dict[str, Builder] = {
    # Encoders of text
    "AlbertModel": _encoder("AlbertConfig", "AlbertModel", **_TEXT, embedding_size=16),
    "ElectraForPreTraining": _encoder("ElectraConfig", "ElectraForPreTraining", **_TEXT, embedding_size=16),
    "MPNetModel": _encoder("MPNetConfig", "MPNetModel", **_TEXT),
    "DebertaModel": _encoder("DebertaConfig", "DebertaModel", **_TEXT, relative_attention=True,
                             pos_att_type=["p2c", "c2p"], max_relative_positions=16),
    "DebertaV2Model": _encoder("DebertaV2Config", "DebertaV2Model", **_TEXT, relative_attention=True,
                               pos_att_type=["p2c", "c2p"], position_buckets=8, share_att_key=True, conv_kernel_size=3),
    "LongformerModel": _encoder("LongformerConfig", "LongformerModel", **_TEXT, attention_window=4),
    "BigBirdModel": _encoder("BigBirdConfig", "BigBirdModel", 64, **_TEXT, block_size=4, num_random_blocks=2),
    "ModernBertModel": _encoder("ModernBertConfig", "ModernBertModel", **_TEXT, local_attention=8,
                                cls_token_id=1, sep_token_id=2),
    "FNetModel": _given(lambda: _made("FNetConfig", "FNetModel", **_TEXT), input_ids=_tokens(16)),
    "RoFormerModel": _encoder("RoFormerConfig", "RoFormerModel", **_TEXT, embedding_size=32),
    "XLNetModel": _encoder("XLNetConfig", "XLNetModel", vocab_size=_VOCABULARY, d_model=32, n_layer=2, n_head=4,
                           d_inner=64),
    "FunnelModel": _encoder("FunnelConfig", "FunnelModel", vocab_size=_VOCABULARY, block_sizes=[1, 1], d_model=32,
                            n_head=4, d_head=8, d_inner=64),
    "Data2VecTextModel": _encoder("Data2VecTextConfig", "Data2VecTextModel", **_TEXT),
    # Decoders of text
    "MistralForCausalLM": _decoder("MistralConfig", "MistralForCausalLM", **_TEXT, num_key_value_heads=2,
                                   sliding_window=8),
    "MixtralForCausalLM": _decoder("MixtralConfig", "MixtralForCausalLM", **_MOE, num_local_experts=4,
                                   experts_implementation="batched_mm"),
    "OlmoeForCausalLM": _decoder("OlmoeConfig", "OlmoeForCausalLM", **_MOE, num_experts=4),
    "GptOssForCausalLM": _decoder("GptOssConfig", "GptOssForCausalLM", **_MOE, num_local_experts=4, head_dim=8,
                                  sliding_window=8),
    "DeepseekV3ForCausalLM": _decoder("DeepseekV3Config", "DeepseekV3ForCausalLM", **{**_MOE, "num_key_value_heads": 4},
                                      n_routed_experts=4, n_group=2, topk_group=1, moe_intermediate_size=16,
                                      q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
                                      v_head_dim=8, first_k_dense_replace=1),
    "Gemma2ForCausalLM": _decoder("Gemma2Config", "Gemma2ForCausalLM", **_TEXT, num_key_value_heads=2, head_dim=8,
                                  sliding_window=8),
    "Gemma3ForCausalLM": _decoder("Gemma3TextConfig", "Gemma3ForCausalLM", **_TEXT, num_key_value_heads=2, head_dim=8,
                                  sliding_window=8),
    "PhiForCausalLM": _decoder("PhiConfig", "PhiForCausalLM", **_TEXT),
    "FalconForCausalLM": _decoder("FalconConfig", "FalconForCausalLM", **_TEXT),
    "OPTForCausalLM": _decoder("OPTConfig", "OPTForCausalLM", **_TEXT, ffn_dim=64, word_embed_proj_dim=16),
    "BloomForCausalLM": _decoder("BloomConfig", "BloomForCausalLM", vocab_size=_VOCABULARY, hidden_size=32, n_layer=2,
                                 n_head=4),
    "GPTNeoXForCausalLM": _decoder("GPTNeoXConfig", "GPTNeoXForCausalLM", **_TEXT),
    "GPTJForCausalLM": _decoder("GPTJConfig", "GPTJForCausalLM", vocab_size=_VOCABULARY, n_embd=32, n_layer=2,
                                n_head=4, rotary_dim=4),
    "MambaForCausalLM": _decoder("MambaConfig", "MambaForCausalLM", 6, **_TEXT, state_size=4, conv_kernel=3),
    "RecurrentGemmaForCausalLM": _decoder("RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", 6, **_TEXT,
                                          num_key_value_heads=1, head_dim=8, lru_width=32,
                                          block_types=["recurrent", "attention"], attention_window_size=4),
    # Text to text
    "BartModel": _translator("BartConfig", "BartModel", **_TWO_SIDES),
    "MarianMTModel": _translator("MarianConfig", "MarianMTModel", **_TWO_SIDES),
    "M2M100Model": _translator("M2M100Config", "M2M100Model", **_TWO_SIDES),
    "LEDModel": _translator("LEDConfig", "LEDModel", **_TWO_SIDES, attention_window=4,
                            max_encoder_position_embeddings=64, max_decoder_position_embeddings=64),
    # Images
    "Dinov2Model": _image("Dinov2Config", "Dinov2Model", **_IMAGE, mlp_ratio=2),
    "BeitModel": _image("BeitConfig", "BeitModel", **_IMAGE, use_relative_position_bias=True),
    "ConvNextModel": _image("ConvNextConfig", "ConvNextModel", 64, **_STAGES),
    "SwinModel": _image("SwinConfig", "SwinModel", **_SWIN, window_size=4),
    "Swinv2Model": _image("Swinv2Config", "Swinv2Model", **_SWIN, window_size=4),
    "DPTForDepthEstimation": _image("DPTConfig", "DPTForDepthEstimation", **{**_IMAGE, "num_hidden_layers": 4},
                                    backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 16, 16, 16],
                                    fusion_hidden_size=16),
    "DepthAnythingForDepthEstimation": _given(_depth_anything, pixel_values=_random(3, 32, 32)),
    "YolosForObjectDetection": _image("YolosConfig", "YolosForObjectDetection", **{**_IMAGE, "image_size": [32, 32]},
                                      num_detection_tokens=5),
    "VideoMAEModel": _given(lambda: _made("VideoMAEConfig", "VideoMAEModel", **_IMAGE, num_frames=4),
                            pixel_values=_random(4, 3, 32, 32)),
    "CvtModel": _image("CvtConfig", "CvtModel", 64, embed_dim=[8, 16, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    "FocalNetModel": _image("FocalNetConfig", "FocalNetModel", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1],
                            focal_levels=[2, 2], focal_windows=[3, 3]),
    "MobileViTModel": _image("MobileViTConfig", "MobileViTModel", 64, image_size=64, hidden_sizes=[16, 24, 32],
                             neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32], num_attention_heads=2),
    "SuperPointForKeypointDetection": _image("SuperPointConfig", "SuperPointForKeypointDetection",
                                             encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16,
                                             descriptor_decoder_dim=16),
    "Mask2FormerModel": _given(_mask2former, pixel_values=_random(3, 64, 64)),
    "MaskFormerModel": _given(_maskformer, pixel_values=_random(3, 64, 64)),
    "DeformableDetrForObjectDetection": _given(_deformable_detr, pixel_values=_random(3, 64, 64)),
    "RTDetrForObjectDetection": _given(_rt_detr, pixel_values=_random(3, 64, 64)),
    "SamModel": _given(_sam, pixel_values=_random(3, 32, 32), input_points=_random(1, 2, 2)),
    # Images and text
    "SiglipModel": _given(lambda: _two_towers("Siglip"), input_ids=_tokens(16), pixel_values=_random(3, 32, 32)),
    "AltCLIPModel": _given(lambda: _two_towers("AltCLIP"), input_ids=_tokens(12), pixel_values=_random(3, 32, 32)),
    "BlipForImageTextRetrieval": _given(_blip, input_ids=_tokens(12), pixel_values=_random(3, 32, 32)),
    "OwlViTForObjectDetection": _given(_owlvit, input_ids=_tokens(12), pixel_values=_random(3, 32, 32)),
    "GroundingDinoForObjectDetection": _given(_grounding_dino, input_ids=_tokens(12), pixel_values=_random(3, 64, 64)),
    "LlavaForConditionalGeneration": _given(_llava, input_ids=_image_tokens, pixel_values=_random(3, 32, 32)),
    # Sound
    "ClapModel": _given(_clap, input_ids=_tokens(12), input_features=_random(1, 64, 16)),
    "HubertModel": _sound("HubertConfig", "HubertModel", **_SOUND),
    "WavLMModel": _sound("WavLMConfig", "WavLMModel", **_SOUND, num_buckets=8, max_bucket_distance=16),
    "Data2VecAudioModel": _sound("Data2VecAudioConfig", "Data2VecAudioModel", **{
        **_SOUND, "num_conv_pos_embeddings": 2}, conv_pos_kernel_size=3),
    "SpeechT5ForSpeechToText": _given(_speecht5, input_values=_random(400), decoder_input_ids=_tokens(7)),
    "WhisperForConditionalGeneration": _given(
        lambda: _made("WhisperConfig", "WhisperForConditionalGeneration", **_TWO_SIDES, num_mel_bins=8,
                      max_source_positions=32, max_target_positions=64),
        input_features=_random(8, 64), decoder_input_ids=_tokens(7)),
    "WhisperForAudioClassification": _given(
        lambda: _made("WhisperConfig", "WhisperForAudioClassification", **_TWO_SIDES, num_mel_bins=8,
                      max_source_positions=32, max_target_positions=64, use_weighted_layer_sum=True,
                      classifier_proj_size=16),
        input_features=_random(8, 64)),
    "EncodecModel": _given(
        lambda: _made("EncodecConfig", "EncodecModel", num_filters=4, hidden_size=16, codebook_size=16,
                      codebook_dim=16, upsampling_ratios=[4, 2], num_lstm_layers=1, target_bandwidths=[24.0],
                      sampling_rate=240),
        input_values=_random(1, 64)),
    "ASTModel": _given(
        lambda: _made("ASTConfig", "ASTModel", **_SIZES, patch_size=8, frequency_stride=8, time_stride=8,
                      max_length=32, num_mel_bins=16),
        input_values=_random(32, 16)),
    # Series and other inputs
    "PatchTSTModel": _given(
        lambda: _made("PatchTSTConfig", "PatchTSTModel", num_input_channels=3, context_length=32, patch_length=8,
                      patch_stride=8, d_model=16, num_attention_heads=2, num_hidden_layers=2, ffn_dim=32),
        past_values=_random(32, 3)),
    "DecisionTransformerModel": _given(
        lambda: _made("DecisionTransformerConfig", "DecisionTransformerModel", state_dim=5, act_dim=3, hidden_size=32,
                      n_layer=2, n_head=4, max_ep_len=16),
        states=_random(6, 5), actions=_random(6, 3), rewards=_random(6, 1), returns_to_go=_random(6, 1),
        timesteps=lambda batch: torch.arange(6).expand(batch, 6)),
}  # fmt: skip

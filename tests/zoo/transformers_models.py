"""Models of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.zoo.request import Built, Request, calibrated


def padding_mask(tokens: torch.Tensor) -> torch.Tensor:
    """A padding mask: the second half of the first sequence is padding."""
    mask = torch.ones_like(tokens)
    mask[0, tokens.shape[1] // 2 :] = 0
    return mask


def _masked(request: Request, model: nn.Module, vocabulary: int) -> Built:
    """An encoder with token ids and a padding mask."""
    tokens = request.tokens(vocabulary)
    shapes = {"input_ids": request.dims(1), "attention_mask": request.dims(1)}
    return Built(model, (), {"input_ids": tokens, "attention_mask": padding_mask(tokens)}, shapes)


def _causal(request: Request, model: nn.Module, vocabulary: int) -> Built:
    """A decoder with token ids."""
    return Built(model, (), {"input_ids": request.tokens(vocabulary)}, {"input_ids": request.dims(1)})


def bert(request: Request, **options: Any) -> Built:
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64}  # fmt: skip
    config = BertConfig(**request.pick(sizes, {}), **options)
    return _masked(request, BertModel(config), config.vocab_size)


def roberta(request: Request) -> Built:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 66}  # fmt: skip
    full = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = RobertaConfig(num_labels=3, **request.pick(sizes, full))
    return _masked(request, RobertaForSequenceClassification(config), config.vocab_size)


def distilbert(request: Request) -> Built:
    from transformers import DistilBertConfig, DistilBertModel

    sizes = {"vocab_size": 128, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = DistilBertConfig(**request.pick(sizes, {}))
    return _masked(request, DistilBertModel(config), config.vocab_size)


def gpt2(request: Request, use_cache: bool = False, **options: Any) -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 128, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(use_cache=use_cache, **request.pick(sizes, {}), **options)
    return _causal(request, GPT2LMHeadModel(config), config.vocab_size)


def llama(request: Request, use_cache: bool = False, **options: Any) -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    # Llama 3.2 1B
    full = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "tie_word_embeddings": True}  # fmt: skip
    config = LlamaConfig(use_cache=use_cache, **request.pick(small, full), **options)
    return _causal(request, LlamaForCausalLM(config), config.vocab_size)


def qwen3(request: Request, **options: Any) -> Built:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    # Qwen3 0.6B
    full = {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "tie_word_embeddings": True}  # fmt: skip
    config = Qwen3Config(use_cache=False, **request.pick(small, full), **options)
    return _causal(request, Qwen3ForCausalLM(config), config.vocab_size)


def t5(request: Request, **options: Any) -> Built:
    from transformers import T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
             "relative_attention_max_distance": 16, "relative_attention_num_buckets": 8}  # fmt: skip
    config = T5Config(use_cache=False, **request.pick(small, {}), **options)
    tokens = request.tokens(config.vocab_size)
    answer = torch.randint(0, config.vocab_size, (request.batch, request.pick(7, 32)))
    return Built(
        T5ForConditionalGeneration(config),
        (),
        {"input_ids": tokens, "attention_mask": padding_mask(tokens), "decoder_input_ids": answer},
        {"input_ids": request.dims(1), "attention_mask": request.dims(1), "decoder_input_ids": request.dims()},
    )


def whisper(request: Request) -> Built:
    from transformers import WhisperConfig, WhisperModel

    small = {"vocab_size": 128, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_source_positions": 32, "max_target_positions": 64, "pad_token_id": 0,
             "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}  # fmt: skip
    config = WhisperConfig(use_cache=False, **request.pick(small, {}))
    # The encoder takes 30 s of audio, no more and no less.
    features = torch.randn(request.batch, config.num_mel_bins, 2 * config.max_source_positions)
    return Built(
        WhisperModel(config),
        (),
        {"input_features": features, "decoder_input_ids": request.tokens(config.vocab_size, 16, 64)},
        {"input_features": request.dims(), "decoder_input_ids": request.dims(1)},
    )


def clip(request: Request) -> Built:
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 32, "projection_dim": 16, "pad_token_id": 1,
            "bos_token_id": 0, "eos_token_id": 127}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 32, "patch_size": 8, "projection_dim": 16}  # fmt: skip
    small = {"text_config": text, "vision_config": vision, "projection_dim": 16}
    config = CLIPConfig(**request.pick(small, {}))
    tokens = request.tokens(config.text_config.vocab_size, 12, 77)
    side = config.vision_config.image_size
    return Built(
        CLIPModel(config),
        (),
        {
            "input_ids": tokens,
            "pixel_values": torch.randn(request.batch, 3, side, side),
            "attention_mask": padding_mask(tokens),
        },
        {"input_ids": request.dims(1), "pixel_values": request.dims(), "attention_mask": request.dims(1)},
    )


def vit(request: Request) -> Built:
    from transformers import ViTConfig, ViTModel

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64}  # fmt: skip
    config = ViTConfig(**request.pick(sizes, {}))
    kwargs: dict[str, Any] = {"pixel_values": request.image(config.image_size, config.image_size)}
    shapes: dict[str, Any] = {"pixel_values": request.dims(2, 3)}
    if request.extent is not None or request.extents is not None:
        kwargs["interpolate_pos_encoding"], shapes["interpolate_pos_encoding"] = True, None
    return Built(ViTModel(config), (), kwargs, shapes)


def segformer(request: Request) -> Built:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    small = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
             "decoder_hidden_size": 16, "num_labels": 4}  # fmt: skip
    config = SegformerConfig(**request.pick(small, {"num_labels": 150}))
    kwargs = {"pixel_values": request.image(64, 512)}
    built = Built(SegformerForSemanticSegmentation(config), (), kwargs, {"pixel_values": request.dims(2, 3)})
    return calibrated(built, request.pick((4, 3, 64, 64), (2, 3, 512, 512)), "pixel_values")


def detr(request: Request) -> Built:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    narrow = {"embedding_size": 8, "hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1]}
    backbone = ResNetConfig(out_features=["stage4"], **request.pick(narrow, {}))
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 5,
             "num_labels": 4}  # fmt: skip
    config = DetrConfig(use_timm_backbone=False, backbone_config=backbone, **request.pick(small, {}))
    kwargs = {"pixel_values": request.image(64, 800)}
    return Built(DetrForObjectDetection(config), (), kwargs, {"pixel_values": request.dims(2, 3)})


def wav2vec2(request: Request) -> Built:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
             "conv_dim": (8, 8, 8), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 2),
             "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}  # fmt: skip
    config = Wav2Vec2Config(**request.pick(small, {}))
    sound = torch.randn(request.batch, request.size(400, 16000))
    return Built(Wav2Vec2Model(config), (), {"input_values": sound}, {"input_values": request.dims(1)})

"""The 15 models, with weights made at random, and small ones of the same kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn


class Case(NamedTuple):
    model: nn.Module
    args: tuple[torch.Tensor, ...]


class Picked(nn.Module):
    """A model of which one tensor of the result is taken."""

    def __init__(self, model: nn.Module, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.call(self.model, *args)


def vision(name: str, batch: int, side: int = 224, key: str = "") -> Callable[[bool], Case]:
    def build(small: bool) -> Case:
        import torchvision

        given: dict[str, Any] = {"weights": None}
        if key:
            given["weights_backbone"] = None
        model = torchvision.models.get_model(name, **given)
        image = torch.randn(1 if small and not key else batch, 3, *(2 * (64 if small and "vit" not in name else side,)))
        return Case(Picked(model, lambda model, x: model(x)[key]) if key else model, (image,))

    return build


def tokens(batch: int, length: int, words: int, make: Callable[[bool], nn.Module], key: str) -> Callable[[bool], Case]:
    def build(small: bool) -> Case:
        cache = {} if key == "last_hidden_state" else {"use_cache": False}
        model = Picked(make(small), lambda model, ids: getattr(model(input_ids=ids, **cache), key))
        return Case(model, (torch.randint(0, words, (1, 16) if small else (batch, length)),))

    return build


def _bert(small: bool) -> nn.Module:
    from transformers import BertConfig, BertModel

    few = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    return BertModel(BertConfig(**few if small else {}))


def _gpt2(small: bool) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**{"n_layer": 1, "n_embd": 64, "n_head": 4} if small else {}))


def _llama(small: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, groups = (64, 1, 4, 2) if small else (2048, 16, 32, 8)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            vocab_size=32000,
        )
    )


def _t5(small: bool) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    width, layers, heads = (64, 1, 4) if small else (768, 12, 12)
    return T5EncoderModel(T5Config(d_model=width, d_kv=width // heads, d_ff=2048, num_layers=layers, num_heads=heads))


def _clip(small: bool) -> Case:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    few = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    model = CLIPVisionModel(CLIPVisionConfig(**few if small else {}))
    picked = Picked(model, lambda model, x: model(pixel_values=x).last_hidden_state)
    return Case(picked, (torch.randn(1 if small else 8, 3, 224, 224),))


def _whisper(small: bool) -> Case:
    from transformers import WhisperConfig, WhisperModel

    width, layers, heads = (64, 1, 4) if small else (512, 6, 8)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    encoder = WhisperModel(config).encoder
    return Case(Picked(encoder, lambda model, x: model(x).last_hidden_state), (torch.randn(1, 80, 3000),))


def _unet(small: bool) -> Case:
    from diffusers import UNet2DConditionModel

    few: dict[str, Any] = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
    }
    side, width, batch = (16, 64, 1) if small else (64, 768, 2)
    model = UNet2DConditionModel(sample_size=side, cross_attention_dim=width, **(few if small else {}))
    picked = Picked(model, lambda model, x, t, text: model(x, t, text).sample)
    noise, text = torch.randn(batch, 4, side, side), torch.randn(batch, 77, width)
    return Case(picked, (noise, torch.tensor([500.0]), text))


MODELS: dict[str, Callable[[bool], Case]] = {
    "resnet50 b1": vision("resnet50", 1),
    "resnet50 b32": vision("resnet50", 32),
    "bert base b8 s128": tokens(8, 128, 30522, _bert, "last_hidden_state"),
    "swin_t b8": vision("swin_t", 8),
    "vit_b_16 b8": vision("vit_b_16", 8),
    "gpt2 b8 s128": tokens(8, 128, 50257, _gpt2, "logits"),
    "llama 1B b1 s128": tokens(1, 128, 32000, _llama, "logits"),
    "llama 1B b1 s1024": tokens(1, 1024, 32000, _llama, "logits"),
    "sd 1.5 unet b2": _unet,
    "convnext_tiny b8": vision("convnext_tiny", 8),
    "efficientnet_b0 b8": vision("efficientnet_b0", 8),
    "deeplabv3_resnet50 b2 512": vision("deeplabv3_resnet50", 2, 512, "out"),
    "clip vision b8": _clip,
    "t5 encoder b8 s128": tokens(8, 128, 32128, _t5, "last_hidden_state"),
    "whisper base encoder b1": _whisper,
}


def build(name: str, small: bool) -> Case:
    """A model in evaluation mode.

    Heads that are made as zeros get values, and batch norms the statistics of the example, so that there is an error
    to see: with those they are made with, what comes out of EfficientNet is too small for float16.
    """
    torch.manual_seed(0)
    case = MODELS[name](small)
    model = case.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
            norm.train()
        if norms:
            model(*case.args)
    return case._replace(model=model.eval())

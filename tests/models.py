"""The models that tests, examples and benchmarks share.

Every entry builds a model of a public library from its own configuration class, with random
weights from a fixed seed, in eval mode.  ``small`` keeps the structure and shrinks the widths and
depths to what a test can afford; ``full`` is the published configuration.

``python -m tests.models --ops`` prints every operator that the captured models contain.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

Size = Literal["small", "full"]


class Built(NamedTuple):
    """A model with example inputs, and the dynamic dims of those inputs (None: everything static)."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any


@dataclass(frozen=True)
class Entry:
    """One model of the zoo; ``build("small")`` or ``build("full")`` makes it."""

    name: str
    builder: Callable[..., Built]

    def build(self, size: Size = "small", *, batch: int = 2, dynamic: bool = True) -> Built:
        """The model in eval mode with inputs of batch size ``batch``.

        ``dynamic`` makes the batch dim of every input range over 1..8.
        """
        # transformers imports torchvision where it is installed.
        declare_torchvision_operators()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = self.builder(size == "small", batch)
        built.model.eval()
        return built if dynamic else built._replace(dynamic_shapes=None)


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


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=8)


def _image(size: int, batch: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def _tokens(batch: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length))


def _calibrated(built: Built) -> Built:
    """Batch norms with the statistics of the example.

    With those they start with, the activations of a deep random network vanish: in half precision every logit of
    mobilenet would be zero, and a comparison would compare nothing.
    """
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    built.model.train()
    with torch.no_grad():
        built.model(*built.args, **built.kwargs)
    return built


def _resnet50(small: bool, batch: int) -> Built:
    from torchvision.models.resnet import Bottleneck, ResNet

    if small:
        model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8)
    else:
        model = ResNet(Bottleneck, [3, 4, 6, 3])
    return Built(model, (_image(64 if small else 224, batch),), {}, {"x": {0: _batch()}})


def _mobilenet_v3_large(small: bool, batch: int) -> Built:
    from torchvision.models import mobilenetv3

    multiplier = {"width_mult": 0.25} if small else {}
    settings, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_large", **multiplier)
    model = mobilenetv3.MobileNetV3(settings, last, num_classes=10 if small else 1000)
    return _calibrated(Built(model, (_image(64 if small else 224, batch),), {}, {"x": {0: _batch()}}))


def _vit_b_16(small: bool, batch: int) -> Built:
    from torchvision.models.vision_transformer import VisionTransformer

    if small:
        model = VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
        )
    else:
        model = VisionTransformer(
            image_size=224, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
        )
    # The head starts at zero: every logit would be zero and no test would see a wrong one.
    nn.init.normal_(model.heads[-1].weight, std=0.02)
    return Built(model, (_image(32 if small else 224, batch),), {}, {"x": {0: _batch()}})


def _bert(small: bool, batch: int) -> Built:
    from transformers import BertConfig, BertModel

    config = (
        BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
        if small
        else BertConfig()
    )
    length = 16 if small else 128
    tokens = _tokens(batch, length, config.vocab_size)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0
    shape = {0: _batch()}
    return Built(
        BertModel(config),
        (),
        {"input_ids": tokens, "attention_mask": mask},
        {"input_ids": shape, "attention_mask": shape},
    )


def _gpt2(small: bool, batch: int, use_cache: bool = False) -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    small_sizes = {"vocab_size": 128, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(use_cache=use_cache, **(small_sizes if small else {}))
    tokens = _tokens(batch, 16 if small else 128, config.vocab_size)
    return Built(GPT2LMHeadModel(config), (), {"input_ids": tokens}, {"input_ids": {0: _batch()}})


def _llama(small: bool, batch: int, use_cache: bool = False) -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    if small:
        sizes = {
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    else:  # Llama 3.2 1B
        sizes = {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "tie_word_embeddings": True,
        }
    config = LlamaConfig(use_cache=use_cache, **sizes)
    tokens = _tokens(batch, 16 if small else 128, config.vocab_size)
    return Built(LlamaForCausalLM(config), (), {"input_ids": tokens}, {"input_ids": {0: _batch()}})


def _vit(small: bool, batch: int) -> Built:
    from transformers import ViTConfig, ViTModel

    small_sizes = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = ViTConfig(**(small_sizes if small else {}))
    return Built(
        ViTModel(config),
        (),
        {"pixel_values": _image(config.image_size, batch)},
        {"pixel_values": {0: _batch()}},
    )


def _unet(small: bool, batch: int) -> Built:
    from diffusers import UNet2DConditionModel

    if small:
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
    sample = _image(config.sample_size, batch, config.in_channels)
    text = torch.randn(batch, 8 if small else 77, config.cross_attention_dim)
    shape = {0: _batch()}
    return Built(
        model,
        (sample, torch.tensor(10, dtype=torch.int64), text),
        {"return_dict": False},
        {"sample": shape, "timestep": None, "encoder_hidden_states": shape, "return_dict": None},
    )


ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("resnet50", _resnet50),
        Entry("mobilenet_v3_large", _mobilenet_v3_large),
        Entry("vit_b_16", _vit_b_16),
        Entry("BertModel", _bert),
        Entry("GPT2LMHeadModel", _gpt2),
        Entry("LlamaForCausalLM", _llama),
        Entry("ViTModel", _vit),
        Entry("UNet2DConditionModel", _unet),
    )
}

# Decoders that return their key-value cache (a ``DynamicCache``) beside the logits.
CACHED: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("GPT2LMHeadModel+cache", partial(_gpt2, use_cache=True)),
        Entry("LlamaForCausalLM+cache", partial(_llama, use_cache=True)),
    )
}


# ------------------------------------------------------------------------------------ operators


class Use(NamedTuple):
    """One operator call as text: its operands with types and shapes."""

    op: str
    signature: str


def uses(graph: torch.fx.Graph) -> Iterator[Use]:
    """The operator calls of a canonical graph; constants are marked, sizes are numbers or symbols."""
    for node in graph.nodes:
        if node.op == "call_function":
            keywords = [f"{key}={_text(value)}" for key, value in node.kwargs.items() if value is not None]
            arguments = ", ".join([*map(_text, node.args), *keywords])
            yield Use(_op_name(node.target), f"({arguments}) -> {_text(node)}")


def _op_name(target: Any) -> str:
    return str(target) if hasattr(target, "_schema") else f"{target.__module__}.{target.__name__}"


def _text(value: Any) -> str:
    if isinstance(value, torch.fx.Node):
        text = _text(value.meta.get("val"))
        return f"const {text}" if value.op == "get_attr" else text
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.").replace("float", "f").replace("int", "i")
        return f"{dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value) if isinstance(value, torch.SymInt) else repr(value)


def _print_operators(names: Sequence[str], sizes: Sequence[Size]) -> None:
    from engine.capture import capture

    counts: dict[str, Counter[str]] = {}
    calls: dict[str, Counter[str]] = {}
    where: dict[Use, set[str]] = {}
    for name in names:
        for size in sizes:
            for dynamic in (False, True):
                built = ZOO[name].build(size, dynamic=dynamic)
                start = time.perf_counter()
                captured = capture(built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes)
                seconds = time.perf_counter() - start
                label = f"{name} {size}{' dynamic' if dynamic else ''}"
                print(f"{label}: {len(captured.graph.nodes)} nodes, captured in {seconds:.1f} s", file=sys.stderr)
                for use in uses(captured.graph):
                    counts.setdefault(use.op, Counter())[name] += 1
                    calls.setdefault(use.op, Counter())[use.signature] += 1
                    where.setdefault(use, set()).add(label)
    for op in sorted(counts, key=lambda op: -counts[op].total()):
        models = ", ".join(f"{name} {count}" for name, count in counts[op].items())
        print(f"## {op}  total {counts[op].total()}  models: {models}")
        for signature, count in calls[op].most_common():
            print(f"    {count:4d}  {signature}   [{', '.join(sorted(where[Use(op, signature)]))}]")


def main() -> None:
    parser = argparse.ArgumentParser(description="List what the captured models are made of.")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--ops", action="store_true", help="print every operator with its operands")
    parser.add_argument("--full", action="store_true", help="the published configurations instead of small ones")
    options = parser.parse_args()
    if options.ops:
        _print_operators(options.models or list(ZOO), ["full" if options.full else "small"])
    else:
        print("\n".join(ZOO))


if __name__ == "__main__":
    main()

"""The models that tests, examples and benchmarks share: the public model list.

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

from tests.zoo import diffusers_models, timm_models, torchvision_models, transformers_models
from tests.zoo.request import Built, Request, awake, declare_torchvision_operators

__all__ = ["CACHED", "WRITTEN_OUT", "ZOO", "Built", "Entry", "declare_torchvision_operators"]

Size = Literal["small", "full"]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo; ``build("small")`` or ``build("full")`` makes it.

    Attributes:
        extents: sequence lengths or image sides that the small model is run with on one engine, ascending: min, two
            between, max.  Empty where the model has one size only.
        step: extents are multiples of this.
        fixed: part of the error for a model that takes one extent only, by its own code; empty where it takes several.
    """

    name: str
    builder: Callable[[Request], Built]
    extents: tuple[int, ...] = ()
    step: int = 1
    fixed: str = ""

    def build(
        self,
        size: Size = "small",
        *,
        batch: int = 2,
        dynamic: bool | Literal["extent"] = True,
        extent: int | None = None,
    ) -> Built:
        """The model in eval mode with inputs of batch size ``batch`` and of ``extent``.

        ``dynamic`` makes the batch dim of every input range over 1..8; ``"extent"`` makes the sequence or the image
        size dynamic as well.
        """
        # transformers imports torchvision where it is installed.
        declare_torchvision_operators()
        extents = (self.extents[0], self.extents[-1]) if dynamic == "extent" else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = self.builder(Request(size == "small", batch, extent, extents, self.step))
            awake(built.model)
        built.model.eval()
        return built if dynamic else built._replace(dynamic_shapes=None)


_SIDES = {"extents": (32, 64, 96, 160, 192), "step": 32}
_FEW = {"extents": (16, 24, 32, 48, 64), "step": 8}
_LENGTHS = {"extents": (2, 5, 16, 33, 48)}

ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("resnet50", torchvision_models.resnet50, **_SIDES),
        Entry("mobilenet_v3_large", torchvision_models.mobilenet_v3_large, **_SIDES),
        Entry("efficientnet_b0", torchvision_models.efficientnet_b0, **_SIDES),
        Entry("densenet121", torchvision_models.densenet121, **_SIDES),
        Entry("convnext_tiny", torchvision_models.convnext_tiny, **_SIDES),
        Entry("vit_b_16", torchvision_models.vit_b_16, **_FEW, fixed="torch._assert(h == self.image_size"),
        # From 33 pixels on: a map no larger than a window is not shifted, and the export would be of that case.
        Entry("swin_t", torchvision_models.swin_t, (64, 96, 128, 160, 192), step=32),
        Entry("deeplabv3_resnet50", torchvision_models.deeplabv3_resnet50, **_SIDES),
        Entry("deit_tiny_patch16_224", timm_models.deit_tiny_patch16_224, **_FEW, fixed="H == self.img_size[0]"),
        Entry("mixer_s32_224", timm_models.mixer_s32_224, **_FEW, fixed="H == self.img_size[0]"),
        Entry("convnextv2_atto", timm_models.convnextv2_atto, **_SIDES),
        Entry("maxvit_nano_rw_256", timm_models.maxvit_nano_rw_256, (16, 32, 64, 96, 128), step=16),
        # Its tables of attention biases are of one resolution.
        Entry("levit_128s", timm_models.levit_128s, **_SIDES, fixed="only holds for sizes from 64 to 64"),
        Entry("BertModel", transformers_models.bert, **_LENGTHS),
        Entry("RobertaForSequenceClassification", transformers_models.roberta, **_LENGTHS),
        Entry("DistilBertModel", transformers_models.distilbert, **_LENGTHS),
        Entry("GPT2LMHeadModel", transformers_models.gpt2, **_LENGTHS),
        Entry("LlamaForCausalLM", transformers_models.llama, **_LENGTHS),
        Entry("Qwen3ForCausalLM", transformers_models.qwen3, **_LENGTHS),
        Entry("T5ForConditionalGeneration", transformers_models.t5, **_LENGTHS),
        Entry("WhisperModel", transformers_models.whisper, **_LENGTHS),
        Entry("CLIPModel", transformers_models.clip, (2, 5, 12, 20, 32)),
        Entry("ViTModel", transformers_models.vit, (16, 24, 40, 48, 64), step=8),
        Entry("SegformerForSemanticSegmentation", transformers_models.segformer, **_SIDES),
        Entry("DetrForObjectDetection", transformers_models.detr, **_SIDES),
        Entry("Wav2Vec2Model", transformers_models.wav2vec2, (200, 317, 400, 555, 800)),
        Entry("UNet2DConditionModel", diffusers_models.unet, (8, 12, 16, 24, 32), step=4),
        Entry("AutoencoderKL", diffusers_models.autoencoder_kl, (16, 24, 32, 40, 64), step=8),
    )
}

# Decoders that return their key-value cache (a ``DynamicCache``) beside the logits.
CACHED: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("GPT2LMHeadModel+cache", partial(transformers_models.gpt2, use_cache=True)),
        Entry("LlamaForCausalLM+cache", partial(transformers_models.llama, use_cache=True)),
    )
}

# Models whose attention is written out as matmul, softmax and matmul.
WRITTEN_OUT: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("BertModel+eager", partial(transformers_models.bert, attn_implementation="eager"), **_LENGTHS),
        Entry("GPT2LMHeadModel+eager", partial(transformers_models.gpt2, attn_implementation="eager"), **_LENGTHS),
        Entry("LlamaForCausalLM+eager", partial(transformers_models.llama, attn_implementation="eager"), **_LENGTHS),
        Entry("Qwen3ForCausalLM+eager", partial(transformers_models.qwen3, attn_implementation="eager"), **_LENGTHS),
        Entry(
            "T5ForConditionalGeneration+eager", partial(transformers_models.t5, attn_implementation="eager"), **_LENGTHS
        ),
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

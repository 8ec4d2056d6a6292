"""A language model as one engine that reads the prompt and writes tokens, its cache kept by the module.

``python examples/generate.py`` makes a small Llama with random weights; ``--model PATH`` takes one of transformers'.
On a machine without a GPU the engine's network is interpreted, which is slow: the default model is small.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import torch

import engine
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()  # a torchvision of CUDA beside a PyTorch without stops transformers

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel  # noqa: E402
from transformers.integrations.executorch import TorchExportableModuleWithStaticCache  # noqa: E402


def compiled(model: PreTrainedModel, batch: int, longest: int) -> engine.CompiledModule:
    """One engine with two profiles: one token at a time, and up to the whole cache for a prompt.

    Args:
        longest: prompt and answer together, in tokens.
    """
    model.generation_config.cache_implementation = "static"
    exportable = TorchExportableModuleWithStaticCache(model, batch_size=batch, max_cache_len=longest)
    counts = ((1, 1, 1), (2, max(2, longest // 2), longest))
    arguments = {
        "input_ids": engine.Input(profiles=[_profile((batch,), count) for count in counts], dtype=torch.int64),
        "cache_position": engine.Input(profiles=[_profile((), count) for count in counts], dtype=torch.int64),
    }
    return engine.compile(exportable, (), arguments)


def _profile(lead: tuple[int, ...], counts: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    names = ("min_shape", "opt_shape", "max_shape")
    return {name: (*lead, count) for name, count in zip(names, counts, strict=True)}


def stream(
    module: engine.CompiledModule, prompt: torch.Tensor, count: int, uniforms: torch.Tensor | None = None
) -> Iterator[torch.Tensor]:
    """Give ``count`` tokens [batch, 1] one after the other, for a prompt [batch, length].

    Args:
        uniforms: numbers in 0..1 [count, batch] to draw tokens with; without them the likeliest is taken.
    """
    # What an earlier sequence left in the cache is never looked at: the mask ends at the position.
    logits = module(input_ids=prompt, cache_position=torch.arange(prompt.shape[1], device=prompt.device))
    for step in range(count):
        scores = logits[:, -1].float()
        if uniforms is None:
            token = scores.argmax(-1, keepdim=True)
        else:
            up_to = scores.softmax(-1).cumsum(-1)
            token = torch.searchsorted(up_to, uniforms[step, :, None] * up_to[:, -1:]).clamp(max=scores.shape[-1] - 1)
        yield token
        if step + 1 < count:
            position = torch.tensor([prompt.shape[1] + step], device=prompt.device)
            logits = module(input_ids=token, cache_position=position)


def main() -> None:
    """Compile a model, and print tokens as they come, and how many there are a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a name or a path that transformers knows")
    parser.add_argument("--prompt", type=int, default=8, help="length of the random prompt")
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model)
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                             num_attention_heads=4, num_key_value_heads=2))  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)
    with torch.no_grad():
        module = compiled(model, 1, options.prompt + options.tokens)
        print(module.report)
        if device.type == "cuda":
            module.set_cuda_graphs(True)
        prompt = torch.randint(3, model.config.vocab_size, (1, options.prompt), device=device)
        started = time.perf_counter()
        for number, token in enumerate(stream(module, prompt, options.tokens), 1):
            print(int(token), end=" ", flush=True)
            speed = number / (time.perf_counter() - started)
            print(f"\r{number} tokens, {speed:.1f} a second", end="", file=sys.stderr)
    print()


if __name__ == "__main__":
    main()

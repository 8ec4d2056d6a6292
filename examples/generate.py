"""A language model as one engine that reads the prompt and writes tokens, its cache kept by the module.

``python examples/generate.py`` makes a small Llama with random weights; ``--model PATH`` takes one of transformers'.
On a machine without a GPU the engine's network is interpreted, which is slow: the default model is small.
"""

from __future__ import annotations

import argparse

import torch

from engine.generation import Generator
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()  # a torchvision of CUDA beside a PyTorch without stops transformers

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402


def main() -> None:
    """Compile a model, and print tokens as they come, and how many there are a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a name or a path that transformers knows")
    parser.add_argument("--prompt", type=int, default=8, help="length of the random prompt")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--sample", action="store_true", help="draw tokens instead of taking the likeliest")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model)
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                             num_attention_heads=4, num_key_value_heads=2))  # fmt: skip
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator(model, max_cache_len=options.prompt + options.tokens, do_sample=options.sample)
    print(generator.module.report)
    prompt = torch.randint(3, model.config.vocab_size, (1, options.prompt))
    print(*generator.generate(prompt, options.tokens, progress=True)[0].tolist())


if __name__ == "__main__":
    main()

"""Tokens a second of a language model with a static cache: one engine, eager PyTorch and Inductor, in the same loop.

    python -m benchmarks.generate [--size 1b|small] [--dtype bfloat16] [--batch 1,8] [--prompt 128] [--tokens 512]
                                  [--backends eager,inductor,engine,engine:int8,engine:int4,engine:float8]

A Llama of random weights.  Each backend reads the prompt and then writes one token after the other, the likeliest each
time; prompt and step are medians, in milliseconds.  ``floor`` is the time that reading the weights and the used cache
takes at the bandwidth of a copy measured in this run, and ``over floor`` the step over it.  Ratios are over eager.
``engine:int8`` and its kind are the engine of the model with weights that torchao quantised: int8 and float8 by rows,
int4 by groups of 128; they read less than the floor says.  ``engine_steps`` has an engine of its own for steps.
Without a GPU only the small model runs, in the interpreter, which says nothing about speed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmarks.performance import timing
from engine.generation import Generator
from tests.zoo.request import declare_torchvision_operators

declare_torchvision_operators()

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, StaticCache  # noqa: E402

_BACKENDS = ("eager", "inductor", "engine")
_SIZES = {
    "1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 16384,
    },
    "small": {
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}

Generate = Callable[[torch.Tensor, int], Iterator[torch.Tensor]]


@dataclass
class Times:
    """Of one backend: seconds to be ready, then milliseconds, and the tokens that came."""

    ready: float
    prompt: float
    step: float
    tokens: torch.Tensor


def main() -> None:
    """Measure every backend for every batch, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--size", choices=_SIZES, default="1b" if gpu else "small")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--batch", default="1,8" if gpu else "1")
    parser.add_argument("--prompt", type=int, default=128 if gpu else 8)
    parser.add_argument("--tokens", type=int, default=512 if gpu else 8)
    parser.add_argument("--backends", default=",".join(_BACKENDS))
    parser.add_argument("--lock", help="a file: processes that share it compile at once and are timed one by one")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if gpu else "cpu")
    model = LlamaForCausalLM(LlamaConfig(**_SIZES[options.size])).eval().to(device, getattr(torch, options.dtype))
    for batch in map(int, options.batch.split(",")):
        prompt = torch.randint(3, model.config.vocab_size, (batch, options.prompt), device=device)
        found: dict[str, Times | str] = {}
        for name in options.backends.split(","):
            try:
                with torch.no_grad():
                    found[name] = _measured(name, model, prompt, options.tokens, options.lock)
            except Exception as error:
                traceback.print_exc()
                found[name] = str(error).splitlines()[0][:100]
        _show(found, model, prompt, options.tokens)


def _measured(name: str, model: PreTrainedModel, prompt: torch.Tensor, count: int, lock: str | None) -> Times:
    longest = prompt.shape[1] + count
    backend, _, weights = name.partition(":")
    with timing.compiling(lock):
        started = time.perf_counter()
        if weights:
            model = _quantized(model, weights)
        if backend in ("engine", "engine_steps"):
            apart = backend == "engine_steps"
            generate = Generator(model, prompt.shape[0], longest, separate_steps=apart).stream
        else:
            generate = _loop(model, prompt, longest, backend == "inductor")
        list(generate(prompt, 4))  # records graphs, and compiles
        ready = time.perf_counter() - started
    with timing.alone(lock):
        prompts = [_timed(lambda: list(generate(prompt, 1))) for _ in range(5)]
        kept: list[torch.Tensor] = []
        whole = _timed(lambda: kept.extend(token.clone() for token in generate(prompt, count)))
    first = statistics.median(prompts)
    return Times(ready, first, (whole - first) / (count - 1), torch.cat(kept, 1))


def _quantized(model: PreTrainedModel, weights: str) -> PreTrainedModel:
    """A copy of the model whose linear layers hold quantised weights."""
    from torchao.quantization import Float8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    configs = {
        "int8": IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)),
        "int4": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(128)),
        "float8": Float8WeightOnlyConfig(),
    }
    model = copy.deepcopy(model)
    quantize_(model, configs[weights])
    return model


def _loop(model: PreTrainedModel, prompt: torch.Tensor, longest: int, inductor: bool) -> Generate:
    """The same loop on the model itself; only steps go through Inductor, whose graphs are of one shape."""
    cache = StaticCache(config=model.config, max_cache_len=longest)
    torch._dynamo.reset()
    step = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if inductor else model.forward

    def generate(prompt: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
        cache.reset()
        position = torch.arange(prompt.shape[1], device=prompt.device)
        token, forward = prompt, model.forward
        for _ in range(count):
            logits = forward(
                input_ids=token,
                cache_position=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            token = logits[:, -1].argmax(-1, keepdim=True)
            yield token
            position, forward = position[-1:] + 1, step

    return generate


def _timed(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    _wait()
    started = time.perf_counter()
    call()
    _wait()
    return (time.perf_counter() - started) * 1e3


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _floor(model: PreTrainedModel, batch: int, used: float) -> float:
    """Milliseconds to read the weights and ``used`` rows of the cache once, at the measured bandwidth of a copy."""
    config = model.config
    weights = sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    cache = 2 * config.num_hidden_layers * batch * used * width * model.dtype.itemsize
    block = torch.empty(1 << 30 if torch.cuda.is_available() else 1 << 24, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(block)
    target.copy_(block)
    copy = statistics.median(_timed(lambda: target.copy_(block)) for _ in range(5))
    return (weights + cache) / (2 * block.nbytes) * copy


def _show(found: dict[str, Times | str], model: PreTrainedModel, prompt: torch.Tensor, count: int) -> None:
    batch, length = prompt.shape
    floor = _floor(model, batch, length + count / 2)
    print(f"batch {batch}, {length} tokens in, {count} out, {model.dtype}; floor of a step {floor:.3f} ms")
    print(f"{'':14}{'ready s':>9}{'prompt ms':>11}{'step ms':>10}{'tokens/s':>10}{'ratio':>8}{'over floor':>12}  same")
    eager = found.get("eager")
    for name, times in found.items():
        if isinstance(times, str):
            print(f"{name:14}{times}")
            continue
        ratio = f"{eager.step / times.step:8.2f}" if isinstance(eager, Times) else f"{'-':>8}"
        same = f"{(times.tokens == eager.tokens).float().mean():.0%}" if isinstance(eager, Times) else "-"
        print(
            f"{name:14}{times.ready:9.1f}{times.prompt:11.2f}{times.step:10.3f}{batch * 1e3 / times.step:10.1f}{ratio}"
            f"{times.step / floor:12.2f}  {same}"
        )


if __name__ == "__main__":
    main()

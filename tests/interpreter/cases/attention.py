from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from engine.tensorrt import load
from tests.interpreter.case import LayerCase, Net, grid, name, rand

HALVES = (torch.float16, torch.bfloat16)

# Scores and values are exact in TF32 (see ``grid``) and probabilities are not: their relative error is up to 2^-10
# in its mantissa of 10 bits.  They sum to 1, so an output is off by 2^-10 times the largest value, which is 2.
PROBABILITIES = {torch.float32: (0.0, 2 * 2**-10)}


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: str, softmax: bool = True) -> Tensor:
    share = q.shape[1] // k.shape[1]
    key, value = (t.float().repeat_interleave(share, 1) for t in (k, v))
    scores = q.float() @ key.mT
    n, m = scores.shape[-2:]
    if causal != "NONE":
        i, j = torch.arange(n)[:, None], torch.arange(m)
        shift = m - n if causal == "LOWER_RIGHT" else 0
        scores = scores.masked_fill(j > i + shift, -1e30)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30) if mask.dtype == torch.bool else scores + mask.float()
    return ((scores.softmax(-1) if softmax else scores) @ value).to(q.dtype)


def attentions() -> Iterator[LayerCase]:
    def build(causal: str, softmax: bool = True) -> Any:
        def made(net: Net, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
            op = net.trt.AttentionNormalizationOp.SOFTMAX if softmax else net.trt.AttentionNormalizationOp.NONE
            if hasattr(net.network, "add_attention_v2"):
                layer = net.network.add_attention_v2(q, k, v, op, getattr(net.trt.CausalMaskKind, causal))
            elif causal == "LOWER_RIGHT":
                raise AttributeError("this TensorRT aligns causal masks at the upper left only")
            else:
                layer = net.network.add_attention(q, k, v, op, causal != "NONE")
            layer.decomposable = True
            if mask is not None:
                layer.mask = mask
            return layer

        return made

    def tensors(dtype: torch.dtype, queries: int, keys: int, heads: int, shared: int) -> dict[str, Tensor]:
        return {
            "q": grid(2, heads, queries, 64, dtype=dtype, low=-0.3125, high=0.3125, step=0.0625),
            "k": grid(2, shared, keys, 64, dtype=dtype, seed=1),
            "v": grid(2, shared, keys, 64, dtype=dtype, seed=2),
        }

    for dtype, causal, (queries, keys) in product(
        (*HALVES, torch.float32), ("NONE", "UPPER_LEFT", "LOWER_RIGHT"), ((32, 32), (16, 48), (1, 40))
    ):
        yield LayerCase(
            name("attention", dtype, causal, queries, keys),
            build(causal),
            tensors(dtype, queries, keys, 4, 4),
            lambda q, k, v, causal=causal: _attended(q, k, v, None, causal),
            tolerance=PROBABILITIES.get(dtype),
        )
    for dtype, shared in product(HALVES, (1, 2)):
        yield LayerCase(
            name("attention-grouped", dtype, shared),
            build("NONE"),
            tensors(dtype, 32, 32, 4, shared),
            lambda q, k, v: _attended(q, k, v, None, "NONE"),
        )
    for dtype, kind, shape in product(
        (*HALVES, torch.float32), ("bool", "add"), ((2, 4, 32, 48), (1, 1, 32, 48), (2, 1, 32, 48))
    ):
        mask = rand(*shape, dtype=torch.bool, seed=5) if kind == "bool" else grid(*shape, dtype=dtype, seed=5)
        if kind == "bool":
            mask[..., 0] = True
        yield LayerCase(
            name("attention-mask", dtype, kind, shape),
            build("NONE"),
            {**tensors(dtype, 32, 48, 4, 4), "mask": mask},
            lambda q, k, v, m: _attended(q, k, v, m, "NONE"),
            tolerance=PROBABILITIES.get(dtype),
        )
    for dtype in (*HALVES, torch.float32):
        # A query that is nan attends to every key, and so gives nan.
        query = {**tensors(dtype, 32, 48, 4, 4), "mask": torch.ones(1, 1, 32, 48, dtype=torch.bool)}
        query["q"][0, 0, 3] = torch.nan
        yield LayerCase(
            name("attention-nan", dtype),
            build("NONE"),
            query,
            lambda q, k, v, m: _attended(q, k, v, m, "NONE"),
            tolerance=PROBABILITIES.get(dtype),
        )
    yield LayerCase(
        "attention-dynamic",
        build("NONE"),
        tensors(torch.float16, 32, 32, 4, 4),
        lambda q, k, v: _attended(q, k, v, None, "NONE"),
        dynamic=dict.fromkeys("qkv", (0, 2)),
    )
    # TensorRT-RTX 1.6.1 applies the softmax here too.
    softmax = load().__name__ == "tensorrt_rtx"
    yield LayerCase(
        "attention-no-softmax",
        build("NONE", False),
        tensors(torch.float16, 32, 32, 4, 4),
        lambda q, k, v: _attended(q, k, v, None, "NONE", softmax),
        tolerance=None if softmax else (1e-2, 5e-2),
    )


def rotations() -> Iterator[LayerCase]:
    for interleaved, part, cached, dtype in product(
        (False, True), (0, 8), (False, True), (torch.float32, torch.float16)
    ):
        half = (part or 16) // 2
        caches = (10, half) if cached else (2, 5, half)
        inputs = {
            "x": rand(2, 3, 5, 16, dtype=dtype),
            "c": rand(*caches, dtype=dtype, low=-1, high=1, seed=1),
            "s": rand(*caches, dtype=dtype, low=-1, high=1, seed=2),
        }
        if cached:
            inputs["p"] = rand(2, 5, dtype=torch.int64, low=0, high=10)

        def build(net: Net, x: Any, c: Any, s: Any, p: Any = None, a: Any = (interleaved, part)) -> Any:
            layer = net.network.add_rotary_embedding(x, c, s, *a)
            if p is not None:
                layer.set_input(3, p)
            return layer

        def reference(
            x: Tensor,
            c: Tensor,
            s: Tensor,
            p: Tensor | None = None,
            interleaved: bool = interleaved,
            half: int = half,
        ) -> Tensor:
            if p is not None:
                c, s = c[p], s[p]
            y = x.clone()
            for i in range(half):
                first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                a, b = x[..., first].float(), x[..., second].float()
                cosine, sine = (t[:, None, :, i].float() for t in (c, s))
                y[..., first] = (a * cosine - b * sine).to(x.dtype)
                y[..., second] = (a * sine + b * cosine).to(x.dtype)
            return y

        yield LayerCase(
            name("rotary", "pairs" if interleaved else "halves", part, "cached" if cached else "direct", dtype),
            build,
            inputs,
            reference,
        )


def updates() -> Iterator[LayerCase]:
    def build(net: Net, cache: Any, update: Any, at: Any) -> Any:
        return net.network.add_kv_cache_update(cache, update, at, net.trt.KVCacheMode.LINEAR)

    def reference(cache: Tensor, update: Tensor, at: Tensor) -> Tensor:
        result = cache.clone()
        for b, start in enumerate(at.tolist()):
            result[b, :, start : start + update.shape[2]] = update[b]
        return result

    for dtype, length in product((torch.float32, *HALVES), (1, 3)):
        inputs = {
            "cache": rand(2, 3, 8, 16, dtype=dtype),
            "update": rand(2, 3, length, 16, dtype=dtype, seed=1),
            "at": torch.tensor([0, 4], dtype=torch.int32),
        }
        yield LayerCase(name("kv-cache", dtype, length), build, inputs, reference)

    def packed(net: Net, cache: Any, update: Any, at: Any, bounds: Any) -> Any:
        layer = build(net, cache, update, at)
        if not hasattr(layer, "update_form"):
            raise AttributeError("this TensorRT takes no packed updates")
        layer.update_form = net.trt.AttentionIOForm.PACKED_NHD
        layer.update_lengths = bounds
        return layer

    def unpacked(cache: Tensor, update: Tensor, at: Tensor, bounds: Tensor) -> Tensor:
        result = cache.clone()
        for b, start in enumerate(at.tolist()):
            part = update[bounds[b] : bounds[b + 1]].transpose(0, 1)
            result[b, :, start : start + part.shape[1]] = part
        return result

    yield LayerCase(
        "kv-cache-packed",
        packed,
        {
            "cache": rand(2, 3, 8, 16, dtype=torch.float16),
            "update": rand(5, 3, 16, dtype=torch.float16, seed=1),
            "at": torch.tensor([1, 4], dtype=torch.int32),
            "bounds": torch.tensor([0, 2, 5], dtype=torch.int32),
        },
        unpacked,
    )


def mixtures() -> Iterator[LayerCase]:
    weights = [
        rand(4, 16, 32, seed=1, dtype=torch.float16),
        rand(4, 16, 32, seed=2, dtype=torch.float16),
        rand(4, 32, 16, seed=3, dtype=torch.float16),
    ]

    def build(net: Net, x: Any, experts: Any, scores: Any) -> Any:
        layer = net.network.add_moe(x, experts, scores)
        layer.set_gated_weights(*(net.const(w) for w in weights), net.trt.MoEActType.SILU)
        return layer

    def reference(x: Tensor, experts: Tensor, scores: Tensor) -> Tensor:
        out = torch.zeros(x.shape)
        gate, up, down = (w.float() for w in weights)
        for b, t, k in product(*map(range, experts.shape)):
            e = int(experts[b, t, k])
            h = x[b, t].float()
            g = h @ gate[e]
            out[b, t] += float(scores[b, t, k]) * (((h @ up[e]) * g * torch.sigmoid(g)) @ down[e])
        return out.to(x.dtype)

    experts = torch.tensor([[[0, 3], [1, 2], [2, 0]]], dtype=torch.int32)
    yield LayerCase(
        "moe",
        build,
        {
            "x": rand(1, 3, 16, dtype=torch.float16, low=-0.5, high=0.5),
            "experts": experts,
            "scores": rand(1, 3, 2, dtype=torch.float16, low=0, high=1),
        },
        reference,
        capability=10,
        tolerance=(1e-2, 1e-1),
    )


def cases() -> Iterator[LayerCase]:
    for family in (attentions, rotations, updates, mixtures):
        yield from family()

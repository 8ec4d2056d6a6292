"""Attention, rotary embedding, key-value cache update and mixture of experts."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, integers
from engine.interpreter.layers.quantization import to_quantized
from engine.interpreter.step import Step


def attention(
    step: Step,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    quantize_scale: Tensor | None = None,
    query_lengths: Tensor | None = None,
    key_value_lengths: Tensor | None = None,
) -> Tensor:
    """normalize(query @ key^T, masked) @ value; nothing scales the query (``IAttention``).

    Tensors are [batch, heads, tokens, dim], or packed [tokens, heads, dim] with cumulative lengths.  Fewer
    key-value heads than query heads are shared by neighbouring query heads.  A boolean mask allows where
    it is true, any other is added.  A row that may not attend to any key gives zeros.
    """
    packed_query = step.attributes.get("query_form") == "PACKED_NHD"
    packed_key = step.attributes.get("key_value_form") == "PACKED_NHD"
    queries = _sequences(query, query_lengths, packed_query)
    if key_value_lengths is not None and not packed_key:
        # Seen with TensorRT-RTX 1.6.1 on compute capability 9.0: the result is that of no reading of the lengths
        # that the documentation allows.
        raise ValueError("how TensorRT treats the lengths of keys that are not packed is not known")
    keys = _sequences(key, key_value_lengths, packed_key)
    values = _sequences(value, key_value_lengths, packed_key)
    if not packed_query and not packed_key:
        return _attend(step, query, key, value, mask, quantize_scale)
    results = []
    for index, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        part = None if mask is None else mask[index : index + 1] if mask.shape[0] > 1 else mask
        if part is not None:
            part = part[..., : q.shape[2], : k.shape[2]]
        results.append(_attend(step, q, k, v, part, quantize_scale))
    if not packed_query:
        return torch.cat(results)
    joined = torch.cat([result[0].transpose(0, 1) for result in results])
    return F.pad(joined, (0, 0, 0, 0, 0, query.shape[0] - joined.shape[0]))


def _sequences(x: Tensor, lengths: Tensor | None, packed: bool) -> list[Tensor]:
    """The sequences of a batch, each [1, heads, tokens, dim]."""
    if not packed:
        return list(x.split(1))
    if lengths is None:
        raise ValueError("a packed tensor needs cumulative lengths")
    bounds = integers(lengths)
    return [x[start:end].transpose(0, 1).unsqueeze(0) for start, end in itertools.pairwise(bounds)]


def _attend(
    step: Step, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, quantize_scale: Tensor | None
) -> Tensor:
    dtype = query.dtype
    query, key, value = query.float(), key.float(), value.float()
    if key.shape[1] != query.shape[1]:
        if query.shape[1] % key.shape[1]:
            raise ValueError(f"{query.shape[1]} query heads cannot share {key.shape[1]} key heads")
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    causal = _causal_mask(step, query.shape[2], key.shape[2])
    softmax = step["norm_op"] == "SOFTMAX"
    if softmax and quantize_scale is None and (causal is None or mask is None):
        bias = causal if mask is None else mask if mask.dtype == torch.bool else mask.float()
        result = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return result.to(dtype) if bias is None else result.masked_fill(_attends_to_nothing(bias), 0.0).to(dtype)
    scores = query @ key.mT
    for limit in (causal, mask):
        if limit is not None:
            blocked = -math.inf if softmax else 0.0
            is_bool = limit.dtype == torch.bool
            scores = scores.masked_fill(~limit, blocked) if is_bool else scores + limit.float()
    if softmax:
        # What two masks leave of a row shows in its scores only; a row of nan attends to something.
        nothing = torch.isneginf(scores).all(-1, keepdim=True)
        scores = torch.softmax(scores, -1).masked_fill(nothing, 0.0)
    if quantize_scale is not None:
        scale = quantize_scale.float()
        kind = step["normalization_quantize_to_type"]
        scores = to_quantized(scores / scale, kind).float() * scale
    return (scores @ value).to(dtype)


def _attends_to_nothing(mask: Tensor) -> Tensor:
    """The rows of a mask, [..., queries, 1], that allow no key."""
    blocked = ~mask if mask.dtype == torch.bool else torch.isneginf(mask)
    return blocked.all(-1, keepdim=True)


def _causal_mask(step: Step, queries: int, keys: int) -> Tensor | None:
    """Where queries may look; UPPER_LEFT lets query i see keys 0..i, LOWER_RIGHT aligns the ends."""
    kind = step.attributes.get("causal_kind") or ("UPPER_LEFT" if step["causal"] else "NONE")
    if kind == "NONE":
        return None
    shift = keys - queries if kind == "LOWER_RIGHT" else 0
    return torch.ones(queries, keys, dtype=torch.bool).tril(shift)


def rotary_embedding(step: Step, x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor | None = None) -> Tensor:
    """Rotate pairs of elements of x [batch, heads, tokens, dim] by angles given as cosine and sine.

    The pairs are neighbours when interleaved, else element i and element i + half of the rotated part.
    Caches are [batch, tokens, half], or [positions, half] looked up by ``positions`` [batch, tokens].
    """
    dtype = x.dtype
    rotated = step["rotary_embedding_dim"] or x.shape[-1]
    if positions is not None:
        cosine, sine = cosine[positions.long()], sine[positions.long()]
    cosine, sine = cosine.float().unsqueeze(1), sine.float().unsqueeze(1)
    head, rest = x[..., :rotated].float(), x[..., rotated:]
    if step["interleaved"]:
        first, second = head[..., 0::2], head[..., 1::2]
    else:
        first, second = head.chunk(2, -1)
    real = first * cosine - second * sine
    imaginary = first * sine + second * cosine
    if step["interleaved"]:
        head = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        head = torch.cat((real, imaginary), -1)
    return torch.cat((head.to(dtype), rest), -1)


def kv_cache_update(
    step: Step, cache: Tensor, update: Tensor, write_indices: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """A copy of the cache with sequence i of ``update`` written from ``write_indices[i]`` on.

    TensorRT writes into the cache itself; here the caller's cache is left alone.
    """
    if step["cache_mode"] != "LINEAR":
        raise ValueError(f"cache mode {step['cache_mode']} is not known")
    packed = step.attributes.get("update_form") == "PACKED_NHD"
    result = cache.clone()
    parts = _sequences(update, lengths, packed)
    for index, (part, start) in enumerate(zip(parts, integers(write_indices), strict=True)):
        end = start + part.shape[2]
        if not 0 <= start <= end <= cache.shape[2]:
            raise ValueError(f"sequence {index} would be written to {start}..{end} of {cache.shape[2]}")
        result[index, :, start:end] = part[0]
    return result


def mixture_of_experts(step: Step, hidden: Tensor, experts: Tensor, scores: Tensor, *weights: Tensor | None) -> Tensor:
    """Sum over the selected experts of score * down(up(x) * silu(gate(x))).

    hidden [batch, tokens, size]; experts and scores [batch, tokens, k]; then gate and up weights
    [experts, size, inner], down weights [experts, inner, size] and optionally a bias of each.  Needs a GPU
    of compute capability 10 or 11 in TensorRT.
    """
    if step["quantization_to_type"] != "FLOAT" or step["swiglu_param_limit"] != math.inf:
        raise ValueError("quantized experts and limited activations are not run by the interpreter")
    gate, up, down, *biases = weights
    if gate is None or up is None or down is None:
        raise ValueError("the layer has no expert weights")
    offsets = [None] * 3 if not biases or biases[0] is None else biases[:3]
    result = torch.zeros(hidden.shape, dtype=torch.float32)
    wide = hidden.float()
    for expert in range(gate.shape[0]):
        share = torch.where(experts == expert, scores.float(), 0.0).sum(-1, keepdim=True)
        chosen = share.squeeze(-1) != 0
        if not bool(chosen.any()):
            continue
        x = wide[chosen]
        inner = [
            x @ weight[expert].float() + (0 if offset is None else offset[expert].float())
            for weight, offset in ((gate, offsets[0]), (up, offsets[1]))
        ]
        mixed = F.silu(inner[0]) * inner[1] if step["activation_type"] == "SILU" else inner[0] * inner[1]
        output = mixed @ down[expert].float() + (0 if offsets[2] is None else offsets[2][expert].float())
        result[chosen] += output * share[chosen]
    return result.to(hidden.dtype)


EVALUATORS: dict[str, Evaluator] = {
    "ATTENTION": attention,
    "KV_CACHE_UPDATE": kv_cache_update,
    "MOE": mixture_of_experts,
    "ROTARY_EMBEDDING": rotary_embedding,
}

"""Keys of networks: equal where TensorRT would build the same engine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from engine.builder.blueprint import bounds, written
from engine.conversion.weights import refits_natively
from engine.tensorrt import capabilities, load

if TYPE_CHECKING:
    from engine.conversion import BuiltNetwork

# Part of every key: another number where engines come to be built in another way.
FORMAT = 1
# What settings say about anything but the building of an engine.  Others are part of the key, new ones too.
_ELSEWHERE = frozenset({
    "min_block_size", "torch_executed_ops", "require_full_compilation", "truncate_double", "widen_int16",
    "use_fp32_acc", "keep_quantized_weights",
    "trial_load", "debug", "immutable_weights", "cache_built_engines", "reuse_cached_engines", "engine_cache_dir",
    "engine_cache_size", "distributed_timeout", "tune", "tune_budget", "tune_tolerance",
    "use_cuda_graphs", "cuda_graph_scope", "cuda_graph_cache_size", "cuda_graph_strategy",
    "dynamic_shapes_kernel_specialization_strategy", "runtime_cache_path", "use_pre_allocated_outputs",
    "share_device_memory", "weight_streaming_budget",
})  # fmt: skip
# Weights are hashed in pieces, by several threads.
_PIECE = 16 << 20


class NetworkKey(NamedTuple):
    """What a network is kept under.

    Attributes:
        network: everything but the weights that a refit can replace.
        weights: those weights.
    """

    network: str
    weights: str


def network_key(built: BuiltNetwork) -> NetworkKey:
    """The key of a network, its profile, its settings, TensorRT and the target.

    Names of layers and bindings are part of it; where rules and models stand in their files is not.

    Raises:
        NoBlueprint: the network was told something that cannot be compared.
    """
    refittable = refits_natively(built.settings)
    contents = _digests(built.weights.tensors)

    def content(tensor: torch.Tensor, name: str | None) -> Any:
        return ["named", name] if refittable and name is not None else ["holds", contents[id(tensor)]]

    told = written(built, content, metadata=False)
    conditions = [FORMAT, refittable, told, bounds(built), _settings(built.settings), _environment(built.settings)]
    named = {name: contents[id(weight.tensor)] for name, weight in built.weights.named.items()} if refittable else {}
    return NetworkKey(_hash(conditions), _hash(named))


def _settings(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in sorted(settings.to_dict().items()) if name not in _ELSEWHERE}


def _environment(settings: Any) -> list[Any]:
    trt = load()
    # An engine of TensorRT-RTX is the same wherever it is built, unless it is for the GPU of this machine.
    here = not capabilities().rtx or "CURRENT" in settings.target_compute_capabilities
    return [trt.__name__, trt.__version__, sys.platform, platform.machine(), gpu() if here else ""]


def gpu() -> str:
    """The current GPU, as far as engines can tell; empty where there is none."""
    if not torch.cuda.is_available():
        return ""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name} {properties.major}.{properties.minor} CUDA {torch.version.cuda}"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()[:40]


def _digests(tensors: Iterable[torch.Tensor]) -> dict[int, str]:
    """The digest of the elements of contiguous host tensors, by the id of the tensor."""
    found = {id(tensor): tensor for tensor in tensors}
    raw = [tensor.detach().reshape(-1).view(torch.uint8).numpy() for tensor in found.values()]
    return dict(zip(found, digests(raw), strict=True))


def digests(buffers: Iterable[Any]) -> list[str]:
    """A digest for each of some buffers of bytes; at the speed of all processors."""
    pieces: list[memoryview] = []
    ends: list[int] = []
    for buffer in buffers:
        view = memoryview(buffer)
        pieces += [view[at : at + _PIECE] for at in range(0, len(view), _PIECE)]
        ends.append(len(pieces))
    # hashlib lets other threads run while it hashes.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        hashed = list(pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces))
    starts = [0, *ends][:-1]
    return [hashlib.sha256(b"".join(hashed[a:b])).hexdigest() for a, b in zip(starts, ends, strict=True)]


__all__ = ["NetworkKey", "digests", "gpu", "network_key"]

"""Recipes as JSON values, so that a saved engine can be refitted.

Reading one makes nothing of it but calls of ops that any file may call (`engine.weights.known_ops`).
"""

from __future__ import annotations

import base64
import math
from typing import Any

import torch
from torch._ops import OpOverload

from engine.dtypes import dtype_named
from engine.errors import FileError, SaveError
from engine.weights import known_ops
from engine.weights.recipe import Recipe, Result, Source, Step

_NAMED = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
# Not ``getattr(torch, name)``: that imports parts of PyTorch that are named like nothing else.
_VALUES = {
    kind: {name: value for name, value in vars(torch).items() if isinstance(value, cls)} for kind, cls in _NAMED.items()
}


def encode(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values."""
    return {
        "steps": [[step.node, str(step.op), [_encoded(item) for item in step.arguments]] for step in recipe.steps],
        "result": _encoded(recipe.result),
        "literals": {name: encode_tensor(tensor) for name, tensor in recipe.literals.items()},
    }


def decode(data: Any, allowed: frozenset[str] = frozenset()) -> Recipe:
    """The recipe that :func:`encode` wrote.

    Args:
        allowed: ops that the user allows besides those that any file may call.

    Raises:
        FileError: it is no such thing, or calls an op that a recipe may not call.
    """
    try:
        steps = []
        for node, op, arguments in data["steps"]:
            steps.append(Step(str(node), _op(op, allowed), tuple(_decoded(item) for item in arguments)))
        result = _decoded(data["result"])
        literals = {str(name): decode_tensor(tensor) for name, tensor in data["literals"].items()}
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"the recipe of a weight is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(result, Result | Source):
        raise FileError("the recipe of a weight is damaged: it has no result")
    return Recipe(tuple(steps), result, literals)


def _op(name: Any, allowed: frozenset[str]) -> OpOverload:
    try:
        op = known_ops.find(str(name), allowed)
    except FileError as error:
        raise FileError(f"the recipe of a weight is damaged: {error}") from None
    if not isinstance(op, OpOverload):
        raise FileError(f"the recipe of a weight calls {name}, which runs graphs")
    return op


def _encoded(item: Any) -> Any:
    if isinstance(item, Source):
        return {"source": item.name}
    if isinstance(item, Result):
        return {"step": item.step, "output": item.output}
    if isinstance(item, list | tuple):
        return [_encoded(part) for part in item]
    if isinstance(item, float) and not math.isfinite(item):
        return {"float": repr(item)}
    if item is None or isinstance(item, bool | int | float | str):
        return item
    if isinstance(item, torch.device):
        return {"device": str(item)}
    if isinstance(item, complex):
        return {"complex": [item.real, item.imag]}
    for kind, known in _NAMED.items():
        if isinstance(item, known):
            return {kind: str(item).removeprefix("torch.")}
    raise SaveError(f"a recipe holds a {type(item).__name__}, which cannot be written")


def _decoded(item: Any) -> Any:
    if isinstance(item, list):
        return tuple(map(_decoded, item))
    if not isinstance(item, dict):
        return item
    if "source" in item:
        return Source(str(item["source"]))
    if "step" in item:
        return Result(int(item["step"]), int(item["output"]))
    ((kind, value),) = item.items()
    if kind == "float":
        return float(value)
    if kind == "device":
        return torch.device(value)
    if kind == "complex":
        return complex(*value)
    found = _VALUES[kind].get(value)
    if found is None:
        raise ValueError(f"torch.{value} is not a {kind}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` and so on."""
    return str(dtype).removeprefix("torch.")


def encode_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor as JSON values, its elements in base64."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype), "data": base64.b64encode(raw).decode()}


def decode_tensor(data: Any) -> torch.Tensor:
    """The tensor that :func:`encode_tensor` wrote, on the CPU."""
    dtype = dtype_named(data["dtype"])
    if dtype is None:
        raise ValueError(f"{data['dtype']!r} is not a dtype")
    raw = bytearray(base64.b64decode(data["data"], validate=True))
    if not raw:
        return torch.empty(data["shape"], dtype=dtype)
    return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(data["shape"])


__all__ = ["decode", "decode_tensor", "dtype_name", "encode", "encode_tensor"]

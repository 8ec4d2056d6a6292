"""Refitting a serialized engine: ``trt.Refitter``, from plan to plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from engine.conversion.weights import WeightStore
from engine.errors import RefitError
from engine.runtime.failures import quoted
from engine.tensorrt import load
from engine.tensorrt.logger import capturing_logger

_MOST_NAMES = 10


def refit_engine(serialized: bytes | memoryview, weights: Mapping[str, torch.Tensor], *, name: str = "") -> bytes:
    """The plan of an engine with other weights.

    The engine is loaded onto the current GPU for it, apart from any that runs; weights that are not given stay.

    Args:
        serialized: the plan, built to be refitted.
        weights: by their names in the engine; contiguous, on the CPU, of the engine's dtypes.
        name: the engine's name, for messages.

    Raises:
        RefitError: there is no GPU, the engine cannot be refitted, or TensorRT rejects the weights; ``serialized`` is
            unchanged.
    """
    if not torch.cuda.is_available():
        raise RefitError(f"engine {name!r} can be refitted only where there is a GPU, and PyTorch finds none")
    trt, logger = load(), capturing_logger()
    with logger.gather() as messages:
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            raise RefitError(f"engine {name!r} cannot be loaded to be refitted{_says(messages)}")
        if not engine.refittable:
            raise RefitError(
                f"engine {name!r} was built with weights that never change: compile with immutable_weights=False"
            )
        refitter = trt.Refitter(engine, logger)
        known = set(refitter.get_all_weights())
        strange = [weight for weight in weights if weight not in known]
        if strange:
            raise RefitError(f"engine {name!r} has no weights named {_listed(strange)}")
        for weight, tensor in weights.items():
            if not refitter.set_named_weights(weight, WeightStore.pointer(tensor)):
                raise RefitError(f"engine {name!r}: TensorRT does not take the weights {weight!r}{_says(messages)}")
        missing = refitter.get_missing_weights()
        if missing:
            raise RefitError(
                f"engine {name!r} needs other weights to be replaced together with these: {_listed(missing)}"
            )
        if not refitter.refit_cuda_engine():
            raise RefitError(f"engine {name!r}: TensorRT could not refit it{_says(messages)}")
        plan = engine.serialize_with_config(_serialization(trt, engine))
    if plan is None:
        raise RefitError(f"engine {name!r}: TensorRT could not serialize it after the refit{_says(messages)}")
    return bytes(plan)


def _serialization(trt: Any, engine: Any) -> Any:
    """The plan with its weights, which can be refitted again."""
    config = engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    again = getattr(trt.SerializationFlag, "INCLUDE_REFIT", None)  # TensorRT before 10.14 always does
    if again is not None:
        config.set_flag(again)
    return config


def _says(messages: Any) -> str:
    return quoted([message.text for message in messages if message.level >= logging.ERROR])


def _listed(names: Any) -> str:
    names = sorted(names)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more


__all__ = ["refit_engine"]

"""Evaluators of layers: layer type -> function of the step and its input tensors."""

from __future__ import annotations

from engine.interpreter.layers import (
    arithmetic,
    attention,
    convolution,
    detection,
    indexing,
    movement,
    normalization,
    pooling,
    quantization,
    reductions,
    resize,
    slicing,
    sources,
)
from engine.interpreter.layers.common import Evaluator

EVALUATORS: dict[str, Evaluator] = {
    **arithmetic.EVALUATORS,
    **attention.EVALUATORS,
    **convolution.EVALUATORS,
    **detection.EVALUATORS,
    **indexing.EVALUATORS,
    **movement.EVALUATORS,
    **normalization.EVALUATORS,
    **pooling.EVALUATORS,
    **quantization.EVALUATORS,
    **reductions.EVALUATORS,
    **resize.EVALUATORS,
    **slicing.EVALUATORS,
    **sources.EVALUATORS,
}

"""In what precision the layers of a plan sum, by what their declarations say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from engine.evaluator import Context, evaluate
from engine.evaluator.plan import LayerCall
from engine.report import Precision

_HALF = (torch.float16, torch.bfloat16)


def precision(calls: Iterable[Any], context: Context, use_fp32_acc: bool) -> Precision:
    """Which layers among some calls of plans keep their sums in half precision."""
    found: Counter[str] = Counter()
    for call in calls:
        sums = call.layer.accumulates if isinstance(call, LayerCall) else None
        if sums is not None and evaluate(sums, dict(call.values), context) in _HALF:
            found[call.layer.name.removeprefix("trt.")] += 1
    return Precision(dict(sorted(found.items())), use_fp32_acc)


__all__ = ["precision"]

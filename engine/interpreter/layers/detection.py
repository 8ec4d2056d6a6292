"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.interpreter.layers.common import Evaluator, integers, output_dtype
from engine.interpreter.step import Step


def nms(
    step: Step,
    boxes: Tensor,
    scores: Tensor,
    limit: Tensor,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy suppression per batch item and class.

    boxes [batch, boxes, 4] or [batch, boxes, classes, 4]; scores [batch, boxes, classes].  Of each batch
    item the ``topk_box_limit`` best candidates above the score threshold are considered.

    Returns:
        rows (batch, class, box), by batch item and then by falling score, and their number, a scalar.
    """
    most = integers(limit)[0]
    overlap = 0.0 if iou_threshold is None else float(iou_threshold)
    least = 0.0 if score_threshold is None else float(score_threshold)
    corners = _corners(boxes.float(), step["bounding_box_format"])
    if corners.dim() == 3:
        corners = corners.unsqueeze(2)
    classes = scores.shape[2]
    rows: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0]):
        flat = scores[batch].float().T.flatten()  # class-major: position = class * boxes + box
        order = torch.sort(flat, descending=True, stable=True).indices
        order = order[flat[order] > least]
        if step["topk_box_limit"] > 0:
            order = order[: step["topk_box_limit"]]
        kept: dict[int, list[int]] = {index: [] for index in range(classes)}
        for position in order.tolist():
            label, box = divmod(position, scores.shape[1])
            chosen = kept[label]
            if len(chosen) >= most:
                continue
            table = corners[batch, :, label if corners.shape[2] > 1 else 0]
            if all(_iou(table[box], table[other]) <= overlap for other in chosen):
                chosen.append(box)
                rows.append((batch, label, box))
    selected = torch.tensor(rows, dtype=output_dtype(step)).reshape(-1, 3)
    return selected, torch.tensor(len(rows), dtype=output_dtype(step, 1))


def _corners(boxes: Tensor, form: str) -> Tensor:
    """Boxes as (low x, low y, high x, high y)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if form == "CENTER_SIZES":
        return torch.cat((first - second / 2, first + second / 2), -1)
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _iou(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    shared = float((high - low).clamp(min=0).prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


EVALUATORS: dict[str, Evaluator] = {"NMS": nms}

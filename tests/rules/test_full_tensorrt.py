"""Rules that TensorRT-RTX leaves inactive, for want of results whose size depends on data, do what they say.

Their networks can be made with TensorRT-RTX and interpreted; it only refuses to build engines of them.
"""

import dataclasses
import functools

import pytest
import torch

from engine.conversion import emit_network
from engine.dsl.ruleset import RuleSet
from engine.interpreter.program import Program
from engine.pipeline.compilation import Compilation
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities
from engine.verify.agreement import check
from engine.verify.instances import Inapplicable
from tests.models import declare_torchvision_operators

declare_torchvision_operators()
pytest.importorskip("torchvision")


def _suppressed(boxes, scores, overlap):
    """Non-maximum suppression as torchvision describes it; its own CPU kernel comes with a PyTorch for CUDA."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    for box in torch.argsort(scores, descending=True, stable=True).tolist():
        low, high = torch.maximum(boxes[box, :2], boxes[kept, :2]), torch.minimum(boxes[box, 2:], boxes[kept, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        if bool((shared / (area[box] + area[kept] - shared) <= overlap).all()):
            kept.append(box)
    return torch.tensor(kept, dtype=torch.int64)


torch.library.impl("torchvision::nms", "CPU", _suppressed)


@functools.cache
def rules():
    return RuleSet.load(capabilities=dataclasses.replace(capabilities(), rtx=False))


def _inactive():
    active = {rule.id for rule in RuleSet.load().rules}
    return [rule for rule in rules().rules if rule.id not in active]


LINES = [pytest.param(rule, test, id=f"{rule.id}-{n}") for rule in _inactive() for n, test in enumerate(rule.tests)]


@pytest.mark.parametrize(("rule", "test"), LINES)
def test_rule_agrees_with_its_pattern(rule, test):
    try:
        check(rule, test, rules())
    except Inapplicable as reason:
        pytest.skip(str(reason).splitlines()[0])


def test_these_are_the_rules():
    assert {rule.id.partition("[")[0] for rule in _inactive()} == {
        "convolution.conv_transpose_dilated",
        "detection.nms",
        "indexing.index_by_mask",
        "indexing.nonzero",
    }


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7])
def test_boxes_that_overlap_are_suppressed(overlap):
    corners = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 4
    boxes = torch.cat((corners, corners + 1 + torch.rand(40, 2, generator=torch.Generator().manual_seed(1))), 1)
    scores = torch.randn(40, generator=torch.Generator().manual_seed(2))

    class Detection(torch.nn.Module):
        def forward(self, boxes, scores):
            return torch.ops.torchvision.nms(boxes, scores, overlap)

    compilation = Compilation.start(
        Detection(), (boxes, scores), None, None, [rules()], CompilationSettings(min_block_size=1)
    )
    compilation.place()
    (segment,) = compilation.partition.engines
    network = emit_network(compilation.mirror, segment.tiles, segment.inputs, segment.outputs, {}, compilation.settings)
    (kept,) = Program.from_network(network.network, network.weights.tensors)(boxes, scores)
    assert 1 < len(kept) < 40
    assert torch.equal(kept, _suppressed(boxes, scores, overlap))

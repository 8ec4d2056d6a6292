"""Ops that exchange tensors with other ranks stay between what Inductor compiles."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed import _functional_collectives as collectives

from engine.distributed.collectives import is_collective
from engine.inductor.grouping import torch_segments
from tests.inductor.test_segments import compiled


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Reduced(nn.Module):
    def forward(self, x):
        y = collectives.all_reduce(torch.erf(x) * 2, "sum", distributed.group.WORLD)
        return torch.erf(y).cumsum(0)


@pytest.mark.usefixtures("alone")
def test_collectives_are_in_no_segment(monkeypatch):
    monkeypatch.setattr("engine.inductor.segment.TorchSegment.compile_ops", lambda self: None)
    x = torch.randn(4, 6)
    module = compiled(Reduced(), x, torch_segments="inductor")
    inside = [node.target for found in torch_segments(module) for node in found.graph_module.graph.nodes]
    assert torch.ops.aten.erf.default in inside
    assert not any(map(is_collective, inside))
    assert torch.equal(module(x), Reduced()(x))

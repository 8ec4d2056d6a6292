"""Pipeline parallelism: stages of ``torch.distributed.pipelining`` that are compiled modules."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe, SplitPoint, pipeline

import engine
from tests.distributed.models import WIDTH, Perceptron, batch

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = {"runtime": "interpreter", "min_block_size": 1}


class Layers(nn.Module):
    def __init__(self, count=4):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Perceptron() for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def stepped(schedule, x):
    """What the last rank returns, and None on the others."""
    return schedule.step(x) if distributed.get_rank() == 0 else schedule.step()


def compare(schedule, model):
    for seed in (1, 2):
        x = batch(4, seed=seed)
        found = stepped(schedule, x)
        if distributed.get_rank() == distributed.get_world_size() - 1:
            torch.testing.assert_close(found, model(x), **CLOSE)


def run_written_stages():
    """Stages that are modules of one's own."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    model = Layers().eval()
    part = nn.Sequential(*model.layers[2 * rank : 2 * rank + 2])
    micro = torch.zeros(2, 8, WIDTH)
    module = engine.compile(part, (micro,), require_full_compilation=True, **SETTINGS)
    stage = PipelineStage(module, rank, size, torch.device("cpu"), input_args=(micro,), output_args=(micro,))
    compare(ScheduleGPipe(stage, n_microbatches=2), model)
    return len(module.report.segments)


def run_split_model():
    """A model that ``pipeline`` splits; the part of this rank is compiled."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    model = Layers().eval()
    micro = batch(2)
    pipe = pipeline(model, mb_args=(micro,), split_spec={"layers.2": SplitPoint.BEGINNING})
    assert pipe.num_stages == size
    module = engine.compile(pipe.get_stage_module(rank), (micro,), **SETTINGS)
    device = torch.device("cpu")
    stage = PipelineStage(module, rank, size, device, input_args=(micro,), output_args=module(micro))
    compare(ScheduleGPipe(stage, n_microbatches=2), model)
    return len(module.report.segments)


@pytest.mark.slow
def test_stages_are_compiled_modules(ranks):
    assert ranks.run(run_written_stages) == [1, 1]


def test_stages_of_a_model_that_pytorch_splits_are_compiled(ranks):
    assert ranks.run(run_split_model) == [1, 1]

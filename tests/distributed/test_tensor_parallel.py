"""Models that ``parallelize_module`` sharded, compiled on each rank, against eager PyTorch."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import engine
import engine.torch_compile.backend
from tests.distributed.models import WIDTH, Exchange, batch, block, mesh, normed_perceptron, parallel, perceptron

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
COLLECTIVES = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "all_to_all_single", "broadcast")


def compiled(model, inputs, **settings):
    settings = {"runtime": "interpreter", "min_block_size": 1} | settings
    return engine.compile(model, inputs, **settings)


def exchanges(graph_module):
    """The collectives of a compiled module, in order, without those that wait."""
    names = [getattr(node.target, "_opname", "") for node in graph_module.graph.nodes]
    return [name for name in names if name in COLLECTIVES]


def run_tensor_parallel():
    model, whole, x = parallel(), block(), batch()
    before = dict(model.named_parameters())
    wanted = model(x)
    torch.testing.assert_close(wanted, whole(x), **CLOSE)
    module = compiled(model, (x,))
    torch.testing.assert_close(module(x), wanted, **CLOSE)
    # The model is what it was.
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert "forward" not in vars(model)
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=0)
    kinds = [segment.backend for segment in module.report.segments]
    return exchanges(module.graph_module), kinds


def test_a_parallel_model_is_compiled_to_engines_with_collectives_between_them(ranks):
    for collectives, kinds in ranks.run(run_tensor_parallel):
        assert collectives == ["all_reduce", "all_reduce"]
        assert kinds == ["tensorrt", "torch", "tensorrt", "torch", "tensorrt"]


def run_dynamic():
    model = perceptron()
    sizes = engine.Input(min_shape=(1, 1, WIDTH), opt_shape=(2, 8, WIDTH), max_shape=(5, 16, WIDTH))
    module = compiled(model, (sizes,))
    for size, length in ((1, 1), (2, 8), (3, 7), (5, 16)):
        x = batch(size, length)
        torch.testing.assert_close(module(x), model(x), **CLOSE)
    return module.report.notes


def test_every_size_that_was_asked_for_is_taken(ranks):
    assert ranks.run(run_dynamic) == [(), ()]


def run_sequence_parallel():
    model = normed_perceptron()
    whole = batch()
    x = whole.chunk(mesh().size(), 1)[mesh().get_rank()].contiguous()
    module = compiled(model, (x,))
    torch.testing.assert_close(module(x), model(x), **CLOSE)
    return exchanges(module.graph_module)


@pytest.mark.slow
def test_sequence_parallel(ranks):
    found = ranks.run(run_sequence_parallel)
    assert found[0] == found[1]
    assert set(found[0]) == {"all_gather_into_tensor", "reduce_scatter_tensor"}


def run_exchange():
    model, x = Exchange().eval(), batch()
    x = x + mesh().get_rank()
    wanted = model(x)
    module = compiled(model, (x,))
    torch.testing.assert_close(module(x), wanted, **CLOSE)
    torch._dynamo.reset()
    options = {"min_block_size": 1, "runtime": "interpreter", "pass_through_build_failures": True}
    fast = torch.compile(model, backend="engine", options=options)
    torch.testing.assert_close(fast(x), wanted, **CLOSE)
    return exchanges(module.graph_module), sum(segment.backend == "tensorrt" for segment in module.report.segments)


def test_every_collective_runs_between_engines_in_the_order_of_the_model(ranks):
    for collectives, engines in ranks.run(run_exchange):
        assert collectives == [
            "all_reduce",
            "all_gather_into_tensor",
            "reduce_scatter_tensor",
            "all_to_all_single",
            "all_reduce",
            "broadcast",
        ]
        assert engines > 1


class InPlace(Exchange):
    """Collectives that write to their operand, in both forms that PyTorch has."""

    def forward(self, x):
        y = self.layer(x).relu()
        distributed.all_reduce(y)
        y = y.sigmoid()
        y = torch.ops._c10d_functional.all_reduce_(y, "sum", distributed.group.WORLD.group_name)
        return torch.ops._c10d_functional.wait_tensor(y).tanh()


def run_in_place():
    model, x = InPlace().eval(), batch() + distributed.get_rank()
    module = compiled(model, (x,))
    torch.testing.assert_close(module(x), model(x), **CLOSE)
    return exchanges(module.graph_module)


def test_collectives_that_write_to_their_operand(ranks):
    assert ranks.run(run_in_place) == [["all_reduce", "all_reduce"]] * 2


def run_gathered():
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).eval()
    wanted = model(batch())
    fully_shard(model, mesh=mesh())
    try:
        compiled(model, (batch(),))
    except engine.CaptureError as error:
        message = str(error)
    model.unshard()
    torch.testing.assert_close(compiled(model, (batch(),))(batch()), wanted, **CLOSE)
    return message


def test_fully_shard_is_refused_and_its_whole_weights_are_taken(ranks):
    for message in ranks.run(run_gathered):
        assert "is sharded by fully_shard" in message
        assert "model.unshard()" in message


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, 15)

    def forward(self, x):
        return self.layer(x).unflatten(-1, (-1, 5))


def run_uneven():
    compiled(parallelize_module(Heads().eval(), mesh(), {"layer": ColwiseParallel()}), (batch(),))


def test_ranks_that_do_not_divide_heads_are_told_which_parameter(ranks):
    for failed in ranks.tried(run_uneven):
        assert failed.kind == "CaptureError"
        assert "dim 0 of 'layer.weight', of size 15, is sharded over 2 ranks, which do not divide it" in failed.message


def run_backend():
    torch._dynamo.reset()
    model, x = perceptron(), batch()
    reports = []
    options = {"min_block_size": 1, "runtime": "interpreter", "pass_through_build_failures": True}
    fast = torch.compile(model, backend="engine", options=options)
    with engine.observe(after_compile=lambda event: reports.append(event.report)):
        torch.testing.assert_close(fast(x), model(x), **CLOSE)
        # New weights, in place, as a checkpoint brings them.
        model.load_state_dict(perceptron(seed=5).state_dict())
        torch.testing.assert_close(fast(x), model(x), **CLOSE)
        model.down.weight.mul_(2)
        torch.testing.assert_close(fast(x), model(x), **CLOSE)
    return [[segment.backend for segment in report.segments] for report in reports]


def test_torch_compile_takes_a_parallel_model_and_follows_its_weights(ranks):
    for found in ranks.run(run_backend):
        # The engines were refitted or built again, each time for weights that were written to.
        assert found[0] == ["tensorrt", "torch", "tensorrt"]


class Returns(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return {"values": self.layer(x)}


def run_returned():
    model = parallelize_module(Returns(), mesh(), {"layer": ColwiseParallel(use_local_output=False)})
    compiled(model, (batch(),))


def test_a_result_that_is_a_dtensor_is_refused_with_what_to_write(ranks):
    for failed in ranks.tried(run_returned):
        assert failed.kind == "CaptureError"
        assert "result['values'] of Returns is a DTensor (S(" in failed.message
        assert "full_tensor()" in failed.message


def run_given():
    x = distribute_tensor(batch(), mesh(), [Replicate()])
    compiled(block(), (x,))


def test_an_input_that_is_a_dtensor_is_refused_with_what_to_write(ranks):
    for failed in ranks.tried(run_given):
        assert failed.kind == "InputError"
        assert "to_local()" in failed.message


class Tied(nn.Module):
    """Weights that two layers share, a buffer that is sharded, and state that calls write to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.register_buffer("scale", torch.rand(WIDTH))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        scale = self.scale.full_tensor() if isinstance(self.scale, DTensor) else self.scale
        return self.two(self.one(x)) * scale + self.calls


def run_tied():
    wanted = Tied().eval()
    wanted.two.weight = wanted.one.weight
    model = Tied().eval()
    model.two.weight = model.one.weight = nn.Parameter(distribute_tensor(model.one.weight, mesh(), [Replicate()]))
    model.scale = distribute_tensor(model.scale, mesh(), [Shard(0)])
    from torch.distributed.tensor.experimental import implicit_replication

    x = batch()
    with implicit_replication():
        module = compiled(ToLocal(model), (x,))
    for _ in range(2):
        torch.testing.assert_close(module(x), wanted(x), **CLOSE)
    return exchanges(module.graph_module)


class ToLocal(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).to_local()


@pytest.mark.slow
def test_tied_weights_sharded_buffers_and_state(ranks):
    assert ranks.run(run_tied) == [["all_gather_into_tensor"]] * 2


def run_grid(folder):
    """Two groups of two ranks, each with a model of its own weights."""
    from torch.distributed.device_mesh import init_device_mesh

    from tests.distributed.models import Perceptron

    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(grid.get_local_rank("dp"))
    model, x = Perceptron().eval(), batch(seed=grid.get_local_rank("dp"))
    wanted = model(x)
    parallelize_module(model, grid["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    module = compiled(model, (x,))
    torch.testing.assert_close(module(x), wanted, **CLOSE)
    engine.save(module, folder, program=True)
    torch.testing.assert_close(engine.load(folder, runtime="interpreter")(x), wanted, **CLOSE)


@pytest.mark.slow
def test_two_groups_of_two_ranks(tmp_path):
    from tests.distributed.ranks import Ranks

    four = Ranks(4)
    try:
        four.run(run_grid, str(tmp_path / "grid"))
    finally:
        four.close()


@pytest.mark.slow
def test_four_ranks():
    from tests.distributed.ranks import Ranks

    four = Ranks(4)
    try:
        four.run(run_tensor_parallel)
        four.run(run_exchange)
        four.run(run_backend)
    finally:
        four.close()

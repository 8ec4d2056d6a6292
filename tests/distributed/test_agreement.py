"""One decision on every rank: ranks that differ, fail or are lost are errors on all of them, in bounded time."""

import time

import pytest
import torch
from torch import distributed

import engine
import engine.torch_compile.backend
from engine.distributed.agreement import Agreement, Fact
from tests.distributed.models import Exchange, Perceptron, batch, mesh, perceptron
from tests.distributed.ranks import Ranks

SETTINGS = {"runtime": "interpreter", "min_block_size": 1, "distributed_timeout": 30}
RULE = "convert relu_by_max\n  match aten.relu(x)\n  emit  trt.activation(x, type=RELU)\n"


def timed(function, *args, **kwargs):
    """How long it took to fail, with the class and the message of the error."""
    started = time.monotonic()
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - started
    return "", "", time.monotonic() - started


def first():
    return distributed.get_rank() == 0


class Ordered(Exchange):
    """Collectives in the order of its ranks' code."""

    def forward(self, x):
        from torch.distributed import _functional_collectives as funcol

        group = distributed.group.WORLD
        one, other = self.layer(x).relu(), x.sigmoid()
        if first():
            return funcol.all_reduce(one, "sum", group) - funcol.all_gather_tensor(other, 0, group)[:2]
        gathered = funcol.all_gather_tensor(other, 0, group)[:2]
        return funcol.all_reduce(one, "sum", group) - gathered


def run_order():
    return timed(engine.compile, Ordered().eval(), (batch(),), **SETTINGS)


@pytest.mark.slow
def test_collectives_in_another_order_are_named(ranks):
    for kind, message, _ in ranks.run(run_order):
        assert kind == "DistributedError"
        assert "ranks 0 and 1 did not compile the same. rank 0 has collective 0, all_reduce" in message
        assert "_c10d_functional.all_reduce" in message
        assert "_c10d_functional.all_gather_into_tensor" in message


def run_settings():
    return timed(engine.compile, Exchange().eval(), (batch(),), **{**SETTINGS, "optimization_level": 1 + first()})


def test_another_setting_is_named(ranks):
    for kind, message, _ in ranks.run(run_settings):
        assert kind == "DistributedError"
        assert "the setting optimization_level: 2 on rank 0, 1 on rank 1" in message


def run_sizes():
    return timed(engine.compile, Exchange().eval(), (batch(2 + first()),), **SETTINGS)


def test_other_sizes_are_named(ranks):
    for kind, message, _ in ranks.run(run_sizes):
        assert kind == "DistributedError"
        assert "float32[3, 8, 16]" in message
        assert "float32[2, 8, 16]" in message


def run_rules(path):
    rules = [path] if first() else []
    return timed(engine.compile, Exchange().eval(), (batch(),), rules=rules, **SETTINGS)


def test_other_rules_are_named(ranks, tmp_path):
    path = tmp_path / "mine.rules"
    path.write_text(RULE)
    for kind, message, _ in ranks.run(run_rules, str(path)):
        assert kind == "DistributedError"
        assert "the digest of all rules" in message


class Broken(Perceptron):
    def forward(self, x):
        if not first():
            raise ValueError("no such layer")
        return super().forward(x)


def run_failing():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = parallelize_module(Broken().eval(), mesh(), {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return timed(engine.compile, model, (batch(),), **SETTINGS)


def test_a_rank_that_fails_makes_all_fail_with_its_reason(ranks):
    (kind, message, took), (other, own, _) = ranks.run(run_failing)
    assert kind == "DistributedError"
    assert "rank 1 could not do its part of the module: CaptureError" in message
    assert "no such layer" in message
    assert (other, "no such layer" in own) == ("CaptureError", True)
    assert took < SETTINGS["distributed_timeout"]


def run_backend():
    torch._dynamo.reset()
    model, x = perceptron(), batch()
    options = {**SETTINGS, "optimization_level": 1 + first()}
    fast = torch.compile(model, backend="engine", options=options)
    with pytest.warns(engine.torch_compile.backend.FallbackWarning) as found:
        torch.testing.assert_close(fast(x), model(x))
    torch._dynamo.reset()
    strict = torch.compile(model, backend="engine", options={**options, "pass_through_build_failures": True})
    return str(found[0].message), timed(strict, x)


def test_graphs_of_torch_compile_run_in_pytorch_on_all_ranks_or_fail_on_all(ranks):
    for warning, (kind, message, _) in ranks.run(run_backend):
        assert "the setting optimization_level: 2 on rank 0, 1 on rank 1" in warning
        assert kind == "BackendCompilerFailed"
        assert "DistributedError" in message


def run_alone(timeout):
    """The other rank compiles nothing."""
    if not first():
        return None
    return timed(engine.compile, Exchange().eval(), (batch(),), **{**SETTINGS, "distributed_timeout": timeout})


def run_destroyed():
    model = perceptron()
    distributed.destroy_process_group()
    return timed(engine.compile, model, (batch(),), **SETTINGS)


def test_a_rank_that_is_missing_is_named_in_time():
    # Ranks of its own: what is compiled on one rank alone leaves the group out of step.
    own = Ranks(2)
    try:
        kind, message, took = own.run(run_alone, 2)[0]
        assert kind == "DistributedError"
        assert message.startswith("rank 1 of the group of ranks 0, 1 has not compiled the module that rank 0 compiled")
        assert 2 <= took < 30
        for kind, message, _ in own.run(run_destroyed):
            assert kind == "DistributedError"
            assert "was destroyed" in message
    finally:
        own.close()


def run_settled(graphs, decisions):
    """Ranks that captured the same ops, and decided what is given."""
    rank, world = distributed.get_rank(), distributed.group.WORLD.group_name
    agreement = Agreement(30, [world])
    return timed(agreement.settle, [Fact("the model", "Net")], graphs[rank], [Fact("relu", decisions[rank])])


def test_decisions_are_compared_where_graphs_are_the_same(ranks):
    decided = ["in an engine", "in PyTorch"]
    for kind, message, _ in ranks.run(run_settled, ["graph", "graph"], decided):
        assert kind == "DistributedError"
        assert "relu: in an engine on rank 0, in PyTorch on rank 1" in message
    # Ranks that take other rows of an embedding have other numbers in their graphs, and rules may see that.
    assert [kind for kind, _, _ in ranks.run(run_settled, ["one", "other"], decided)] == ["", ""]


def run_other_model():
    model = Exchange().eval()
    if first():
        model.layer = torch.nn.Sequential(model.layer, torch.nn.Tanh())
    return timed(engine.compile, model, (batch(),), **SETTINGS)


def test_another_model_is_named(ranks):
    for kind, message, _ in ranks.run(run_other_model):
        assert kind == "DistributedError"
        assert "rank 0 has tanh (aten.tanh.default" in message

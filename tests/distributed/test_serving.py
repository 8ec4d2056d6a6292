"""``examples/serving.py``: workers answer in batches what the model answers, and say when they cannot."""

import queue
from contextlib import suppress

import pytest
import torch
from torch import nn

import engine
from examples.serving import Server, WorkerLostError

# Each worker is a process that loads PyTorch.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    rows = engine.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(8, 8))
    path = str(tmp_path_factory.mktemp("served") / "model.pt2")
    engine.save(engine.compile(model, [rows], runtime="interpreter"), path, program=True)
    return model, path


def test_requests_are_answered_in_batches_and_wait_in_a_queue_that_ends(served):
    model, path = served
    server = Server(path, workers=1, most_rows=8, patience=0.05, most_waiting=12)
    try:
        assert server.health() == ["loading"]
        inputs = [torch.randn(1 + index % 3, 8) for index in range(11)]
        futures = [server.submit(each) for each in inputs]
        wrong = server.submit(torch.randn(2, 9))
        # The worker is not there yet, so nothing has left the queue.
        with pytest.raises(queue.Full):
            server.submit(inputs[0])
        with torch.no_grad():
            for given, future in zip(inputs, futures, strict=True):
                torch.testing.assert_close(future.result(timeout=120), model(given), rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError, match="InputError"):
            wrong.result(timeout=60)
        assert server.health() == ["ready"]
        assert max(server.batches) > 3
        assert max(server.batches) <= 8
        server.workers[0].terminate()
        server.workers[0].join()
        with pytest.raises(WorkerLostError):
            server.submit(inputs[0]).result(timeout=60)
        assert server.health() == ["ended"]
        with pytest.raises(WorkerLostError, match="no worker is left"):
            server.submit(inputs[0])
    finally:
        server.workers[0].terminate()


def test_several_workers_share_the_work(served):
    model, path = served
    server = Server(path, workers=2, most_rows=4, most_waiting=64)
    inputs = [torch.randn(2, 8) for _ in range(40)]

    def compare():
        answers = [future.result(timeout=120) for future in [server.submit(each) for each in inputs]]
        with torch.no_grad():
            for given, answer in zip(inputs, answers, strict=True):
                torch.testing.assert_close(answer, model(given), rtol=1e-4, atol=1e-5)

    compare()
    # The other goes on when one ends, but for what that one had.
    server.workers[0].terminate()
    server.workers[0].join()
    with suppress(WorkerLostError):
        server.submit(inputs[0]).result(timeout=60)
    compare()
    server.close()
    assert server.health() == ["ended", "ended"]

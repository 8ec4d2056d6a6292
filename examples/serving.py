"""Data parallelism: one compiled model in several worker processes, which answer requests in batches.

``python examples/serving.py`` compiles a small model for batches of 1 to 16, starts two workers, and sends requests.
Each worker loads the file by itself, on the GPU of its number where there are GPUs, and gets what waits: as many
requests as make a batch, or what came within a few milliseconds.  Requests wait in one queue of limited length.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing, nn

import engine


class WorkerLostError(RuntimeError):
    """The worker that had a request ended."""


class Server:
    """Workers that load one file, and a queue of requests; a thread for each worker makes batches for it.

    Args:
        path: a ``.pt2`` file of ``engine.save``, whose model takes one tensor with a dynamic first dim.
        workers: how many processes.
        most_rows: of a batch; at most what the model was compiled for.
        patience: seconds that a request waits for others to make a batch with.
        most_waiting: requests in the queue; more are refused.
    """

    def __init__(
        self, path: str, *, workers: int = 2, most_rows: int = 16, patience: float = 0.005, most_waiting: int = 64
    ) -> None:
        self._requests: queue.Queue[Request | None] = queue.Queue(maxsize=most_waiting)
        self._most_rows, self._patience = most_rows, patience
        self._states = ["loading"] * workers
        self.batches: list[int] = []
        """Rows of every batch that was run."""
        context = multiprocessing.get_context("spawn")
        self.workers, self._threads = [], []
        for index in range(workers):
            # A pipe for each: a queue that they share is locked for ever by one that ends while it waits.
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(index, path, theirs), daemon=True)
            process.start()
            theirs.close()
            self.workers.append(process)
            self._threads.append(threading.Thread(target=self._drive, args=(index, ours), daemon=True))
            self._threads[-1].start()

    def submit(self, rows: torch.Tensor) -> Future[torch.Tensor]:
        """Send a request; its result comes later.

        Raises:
            queue.Full: too many requests wait; try again later.
            WorkerLostError: no worker is left.
        """
        if all(state == "ended" for state in self._states):
            raise WorkerLostError("no worker is left")
        request = Request(rows)
        self._requests.put_nowait(request)
        return request.answer

    def health(self) -> list[str]:
        """``"loading"``, ``"ready"`` or ``"ended"`` for each worker."""
        return list(self._states)

    def close(self) -> None:
        """End the workers when they have answered what waits."""
        for _ in self.workers:
            self._requests.put(None)
        for thread in self._threads:
            thread.join()

    def _drive(self, index: int, pipe: Any) -> None:
        """Give batches to a worker until it ends, or there are no more."""
        batch: list[Request] = []
        pending: Request | None = None
        try:
            pipe.recv()  # it has loaded the model
            self._states[index] = "ready"
            while (first := pending or self._requests.get()) is not None:
                batch, pending = self._batch(first)
                pipe.send([request.rows for request in batch])
                answers = pipe.recv()
                self.batches.append(sum(len(request.rows) for request in batch))
                for request, answer in zip(batch, answers, strict=True):
                    if isinstance(answer, Exception):
                        request.answer.set_exception(answer)
                    else:
                        request.answer.set_result(answer)
                batch = []
        except (EOFError, OSError):
            self._states[index] = "ended"
            lost = [*batch, *([pending] if pending is not None else [])]
            if all(state == "ended" for state in self._states):
                with suppress(queue.Empty):
                    while True:
                        lost += filter(None, [self._requests.get_nowait()])
            for request in lost:
                request.answer.set_exception(WorkerLostError("the worker that had the request ended"))
        finally:
            self._states[index] = "ended"
            pipe.close()

    def _batch(self, first: Request) -> tuple[list[Request], Request | None]:
        """Requests that go together, and the next one, which does not go with them."""
        batch, rows, deadline = [first], len(first.rows), time.monotonic() + self._patience
        while rows < self._most_rows:
            try:
                other = self._requests.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if other is None:
                # The end, also of this worker, once the batch is answered.
                self._requests.put(None)
                break
            if other.rows.shape[1:] != first.rows.shape[1:] or rows + len(other.rows) > self._most_rows:
                return batch, other
            batch.append(other)
            rows += len(other.rows)
        return batch, None


class Request:
    """Rows, and what will be the answer to them."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.answer: Future[torch.Tensor] = Future()


def _work(index: int, path: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda", index % torch.cuda.device_count()) if torch.cuda.is_available() else None
    module = engine.load(path, runtime="auto" if device else "interpreter", device=device)
    pipe.send("ready")
    while True:
        try:
            parts = pipe.recv()
        except EOFError:
            return
        pipe.send(_answers(module, parts, device))


def _answers(module: nn.Module, parts: list[torch.Tensor], device: torch.device | None) -> list[Any]:
    try:
        with torch.no_grad():
            whole = module(torch.cat(parts).to(device or "cpu")).cpu()
    except Exception as error:
        if len(parts) > 1:
            # One of them may be at fault.
            return [answer for part in parts for answer in _answers(module, [part], device)]
        return [RuntimeError(f"{type(error).__name__}: {error}")]
    # Each answer has memory of its own, which goes to the other process.
    return [rows.clone() for rows in whole.split([len(part) for part in parts])]


def main() -> None:
    """Compile a model, serve it, and compare answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)).eval()
    rows = engine.Input(min_shape=(1, 16), opt_shape=(8, 16), max_shape=(16, 16))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder) / "model.pt2")
        engine.save(engine.compile(model, [rows]), path, program=not torch.cuda.is_available())
        server = Server(path, workers=options.workers, most_waiting=options.requests)
        inputs = [torch.randn(1 + index % 3, 16) for index in range(options.requests)]
        started = time.perf_counter()
        answers = [future.result() for future in [server.submit(each) for each in inputs]]
        took = time.perf_counter() - started
        for given, answer in zip(inputs, answers, strict=True):
            torch.testing.assert_close(answer, model(given), rtol=1e-3, atol=1e-4)
        print(f"workers: {', '.join(server.health())}")
        server.close()
    print(f"{len(answers)} answers in {took:.2f} s, the start of workers among them, {len(server.batches)} batches")


if __name__ == "__main__":
    main()

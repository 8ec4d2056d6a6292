"""Processes that are ranks of one process group, and run functions together."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

# Seconds of the longest run of a function; what takes longer hangs.
_PATIENCE = 240


class Failed(NamedTuple):
    """What a rank raised: the name of the error's class, its message, where."""

    kind: str
    message: str
    trace: str


class Ranks:
    """``size`` processes of one process group of gloo."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, size, self._folder.name), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What a function of a module returns on each rank; an error of any of them is raised."""
        found = self.tried(function, *args)
        for rank, result in enumerate(found):
            if isinstance(result, Failed):
                raise AssertionError(f"rank {rank}: {result.trace}")
        return found

    def tried(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """The same, with what ranks raise as :class:`Failed`; a rank that ends gives ``Failed("EOFError", ...)``."""
        for pipe in self._pipes:
            pipe.send((function, args))
        return [self._answer(pipe) for pipe in self._pipes]

    def _answer(self, pipe: Any) -> Any:
        try:
            if not pipe.poll(_PATIENCE):
                self.close()
                raise AssertionError(f"a rank was not done after {_PATIENCE} s")
            return pipe.recv()
        except EOFError:
            return Failed("EOFError", "the process ended", "")

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._folder.cleanup()


def _serve(pipe: Any, rank: int, size: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    import torch
    from torch import distributed

    os.environ["ENGINE_CHECK"] = "0"  # rewriting is checked by its own tests
    torch.set_num_threads(1)
    store = Path(folder) / "store"
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            with torch.no_grad():
                pipe.send(function(*args))
        except Exception as error:
            pipe.send(Failed(type(error).__name__, str(error), traceback.format_exc()))

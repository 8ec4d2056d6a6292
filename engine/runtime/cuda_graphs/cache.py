"""CUDA graphs of calls: recorded once for each shape, replayed from then on.

The same for an engine of either runtime and for a whole compiled module, whose graph holds all of its engines and
what PyTorch runs between them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch

from engine.process.pytorch_modes import is_capturing, put_back
from engine.runtime.cuda_graphs.own_streams import own_stream
from engine.runtime.cuda_graphs.recorded_call import RecordedCall, RecordedInput
from engine.runtime.cuda_graphs.turns import turns
from engine.runtime.engines.context_pool import ContextPool, PooledContext, captured_contexts
from engine.runtime.engines.contexts import CAPTURE_SAFE_LOCK
from engine.runtime.engines.inputs import MISALIGNED
from engine.runtime.failures import ExecutionError

Run: TypeAlias = "Callable[[Sequence[Any]], Sequence[Any]]"

_data_ptr = torch.Tensor.data_ptr
_THREAD = threading.local()
_WARM_UPS = 2
_FEW = 64
"""Values up to which a tensor in host memory is taken for a shape, or a number."""


class GraphCache:
    """Runs a callable through CUDA graphs, one per stream and shapes of the inputs.

    The first call with new shapes runs a few times to warm up, is recorded and replayed.  A graph reads the
    caller's tensors where they lie as long as they lie where they did when it was recorded; an input that is found
    elsewhere gets a buffer of its own, once, to which it is copied from then on.  Results are fresh tensors, unless
    ``static_outputs`` is set.  Graphs of one stream share their memory.

    A call that cannot be recorded, because of what it computes, runs as it would without graphs; there is one warning
    for all of them.  While the current stream is being captured by somebody else, calls become part of that graph.

    Args:
        run: takes inputs and returns outputs, on the current stream.
        name: what it is called in messages.
        size: most graphs to keep; the one that was used least recently is dropped.
        static_outputs: results lie in the graph's memory, which the next call overwrites.
        written: tells, after a run, the positions of the inputs that are written to: they are never copied.
        kept: gives the tensors that calls change besides these; warming up leaves them as they were.
        engines: the loaded engines that run.  One with ``take_captured`` and ``release_captured`` is asked for what
            it gave to a graph that was recorded, and told when the graph is gone.
        finish: makes the result of a call from its outputs.
    """

    def __init__(
        self,
        run: Run,
        *,
        name: str,
        size: int = 16,
        static_outputs: bool = False,
        written: Callable[[], Iterable[int]] = tuple,
        kept: Callable[[], Iterable[torch.Tensor]] = tuple,
        engines: Callable[[], Iterable[Any]] = tuple,
        finish: Callable[[Sequence[Any]], Any] = list,
    ) -> None:
        self.name = name
        self.size = size
        self.static_outputs = static_outputs
        self.refused: dict[Hashable, str] = {}
        self._run = run
        self._finish = finish
        self._find_written = written
        self._find_kept = kept
        self._engines = engines
        self._written: frozenset[int] = frozenset()
        self._graphs: OrderedDict[Hashable, RecordedCall] = OrderedDict()
        self._stream_locks: dict[tuple[int, int], threading.Lock] = {}
        # A device, and the graph that was used last on each of its streams.
        self._last: tuple[int, dict[int, RecordedCall]] = 0, {}
        self._lock = threading.RLock()
        self._take_turn, self._give_turn = turns()
        self._warned = False

    def __len__(self) -> int:
        return len(self._graphs)

    def replay_last(self, inputs: Sequence[Any]) -> Any:
        """Replay the graph that was used last on the current stream, if it serves these inputs.

        Returns:
            The result of the call; None where it takes more than that.
        """
        device, last = self._last
        if not last:
            return None
        graph = last.get(_raw_stream(device))
        if graph is None or len(inputs) != graph.count or not graph.accepts(*inputs) or is_capturing():
            return None
        stay = [*map(_data_ptr, inputs)] == graph.addresses
        if stay and graph.result is not None:
            graph.replay()
            return graph.result
        found = self._replayed(graph, inputs, stay)
        return None if found is None else self._finish(found)

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Run with inputs that are known to be good: tensors on one GPU, and numbers.

        Raises:
            What ``run`` raises, of a call that is not replayed.
        """
        device = next((value.get_device() for value in inputs if isinstance(value, torch.Tensor) and value.is_cuda), -1)
        if device < 0 or getattr(_THREAD, "recording", False) or is_capturing():
            return self._finish(self._run(inputs))
        if device != _current_device():
            with torch.cuda.device(device):
                return self._call(inputs, device)
        return self._call(inputs, device)

    def _call(self, inputs: Sequence[Any], device: int) -> Any:
        key = self._key(inputs, device)
        if key is None or key in self.refused:
            return self._finish(self._run(inputs))
        graph = self._graphs.get(key)
        found = None if graph is None else self._replayed(graph, inputs)
        if found is None:
            with self._lock:
                newer = self._graphs.get(key)
                # Another thread may have recorded it meanwhile.
                graph = self._record(key, inputs, device) if newer is graph else newer
            found = None if graph is None else self._replayed(graph, inputs)
            if found is None:
                return self._finish(self._run(inputs))
        result = self._finish(found)
        if graph is not None and result is not None:
            self._note(key, graph, inputs, device)
        return result

    def _note(self, key: Hashable, graph: RecordedCall, inputs: Sequence[Any], device: int) -> None:
        """Let `replay_last` find a graph that served these inputs."""
        of, last = self._last
        if of == device and last.get(graph.stream) is graph and graph.accepts(*inputs):
            return
        with self._lock:
            if key in self._graphs:
                graph.expect(inputs)
                self._graphs.move_to_end(key)
                if self._last[0] != device:
                    self._last = device, {}
                self._last[1][graph.stream] = graph

    def _replayed(self, graph: RecordedCall, inputs: Sequence[Any], stay: bool = False) -> list[Any] | None:
        """The outputs of a replay; None where the graph does not serve these inputs.

        Args:
            stay: the inputs are known to lie where the graph reads them.
        """
        self._take_turn(graph.device)
        try:
            with graph.lock:
                if not stay:
                    copies = graph.copies(inputs)
                    if copies is None:
                        return None
                    _copy(*copies)
                graph.replay()
                return graph.static(inputs) if self.static_outputs else graph.fresh(inputs)
        finally:
            self._give_turn(graph.device)

    def _key(self, inputs: Sequence[Any], device: int) -> Hashable | None:
        """The key of the calls that share a graph; None for a call that cannot have one."""
        parts: list[Hashable] = [device, _raw_stream(device)]
        for position, value in enumerate(inputs):
            if isinstance(value, torch.Tensor):
                parts += (value.shape, value.dtype)
                if position in self._written:
                    parts.append(value.data_ptr())
                if not value.is_cuda:
                    # Its values are read while the graph is recorded, and not when it is replayed.
                    if value.numel() > _FEW:
                        return None
                    parts.append(tuple(value.reshape(-1).tolist()))
            else:
                parts += (type(value), value)  # type: ignore[arg-type]
        return tuple(parts)

    def clear(self) -> None:
        """Drop all graphs."""
        with self._lock:
            self._last[1].clear()
            self._graphs.clear()
            self.refused.clear()

    # -------------------------------------------------------------------------------- recording

    def _record(self, key: Hashable, inputs: Sequence[Any], device: int) -> RecordedCall | None:
        """Record a graph that serves these inputs; None where they have to be run without one."""
        before = self._graphs.pop(key, None)
        self._last[1].clear()
        buffered = self._moved(before, inputs)
        del before
        while len(self._graphs) >= self.size:
            self._graphs.popitem(last=False)
        try:
            with CAPTURE_SAFE_LOCK, _recording():
                graph: RecordedCall | None = self._captured(inputs, buffered, device)
        except torch.OutOfMemoryError:
            graph = None
        except _NotRecordedError as error:
            self._refuse(key, str(error))
            return None
        if graph is None:
            # Without graphs there may be enough memory.
            self.clear()
            torch.cuda.empty_cache()
            return None
        self._graphs[self._key(inputs, device)] = graph
        return graph

    def _moved(self, before: RecordedCall | None, inputs: Sequence[Any]) -> set[int]:
        """Positions of the inputs that are copied to a buffer: their addresses change between calls."""
        moved: set[int] = set()
        for position, value in enumerate(inputs):
            if not isinstance(value, torch.Tensor) or not value.is_cuda or position in self._written:
                continue
            recorded = before.inputs[position] if before is not None else None
            elsewhere = recorded is not None and (recorded.buffer is not None or recorded.address != value.data_ptr())
            if elsewhere or not value.is_contiguous() or not value.data_ptr() or value.data_ptr() & MISALIGNED:
                moved.add(position)
        return moved

    def _captured(self, inputs: Sequence[Any], buffered: set[int], device: int) -> RecordedCall:
        current = torch.cuda.current_stream(device)
        with torch.inference_mode(False), torch.no_grad(), own_stream(device) as side:
            static = list(inputs)
            for position, value in enumerate(inputs):
                if isinstance(value, torch.Tensor):
                    static[position] = _buffer(value) if position in buffered else value.detach()
            side.wait_stream(current)
            try:
                with torch.cuda.stream(side), put_back([*self._find_kept(), *self._written_now(static)]):
                    for _ in range(_WARM_UPS):
                        self._run(static)
            finally:
                current.wait_stream(side)
            self._written = frozenset(self._find_written())
            if self._written & buffered:
                raise _NotRecordedError("an input that is written to is not contiguous")
            graph, outputs, releases = self._capture(static, side, device)
        entries: list[RecordedInput | None] = [
            RecordedInput(value, static[i] if i in buffered else None)
            if isinstance(value, torch.Tensor) and value.is_cuda
            else None
            for i, value in enumerate(inputs)
        ]
        passed = _passed(static, outputs)
        lock = self._stream_locks.setdefault((device, current.cuda_stream), threading.Lock())
        recorded = RecordedCall(graph, current, entries, outputs, passed, releases, lock)
        if self.static_outputs and not passed:
            result = self._finish(outputs)
            # A list or a dict could be changed by whoever gets it.
            if isinstance(result, torch.Tensor) or (
                type(result) is tuple and all(isinstance(each, torch.Tensor) for each in result)
            ):
                recorded.result = result
        return recorded

    def _written_now(self, static: Sequence[Any]) -> list[torch.Tensor]:
        values = (static[position] for position in self._find_written())
        return [value for value in values if isinstance(value, torch.Tensor)]

    def _capture(
        self, static: list[Any], side: torch.cuda.Stream, device: int
    ) -> tuple[torch.cuda.CUDAGraph, list[Any], list[Callable[[], None]]]:
        graph = torch.cuda.CUDAGraph()
        pool = self._pool(device)
        givers = [engine for engine in self._engines() if hasattr(engine, "take_captured")]
        for engine in givers:
            engine.take_captured()  # what others captured
        torch.cuda.synchronize(device)
        with captured_contexts() as contexts, torch.cuda.stream(side), _own_cublas_workspaces():
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                outputs = list(self._run(static))
            except BaseException as error:
                try:
                    graph.capture_end()
                except RuntimeError:
                    _close_books(device, pool)
                for release in _releases(contexts, givers):
                    release()
                if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError | ExecutionError):
                    raise
                raise _NotRecordedError(_first_line(error)) from error
            try:
                graph.capture_end()
            except RuntimeError as error:
                _close_books(device, pool)
                for release in _releases(contexts, givers):
                    release()
                raise _NotRecordedError(_first_line(error)) from error
        return graph, outputs, _releases(contexts, givers)

    def _pool(self, device: int) -> Any:
        """The memory of the current stream's graphs.

        Their last graph takes it along: PyTorch does not record into the memory of graphs that are gone.
        """
        stream = _raw_stream(device)
        for graph in self._graphs.values():
            if (graph.device, graph.stream) == (device, stream):
                return graph.graph.pool()
        return torch.cuda.graph_pool_handle()

    def _refuse(self, key: Hashable, reason: str) -> None:
        if len(self.refused) >= 1024:
            self.refused.clear()
        self.refused[key] = reason
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name} cannot be recorded as a CUDA graph and runs without one: {reason}", stacklevel=4
            )


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    # What runs inside is part of this graph: it has no graphs of its own.
    _THREAD.recording = True
    try:
        yield
    finally:
        _THREAD.recording = False


class _NotRecordedError(Exception):
    """A call cannot be recorded because of what it does."""


def _releases(contexts: Sequence[tuple[ContextPool, PooledContext]], givers: Sequence[Any]) -> list[Callable[[], None]]:
    """How to give back what a graph was recorded with."""
    from_pools = [functools.partial(pool.release, pooled) for pool, pooled in contexts]
    return from_pools + [functools.partial(engine.release_captured, engine.take_captured()) for engine in givers]


def _buffer(value: torch.Tensor) -> torch.Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format)


def _copy(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    if len(buffers) == 1:
        buffers[0].copy_(values[0], non_blocking=True)
    elif buffers:
        torch._foreach_copy_(buffers, values, non_blocking=True)


def _passed(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[int, int]:
    """Output position -> input position, for outputs that are an input and not computed."""
    places = {_place(value): i for i, value in enumerate(inputs) if isinstance(value, torch.Tensor) and value.numel()}
    found = {i: places.get(_place(output)) for i, output in enumerate(outputs) if isinstance(output, torch.Tensor)}
    return {i: position for i, position in found.items() if position is not None}


def _place(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


@contextlib.contextmanager
def _own_cublas_workspaces() -> Iterator[None]:
    # What cuBLAS works with is kept per stream.  A graph that is replayed beside others needs its own, which it gets
    # where there is none yet when it is recorded; afterwards it must not stay with the stream.
    clear: Callable[[], None] = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    clear()
    try:
        yield
    finally:
        clear()


def _close_books(device: int, pool: Any) -> None:
    """Let PyTorch allocate, and draw random numbers, after a capture broke: it takes both for recorded still."""
    with contextlib.suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(device, pool)
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _find_raw_stream(device: int) -> int:
    """The current stream of a device; 0 where there is none.

    A PyTorch that is built without CUDA has no such function, and one with CUDA has one that raises where there is no
    driver: so a device is asked for until one is there, and from then on PyTorch's function stands here.
    """
    global _raw_stream
    if not torch.cuda.is_available():
        return 0
    _raw_stream = torch._C._cuda_getCurrentRawStream
    return _raw_stream(device)


_raw_stream: Callable[[int], int] = _find_raw_stream
_current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", lambda: -1)

__all__ = ["GraphCache"]

"""Observers: callbacks before and after what a compilation and an engine do.

There are pairs of hooks around a whole compilation, each of its phases, every rewrite, partitioning, the build of
every engine and every call of an engine.  They belong to the process, as PyTorch's global module hooks do, because
engines are called from any thread.  While nobody listens, an event costs one look at an empty tuple and no event is
made.

A callback runs in the thread that does the work.  What it raises is not swallowed: it ends the compilation or the
call, with a note that names the callback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from engine.partitioner import Segment
    from engine.report import Report
    from engine.runtime.module import TorchTensorRTModule


@dataclass(slots=True)
class Event:
    """One event, as observers receive it.  One object serves both hooks, which may keep things in ``notes``.

    Attributes:
        seconds: how long it took, on the host; None before.
        error: what ended it, where it failed; the hook after it is called all the same.
        notes: for the observers' own use, such as an open profiler range.
    """

    seconds: float | None = field(default=None, kw_only=True)
    error: BaseException | None = field(default=None, kw_only=True)
    notes: dict[Any, Any] = field(default_factory=dict, kw_only=True, repr=False)


@dataclass(slots=True)
class CompileEvent(Event):
    """One compilation, or one dry run; ``report`` is complete after it, and None where it failed early."""

    model: str
    report: Report | None = field(default=None, repr=False)


@dataclass(slots=True)
class PhaseEvent(Event):
    """One phase of a compilation, by its name in ``report.timings``; some run more than once."""

    phase: str
    model: str


@dataclass(slots=True)
class RewriteEvent(Event):
    """One application of a rule, or one decomposition by PyTorch (``kind="decompose"``).

    Attributes:
        rule, where, kind: id of the rule, ``file:line``, and ``simplify``, ``lower`` or ``decompose``.
        before: matched node -> its op, in graph order.
        after: inserted node -> its op, in graph order; empty before, and where an existing value takes over.
    """

    rule: str
    where: str
    kind: str
    before: Mapping[str, str]
    after: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class PartitionEvent(Event):
    """One partitioning; it is done again after TensorRT rejected a tile.

    Attributes:
        tiles: number of tiles that rules cover.
        segments: in order of execution; empty before.
        reasons: node that stays in PyTorch -> why; empty before.
    """

    model: str
    tiles: int
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class BuildEvent(Event):
    """One engine that TensorRT builds; ``engine_bytes`` is 0 before, and if the build failed (``error`` says why)."""

    engine: str
    model: str
    layers: int
    engine_bytes: int = 0


@dataclass(slots=True)
class EngineEvent(Event):
    """One call of an engine, whichever way it is run.

    ``seconds`` is what the host spent: the GPU may still be at work after it.  A call that becomes part of a CUDA
    graph is seen while it is recorded, and not when the graph is replayed.

    Attributes:
        module: whose engine it is; ``module.name`` and ``module.runtime`` say more.
        inputs: tensors and numbers in the order of the bindings.
        outputs: in the order of the bindings; empty before.
        stream: PyTorch's current CUDA stream; None where the engine is interpreted.
    """

    engine: str
    module: TorchTensorRTModule
    inputs: Sequence[Any]
    outputs: Sequence[torch.Tensor] = ()
    stream: torch.cuda.Stream | None = None


_E = TypeVar("_E", bound=Event)

_KINDS = ("compile", "phase", "rewrite", "partition", "build", "engine")
_NAMES = tuple(f"{when}_{kind}" for kind in _KINDS for when in ("before", "after"))

# Per kind the callbacks (before, after); empty where nobody listens.  Replaced and never changed, so that readers
# need no lock.  `engine_calls` stands by itself because it is looked at in every call of every engine.
_Callbacks = tuple[tuple[Callable[[Any], object], ...], tuple[Callable[[Any], object], ...]]
engine_calls: _Callbacks | tuple[()] = ()
_listening: dict[str, _Callbacks] = {}
_observers: list[Observer] = []
_lock = threading.Lock()


class Observer:
    """Callbacks that are registered until `remove` is called or the ``with`` block ends."""

    def __init__(self, callbacks: Mapping[str, Callable[[Any], object]]) -> None:
        self.callbacks = dict(callbacks)

    def remove(self) -> None:
        """Stop listening; does nothing the second time."""
        with _lock:
            if self in _observers:
                _observers.remove(self)
                _publish()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Observer({', '.join(self.callbacks)})"


def observe(
    *,
    before_compile: Callable[[CompileEvent], object] | None = None,
    after_compile: Callable[[CompileEvent], object] | None = None,
    before_phase: Callable[[PhaseEvent], object] | None = None,
    after_phase: Callable[[PhaseEvent], object] | None = None,
    before_rewrite: Callable[[RewriteEvent], object] | None = None,
    after_rewrite: Callable[[RewriteEvent], object] | None = None,
    before_partition: Callable[[PartitionEvent], object] | None = None,
    after_partition: Callable[[PartitionEvent], object] | None = None,
    before_build: Callable[[BuildEvent], object] | None = None,
    after_build: Callable[[BuildEvent], object] | None = None,
    before_engine: Callable[[EngineEvent], object] | None = None,
    after_engine: Callable[[EngineEvent], object] | None = None,
) -> Observer:
    """Listen to what is compiled and run in this process, from now on.

    Each callback is given one event; what it returns is ignored.  Callbacks before something run in the order of
    registration, those after it in reverse, so that ranges nest.

    Returns:
        The observer: call ``remove()``, or use it in a ``with`` statement.

    Raises:
        TypeError: a callback is not callable.
    """
    given = locals()
    callbacks = {name: given[name] for name in _NAMES if given[name] is not None}
    for name, callback in callbacks.items():
        if not callable(callback):
            raise TypeError(f"{name} is a callback that takes one event, not {callback!r}")
    observer = Observer(callbacks)
    with _lock:
        _observers.append(observer)
        _publish()
    return observer


def _publish() -> None:
    """Let readers see what is registered; the lock is held."""
    global engine_calls, _listening
    found: dict[str, _Callbacks] = {}
    for kind in _KINDS:
        before = [o.callbacks[f"before_{kind}"] for o in _observers if f"before_{kind}" in o.callbacks]
        after = [o.callbacks[f"after_{kind}"] for o in reversed(_observers) if f"after_{kind}" in o.callbacks]
        if before or after:
            found[kind] = tuple(before), tuple(after)
    _listening = found
    engine_calls = found.get("engine", ())


@contextmanager
def observed(kind: str, make: Callable[..., _E], *args: Any) -> Iterator[_E | None]:
    """Tell observers of a kind of event before and after the ``with`` block; yields None where there are none.

    Args:
        make: makes the event from ``args``; not called where nobody listens.
    """
    callbacks = _listening.get(kind)
    if callbacks is None:
        yield None
        return
    event = make(*args)
    _tell(callbacks[0], event)
    started = time.perf_counter()
    try:
        yield event
    except BaseException as error:
        event.error = error
        raise
    finally:
        event.seconds = time.perf_counter() - started
        _tell(callbacks[1], event)


def listens(kind: str) -> bool:
    """Whether anybody listens to a kind of event; for work that only an event needs."""
    return kind in _listening


def observe_call(
    module: TorchTensorRTModule,
    inputs: Sequence[Any],
    run: Callable[[Sequence[Any]], list[torch.Tensor]],
) -> list[torch.Tensor]:
    """Run an engine, and tell observers of the call."""
    import torch

    stream = torch.cuda.current_stream() if module.runtime != "interpreter" and torch.cuda.is_available() else None
    with observed("engine", EngineEvent, module.name, module, inputs, (), stream) as event:
        outputs = run(inputs)
        if event is not None:
            event.outputs = outputs
    return outputs


def raised_by_observer(error: BaseException) -> bool:
    """Whether an error comes from a callback, and not from what it watched."""
    return getattr(error, "__engine_observer__", False) is True


def _tell(callbacks: Sequence[Callable[[Any], object]], event: Event) -> None:
    for callback in callbacks:
        try:
            callback(event)
        except BaseException as error:
            if not raised_by_observer(error):
                error.add_note(f"raised by the observer {_name(callback)}, told of {_title(event)}")
                # What recovers from TensorRT's errors must not take this for one.
                error.__engine_observer__ = True  # type: ignore[attr-defined]
            raise


def _name(callback: Any) -> str:
    function = getattr(callback, "func", callback)
    code = getattr(function, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{getattr(function, '__qualname__', repr(function))}{where}"


def _title(event: Event) -> str:
    subject = next((getattr(event, name) for name in ("engine", "rule", "phase", "model") if hasattr(event, name)), "")
    when = "before" if event.seconds is None else "after"
    return f"{when} {type(event).__name__.removesuffix('Event').lower()} {subject}".rstrip()


__all__ = [
    "BuildEvent",
    "CompileEvent",
    "EngineEvent",
    "Event",
    "Observer",
    "PartitionEvent",
    "PhaseEvent",
    "RewriteEvent",
    "observe",
    "raised_by_observer",
]

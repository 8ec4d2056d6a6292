"""TensorRT's log: captured for error messages, forwarded to ``logging``.

TensorRT keeps one logger for the whole process (a second one is refused with a warning, or used
in part), so there is one `Logger`; what it hears is sorted by the thread that caused it.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

from engine.tensorrt import load

_LOG = logging.getLogger("engine.tensorrt")
_NOISE = ("Using default stream in enqueueV3()",)
"""Warnings, by their beginnings, that are said once, as information: they repeat at every call, and nothing follows
from them (a call on the default stream was measured not to wait for the GPU)."""
_KEPT = 1000
"""Messages kept for a thread: a process that builds for days must not grow."""


class Message(NamedTuple):
    """One message of TensorRT; ``level`` is a level of ``logging``."""

    level: int
    text: str


class Logger(Protocol):
    """A ``trt.ILogger`` that remembers; safe to use from several threads.

    Attributes:
        messages: what TensorRT said to the calling thread since that thread last called
            `capturing_logger`, oldest first, without ``VERBOSE`` messages.
    """

    @property
    def messages(self) -> list[Message]:
        """What was captured for the calling thread."""
        ...

    def errors(self) -> list[str]:
        """The texts of the errors among ``messages``, in order, without repeats."""
        ...

    def clear(self) -> None:
        """Forget what was captured for the calling thread."""
        ...

    def recent_errors(self) -> list[str]:
        """The newest errors of the whole process, for a failure outside of any listener."""
        ...

    def gather(self) -> AbstractContextManager[list[Message]]:
        """A list that fills with what this thread makes TensorRT say inside the ``with`` block."""
        ...

    def log(self, severity: Any, msg: str) -> None:
        """The method that TensorRT calls."""
        ...


def capturing_logger() -> Logger:
    """The process's TensorRT logger, with nothing captured yet for the calling thread.

    TensorRT says only in its log why it refused something: call this before, hand the logger to
    ``trt.Builder`` or ``trt.Runtime``, and quote ``errors()`` in the exception raised.
    """
    logger = _logger()
    logger.clear()
    return logger  # type: ignore[no-any-return]


def error_texts(messages: Sequence[Message]) -> list[str]:
    """The texts of the errors among ``messages``, in order, without repeats."""
    return list(dict.fromkeys(message.text for message in messages if message.level >= logging.ERROR))


class _Capture:
    """The messages that belong to one thread."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.messages: list[Message] = []

    def add(self, message: Message) -> None:
        self.messages.append(message)
        if len(self.messages) > _KEPT:
            del self.messages[: _KEPT // 2]


@functools.cache
def _logger() -> Any:
    # Cached for the life of the process: TensorRT holds a bare pointer to it.
    trt = load()
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.CRITICAL,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        # TensorRT's INFO is about its own progress, which is a detail to a user of PyTorch.
        severity.INFO: logging.DEBUG,
    }

    class ProcessLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            # Reentrant: collecting garbage under the lock may destroy an engine, which logs.
            self._lock = threading.RLock()
            self._own = threading.local()
            self._captures: weakref.WeakSet[_Capture] = weakref.WeakSet()
            self._recent: deque[str] = deque(maxlen=20)
            self._said: set[str] = set()

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity)
            if level is None:
                return
            if msg.startswith(_NOISE):
                if msg in self._said:
                    return
                self._said.add(msg)
                level = logging.INFO
            message = Message(level, msg)
            with self._lock:
                captures = list(self._captures)
                # TensorRT's own worker threads belong to no caller: every listener gets their messages.
                mine = [capture for capture in captures if capture.thread == threading.get_ident()]
                for capture in mine or captures:
                    capture.add(message)
                if level >= logging.ERROR:
                    self._recent.append(msg)
            # What is captured is raised as an exception, so it is not shouted a second time.
            _LOG.log(logging.DEBUG if level >= logging.ERROR else level, "%s", msg)

        def clear(self) -> None:
            capture = _Capture()
            with self._lock:
                previous = getattr(self._own, "capture", None)
                if previous is not None:
                    self._captures.discard(previous)
                self._own.capture = capture
                self._captures.add(capture)

        @property
        def messages(self) -> list[Message]:
            capture = getattr(self._own, "capture", None)
            return [] if capture is None else capture.messages

        def errors(self) -> list[str]:
            return error_texts(self.messages)

        def recent_errors(self) -> list[str]:
            with self._lock:
                return list(dict.fromkeys(self._recent))

        @contextmanager
        def gather(self) -> Iterator[list[Message]]:
            capture = _Capture()
            with self._lock:
                self._captures.add(capture)
            try:
                yield capture.messages
            finally:
                with self._lock:
                    self._captures.discard(capture)

    return ProcessLogger()

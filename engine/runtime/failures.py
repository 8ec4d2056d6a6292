"""What TensorRT says when it will not load or run an engine, as exceptions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from engine.errors import BuildError, EngineError

# The forms in which TensorRT names layers: `{ForeignNode[first...last]}`, `node name.`,
# `Layer name:`, `[name]` is left out because it is also how TensorRT names its source files.
_NAMED = (
    re.compile(r"ForeignNode\[([^\]]+)\]"),
    re.compile(r"\bnode \{?(?!ForeignNode)([^\s{}\[\]]+)\}?"),
    re.compile(r"\blayer (?:named? )?[`'\"]([^`'\"]+)[`'\"]", re.IGNORECASE),
)

# What TensorRT-RTX says of an engine that was built for other GPUs.
_NO_KERNEL = "Compatible cubin or ptx module for device target"
_COMPILE_HERE = (
    "\n  it was built for other GPUs: compile the model where this GPU is, or with it among target_compute_capabilities"
)


class EngineLoadError(BuildError):
    """TensorRT built an engine and then would not load it.

    Attributes:
        messages: TensorRT's error messages, oldest first.
        failed_layers: the layers that those messages name, possibly none.
        for_other_gpus: whether the engine has no kernels for this GPU.
    """

    def __init__(self, text: str, messages: Sequence[str], layer_names: Collection[str] = ()) -> None:
        self._text = text
        self.messages = tuple(messages)
        self.failed_layers = failed_layers(messages, layer_names)
        self.for_other_gpus = any(_NO_KERNEL in message for message in messages)
        super().__init__(text + quoted(messages) + (_COMPILE_HERE if self.for_other_gpus else ""))

    def among(self, layer_names: Collection[str]) -> EngineLoadError:
        """The same error, whose ``failed_layers`` are looked for among the names of the network's layers."""
        return EngineLoadError(self._text, self.messages, layer_names)


class ExecutionError(EngineError, RuntimeError):
    """TensorRT did not run an engine, or a run of it failed."""


def quoted(messages: Sequence[str]) -> str:
    """TensorRT's messages as the end of an error message."""
    if not messages:
        return ": TensorRT gave no reason"
    return "; TensorRT says:" + "".join(f"\n  {message.strip()}" for message in messages)


def failed_layers(messages: Sequence[str], layer_names: Collection[str] = ()) -> list[str]:
    """The layers that error messages name, in order of appearance.

    Args:
        messages: TensorRT's error messages.
        layer_names: the names that the network's layers have.  Where given, only they are looked
            for, wherever they stand in a message; else names are read off TensorRT's usual phrases.
    """
    found: dict[str, None] = {}
    for message in messages:
        if layer_names:
            places = ((_position(name, message), name) for name in layer_names if name)
            found.update((name, None) for place, name in sorted(places) if place >= 0)
            continue
        for pattern in _NAMED:
            for match in pattern.finditer(message):
                found.update((name.rstrip("."), None) for name in re.split(r"\.{3}", match.group(1)))
    return list(found)


def _position(name: str, message: str) -> int:
    # Names end in numbers, so `conv_1` must not be found inside `conv_12`; dots and slashes part
    # the words of a name, but an ellipsis joins two names.
    match = re.search(rf"(?<![\w/])(?<!\w\.){re.escape(name)}(?![\w/])(?!\.\w)", message)
    return -1 if match is None else match.start()

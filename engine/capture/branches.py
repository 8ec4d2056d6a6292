"""Where a model decides something by a size while it is captured.

``torch.export`` follows one way through the Python code of a model, and takes every dynamic size to be 2 or more
while it does: what it decides by that leaves no trace in the program, though ranges may begin at 0 or 1.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import sympy
import torch
from torch import fx

from engine.graph.provenance import model_line
from engine.sizes import normal

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
_SYMBOLS = os.path.join(_TORCH, "__init__.py")
# The parts of PyTorch that decide what a model computes.  All others infer shapes and layouts.
_MODELS = tuple(
    os.path.join(_TORCH, part)
    for part in ("_tensor.py", "functional.py", *(os.path.join(name, "") for name in ("ao", "distributions", "nn")))
)
_LOCK = threading.RLock()


class Branch(NamedTuple):
    """What held of sizes where the model asked.

    Attributes:
        relation: over the symbols of the ``ShapeEnv``.
        source: the line of the model, ``file:line in name: code``.
        otherwise: what comes out differently where it does not hold; empty where that has to be tried.
    """

    relation: sympy.Basic
    source: str
    otherwise: str = ""


@contextmanager
def observed_branches() -> Iterator[list[Branch]]:
    """Collect what the code of models asks of symbolic sizes, each question once.

    Seen are truth values that Python code takes: ``if``, ``and``, ``assert``.  Questions of operators are not among
    them: those that matter become guards of the ``ShapeEnv``.
    """
    found: dict[Branch, None] = {}
    branches: list[Branch] = []
    taken = torch.SymBool.__bool__

    def observe(asked: torch.SymBool) -> bool:
        answer = taken(asked)
        relation = getattr(asked.node, "_expr", None)
        if isinstance(relation, sympy.Basic) and relation.free_symbols:
            source = _asker(sys._getframe(1))
            if source is not None:
                found.setdefault(Branch(relation if answer else sympy.Not(relation), source))
        return answer

    with _LOCK:
        torch.SymBool.__bool__ = observe  # type: ignore[method-assign]
        try:
            yield branches
        finally:
            torch.SymBool.__bool__ = taken  # type: ignore[method-assign]
            branches.extend(found)


def _asker(frame: FrameType | None) -> str | None:
    """The model line that asks; None where PyTorch asks for reasons of its own."""
    while frame is not None and frame.f_code.co_filename == _SYMBOLS:
        frame = frame.f_back
    if frame is None:
        return None
    file = frame.f_code.co_filename
    if file.startswith(_TORCH) and not file.startswith(_MODELS):
        return None
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename.startswith(_TORCH):
        caller = caller.f_back
    asking = caller or frame
    return described_line(asking.f_code.co_filename, asking.f_lineno, asking.f_code.co_name)


def described_line(file: str, number: int, name: str) -> str:
    """A line of a model in words: ``file:line in name: code``."""
    code = linecache.getline(file, number).strip().removesuffix(":")
    return f"{file}:{number} in {name}" + (f": {code}" if code else "")


def squeezed_sizes(graph: fx.Graph) -> Iterator[Branch]:
    """That dims which ``squeeze`` was seen to keep are not 1: the rank of its result depends on that."""
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet is torch.ops.aten.squeeze:
            shape: Sequence[int | torch.SymInt] = node.args[0].meta["val"].shape
            asked = node.args[1] if len(node.args) > 1 else range(len(shape))
            for dim in [asked] if isinstance(asked, int) else asked:
                size = normal(shape[dim]) if shape else 1
                if isinstance(size, sympy.Expr):
                    yield Branch(sympy.Ne(size, 1), model_line(node), "squeeze leaves out the dim")


__all__ = ["Branch", "described_line", "observed_branches", "squeezed_sizes"]

"""Where a model decides something by a size while it is captured.

``torch.export`` follows one way through the Python code of a model, and takes every dynamic size to be 2 or more
while it does: what it decides by that leaves no trace in the program, though ranges may begin at 0 or 1.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import sympy
import torch
from torch import fx
from torch._guards import TracingContext
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, uninteresting_files

from engine.graph.provenance import model_line
from engine.sizes import normal

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# What lies between a model and the question whether something holds.
_BETWEEN = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), ""),
    *(
        os.path.join(_TORCH, *part.split("/"))
        for part in (
            "__init__.py", "_compile.py", "_export/non_strict_utils.py", "_library/", "_ops.py", "_subclasses/", "fx/",
            "overrides.py", "utils/",
        )
    ),
)  # fmt: skip
# The parts of PyTorch that decide what a model computes.  All others infer shapes and layouts.
_MODELS = tuple(
    os.path.join(_TORCH, part)
    for part in ("_tensor.py", "functional.py", *(os.path.join(name, "") for name in ("ao", "distributions", "nn")))
)
_DYNAMO = os.path.join(_TORCH, "_dynamo", "")
# How Python makes a number of a symbolic one.
_NUMBERS = ((torch.SymInt, "__int__"), (torch.SymInt, "__index__"), (torch.SymFloat, "__float__"))
_LOCK = threading.RLock()


class Branch(NamedTuple):
    """What held of sizes where the model asked.

    Attributes:
        relation: over the symbols of the ``ShapeEnv``.
        source: the line of the model, ``file:line in name: code``.
        otherwise: what comes out differently where it does not hold; empty where that has to be tried.
        fixes: whether a size was made a Python number, so that the relation says what number it is.
    """

    relation: sympy.Basic
    source: str
    otherwise: str = ""
    fixes: bool = False


@contextmanager
def observed_branches(branches: list[Branch]) -> Iterator[None]:
    """Add what the code of models asks of symbolic sizes to ``branches``, each question once.

    Seen are truth values that Python code takes (``if``, ``and``, ``assert``), what ``torch._check`` and
    ``torch._assert`` promise, and numbers that it makes of sizes (``range``, ``math.sin``), which fixes them.
    Questions of operators are not among them: those that matter become guards of the ``ShapeEnv``.
    """
    found: dict[Branch, None] = {}
    numbers: dict[Branch, None] = {}
    taken, promised, evaluate = torch.SymBool.__bool__, SymNode.expect_true, ShapeEnv.evaluate_expr

    def note(node: Any, answer: bool, frame: FrameType | None) -> None:
        relation = getattr(node, "_expr", None)
        if isinstance(relation, sympy.Basic) and relation.free_symbols:
            source = _asker(frame)
            if source is not None:
                found.setdefault(Branch(relation if answer else sympy.Not(relation), source))

    def observe(asked: torch.SymBool) -> bool:
        answer = taken(asked)
        note(asked.node, answer, sys._getframe(1))
        return answer

    def observe_promise(node: SymNode, file: str, line: int) -> bool:
        note(node, True, sys._getframe(1))
        return promised(node, file, line)

    def observe_number(number: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def taken_as_number(size: Any) -> Any:
            expression = getattr(size.node, "_expr", None)
            found = number(size)
            if isinstance(expression, sympy.Expr) and expression.free_symbols:
                source = _asker(sys._getframe(1))
                if source is not None:
                    numbers.setdefault(Branch(sympy.Eq(expression, found), source, fixes=True))
            return found

        return taken_as_number

    def observe_argument(asked: ShapeEnv, question: Any, hint: Any = None, *others: Any, **options: Any) -> Any:
        """A size that an operator takes as a number makes one of it without asking Python."""
        answer = evaluate(asked, question, hint, *others, **options)
        if isinstance(hint, int | float) and not isinstance(hint, bool) and getattr(question, "free_symbols", None):
            source = _asker(sys._getframe(1))
            if source is not None:
                numbers.setdefault(Branch(sympy.Eq(question, answer), source, fixes=True))
        return answer

    kept = {(kind, name): vars(kind)[name] for kind, name in _NUMBERS if name in vars(kind)}
    with _LOCK:
        # A ``ShapeEnv`` notes who asks, which is never this file.
        uninteresting_files().add(__file__)
        for (kind, name), number in kept.items():
            setattr(kind, name, observe_number(number))
        torch.SymBool.__bool__ = observe  # type: ignore[method-assign]
        SymNode.expect_true = observe_promise  # type: ignore[method-assign, assignment]
        ShapeEnv.evaluate_expr = observe_argument  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for (kind, name), number in kept.items():
                setattr(kind, name, number)
            torch.SymBool.__bool__ = taken  # type: ignore[method-assign]
            SymNode.expect_true = promised  # type: ignore[method-assign]
            ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]
            branches.extend(found | numbers)


@contextmanager
def observed_answers(branches: list[Branch]) -> Iterator[None]:
    """The same for strict mode, which runs the code of models itself: Python's own questions are never asked."""
    evaluate, asking = ShapeEnv.evaluate_expr, getattr(ShapeEnv, "_get_user_frame", None)
    found: dict[Branch, None] = {}

    def observe(asked: ShapeEnv, question: Any, hint: Any = None, *others: Any, **options: Any) -> Any:
        answer = evaluate(asked, question, hint, *others, **options)
        frame = asking(asked) if asking is not None and getattr(question, "free_symbols", None) else None
        # Operators ask for truth values as they please; a number that one of them takes is the model's.
        by_model = frame is not None and (not isinstance(hint, bool) or _is_of_python(frame))
        if hint is not None and by_model:
            stack = TracingContext.extract_stack()
            lines = [line for line in stack if not line.filename.startswith(_TORCH)]
            if lines:
                source = described_line(lines[-1].filename, lines[-1].lineno or 0, lines[-1].name)
                if isinstance(hint, bool):
                    found.setdefault(Branch(question if hint else sympy.Not(question), source))
                else:
                    found.setdefault(Branch(sympy.Eq(question, hint), source, fixes=True))
        return answer

    with _LOCK:
        uninteresting_files().add(__file__)
        ShapeEnv.evaluate_expr = observe  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]
            branches.extend(found)


def _is_of_python(frame: FrameType) -> bool:
    """Whether Dynamo asks for code of the model that it reads, and not for an operator in C++ that it runs."""
    return frame.f_code.co_filename.startswith(_DYNAMO) and frame.f_code.co_name != "run_node"


def _asker(frame: FrameType | None) -> str | None:
    """The model line that asks; None where PyTorch asks for reasons of its own."""
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
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


def small_sizes(graph: fx.Graph) -> Iterator[Branch]:
    """That sizes are not 0 or 1 where the results of operators would have shapes that the graph does not give them.

    ``squeeze`` keeps dims that tracing takes to be 2 or more, and slices find as many elements in them.
    """
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet is torch.ops.aten.slice:
            yield from _cut_short(node)
        elif packet is torch.ops.aten.squeeze:
            shape: Sequence[int | torch.SymInt] = node.args[0].meta["val"].shape
            asked = node.args[1] if len(node.args) > 1 else range(len(shape))
            for dim in [asked] if isinstance(asked, int) else asked:
                size = normal(shape[dim]) if shape else 1
                if isinstance(size, sympy.Expr):
                    yield Branch(sympy.Ne(size, 1), model_line(node), "squeeze leaves out the dim")


def _cut_short(node: fx.Node) -> Iterator[Branch]:
    names = ("self", "dim", "start", "end", "step")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    dim, bounds = given.get("dim", 0), [given.get(name) for name in names[2:]]
    size, found = (normal(value.meta["val"].shape[dim]) for value in (given["self"], node))
    if not isinstance(size, sympy.Symbol) or not all(bound is None or isinstance(bound, int) for bound in bounds):
        return
    for small in (1, 0):
        kept = found.subs(size, small) if isinstance(found, sympy.Expr) else found
        if kept != len(range(small)[slice(*bounds)]):
            yield Branch(size > small, model_line(node), "a slice has fewer elements")
            return


__all__ = ["Branch", "described_line", "observed_answers", "observed_branches", "small_sizes"]

"""What a model asserts of the values of tensors: followed as if it held while the model is traced, and told."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, uninteresting_files

from engine.capture.sizes.branches import described_line

_TORCH = torch.__file__.removesuffix("__init__.py")
# What notes questions about sizes stands between them and the model.
_OBSERVERS = str(Path(__file__).parents[1])
_TRACED = (FakeTensor, FunctionalTensor)
_LOCK = threading.RLock()
# An assertion has its message to make before it raises; a loop or another choice is none.
_MOST_INSTRUCTIONS = 200


@contextmanager
def assumed_assertions(
    assumed: dict[str, None],
    asked: Callable[[FrameType], None],
    known: Callable[[torch.Tensor], bool | None] = lambda tensor: None,
) -> Iterator[None]:
    """Let ``assert condition`` on values, and ``if condition: raise ...``, hold while a model is traced.

    A graph decides nothing by values, so the compiled model does not check them.  Other questions about values are what
    they were: an error.  ``torch.equal`` and ``torch.allclose``, which PyTorch does not trace, are asked as
    comparisons are.  Other threads ask as ever.

    Args:
        assumed: gets the model's lines of what was taken to hold, ``file:line in name: code``.
        asked: called with the frame of every other question about a tensor; may raise.
        known: the truth of a tensor that no input of the model decides, None of others; asked first.
    """
    thread = threading.get_ident()
    # A ``ShapeEnv`` notes who asks, which is never this file.
    uninteresting_files().add(__file__)

    def holds(frame: FrameType) -> bool | None:
        """The answer with which the code of a frame does not raise; None where that is not what it asks for."""
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_OBSERVERS):
            frame = frame.f_back
        answer = _answer(frame.f_code, frame.f_lasti)
        if answer is not None:
            while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, _OBSERVERS)):
                frame = frame.f_back  # torch._assert
            assumed[described_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)] = None
        return answer

    def truth(tensor: torch.Tensor) -> bool:
        if threading.get_ident() == thread and is_unknown(tensor):
            answer = known(tensor)
            if answer is None:
                answer = holds(sys._getframe(1))
            if answer is not None:
                return answer
            asked(sys._getframe(1))
        return _bool(tensor)

    number_truth = torch.SymBool.__bool__

    def truth_of_number(number: torch.SymBool) -> bool:
        expression = getattr(number.node, "_expr", None)
        if expression is not None and threading.get_ident() == thread and free_unbacked_symbols(expression):
            answer = holds(sys._getframe(1))
            if answer is not None:
                # Where the number is a size later, what the model promised of it is known.
                torch._check(number if answer else torch.sym_not(number))
                return answer
        return number_truth(number)

    def compared(known: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
        def compare(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread and (is_unknown(a) or is_unknown(b)):
                return traced(a, b, *args, **kwargs)
            return known(a, b, *args, **kwargs)

        return compare

    replaced: list[tuple[Any, str, Any]] = [
        (torch.SymBool, "__bool__", truth_of_number),
        (torch.Tensor, "__bool__", truth),
    ]
    for owner in (torch, torch.Tensor):
        replaced.append((owner, "equal", compared(owner.equal, _equal)))  # type: ignore[attr-defined]
        replaced.append((owner, "allclose", compared(owner.allclose, _allclose)))  # type: ignore[attr-defined]
    with _LOCK:
        before = [(owner, name, vars(owner)[name]) for owner, name, _ in replaced if name in vars(owner)]
        for owner, name, function in replaced:
            setattr(owner, name, function)
        try:
            yield
        finally:
            for owner, name, _ in replaced:
                if not any(kept[:2] == (owner, name) for kept in before):
                    delattr(owner, name)
            for owner, name, function in before:
                setattr(owner, name, function)


_bool: Callable[[torch.Tensor], bool] = torch._C.TensorBase.__bool__  # type: ignore[attr-defined]


def is_unknown(tensor: Any) -> bool:
    """Whether a tensor is traced and its values are not known."""
    if isinstance(tensor, FunctionalTensor):
        tensor = torch._from_functional_tensor(tensor.elem)
    return isinstance(tensor, _TRACED) and getattr(tensor, "constant", None) is None


def _equal(a: torch.Tensor, b: torch.Tensor) -> Any:
    return (a == b).all() if a.shape == b.shape else False


def _allclose(a: torch.Tensor, b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.isclose(a, b, *args, **kwargs).all()


@lru_cache(maxsize=1024)
def _answer(code: CodeType, place: int) -> bool | None:
    """The truth value with which the code that asks for one at ``place`` does not raise at once.

    None where it goes on with either value, or raises with both.
    """
    instructions = [found for found in dis.get_instructions(code) if found.opname not in ("CACHE", "EXTENDED_ARG")]
    places = {found.offset: index for index, found in enumerate(instructions)}
    index = places.get(place)
    if index is not None and instructions[index].opname == "TO_BOOL":
        index += 1
    jump = instructions[index] if index is not None and index < len(instructions) else None
    if index is None or jump is None or not ("JUMP" in jump.opname and "IF_" in jump.opname):
        return None
    kind = jump.opname.rpartition("IF_")[2].split("_")[0]
    if kind not in ("TRUE", "FALSE") or jump.argval not in places:
        return None
    there, here = _raises(instructions, places, places[jump.argval]), _raises(instructions, places, index + 1)
    return None if there == here else (kind == "TRUE") == here


def _raises(instructions: list[dis.Instruction], places: dict[int, int], index: int) -> bool:
    """Whether the instructions from ``index`` on lead to a ``raise``, without another choice on the way."""
    for _ in range(_MOST_INSTRUCTIONS):
        if index >= len(instructions):
            return False
        name = instructions[index].opname
        if name == "RAISE_VARARGS":
            return True
        if name.startswith(("RETURN", "RERAISE", "YIELD", "FOR_ITER", "SEND")) or ("JUMP" in name and "IF_" in name):
            return False
        forwards = name in ("JUMP_FORWARD", "JUMP_ABSOLUTE")
        index = places[instructions[index].argval] if forwards else index + 1
    return False


__all__ = ["assumed_assertions", "is_unknown"]

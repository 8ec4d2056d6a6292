"""Relations between dims that torch.export cannot prove, which capture holds against the ranges itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.export import _trace
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

_SOLVER = "produce_guards_and_solve_constraints"
# How a ``ShapeEnv`` says that a relation may not hold in a range; all else that it says is of dims that are no dims.
_UNPROVEN = "Not all values of "


@contextmanager
def relations_left_to_capture() -> Iterator[None]:
    """torch.export goes on where it cannot prove that relations hold in the ranges of the dims that it was given.

    Its solver refuses a range of which one size breaks a relation, also where the relation is of layouts alone, and it
    knows little of quotients. The relations stay in the ``ShapeEnv``.
    """
    solve = getattr(_trace, _SOLVER, None)
    if solve is None:
        # Not a public function. Where PyTorch has none, its errors are the user's.
        yield
        return

    def solve_or_pass(*args: Any, **kwargs: Any) -> None:
        try:
            solve(*args, **kwargs)
        except ConstraintViolationError as error:
            violations = [line.strip() for line in str(error).splitlines() if line.startswith("  - ")]
            if not violations or not all(line.removeprefix("- ").startswith(_UNPROVEN) for line in violations):
                raise

    setattr(_trace, _SOLVER, solve_or_pass)
    try:
        yield
    finally:
        setattr(_trace, _SOLVER, solve)


__all__ = ["relations_left_to_capture"]

"""Fake inference: what an op would give, without running it and without assuming anything new about sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from engine.errors import EngineError
from engine.graph.arguments import is_symbolic, map_values
from engine.graph.recurrence import is_recurrent, whole_recurrence
from engine.graph.symbolic.layouts import asker, writes_no_size
from engine.graph.symbolic.other_sizes import holds_elsewhere
from engine.graph.symbolic.proofs import answers_of_calls
from engine.graph.symbolic.pytorch_logs import quiet_pytorch


def infer(
    mode: FakeTensorMode,
    shape_env: ShapeEnv | None,
    op: OpOverload,
    positional: Sequence[Any],
    keywords: dict[str, Any],
) -> Any:
    """The fake outputs of ``op``; FX nodes among the arguments stand for their fake values.

    Raises:
        EngineError: PyTorch rejects the arguments, or accepts them for some sizes only.
    """

    def faked(item: Any) -> Any:
        return item.meta["val"] if isinstance(item, fx.Node) else item

    positional = [map_values(item, faked) for item in positional]
    keywords = {name: map_values(item, faked) for name, item in keywords.items()}
    whole = whole_recurrence() if is_recurrent(op) else nullcontext()
    needed: list[sympy.Basic] = []
    try:
        # Composite ops written in C++ ask symbolic sizes for their values; PyTorch's Python versions do not.
        with (
            quiet_pytorch(),
            whole,
            _nothing_assumed(shape_env, needed),
            enable_python_dispatcher(),
            mode,
            torch.no_grad(),
        ):
            result = op(*positional, **keywords)
    except Exception as error:
        raise EngineError(f"{op} does not accept {_show(positional, keywords)}: {error}") from error
    if needed and shape_env is not None and not holds_elsewhere(shape_env, op, positional, keywords, result, needed):
        raise EngineError(f"{op} does not accept {_show(positional, keywords)}: it would need {needed[0]}")
    return result


@contextmanager
def _nothing_assumed(shape_env: ShapeEnv | None, needed: list[sympy.Basic]) -> Iterator[None]:
    """Undo what tracing an op makes a ``ShapeEnv`` believe about symbols that it knew before.

    A guard on a symbolic size takes the example's side and records it as a fact.  Nothing enforces such a
    fact when the compiled model runs, so a rewrite must not rely on it.

    Args:
        needed: gets the equalities that were taken to hold, of which shapes may be written.

    Raises:
        EngineError: two sizes, or a size and a number, were taken to be equal.
    """
    if shape_env is None:
        yield
        return
    guards, replacements = len(shape_env.guards), dict(shape_env.replacements)
    ranges, axioms = dict(shape_env.var_to_range), dict(shape_env.axioms)
    divisible = set(shape_env.divisible)
    try:
        with answers_of_calls(shape_env):
            yield
    finally:
        assumed = [s for s in ranges if s in shape_env.replacements and s not in replacements]
        equalities = ", ".join(f"{symbol} == {shape_env.replacements[symbol]}" for symbol in assumed)
        needed += [
            guard.expr
            for guard in shape_env.guards[guards:]
            if isinstance(guard.expr, sympy.Eq) and not writes_no_size(*asker(guard))
        ]
        if assumed or len(shape_env.guards) > guards:
            del shape_env.guards[guards:]
            for symbol in assumed:
                del shape_env.replacements[symbol]
            shape_env.replacements.update(replacements)
            shape_env.var_to_range.update(ranges)
            shape_env.axioms.clear()
            shape_env.axioms.update(axioms)
            shape_env.divisible.intersection_update(divisible)
            forget_answers(shape_env)
    if assumed or needed:
        # The caches of fake results now hold one that is right for some sizes only.
        FakeTensorMode.cache_clear()
        getattr(shape_env, "fake_tensor_cache", {}).clear()
    if assumed:
        raise EngineError(f"it would need {equalities}")


def forget_answers(shape_env: ShapeEnv) -> None:
    """Drop answers that a ``ShapeEnv`` has memoised; it would give them again without noting the guard."""
    for counter in ("_version_counter", "_replacements_version_counter"):
        if hasattr(shape_env, counter):
            setattr(shape_env, counter, getattr(shape_env, counter) + 1)
    for method in vars(type(shape_env)).values():
        clear = getattr(method, "cache_clear", None)
        if clear is not None:
            clear()


def _show(positional: Sequence[Any], keywords: dict[str, Any]) -> str:
    def one(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return f"{str(item.dtype).removeprefix('torch.')}[{', '.join(map(str, item.shape))}]"
        return str(item) if is_symbolic(item) else item

    texts = [str(map_values(item, one)) for item in positional]
    texts += [f"{name}={map_values(item, one)}" for name, item in keywords.items() if item is not None]
    return f"({', '.join(texts)})"

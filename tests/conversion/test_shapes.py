"""Sizes that are only known at run time, as shape tensors: their values, their sharing, and where they come from."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import sympy
import torch
from torch.export import Dim
from torch.utils._sympy import functions as symbolic

from engine.builder import build
from engine.conversion import BuiltNetwork, emit_network
from engine.errors import ConversionError
from engine.graph.mirror import Value
from engine.graph.symbolic.size_functions import function_of
from engine.graph.symbolic.written_sizes import WrittenSizes
from engine.settings import CompilationSettings
from engine.sizes import floordiv, maximum, minimum, mod
from tests.conversion.plans import plan_tile
from tests.conversion.segments import emit, interpret, layer_names, ranges
from tests.graph.build import mirror_of

N, M = Dim("n", min=2, max=20), Dim("m", min=2, max=20)
DYNAMIC = ({0: N, 1: M},)


def with_dims(text: str) -> str:
    """``n`` and ``m`` as a rule writes them."""
    return re.sub(r"\bm\b", "dim(x, 1)", re.sub(r"\bn\b", "dim(x, 0)", text))


def vector(text: str, **names: Any) -> BuiltNetwork:
    """A network that gives the numbers ``text`` names, of an input [n, m]."""
    mirror = mirror_of(lambda x: (x + 1, torch.zeros(3, dtype=torch.int64) + x.shape[0]), (torch.zeros(4, 6),), DYNAMIC)
    x = mirror.placeholders[0]
    root = mirror.value(mirror.graph.output_node().args[0][1])
    tile = plan_tile(mirror, root.node, text, x=x, **names)
    return emit_network(mirror, [tile], [Value(x, 0)], [root], ranges(mirror), CompilationSettings())


@pytest.mark.parametrize(
    ("expression", "reference"),
    [
        ("n + m", lambda n, m: n + m),
        ("n - m", lambda n, m: n - m),
        ("2 * n * m + 1", lambda n, m: 2 * n * m + 1),
        ("(n - 3 * m) // 4", lambda n, m: (n - 3 * m) // 4),
        ("(n - 3 * m) % 4", lambda n, m: (n - 3 * m) % 4),
        ("(n * m) // m", lambda n, m: n),
        ("n * n * n", lambda n, m: n**3),
        ("min(n, m, 7)", lambda n, m: min(n, m, 7)),
        ("max(n - m, 0)", lambda n, m: max(n - m, 0)),
        ("n if n > m else m * 2", lambda n, m: n if n > m else m * 2),
        ("1 if n == m else 5", lambda n, m: 1 if n == m else 5),
        ("1 if n != m and not n <= 4 or m >= 19 else 5", lambda n, m: 1 if (n != m and not n <= 4) or m >= 19 else 5),
        ("clamp(n - 5, 0, m)", lambda n, m: min(max(n - 5, 0), m)),
    ],
)
def test_expressions_are_computed_as_python_does(expression: str, reference: Any) -> None:
    built = vector(f"trt.identity(tensor([0, {with_dims(expression)}, 2], i64))")
    for n, m in [(2, 2), (2, 20), (20, 2), (7, 9), (5, 19)]:
        got = interpret(built, torch.zeros(n, m))[0]
        assert got.tolist() == [0, reference(n, m), 2], (n, m)
    assert built.scalars == ()
    assert build(built)


def test_equal_expressions_share_one_subgraph() -> None:
    text = "trt.elementwise(tensor([n + m, n + m, 2], i64), tensor([n + m, 1, n + m], i64), op=SUM)"
    names = layer_names(vector(with_dims(text)))
    assert sum(name.startswith("sizes/shape/") for name in names) == 1
    additions = [name for name in names if name.startswith("sizes/") and "[" not in name and "+" in name]
    assert len(additions) == 1


def test_neighbouring_numbers_share_one_constant() -> None:
    built = emit(
        lambda x: x[:, 1:].reshape(-1, 2, 5, 1).expand(-1, 2, 5, 3).clone(),
        (torch.zeros(4, 11),),
        "trt.slice(trt.shuffle(trt.slice(x, start=[0, 1], shape=[dim(x, 0), 10], stride=[1, 1]), "
        "reshape=[dim(x, 0), 2, 5, 1]), start=[0, 0, 0, 0], shape=shape(result), stride=[1, 1, 1, 0])",
        ({0: N},),
    )
    names = layer_names(built)
    assert sum(name.startswith("constants/2_5_3") for name in names) == 1
    assert build(built)
    x = torch.randn(7, 11)
    assert interpret(built, x)[0].shape == (7, 2, 5, 3)


def test_one_symbolic_dim_is_left_to_the_shuffle() -> None:
    built = emit(lambda x: x.reshape(-1, 3), (torch.zeros(4, 6),), "trt.shuffle(x, reshape=shape(result))", ({0: N},))
    assert len(layer_names(built)) == 1
    assert interpret(built, torch.zeros(5, 6))[0].shape == (10, 3)


def test_two_symbolic_dims_are_a_shape_tensor() -> None:
    built = emit(
        lambda x: x.reshape(x.shape[1], x.shape[0], 1),
        (torch.zeros(4, 6),),
        "trt.shuffle(x, reshape=shape(result))",
        DYNAMIC,
    )
    assert interpret(built, torch.zeros(5, 7))[0].shape == (7, 5, 1)
    assert build(built)


def test_a_zero_beside_a_symbol_is_not_a_wildcard() -> None:
    built = emit(
        lambda x: x.reshape(x.shape[0], 1, 0),
        (torch.zeros(4, 0),),
        "trt.shuffle(x, reshape=shape(result))",
        ({0: N},),
    )
    assert interpret(built, torch.zeros(3, 0))[0].shape == (3, 1, 0)


def test_a_symbol_is_solved_from_a_derived_dim() -> None:
    half = Dim("half", min=2, max=9)
    built = emit(
        lambda x: x[: x.shape[0] // 2],
        (torch.zeros(8, 3),),
        "trt.slice(x, start=[0, 0], shape=shape(result), stride=[1, 1])",
        ({0: 2 * half},),
    )
    assert built.scalars == ()
    assert interpret(built, torch.zeros(12, 3))[0].shape == (6, 3)
    assert build(built)


def test_a_size_no_input_tells_is_an_extra_input() -> None:
    mirror = mirror_of(
        lambda x, y: (x + 1, y[: x.shape[0]].clone()), (torch.zeros(4, 6), torch.zeros(30)), ({0: N, 1: M}, {})
    )
    x, y = mirror.placeholders
    root = mirror.value(mirror.graph.output_node().args[0][1])
    tile = plan_tile(mirror, root.node, "trt.slice(y, start=[0], shape=shape(result), stride=[1])", y=y)
    built = emit_network(mirror, [tile], [Value(y, 0)], [root], ranges(mirror), CompilationSettings())
    symbol = mirror.shape(Value(x, 0))[0]
    assert built.scalars == (symbol,)
    assert built.input_names == (y.name, f"sym_{symbol}")
    assert interpret(built, torch.arange(30.0), torch.tensor(5))[0].tolist() == [0, 1, 2, 3, 4]
    assert build(built)


def test_what_must_be_known_says_so() -> None:
    with pytest.raises(ConversionError, match="must be known when the network is built"):
        emit(lambda x: x + 1, (torch.zeros(4, 6),), "trt.cumulative(x, dim(x, 0) - 2)", DYNAMIC)


def test_symbolic_arithmetic_agrees_with_these_tests() -> None:
    assert (floordiv(-7, 2), mod(-7, 2), minimum(1, 2), maximum(1, 2)) == (-4, 1, 1, 2)


X, Y, STEP = (sympy.Symbol(name, integer=True, positive=True) for name in ("x", "y", "step"))
PADDED = symbolic.FloorDiv(X + 3, 4)
# How Swin counts the images that windows belong to: all windows over those of one image.
FILLED = Y + symbolic.PythonMod(-Y, 8)
WINDOWS = symbolic.ToFloat(X * symbolic.FloorDiv(FILLED, 8) ** 2)
IN_EACH = symbolic.IntTrueDiv(FILLED**2, 8)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (X + symbolic.PythonMod(-X, 4), 4 * PADDED),
        (X + symbolic.PythonMod(4 - symbolic.PythonMod(X, 4), 4), 4 * PADDED),
        (2 * symbolic.FloorDiv(X + symbolic.PythonMod(-X, 4), 2), 4 * PADDED),
        (4 * symbolic.CeilToInt(symbolic.IntTrueDiv(X, 4)), 4 * PADDED),
        (-4 * symbolic.FloorDiv(-X, 4), 4 * PADDED),
        (X - symbolic.PythonMod(X, 8), 8 * symbolic.FloorDiv(X, 8)),
        (X + Y + symbolic.PythonMod(-X - Y, 4), 4 * symbolic.FloorDiv(X + Y + 3, 4)),
        (X + symbolic.PythonMod(-X, STEP), -STEP * symbolic.FloorDiv(-X, STEP)),
        (symbolic.PythonMod(3 * X + 8 * Y + symbolic.PythonMod(X, 8) + 1, 4), 1),
        (symbolic.FloorDiv(3 - X - Y, 4), -symbolic.FloorDiv(X + Y, 4)),
        (symbolic.TruncToInt(2.0 * symbolic.ToFloat(X + symbolic.PythonMod(-X, 4))), 8 * PADDED),
        (symbolic.TruncToInt(1.5 * symbolic.ToFloat(X)), symbolic.FloorDiv(3 * X, 2)),
        (symbolic.FloorToInt(-0.75 * symbolic.ToFloat(X)), -symbolic.FloorDiv(3 * X + 3, 4)),
        (
            sympy.Piecewise((X + symbolic.PythonMod(-X, 4), X > 5), (X, True)),
            sympy.Piecewise((4 * PADDED, X > 5), (X, True)),
        ),
        (symbolic.TruncToInt(symbolic.FloatTrueDiv(WINDOWS, symbolic.FloatTrueDiv(IN_EACH, symbolic.ToFloat(8)))), X),
        (symbolic.FloorToInt(symbolic.IntTrueDiv(X * STEP + STEP, X + 1)), STEP),
        # What stays: a quotient need not be whole, 0.3 * n is rounded, and two different remainders cancel nothing.
        (symbolic.TruncToInt(symbolic.IntTrueDiv(X * Y, 2)), None),
        (symbolic.TruncToInt(symbolic.IntTrueDiv(X, Y)), None),
        (symbolic.TruncToInt(0.3 * symbolic.ToFloat(X)), None),
        (X - 2 * symbolic.PythonMod(-X, 4), None),
        (X + symbolic.PythonMod(-Y, 4), None),
    ],
    ids=str,
)
def test_sizes_have_one_form_for_one_value(size: sympy.Expr, written: sympy.Expr | None) -> None:
    forms = WrittenSizes()
    found = forms.of(size)
    assert found == (size if written is None else written)
    assert forms.of(found) == found
    before, after = function_of(size), function_of(found)
    for x, y, step in itertools.product((1, 2, 3, 7, 8, 37, 64), (1, 4, 9), (1, 3, 8)):
        sizes = {X: x, Y: y, STEP: step}
        assert before(sizes) == after(sizes), sizes

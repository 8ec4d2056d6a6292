"""Functions of sizes: every one that PyTorch makes is computed as Python does, in each of the places that do it."""

from __future__ import annotations

import math
import operator
from fractions import Fraction

import pytest
import sympy
import torch
from torch import fx, nn
from torch.export import Dim
from torch.utils._sympy import functions

import engine
from engine.errors import CaptureError
from engine.graph.arguments import symint
from engine.graph.symbolic import symbols
from engine.graph.symbolic.size_functions import difference, function_of
from engine.runtime.size_text import read_size, read_symbols, write_size
from tests.graph.build import mirror_of

SHAPES = ({0: Dim("n", min=2, max=40), 1: Dim("m", min=2, max=40)},)
# Odd and even, both signs of differences, halves towards either even number.
PAIRS = [(n, m) for n in (2, 3, 5, 6, 7, 10, 15, 33) for m in (2, 3, 4, 6, 9, 22)]


def _half(n):
    return functions.IntTrueDiv(n, sympy.Integer(2))


def _quarter(n, m):
    return functions.IntTrueDiv(n - 3 * m, sympy.Integer(4))


# name -> the expression over two symbols, and what it is in Python.
CASES = {
    "FloorDiv": (lambda n, m: functions.FloorDiv(n - 3 * m, 4), lambda n, m: (n - 3 * m) // 4),
    "FloorDiv by less than 0": (lambda n, m: functions.FloorDiv(n, -4), lambda n, m: n // -4),
    "CleanDiv": (lambda n, m: functions.CleanDiv(n * m, m + 0 * n), lambda n, m: n),
    "Mod": (lambda n, m: functions.Mod(n, m), lambda n, m: n % m),
    "PythonMod": (lambda n, m: functions.PythonMod(n - 3 * m, 4), lambda n, m: (n - 3 * m) % 4),
    "PythonMod by less than 0": (lambda n, m: functions.PythonMod(n, -m), lambda n, m: n % -m),
    "ModularIndexing": (lambda n, m: functions.ModularIndexing(n, 3, m), lambda n, m: n // 3 % m),
    "IntTrueDiv": (lambda n, m: functions.IntTrueDiv(n, m), lambda n, m: n / m),
    "FloatTrueDiv": (
        lambda n, m: functions.FloatTrueDiv(functions.ToFloat(n), sympy.Float(0.3)),
        lambda n, m: float(n) / 0.3,
    ),
    "CeilToInt": (lambda n, m: functions.CeilToInt(_quarter(n, m)), lambda n, m: math.ceil((n - 3 * m) / 4)),
    "CeilToInt of a half": (lambda n, m: functions.CeilToInt(_half(n)), lambda n, m: math.ceil(n / 2)),
    "CeilToInt of a product": (
        lambda n, m: functions.CeilToInt(sympy.Float(0.7) * functions.ToFloat(n)),
        lambda n, m: math.ceil(0.7 * n),
    ),
    "FloorToInt": (lambda n, m: functions.FloorToInt(_quarter(n, m)), lambda n, m: math.floor((n - 3 * m) / 4)),
    "TruncToInt": (lambda n, m: functions.TruncToInt(_quarter(n, m)), lambda n, m: math.trunc((n - 3 * m) / 4)),
    "TruncToFloat": (
        lambda n, m: functions.TruncToFloat(_quarter(n, m)),
        lambda n, m: float(math.trunc((n - 3 * m) / 4)),
    ),
    "RoundToInt": (lambda n, m: functions.RoundToInt(_half(n)), lambda n, m: round(n / 2)),
    "RoundToInt below 0": (lambda n, m: functions.RoundToInt(_half(n - 9 * m)), lambda n, m: round((n - 9 * m) / 2)),
    "RoundToInt of a product": (
        lambda n, m: functions.RoundToInt(sympy.Float(1.5) * functions.ToFloat(n)),
        lambda n, m: round(1.5 * n),
    ),
    "RoundDecimal": (
        lambda n, m: functions.RoundDecimal(functions.IntTrueDiv(n, m), sympy.Integer(1)),
        lambda n, m: round(n / m, 1),
    ),
    "ToFloat": (lambda n, m: functions.ToFloat(n - m), lambda n, m: float(n - m)),
    "PowByNatural": (lambda n, m: functions.PowByNatural(n - m, sympy.Integer(3)), lambda n, m: (n - m) ** 3),
    "PowByNatural of two": (
        lambda n, m: functions.PowByNatural(sympy.Integer(2), functions.FloorDiv(n, 4)),
        lambda n, m: 2 ** (n // 4),
    ),
    "FloatPow": (lambda n, m: functions.FloatPow(functions.ToFloat(n), sympy.Float(-0.5)), lambda n, m: n**-0.5),
    "Max": (lambda n, m: functions.Max(n - m, 3), lambda n, m: max(n - m, 3)),
    "Min": (lambda n, m: functions.Min(n - m, m), lambda n, m: min(n - m, m)),
    "Max of quotients": (
        lambda n, m: functions.Max(functions.IntTrueDiv(n, m), sympy.Float(1.25)),
        lambda n, m: max(n / m, 1.25),
    ),
    "Abs": (lambda n, m: sympy.Abs(n - m), lambda n, m: abs(n - m)),
    "Where": (lambda n, m: functions.Where(n > m, n, m + 1), lambda n, m: n if n > m else m + 1),
    "Piecewise": (lambda n, m: sympy.Piecewise((n, n > m), (m + 1, True)), lambda n, m: n if n > m else m + 1),
    "LShift": (lambda n, m: functions.LShift(n, sympy.Integer(3)), lambda n, m: n << 3),
    "RShift": (lambda n, m: functions.RShift(n, sympy.Integer(1)), lambda n, m: n >> 1),
    "bitwise_and": (lambda n, m: functions.BitwiseFn_bitwise_and(n, m), operator.and_),
    "bitwise_or": (lambda n, m: functions.BitwiseFn_bitwise_or(n, m), operator.or_),
    "a sum of quotients": (
        lambda n, m: functions.IntTrueDiv(n, m) - functions.IntTrueDiv(n + 1, m),
        lambda n, m: n / m - (n + 1) / m,
    ),
    "a rational multiple": (lambda n, m: sympy.Rational(3, 2) * (2 * n * m), lambda n, m: 3 * n * m),
    "a quotient that divides": (lambda n, m: n * m * (n + m) / m, lambda n, m: n * (n + m)),
}
if hasattr(functions, "BitwiseFn_bitwise_xor"):
    CASES["bitwise_xor"] = (lambda n, m: functions.BitwiseFn_bitwise_xor(n, m), operator.xor)
for _name in ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "atan", "log2"):
    CASES[_name] = (
        lambda n, m, name=_name: getattr(functions, f"OpaqueUnaryFn_{name}")(functions.IntTrueDiv(n, m)),
        lambda n, m, name=_name: getattr(math, name)(n / m),
    )
for _name in ("asin", "acos"):
    CASES[_name] = (
        lambda n, m, name=_name: getattr(functions, f"OpaqueUnaryFn_{name}")(functions.IntTrueDiv(n, n + m)),
        lambda n, m, name=_name: getattr(math, name)(n / (n + m)),
    )
# What PyTorch gives no FX function for: its tracing cannot make it.
UNWRITTEN = {"OpaqueUnaryFn_asinh", "OpaqueUnaryFn_exp", "OpaqueUnaryFn_log", "IsNonOverlappingAndDenseIndicator"}
# Written as another function as soon as it is made, or as one of its operands.
OTHERS = {"CeilDiv", "Identity", "ModularIndexing", "TruncToFloat", "Max", "Min", "MinMaxBase"}


def near(a, b):
    return a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def test_every_function_of_pytorch_is_known():
    made = {
        name
        for name, value in vars(functions).items()
        if isinstance(value, type) and issubclass(value, sympy.Basic) and value.__module__ == functions.__name__
    }
    made |= {name for name in vars(functions) if name.startswith(("OpaqueUnaryFn_", "BitwiseFn_"))}
    known = {name for name in made if getattr(functions, name) in {*symbols._FUNCTIONS, *symbols._FOLDS}}
    assert made - known - UNWRITTEN - OTHERS == set()


@pytest.mark.parametrize("name", CASES)
def test_functions_are_what_python_computes(name):
    n, m = (sympy.Symbol(letter, integer=True, positive=True) for letter in "nm")
    make, reference = CASES[name]
    function = function_of(make(n, m))
    for size, other in PAIRS:
        found, wanted = function({n: size, m: other}), reference(size, other)
        assert near(found, wanted), (size, other)
        assert isinstance(found, Fraction) or type(found) is type(wanted)


def test_size_nodes_compute_what_python_computes():
    mirror = mirror_of(lambda x: x + 1, (torch.zeros(4, 6),), SHAPES)
    (x,) = mirror.placeholders
    n, m = (symint(size) for size in x.meta["val"].shape)
    nodes = {name: mirror.size_node(make(n, m)) for name, (make, _) in CASES.items()}
    output = mirror.graph.output_node()
    output.args = (tuple(nodes.values()),)
    module = fx.GraphModule({}, mirror.graph)
    for size, other in PAIRS:
        found = module(torch.zeros(size, other))
        for (name, (_, reference)), value in zip(CASES.items(), found, strict=True):
            wanted = reference(size, other)
            assert near(value, wanted), (name, size, other)
            assert type(value) is type(wanted)


@pytest.mark.parametrize("name", CASES)
def test_sizes_survive_a_file(name):
    n, m = (sympy.Symbol(letter, integer=True, positive=True) for letter in "nm")
    expression, table = CASES[name][0](n, m), {}
    text = write_size(expression, table)
    assert read_size(text, read_symbols(table)) == expression


def test_a_node_that_computes_something_else_is_an_error(monkeypatch):
    mirror = mirror_of(lambda x: x + 1, (torch.zeros(4, 6),), SHAPES)
    (x,) = mirror.placeholders
    n = symint(x.meta["val"].shape[0])
    monkeypatch.setitem(symbols._FUNCTIONS, functions.CeilToInt, math.floor)
    with pytest.raises(engine.EngineError, match=r"would be computed as FloorToInt.*which differs for"):
        mirror.size_node(functions.CeilToInt(_half(n)))


def test_expressions_are_told_apart():
    n = sympy.Symbol("n", integer=True, positive=True)
    assert difference(functions.CeilToInt(_half(n)), functions.TruncToInt(_half(n))) is not None
    assert difference(functions.RoundToInt(_half(n)), functions.FloorDiv(n + 1, 2)) is not None
    assert difference(functions.CeilToInt(_half(n)), -functions.FloorDiv(-n, 2)) is None


# What tracing makes of Python's own functions; the text is what a model would have.
TRACED = {
    text: eval(f"lambda n, m: {text}")
    for text in (
        "math.ceil(n / 2)", "math.ceil((n - 3 * m) / 4)", "math.floor((n - 3 * m) / 4)", "math.trunc((n - 3 * m) / 4)",
        "round(n / 2)", "round((n - 9 * m) / 2)", "round(n / m, 1)", "math.floor(n * 0.7)", "math.ceil(n * 0.7)",
        "round(n * 1.5)", "abs(n - m)", "(n - m) ** 3", "2 ** (n // 4)", "n ** 0.5", "n ** -1",
        "torch.sym_int(n ** 0.5)",
        "torch.sym_sqrt(n)", "(n - 3 * m) % 4", "n % -4",
        "(n - 3 * m) // 4", "n // -4", "n // 2.5", "n % 2.5", "n & 3", "n | m", "n << 2", "n >> 1",
        "torch.sym_ite(n > m, n, m)",
        "n / m - (n + 1) / m", "1.5 / (n / m)", "torch.sym_max(n / m, 1.25)", "torch.sym_min(n - m, m)",
        "n * 0.1 + m / 7", "torch.sym_ite(n * 0.1 > 0.3, n, m)", "torch.sym_ite(n / m > 1.5, n + 1, m)",
    )
}  # fmt: skip

# What torch.export refuses to have in a program, and torch.compile does not.
LAZY = {
    text: eval(f"lambda n, m: {text}")
    for text in (
        "math.sqrt(n)", "math.sin(n / m)", "math.tanh(n / m)", "math.acos(m / (n + m))", "math.log2(n)",
        "math.ceil(math.log2(n))", "int(math.sqrt(n) * 3)",
    )
}  # fmt: skip


class Numbers(nn.Module):
    """Every number as a tensor and as an operand."""

    def __init__(self, functions):
        super().__init__()
        self.functions = list(functions)

    def forward(self, x):
        results = []
        for function in self.functions:
            value = function(x.shape[0], x.shape[1])
            if isinstance(value, torch.SymInt | int):
                results.append(torch.full((1,), value, dtype=torch.int64) + 1)
                results.append(x.sum().long() + value)
            else:
                results.append(torch.full((1,), value) * 2)
                results.append(x.sum() * 0 + value)
        return results


def agrees(compiled, model):
    with torch.no_grad():
        for size, other in [(12, 8), (5, 7), (3, 9), (18, 16), (7, 2), (13, 13), (33, 22)]:
            x = torch.zeros(size, other)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


def test_numbers_in_an_engine():
    model = Numbers(TRACED.values())
    compiled = engine.compile(
        model, (torch.zeros(12, 8),), dynamic_shapes=SHAPES, runtime="interpreter", min_block_size=1
    )
    assert compiled.report.coverage == 1.0
    agrees(compiled, model)


@pytest.mark.parametrize("text", ["math.ceil(n / 2)", *LAZY])
def test_numbers_of_torch_compile(text):
    torch._dynamo.reset()
    model = Numbers([{**TRACED, **LAZY}[text]])
    options = {"runtime": "interpreter", "min_block_size": 1, "pass_through_build_failures": True}
    agrees(torch.compile(model, backend="engine", options=options, dynamic=True), model)


@pytest.mark.parametrize("text", ["math.sin(n)", "math.log(n)"])
def test_what_export_does_not_take_is_refused_when_compiling(text):
    model = Numbers([eval(f"lambda n, m: {text}")])
    with pytest.raises(CaptureError, match=r"the model fixes a size at .*test_size_functions\.py|<string>"):
        engine.compile(model, (torch.zeros(12, 8),), dynamic_shapes=SHAPES, runtime="interpreter")

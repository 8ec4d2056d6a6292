"""Expressions as closures: what they give, where their errors are, and that they are compiled once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sympy
import torch

from engine.dsl import tree
from engine.dsl.rule import EnumToken
from engine.dsl.syntax.parser import parse
from engine.evaluator import Context, evaluate
from engine.evaluator.bounds import MOST_STEPS
from engine.evaluator.coverage import recording
from engine.evaluator.failures import Failed, Raised
from engine.sizes import Sizes


class Graphless:
    """What expressions without tensors ask of a graph."""

    sizes = Sizes(None)


def parsed(text: str) -> dict[str, tree.Macro]:
    return {macro.name: macro for macro in parse(text, "sample.rules").macros}


def value(text: str, macros: str = "", **names: Any) -> Any:
    known = parsed(f"{macros}\ndef it() = {text}\n")
    return evaluate(known["it"].body, names, Context(Graphless(), {}, known))  # type: ignore[arg-type]


S = sympy.Symbol("s", integer=True, positive=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("7 // 2 + 7 % 4", 6),
        ("7 / 2", 3.5),
        ("-a + 1.5", -1.5),
        ("s + 1 - 1", S),
        ("[1, ..xs, 5]", [1, 2, 3, 5]),
        ("(a, xs)", (3, [2, 3])),
        ("xs[-1] + xs[0]", 5),
        ("xs[1:]", [3]),
        ("(a, 4).1", 4),
        ("[x * i for (i, x) in enumerate(xs) if x > 2]", [3]),
        ("xs ++ [a]", [2, 3, 3]),
        ("xs == [2, 3] and not (a in [1, 2])", True),
        ("a not in xs", False),
        ('"ab" in "abc"', False),
        ("f16 in floating and f32 not in integral", True),
        ("a if a == 3 else missing", 3),
        ("false and missing", False),
        ("none is none", True),
        ("a is not 4", True),
        ("0.5 is ~0.5000000001", True),
        ("true == 1", False),
        ("s == none", False),
        ("f16", torch.float16),
        ("RELU", EnumToken("RELU")),
        ("twice(twice(a))", 12),
        ("scaled(a, by=4)", 12),
        ("scaled(..[a])", 30),
        ("max(..xs)", 3),
        ("[f16 for f16 in xs]", [2, 3]),
    ],
)
def test_values(text: str, expected: Any) -> None:
    macros = "def twice(x) = x * 2\ndef scaled(x, by = 10) = x * by\n"
    found = value(text, macros, a=3, xs=[2, 3], s=S)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("1 + missing", "`missing` is not bound on this branch of the pattern", 16),
        ("[1, 2][5] + 1", "index 5 of a list of 2", 12),
        ("1 + 2 // (a - 3)", "division by zero", 16),
        ('"a" * 2', "'a' * 2 has no meaning", 12),
        ("1 if a < none else 2", "3 < none has no meaning", 17),
        ("[x for (x, y) in [1]]", "1 cannot be bound to the comprehension's names", 12),
        ("twice()", "twice needs `x`", 12),
        ("max([])", "the least or greatest of nothing", 12),
    ],
)
def test_a_failure_has_the_innermost_place(text: str, reason: str, column: int) -> None:
    with pytest.raises(Failed) as failed:
        value(text, "def twice(x) = x * 2", a=3)
    assert failed.value.reason == reason
    assert failed.value.span is not None
    assert (failed.value.span.line, failed.value.span.column) == (2, column)


def test_a_failure_in_a_macro_has_its_place_there() -> None:
    with pytest.raises(Failed) as failed:
        value("1 + twice([])", "def twice(x) =\n  x[0] * 2")
    assert failed.value.span is not None
    assert (failed.value.span.line, failed.value.span.column) == (2, 3)


def test_what_python_raises_keeps_its_place_and_its_cause() -> None:
    with pytest.raises(Raised) as raised:
        value("1 + len(a)", a=3)
    assert raised.value.reason == "TypeError: object of type 'int' has no len()"
    assert (raised.value.span.line, raised.value.span.column) == (2, 16)
    assert isinstance(raised.value.__cause__, TypeError)


def test_steps_are_bounded() -> None:
    nested = "sum([sum([sum([a * b * c for a in range(1000)]) for b in range(1000)]) for c in range(1000)])"
    with pytest.raises(Failed, match=f"takes more than {MOST_STEPS} steps to evaluate"):
        value(nested)


def test_each_evaluation_has_all_steps() -> None:
    known = parsed("def it() = sum([x * x for x in range(100000)])")
    context = Context(Graphless(), {}, known)  # type: ignore[arg-type]
    results = {evaluate(known["it"].body, {}, context) for _ in range(4)}
    assert len(results) == 1


def test_code_is_made_once_and_is_no_part_of_the_expression() -> None:
    known = parsed("def it() = 1 + 2")
    body = known["it"].body
    context = Context(Graphless(), {}, known)  # type: ignore[arg-type]
    assert context.compiler.code(body) is Context(Graphless(), {}, {}).compiler.code(body)  # type: ignore[arg-type]
    assert isinstance(body, tree.Binary)
    other = dataclasses.replace(body, operator="-")
    assert evaluate(other, {}, context) == -1
    assert evaluate(body, {}, context) == 3
    assert body == parsed("def it() = 1 + 2")["it"].body


def test_macros_are_those_of_the_context() -> None:
    body = parsed("def it() = f(1)")["it"].body
    for number in (1, 2):
        macros = parsed(f"def f(x) = x + {number}")
        assert evaluate(body, {}, Context(Graphless(), {}, macros)) == 1 + number  # type: ignore[arg-type]


def test_recording_sees_what_was_compiled_before() -> None:
    known = parsed("def f(x) = 1 if x > 2 else 0\ndef it() = f(3)")
    body = known["it"].body
    evaluate(body, {}, Context(Graphless(), {}, known))  # type: ignore[arg-type]
    with recording({}) as visits:
        assert evaluate(body, {}, Context(Graphless(), {}, known)) == 1  # type: ignore[arg-type]
    branch = known["f"].body
    assert isinstance(branch, tree.Conditional)
    assert visits[branch.test.span] == {True}
    assert branch.then.span in visits
    assert branch.otherwise.span not in visits

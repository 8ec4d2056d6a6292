import re
from importlib import resources

import pytest

from engine.dsl import tree
from engine.dsl.syntax.parser import parse
from engine.errors import RuleError

GRAMMAR = resources.files("engine.dsl.syntax").joinpath("grammar.lark").read_text()


def show(node):
    """A tree without its spans, as nested calls."""
    if isinstance(node, tree.Node):
        values = [getattr(node, name) for name in node.__dataclass_fields__ if name != "span"]
        return f"{type(node).__name__}({', '.join(map(show, values))})"
    if isinstance(node, tuple):
        return "[" + ", ".join(map(show, node)) + "]"
    return repr(node)


def expression(text):
    return parse(f"lower r match aten.relu(x) emit {text}").rules[0].emit


def pattern(text):
    return parse(f"lower r match {text} emit x").rules[0].match


EXPRESSIONS = [
    "n - 1",
    "n -1",
    "n-1",
    "-n",
    "-1",
    "a - -1.5",
    "2 * -x[0]",
    "xs[1:]",
    "xs[:n - 1]",
    "xs[-1]",
    "[..xs, 1]",
    "f(..more)",
    "f(x, in=1, shape=shape(x), for=[y])",
    "all(v >= 0 for v in xs)",
    "[a + b for a, (_, b) in zip(xs, ys) if a not in zs]",
    "a if b else c if d else e",
    "(a if b else c) if d else e",
    "not a and b or c and not d == e",
    "x is none or x is not aten.relu(..)",
    "d is f32",
    "(a, b)",
    "[]",
    "a ++ b + c * d // e % f",
    "y.0.1",
    "f(x)(y).1[2]",
    '"text # no comment"',
    "~0.5",
    "[OP(x), E]",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions(text, snapshot):
    assert show(expression(text)) == snapshot


@pytest.mark.parametrize(
    "text",
    [
        "aten.mul.Tensor{x, 0.5}",
        "&aten.add.Tensor(x, y, alpha=2)",
        "aten.neg(aten.relu?(x))",
        "aten.max.dim(x, d, _) -> (values, _)",
        "aten.sort(x, ..).1",
        "aten.cat([a, ..rest, b], -1)",
        "aten.foo(x: f16|bf16[B=2..4, _, 3, ..]?, w: const floating[O, ..], k: [int], ..more)",
        "(aten.relu(x), aten.neg(x))",
        "aten.foo(i8, ~-0.5, none, true, K)",
    ],
)
def test_patterns(text, snapshot):
    assert show(pattern(text)) == snapshot


def test_items(snapshot):
    file = parse(
        """
        def f(a, b = [1]) = a
        extern host.plan(eq: str, ranks: [int]) -> ([int], [int])?
        layer trt.slice(x: tensor, fill: tensor? = none @4, *, start: [int] @1, shape: [int] as size @2|-1,
                        mode: SampleMode = STRICT_BOUNDS, axes: axes) -> tensor, tensor
          gives (shape, dtype(x)), none
          via add_slice(x, start, dim(x, 0), mode=mode) since 10.9 until 10.15
        convert r for (OP, E) in (aten.relu, RELU), (aten.neg, -1) "Documentation."
          match OP(x)
          when  rank(x) == 2, [(k, _)] := f(x)
          let   a, (b, c) = x
          needs trt >= 10.10, not rtx, cap.attention or trt < 11
          over  other, file.rule
          relax nan, ties
          emit  x
          decreases 1
          test  x: const f32[B=2..4, 8], i: [none, i64[3] < 5], k = [1]
          reject x = none
        """,
        "folder/file.rules",
    )
    assert file.stem == "file"
    parts = [*file.macros, *file.externs, *file.layers, *file.rules]
    assert "\n".join(map(show, parts)) == snapshot


def test_spans_cover_what_was_written():
    call = expression("f(x,\n  aten.add.Tensor(a, b))")
    assert (call.span.line, call.span.column, call.span.end_line, call.span.end_column) == (1, 33, 2, 25)
    inner = call.arguments[1]
    assert (inner.span.line, inner.span.column, inner.span.end_column) == (2, 3, 24)


def test_layout_does_not_matter():
    spread = parse("lower\nr match\naten.relu(\nx # a comment )\n) emit\nx")
    assert show(spread.rules) == show(parse("lower r match aten.relu(x) emit x").rules)


def test_words_of_the_grammar_are_names_elsewhere():
    text = "lower test match aten.relu(match) let emit = f(via=match, since=over) emit emit"
    rule = parse(text).rules[0]
    assert show(rule.emit) == "Name('emit')"


def test_every_mistake_is_told():
    with pytest.raises(RuleError) as refusal:
        parse("lower a\n match aten.relu(\n emit x\nconvert b\n match aten.relu(x)\n emit (\nlower c emit x")
    assert len(refusal.value.diagnostics) == 3
    assert [d.span.line for d in refusal.value.diagnostics] == [2, 6, 7]


def test_the_grammar_is_unambiguous():
    pytest.importorskip("interegular", reason="lark's strict mode needs interegular")
    from lark import Lark

    Lark(GRAMMAR, parser="lalr", strict=True)


def test_no_conflict_is_resolved_silently(caplog):
    import logging

    from lark import Lark, logger

    level = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(caplog.handler)
        Lark(GRAMMAR, parser="lalr", debug=True)
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    assert "Shift/Reduce" not in caplog.text


GUARDS = [
    "-n < 3 - -2",
    "x is not aten.relu(..)",
    "(a if b else -c) > 1",
    "xs[-1] == xs[1:][0] and y.0 in [1, 2]",
    "f(..xs, k=-1, more=[..a, b]) != ~0.5",
    "not (a or b) and not c",
    'all(v >= 0 and s != "#1" for v in xs if v not in ys)',
    "a ++ b == [] or p // 2 * 3 % 4 == 0",
    "t is f32 or s is none",
    "f(x)(y)[0](z) == (1, 2)",
]


@pytest.mark.parametrize("text", GUARDS)
def test_a_guard_is_quoted_as_it_is_formatted(text):
    def quoted(written):
        return [step.text for step in parse(f"lower r match aten.relu(x) when {written} emit x").rules[0].steps]

    assert quoted(text) == [text]
    words = re.findall(r'"[^"]*"|not in|is not|\w+(?:\.[a-z]\w*)*|==|!=|>=|<=|//|\+\+|\.\.|\S', text)
    if "." not in text:  # a number, or a dot with a number behind it, is one word
        assert quoted("\n".join(words)) == [text]
        assert quoted(" # why\n".join(words)) == [text]
    assert quoted(text.replace(", ", ",").replace(" == ", "==").replace(" < ", "  <\t")) == [text]


def test_a_guard_that_binds_is_quoted_whole():
    (step,) = parse("lower r match aten.relu(x) when [ ( a,i ) ]:=present( xs ) emit x").rules[0].steps
    assert step.text == "[(a, i)] := present(xs)"

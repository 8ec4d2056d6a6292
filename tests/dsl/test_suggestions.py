"""What is suggested for a word that is none: what it may be meant for, or else what there is."""

import pytest

from engine.dsl.ruleset import RuleSet
from engine.dsl.vocabulary import dtypes, nearest, suggestion
from engine.errors import RuleError

ACTIVATIONS = ["RELU", "SIGMOID", "TANH", "ELU", "SELU", "GELU_ERF", "GELU_TANH", "CLIP"]
ELEMENTWISE = ["SUM", "PROD", "MAX", "MIN", "SUB", "DIV", "POW", "AND", "OR", "XOR", "EQUAL"]


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("GELU", ACTIVATIONS, "did you mean `GELU_ERF` or `GELU_TANH`?"),
        ("Relu", ACTIVATIONS, "did you mean `RELU`?"),
        ("SIGMOD", ACTIVATIONS, "did you mean `SIGMOID`?"),
        ("ADD", ELEMENTWISE, "did you mean `SUM`?"),
        ("mul", ELEMENTWISE, "did you mean `PROD`?"),
        ("ABS", ELEMENTWISE, "there are AND, DIV, EQUAL, MAX, MIN, OR, POW, PROD, SUB, SUM, XOR"),
        ("SOFTPLUS", ACTIVATIONS, "there are CLIP, ELU, GELU_ERF, GELU_TANH, RELU, SELU, SIGMOID, TANH"),
        ("float32", [*dtypes(), "float", "int"], "did you mean `f32`?"),
        ("bfloat16", [*dtypes(), "float"], "did you mean `bf16`?"),
        ("long", dtypes(), "did you mean `i64`?"),
        ("x", [], None),
    ],
)
def test_suggestions(word, known, hint):
    assert suggestion(word, known) == hint


def test_long_lists_are_cut_and_a_hint_of_the_caller_wins():
    many = [f"word{number:02}" for number in range(40)]
    assert suggestion("zzz", many).endswith("word23 and 16 more")
    assert suggestion("zzz", many, "write it out") == "write it out"
    assert nearest("zzz", many) is None


@pytest.mark.parametrize(
    ("text", "word", "meant"),
    [
        ("lower r matches aten.gelu(x) emit x", "matches", "match"),
        ("lower r match aten.gelu(x) emits x", "emits", "emit"),
        ("lower r match aten.gelu(x) where rank(x) == 2 emit x", "where", "when"),
        ("lower r match aten.gelu(x) emit aten.relu(x) tests x: f32[2]", "tests", "test"),
        ("lower r match aten.gelu(x) requires rtx emit x", "requires", "needs"),
        ("lower r mach aten.gelu(x) emit x", "mach", "match"),
    ],
)
def test_words_that_are_no_clause(text, word, meant):
    with pytest.raises(RuleError) as caught:
        RuleSet.from_text(text)
    assert caught.value.diagnostics[0].hint == f"`{word}` is no clause; did you mean `{meant}`?"

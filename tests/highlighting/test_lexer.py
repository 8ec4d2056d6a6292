"""The Pygments lexer: every built-in file without an error, and the words of the language in their colours."""

import importlib
import tomllib
from pathlib import Path

import pytest
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String, Token

from engine.dsl.source import builtin_sources
from engine.dsl.syntax import parser
from engine.dsl.vocabulary import PHASES, SORTS, dtype_classes, dtypes
from engine.highlighting import lexer as words
from engine.highlighting.lexer import EngineRulesLexer

SOURCES = {source.path.rpartition("/rules/")[2]: source.text for source in builtin_sources()}
CLAUSES = set(parser._CLAUSES)


def tokens(text):
    return [(kind, value) for kind, value in EngineRulesLexer().get_tokens(text) if value.strip()]


@pytest.mark.parametrize("name", list(SOURCES)[::4])
def test_built_in_files_are_lexed_whole(name):
    text = SOURCES[name]
    found = list(EngineRulesLexer(stripnl=False).get_tokens(text))
    assert "".join(value for _, value in found) == text
    assert not [value for kind, value in found if kind in Error or (kind is Token.Text and value.strip())]
    file = parser.parse(text, name)
    classes = [value for kind, value in found if kind is Name.Class and value.islower()]
    assert classes == [item.name for item in sorted(file.rules, key=lambda item: item.span.line)]
    clauses = [value for kind, value in found if kind is Keyword and value in CLAUSES]
    lines = [line.split()[0] for line in text.split("\n") if line.strip()]
    assert len(clauses) >= sum(word in CLAUSES for word in lines)


def test_words_are_those_of_the_language():
    assert set(words.ITEMS) == set(parser._ITEMS)
    assert set(words.CLAUSES) == CLAUSES
    assert {*dtypes(), *dtype_classes(), *SORTS} <= set(words.TYPES)
    assert set(PHASES) < set(words.ITEMS)


def test_kinds_of_words():
    text = (
        'convert gelu for A in "none", 2 "doc"  # why\n  match aten.gelu(x: const f16[N, 2], approximate=A)\n'
        "  when  not test or ~0.5 == N\n  emit  trt.activation(lift(x), type=GELU_ERF)\n  over  file.rule\n"
    )
    found = {value: kind for kind, value in tokens(text)}
    assert found["convert"] is Keyword.Declaration
    assert found["gelu"] in (Name.Class, Name.Function)
    assert found["# why"] is Comment.Single
    assert found['"doc"'] is String.Double
    assert found["match"] is Keyword
    assert found["const"] is Keyword.Pseudo
    assert found["f16"] is Keyword.Type
    assert found["N"] is Name.Constant
    assert found["approximate"] is Name.Attribute
    assert found["not"] is Operator.Word
    assert found["~0.5"] is Number.Float
    assert found["activation"] is Name.Builtin
    assert found["lift"] is Name.Function
    assert found["GELU_ERF"] is Name.Constant


def test_a_name_that_is_a_clause_elsewhere_is_a_name():
    # An argument may be called like a clause, and an operand like a word of operators.
    found = tokens("def f(test, over) = g(test=over, match: int)\n")
    assert [kind for kind, value in found if value in ("test", "over", "match")].count(Keyword) == 0


def test_documentation_finds_it():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["engine_rules"].partition(":")
    lexer = getattr(importlib.import_module(module), name)
    assert lexer is EngineRulesLexer
    assert "rules" in lexer.aliases
    shown = highlight("lower a\n  match aten.gelu(x)\n", lexer(), HtmlFormatter())
    assert '<span class="k">match</span>' in shown

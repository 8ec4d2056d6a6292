"""The one layout of rules files: the same tree, all comments, whatever layout it is made from, and stable."""

import random
import re

import pytest

from engine.dsl import tree
from engine.dsl.formatting.formatter import formatted
from engine.dsl.source import builtin_sources
from engine.dsl.syntax.parser import parse
from engine.errors import RuleError
from tests.dsl.formatting.words import comments_of, scattered

SOURCES = {f"{source.path.rpartition('/rules/')[2]}": source.text for source in builtin_sources()}
PARTS = ("rules", "macros", "externs", "layers", "patterns")


def same_tree(a, b):
    first, second = parse(a, "a"), parse(b, "a")
    return all(tree.same(getattr(first, part), getattr(second, part)) for part in PARTS)


@pytest.mark.parametrize("name", SOURCES)
def test_built_in_files_are_formatted(name):
    assert formatted(SOURCES[name]) == SOURCES[name], "run `engine rules fmt rules`"


def _some(names):
    """Each name with its position; of every five but one is left to the slow tests."""
    for index, name in enumerate(names):
        yield pytest.param(index, name, marks=[pytest.mark.slow] if index % 5 else [], id=name)


@pytest.mark.parametrize(("index", "name"), _some(SOURCES))
def test_files_keep_their_tree_and_comments(index, name):
    text = SOURCES[name]
    # One word a line, few lines, or line breaks anywhere.
    odd = scattered(text, random.Random(index), (1.0, 0.02, 0.3)[index % 3])
    again = formatted(odd)
    assert same_tree(text, again)
    assert comments_of(again) == comments_of(text)
    assert formatted(again) == again
    assert max(map(len, again.splitlines())) <= 120


@pytest.mark.parametrize("name", ["lowering/attention.rules", "conversion/remainder.rules", "layers.rules"])
def test_the_layout_before_does_not_matter(name):
    text = re.sub(r"^\s*#.*\n", "", SOURCES[name], flags=re.MULTILINE)
    text = re.sub(r"\n{2,}", "\n", text)
    expected = formatted(text)
    for seed, chance in enumerate((1.0, 0.01, 0.5)):
        odd = scattered(text, random.Random(seed), chance, blank=False)
        assert formatted(odd) == expected


def test_a_short_rule_in_any_layout():
    expected = (
        "convert gelu for (A, T) in (\"none\", GELU_ERF), (\"tanh\", GELU_TANH)\n"
        "  match aten.gelu(x: const floating[N=2, _, ..]?, approximate=A)\n"
        "  when  (i, _) := present(x), not (N in [1, 2]), -N < 3 - -2\n"
        "  let   a, b = [..[v for v in x[1:] if v is not none], ~-0.5]\n"
        "  emit  trt.activation(x, type=T).1[0] ++ y[:2]\n"
        "  needs trt >= 10.14 and not rtx, cap.attention\n"
        "  over  other\n"
        "  decreases rank(x)\n"
        "  relax nan\n"
        "  test  x: parameter f32[B=2..4, 8] < 10, k = none\n"
        "  reject xs: [i64[3] < 5, none]\n"
    ).replace("N=2, ", "N, ")  # fmt: skip
    compact = re.sub(r"\s+", " ", expected)
    assert formatted(compact) == expected
    assert formatted(compact.replace(", ", ",").replace(" = ", "=").replace(" < ", "<")) == expected
    assert formatted(expected.replace(" ", "\n")) == expected
    assert formatted(expected.replace("\n", "\r\n").replace("\r\n", "\n")) == expected


def test_comments_stay_where_they_belong():
    text = (
        "# The file.\n\n"
        "\n\n\n# About a macro.\n"
        "def twice(x) =   # behind\n"
        "  # within\n"
        "  aten.add.Tensor(x, # the first\n x)   # the end\n"
        "lower a # opening\n"
        "      # before match\n"
        "  match aten.gelu(x) # after match\n"
        "  emit twice(x)\n"
        "  test x: f32[2], # more\n"
        "    y: f32[2]\n"
        "  # the last of the rule\n"
        "# about the next\n"
        "lower b match aten.relu(x) emit x\n"
        "\n\n\n# the end of the file"
    )
    assert formatted(text) == (
        "# The file.\n\n\n"
        "# About a macro.\n"
        "def twice(x) =  # behind\n"
        "  # within\n"
        "  aten.add.Tensor(\n"
        "    x,  # the first\n"
        "    x)  # the end\n\n"
        "lower a  # opening\n"
        "  # before match\n"
        "  match aten.gelu(x)  # after match\n"
        "  emit  twice(x)\n"
        "  test  x: f32[2],  # more\n"
        "        y: f32[2]\n"
        "  # the last of the rule\n\n"
        "# about the next\n"
        "lower b\n"
        "  match aten.relu(x)\n"
        "  emit  x\n\n\n"
        "# the end of the file\n"
    )


def test_long_comments_and_docs_are_cut_between_words():
    words = " ".join(f"word{i}" for i in range(40))
    text = f'lower a "{words}"\n  match aten.gelu(x)  # {words}\n  emit  x\n# {words}\n'
    laid_out = formatted(text)
    assert max(map(len, laid_out.splitlines())) <= 120
    assert parse(laid_out).rules[0].doc == words
    assert laid_out.count("word39") == 3
    assert formatted(laid_out) == laid_out
    # A word that is longer than a line cannot be cut.
    address = "https://example.org/" + "a" * 130
    assert f"# {address}\n" in formatted(f"# {address}\nlower a match aten.gelu(x) emit x\n")


def test_trailing_commas_go_and_their_comments_stay():
    assert formatted("def f(a, b,) = [a, b, # both\n]") == "def f(a, b) =\n  [\n    a,\n    b  # both\n    ]\n"
    assert formatted("def f(a, b,) = (a, [b,],)") == "def f(a, b) = (a, [b])\n"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "  # one\n\n\n\n\n# two\n"])
def test_files_without_rules(text):
    laid_out = formatted(text)
    assert formatted(laid_out) == laid_out
    assert comments_of(laid_out) == comments_of(text)


def test_a_file_with_mistakes_is_an_error_with_all_of_them():
    with pytest.raises(RuleError) as caught:
        formatted("lower a match aten.relu(x\nlower b emit\n", "my.rules")
    assert len(caught.value.diagnostics) >= 2
    assert "my.rules:" in str(caught.value)


def test_nested_expressions_break_at_what_binds_least():
    text = "def f(x) = " + " and ".join(f"alpha{i}(x) * 2 == beta{i}(x) + 1" for i in range(6))
    lines = formatted(text).splitlines()
    assert lines[0] == "def f(x) ="
    assert all(line.startswith(("  alpha", "  and ")) for line in lines[1:])
    text = "def f(x) = " + " else ".join(f"value{i}(x, x, x) if test{i}(x)" for i in range(6)) + " else none"
    lines = formatted(text).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["else"] * 6

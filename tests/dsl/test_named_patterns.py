"""Named patterns are written out where they are used; names in them are their own."""

import pytest

from engine.dsl import tree
from engine.dsl.formatting.pattern_text import written_pattern
from engine.dsl.forms import without_spans
from engine.dsl.ruleset import RuleSet
from engine.errors import RuleError

DEFINED = """
pattern product(x, y, N) = aten.matmul(x: floating[.., K, N], y: floating[N, K])
pattern shifted(FN, x) = &FN(aten.add.Tensor(x, 1))
pattern largest(x, d, values, where) = aten.max.dim(x, d, ..) -> (values, where)
pattern parts(x, more) = aten.cat([x, ..more], 0)
pattern scaled(y, s, divided) = (aten.mul.Tensor(y, s: float) | aten.div.Tensor(y, s: float) as divided | y)
"""


def roots(match: str, emit: str = "x", definitions: str = DEFINED):
    rules = RuleSet.from_text(f"{definitions}\nsimplify r\n  match {match}\n  emit {emit}\n").rules
    return [tuple(map(without_spans, rule.roots)) for rule in rules]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("aten.relu(shifted(aten.sin, x))", "aten.relu(&aten.sin(aten.add.Tensor(x, 1)))"),
        ("aten.relu(shifted(aten.sin, shifted(aten.cos, x)))",
         "aten.relu(&aten.sin(aten.add.Tensor(&aten.cos(aten.add.Tensor(x, 1)), 1)))"),
        ("aten.relu(largest(x, 1, y, _))", "aten.relu(aten.max.dim(x, 1, ..) -> (y, _))"),
        ("aten.relu(parts(x, ys))", "aten.relu(aten.cat([x, ..ys], 0))"),
        ("aten.relu(parts(x, _))", "aten.relu(aten.cat([x, ..], 0))"),
        ("aten.relu(scaled(x, k, over))",
         "aten.relu((aten.mul.Tensor(x, k: float) | aten.div.Tensor(x, k: float) as over | x))"),
        ("(aten.relu(shifted(aten.sin, x)), aten.neg(shifted(aten.sin, x)))",
         "(aten.relu(&aten.sin(aten.add.Tensor(x, 1))), aten.neg(&aten.sin(aten.add.Tensor(x, 1))))"),
        ("aten.add.Tensor{shifted(aten.sin, x), y}", "aten.add.Tensor{&aten.sin(aten.add.Tensor(x, 1)), y}"),
    ],
)  # fmt: skip
def test_a_use_is_its_definition(short: str, long: str) -> None:
    emit = "(x, x)" if short.startswith("(") else "x"
    if "as over" in long:
        emit = "aten.neg(x) if k is none else aten.exp(x) if over else x"
    assert roots(short, emit) == roots(long, emit)


def test_a_family_gives_the_op() -> None:
    text = (
        DEFINED
        + """
simplify r for OP in aten.sin, aten.cos
  match aten.relu(shifted(OP, x))
  emit x
"""
    )
    ops = [dict(rule.roots[0].arguments)[0].op for rule in RuleSet.from_text(text).rules]
    assert ops == ["aten.sin.default", "aten.cos.default"]


def test_sizes_belong_to_one_use_unless_they_are_parameters() -> None:
    ((root,),) = roots("aten.add.Tensor(product(a, b, N), product(c, d, M))", "a")
    names = []
    for _, product in root.arguments[:2]:
        first, second = (argument for _, argument in product.arguments)
        names.append([[dim.name for dim in bound.type.dims if not dim.rest] for bound in (first, second)])
    (((k, n), (same_n, same_k)), ((other_k, m), _)) = names
    assert (n, same_n, m) == ("N", "N", "M")
    assert k == same_k != other_k  # each use has a K of its own


@pytest.mark.parametrize(("given", "size"), [("4", 4), ("_", None)])
def test_a_size_may_be_a_number_or_anything(given: str, size: int | None) -> None:
    ((root,),) = roots(f"aten.relu(product(x, y, {given}))")
    bound = dict(dict(root.arguments)[0].arguments)[0]
    assert (bound.type.dims[-1].name, bound.type.dims[-1].size) == (None, size)


def test_a_chain_of_definitions_of_any_length_is_counted_not_written_out() -> None:
    doubled = "\n".join(f"pattern p{n}(x) = p{n - 1}(p{n - 1}(x))" for n in range(1, 600))
    text = f"pattern p0(x) = aten.add.Tensor(x, x)\n{doubled}\n"
    with pytest.raises(RuleError, match="more than 1,000,000,000 parts"):
        roots("aten.relu(p599(x))", definitions=text)
    with pytest.raises(RuleError, match="parts, at most 400"):
        roots("aten.relu(p4(x))", definitions=text)
    # Named and used nowhere, they do no harm.
    assert roots("aten.relu(p1(x))", definitions=text)


def test_lists_and_names_count_as_well_as_ops() -> None:
    text = "pattern pair(x) = [x, x]\npattern more(x) = pair(pair(pair(pair(pair(pair(pair(pair(pair(pair(x))))))))))\n"
    with pytest.raises(RuleError, match="parts, at most 400"):
        roots("aten.cat(more(x), 0)", definitions=text)


def test_a_ruleset_keeps_what_was_defined(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("engine.dsl.ruleset._recent", {})
    text = (
        DEFINED + "simplify r\n  match aten.relu(scaled(x, k, over))\n  emit x if k is none or over else aten.exp(x)\n"
    )
    made = RuleSet.from_text(text)
    monkeypatch.setattr("engine.dsl.ruleset._recent", {})
    read = RuleSet.from_text(text)
    assert read is not made
    assert read.rules == made.rules
    assert dict(read.patterns) == dict(made.patterns)
    assert list(read.patterns) == ["product", "shifted", "largest", "parts", "scaled"]


@pytest.mark.parametrize(
    "text",
    [
        "(aten.mul.Tensor(y, s: float) | aten.div.Tensor(y, ~0.5) as divided | y)",
        "&aten._to_copy?(aten.max.dim(x, -1, ..).1, dtype=f32, ..more) -> (y, _)",
        "aten.mul.Tensor{scores(q, [a, ..xs, 2]), none}",
        'FN(x: const f16|bf16[B, 3, N=2..4, _, ..]?, "tanh", true, _)',
        "table(aten.cos, f)",
    ],
)
def test_a_pattern_is_shown_as_it_is_written(text: str) -> None:
    from engine.dsl.syntax.parser import parse

    (item,) = parse(f"pattern p(FN) = {text}").patterns
    assert written_pattern(item.body) == text
    assert isinstance(item, tree.PatternItem)

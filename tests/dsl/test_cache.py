import dataclasses
import json
import logging
import os
import subprocess
import sys

import pytest

from engine.dsl import cache, host, ruleset
from engine.dsl.checks.facts import facts_of
from engine.dsl.encoding import CachedRule
from engine.dsl.ruleset import RuleSet
from engine.dsl.source import BUILT_IN, Source, builtin_sources, read_sources
from engine.dsl.syntax import parser
from engine.errors import RuleError
from engine.rewriter.fuel import op_order
from engine.rewriter.reach import reach
from engine.settings import CompilationSettings
from engine.tensorrt import Capabilities

TEXT = """
def twice(x) = aten.mul.Tensor(x, 2)
layer trt.activation(x: tensor, *, type: ActivationType = RELU, alpha: static float? = none) -> tensor
  gives (shape(x), f16) via add_activation(x, type)
lower r for (OP, K, D, E) in (aten.abs, -1.5, f32, [1, none]), (aten.neg, inf, i8, "text") "Documentation."
  match OP(aten.mul.Tensor{x: const floating[N=2..4, ..]?, ~0.5})
  when  [(k, _)] := present([x]), rank(x) == 2 or D == f32, E is not none, N > 2
  let   y = [twice(v) if K else v for v in [x][1:] if not k]
  emit  twice(x)
  test  x: const f32[B=2..4, 8]
  reject x = none
simplify s match (aten.neg(aten.relu?(x)), aten.exp(&aten.abs(x)) -> (y)) emit (x, x)
"""


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Every load goes to the disk: rule sets of this process are not kept."""
    monkeypatch.setattr(ruleset, "_recent", {})
    monkeypatch.setattr(ruleset, "_MOST_RECENT", 0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    return tmp_path / "rules"


def same(a, b):
    for left, right in zip(a.rules, b.rules, strict=True):
        for field in dataclasses.fields(left):
            assert getattr(left, field.name) == getattr(right, field.name), field.name
    for name in ("inactive", "overridden", "hash", "sources"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("layers", "macros", "externs"):
        assert dict(getattr(a, name)) == dict(getattr(b, name))


def test_what_comes_back_is_what_was_kept():
    first, second = RuleSet.from_text(TEXT), RuleSet.from_text(TEXT)
    assert not isinstance(first.rules[0], CachedRule)
    assert isinstance(second.rules[0], CachedRule)
    same(first, second)
    layer = second.layers["trt.activation"]
    assert layer.by_name["type"] is layer.parameters[1]


def test_builtin_rules_come_back_whole():
    same(RuleSet.load(), RuleSet.load())


def test_what_the_text_of_a_rule_says_is_kept_and_needs_no_body():
    made = RuleSet.from_text(TEXT)
    again = RuleSet.from_text(TEXT)
    assert [rule.facts for rule in made.rules] == [None] * len(made.rules)
    assert [rule.facts for rule in again.rules] == [facts_of(rule, made.macros) for rule in made.rules]
    assert "aten.mul.Tensor" in again.rules[0].facts.emits or "aten.mul.Tensor" in again.rules[1].facts.emits
    # Neither what orders rules, nor which a compilation has by its settings, reads what they do.
    op_order(again.phase("lower"), again.macros)
    reach(again.rules)
    again.with_settings(CompilationSettings())
    assert not any(is_decoded(rule) for rule in again.rules)


def is_decoded(rule):
    """Whether what a cached rule does was read."""
    try:
        object.__getattribute__(rule, "emit")
    except AttributeError:
        return False
    return True


def test_a_second_load_needs_no_parser(tmp_path):
    path = tmp_path / "my.rules"
    path.write_text(TEXT)
    # Both in processes of their own: what this one has imported is part of the key.
    load = "import sys; from engine.dsl.ruleset import RuleSet; rules = RuleSet.load(sys.argv[1], builtin=False); "
    check = "assert rules.rules and 'lark' not in sys.modules and 'engine.dsl.checks.checker' not in sys.modules"
    for code in (load, load + check):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-20], lambda t: t.replace("twice", "thrice"), lambda t: "", lambda t: "[]"]
)
def test_damaged_entries_are_made_again(folder, damage):
    first = RuleSet.from_text(TEXT)
    (entry,) = folder.glob("*.json")
    entry.write_text(damage(entry.read_text()))
    second = RuleSet.from_text(TEXT)
    assert not isinstance(second.rules[0], CachedRule)
    same(first, second)
    assert isinstance(RuleSet.from_text(TEXT).rules[0], CachedRule)


def test_an_entry_serves_no_other_name(folder):
    RuleSet.from_text(TEXT)
    (entry,) = folder.glob("*.json")
    other = entry.with_name("0" * 40 + ".json")
    other.write_text(entry.read_text())
    assert cache.load(other.stem) is None


def test_capabilities_are_part_of_the_key(folder):
    for version in ((10, 9), (11, 1)):
        RuleSet.from_text(TEXT, capabilities=Capabilities(version, False, frozenset({"activation"})))
    assert len(list(folder.glob("*.json"))) == 2


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_warned", False)
    with caplog.at_level(logging.WARNING, "engine.rules"):
        for _ in range(2):
            assert RuleSet.from_text(TEXT).rules
    assert len([r for r in caplog.records if "are not cached" in r.message]) == 1


def test_old_entries_go(folder, monkeypatch):
    monkeypatch.setattr(cache, "_ENTRIES", 2)
    monkeypatch.setattr(cache, "_MORE", 0)
    for number in range(4):
        RuleSet.from_text(TEXT + "#" * number)
    assert len(list(folder.glob("*.json"))) == 2


def test_what_is_used_is_not_old(folder, tmp_path, monkeypatch):
    """The built-in rules outlive any number of edits of a user's file."""
    RuleSet.load()
    (built_in,) = folder.glob("*.json")
    monkeypatch.setattr(cache, "_ENTRIES", 3)
    monkeypatch.setattr(cache, "_MORE", 0)
    path = tmp_path / "my.rules"
    for number in range(5):
        os.utime(built_in, (0, 0))
        path.write_text(f"# {number}\n{MINE}")
        RuleSet.load(path)
    assert built_in.exists()
    assert len(list(folder.glob("*.json"))) == 3


def test_an_entry_that_builds_on_another_one_goes_with_it(folder, tmp_path):
    path = tmp_path / "my.rules"
    path.write_text(MINE)
    RuleSet.load(path)
    sizes = {entry: entry.stat().st_size for entry in folder.glob("*.json")}
    own, built_in = sorted(sizes, key=sizes.__getitem__)
    assert sizes[own] < sizes[built_in] / 10
    assert cache.load(own.stem).rules == RuleSet.load(path).rules
    built_in.unlink()
    assert cache.load(own.stem) is None
    # An entry cannot build on one that builds on another.
    other = cache._encode_on(cache_of(path), own.stem, cache_of())
    text = json.dumps(other)
    (folder / ("1" * 40 + ".json")).write_text(f"{cache._digest('1' * 40, text.encode())}\n{text}")
    assert cache.load("1" * 40) is None


def cache_of(*paths):
    sources = [*builtin_sources(), *read_sources(paths, 2)]
    return ruleset._check(sources, ruleset._installed(), host.registered(), None)


def test_only_functions_that_rules_name_are_part_of_an_entry(folder, monkeypatch):
    text = "extern host.tripled_here(n: int) -> int\n" + TEXT.replace("N > 2", "host.tripled_here(N) > 2")
    monkeypatch.setitem(host._REGISTRY, "host.tripled_here", lambda n: 3 * n)
    RuleSet.from_text(text)
    before = sorted(folder.glob("*.json"))
    monkeypatch.setitem(host._REGISTRY, "host.named_by_nobody", lambda n: n)
    RuleSet.from_text(text)
    assert sorted(folder.glob("*.json")) == before
    monkeypatch.setitem(host._REGISTRY, "host.tripled_here", lambda m: 3 * m)
    with pytest.raises(RuleError, match=r"is declared with \(n\)"):
        RuleSet.from_text(text)


def test_no_scraps_are_left(folder):
    RuleSet.from_text(TEXT)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ""}
    assert not list(folder.glob(".*.json*"))


def test_what_was_read_back_can_be_kept_again(folder):
    RuleSet.load()
    (entry,) = (folder / "rules").glob("*.json") if (folder / "rules").is_dir() else folder.glob("*.json")
    cache.store(entry.stem, cache.load(entry.stem))
    assert cache.load(entry.stem).rules == RuleSet.load().rules


def test_an_edit_of_a_users_file_is_checked_against_the_cached_built_in_rules(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    RuleSet.load()
    path = tmp_path / "my.rules"
    path.write_text(MINE)
    read = []
    parse = parser.parse_with_errors
    monkeypatch.setattr(parser, "parse_with_errors", lambda text, *rest: read.append(rest) or parse(text, *rest))
    loaded = RuleSet.load(path)
    assert read == [(str(path), "my")]
    sources = [*builtin_sources(), *read_sources([path], 2)]
    afresh = ruleset._check(sources, ruleset._installed(), host.registered(), None)
    assert [(rule.id, rule.rank) for rule in loaded.rules] == [(rule.id, rule.rank) for rule in afresh.rules]
    assert loaded.rules == afresh.rules
    assert loaded.inactive == afresh.inactive
    assert loaded.overridden == afresh.overridden
    assert ("my.mine", "arithmetic.square") in loaded.overridden
    # Read back from the cache once more.
    ruleset._recent.clear()
    before = len(read)
    again = RuleSet.load(path)
    assert len(read) == before
    assert again.rules == loaded.rules
    assert again.hash == loaded.hash


def test_a_built_in_file_is_parsed_once_a_process(monkeypatch):
    read = []
    parse = parser.parse_with_errors
    monkeypatch.setattr(parser, "parse_with_errors", lambda text, *rest: read.append(rest) or parse(text, *rest))
    source = Source(
        "once.rules", "once", BUILT_IN, "lower once\n  match aten.relu(x)\n  emit  aten.abs(x)\n", "built in"
    )
    first, again = (ruleset._check([source], target, {}, None) for target in (ruleset._installed(), None))
    assert read == [("once.rules", "once")]
    assert first.rules == again.rules
    ruleset._check([dataclasses.replace(source, origin="")], None, {}, None)
    assert len(read) == 2


def test_mistakes_of_a_users_file_are_those_of_all_files_together(tmp_path):
    path = tmp_path / "my.rules"
    path.write_text(
        "lower a match aten.mul.Tensor(x, y) emit aten.square(x)\nlower b match aten.relu(x) over c emit lift(x)"
    )
    sources = [*builtin_sources(), *read_sources([path], 2)]
    with pytest.raises(RuleError) as together:
        ruleset._check(sources, ruleset._installed(), host.registered(), None)
    with pytest.raises(RuleError) as apart:
        RuleSet.load(path)
    assert str(apart.value) == str(together.value)
    assert "lowering might never end" in str(apart.value)


MINE = """
def lift(x) = aten.mul.Tensor(x, x)
lower mine match aten.square(x: floating) emit lift(x) test x: f32[2]
lower other match aten.square(x: f32[2]) over mine emit lift(x) test x: f32[2]
"""

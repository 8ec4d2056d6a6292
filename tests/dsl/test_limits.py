"""Every rules file is read or refused with a place, however large, deep, damaged or strange it is."""

import contextlib
import json
import os
import re
from pathlib import Path

import filelock
import pytest

from engine.dsl import cache, ruleset
from engine.dsl.checks import limits
from engine.dsl.ruleset import RuleSet
from engine.errors import RuleError

RELU = "lower r\n  match aten.relu(x)\n"


def refused(text):
    with pytest.raises(RuleError) as caught:
        RuleSet.from_text(text)
    assert all(diagnostic.span is not None for diagnostic in caught.value.diagnostics)
    return str(caught.value)


def doubled(count, first, step):
    return first + "".join(step.format(i, i + 1) for i in range(count))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RELU + "  when " + "1 + " * 300 + "1 > 0\n  emit x", "nests more than 64 levels"),
        (RELU + "  when " + "(" * 5000 + "true" + ")" * 5000 + "\n  emit x", "fine"),
        (RELU + "  emit " + "[" * 5000 + "x" + "]" * 5000, "nests more than 64 levels"),
        (RELU + "  when " + "- " * 3000 + "1 > 0\n  emit x", "nests more than 64 levels"),
        (RELU + "  emit " + "x if true else " * 3000 + "x", "nests more than 64 levels"),
        (RELU + "  emit x" + ".0" * 3000, "nests more than 64 levels"),
        # A word that advice must not look for from each of its letters on.
        (RELU + "  emit " + "x" * 200_000 + " )", "unexpected|closes nothing"),
        (
            doubled(40, "def m0(x) = aten.neg(x)\n", "def m{1}(x) = aten.add.Tensor(m{0}(x), m{0}(x))\n")
            + RELU
            + "  emit m40(x)",
            "once its macros are expanded",
        ),
        (
            doubled(400, "def m0(x) = aten.neg(x)\n", "def m{1}(x) = m{0}(x)\n") + RELU + "  emit m400(x)",
            "levels once its macros and names are expanded",
        ),
        (
            doubled(300, RELU + "  let a0 = x\n", "  let a{1} = aten.neg(a{0})\n") + "  emit a300",
            "levels once its macros and names",
        ),
        (
            "lower r\n  match " + "aten.mul.Tensor{" * 12 + "x" + ", aten.relu(y)}" * 12 + "\n  emit x",
            "12 unordered ops",
        ),
        ("lower r\n  match aten.exp(" + "aten.relu?(" * 9 + "x" + ")" * 9 + ")\n  emit x", "stands for 512 patterns"),
        ("lower r\n  match (aten.relu(x), aten.relu(y))\n  emit (x, y)", "shares no"),
        ("lower r\n  match (" + ", ".join(["aten.relu(x)"] * 9) + ")\n  emit x", "at most 8 roots"),
        (
            "lower r\n  match aten.cat([" + ", ".join(f"a{i}" for i in range(500)) + "], 0)\n  emit a0",
            "at most 400 parts",
        ),
        (
            "lower r for N in " + ", ".join("12" for _ in range(1001)) + "\n  match aten.sum(x, N)\n  emit x",
            "at most 1000 members",
        ),
        (
            "lower r for N in " + ", ".join(map(str, range(999))) + "\n  match aten.select.int(x, 0, N)\n  emit x",
            "too many or too alike",
        ),
        (RELU + "  when rank(x) == " + "9" * 6000 + "\n  emit x", "too large"),
        (RELU + "  emit x." + "9" * 6000, "too large"),
        (RELU + "  emit x\n  test x: f32[" + "9" * 6000 + "]", "too large"),
        (RELU + "  needs trt >= " + "9" * 6000 + "\n  emit", "unexpected|ends too early"),
        (
            "lower r\n  match aten.std.correction(x, d, correction=c, k, l)\n  emit x",
            "positional arguments come before named ones",
        ),
        (RELU + "  emit x\n" + "# " * 200_000, "too large"),
        ("x " * 40_000, "too large"),
        ("# # # # " * 400 + "\nlower (", "unexpected"),
        (RELU + '  emit x\n  when "\ud800" == "a"', "a rule gives tensors|fine"),
        (RELU + "  emit x\n\x00", "unexpected"),
        ("\u2028\x0b\x0c\x85" + RELU + '  emit "\u2028" + y', "unexpected"),
    ],
)
def test_texts(text, said):
    if said.endswith("fine"):
        with contextlib.suppress(RuleError):
            RuleSet.from_text(text)
        return
    assert re.search(said, refused(text))


def test_many_mistakes_are_told_up_to_a_number():
    text = "\n".join(f"lower r{i}\n  match aten.relu(x)\n  emit y{i}" for i in range(500))
    with pytest.raises(RuleError) as caught:
        RuleSet.from_text(text)
    assert 100 <= len(caught.value.diagnostics) <= 101
    text = "\n".join(f"lower r{i}\n  match aten.relu(x)\n  emit" for i in range(500))
    with pytest.raises(RuleError) as caught:
        RuleSet.from_text(text)
    assert 100 <= len(caught.value.diagnostics) <= 101


def test_of_long_lines_the_part_at_fault_is_shown():
    message = refused(RELU + "  emit " + " " * 50_000 + "nothing" + " " * 50_000)
    assert "nothing" in message
    assert len(message) < 3000


def test_versions_of_many_digits_are_compared():
    assert RuleSet.from_text(RELU + "  emit x\n  needs trt < " + "9" * 6000 + ".1").rules


# ------------------------------------------------------------------------------------ files


def loaded(path):
    with pytest.raises(RuleError) as caught:
        RuleSet.load(path, builtin=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "place"),
    [(b"# fine\n#  \xff\n", "2:4"), (b"\xc3", "1:1"), (b"# \xed\xa0\x80", "1:3"), (b"\xef\xbb\xbf#\r\n\xfe", "2:1")],
)
def test_bytes_that_are_no_text_are_pointed_at(tmp_path, data, place):
    path = tmp_path / "my.rules"
    path.write_bytes(data)
    assert loaded(path).startswith(f"{path}:{place}: error: the byte 0x")


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path):
    path = tmp_path / "my.rules"
    path.write_bytes(b"\xef\xbb\xbf" + (RELU + "  emit aten.neg(x)\n").replace("\n", "\r\n").encode())
    (rule,) = RuleSet.load(path, builtin=False).rules
    assert rule.span.end_line == 3
    path.write_bytes(b"")
    assert not RuleSet.load(path, builtin=False).rules


def test_what_is_no_file_is_refused(tmp_path):
    pipe, loop, folder = tmp_path / "pipe.rules", tmp_path / "loop.rules", tmp_path / "deep"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert "not a regular file" in loaded(pipe)
    assert "cannot be read" in loaded(loop)
    assert "not a regular file" in loaded("/dev/zero")
    assert "cannot be read" in loaded("a\0b")
    assert "holds no .rules files" in loaded(folder)
    (folder / "gone.rules").symlink_to(tmp_path / "nowhere")
    assert "gone.rules:1:1: error: this file cannot be read" in loaded(folder)
    with pytest.raises(FileNotFoundError, match="no rules at"):
        RuleSet.load(tmp_path / "nowhere", builtin=False)
    assert "no rules at" in loaded(tmp_path / "nowhere")


def test_folders_are_looked_through_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.dsl.source.MOST_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").touch()
    assert "holds more than 3 files" in loaded(tmp_path)


def test_built_in_rules_are_far_below_the_limits():
    files = [path.stat().st_size for path in Path("rules").rglob("*.rules")]
    assert not files or max(files) * 2 < limits.LARGEST_FILE


# ------------------------------------------------------------------------------------ the cache


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """The path of the entry of a rule set that is loaded anew each time."""
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ruleset, "_recent", {})
    monkeypatch.setattr(ruleset, "_MOST_RECENT", 0)
    RuleSet.from_text(RELU + "  emit aten.neg(x)")
    (path,) = (tmp_path / "rules").glob("*.json")
    return path


def _signed(path, payload):
    path.write_text(f"{cache._digest(path.stem, payload.encode())}\n{payload}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to(path)),
        lambda path: _signed(path, "[" * 100_000),
        lambda path: _signed(path, "null"),
        lambda path: _signed(path, json.dumps({"foreign": {}, "files": 3, "bodies": [], "rules": [[0, 1]]})),
    ],
)
def test_damaged_entries_are_made_again(entry, damage):
    damage(entry)
    (rule,) = RuleSet.from_text(RELU + "  emit aten.neg(x)").rules
    assert rule.emit is not None


def test_a_lock_that_is_held_keeps_nothing_waiting(entry):
    entry.unlink()
    with filelock.FileLock(entry.parent / ".lock"):
        RuleSet.from_text(RELU + "  emit aten.neg(x)")
    assert entry.exists()

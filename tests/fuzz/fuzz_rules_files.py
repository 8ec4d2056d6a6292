"""Rules files, sound and damaged: each is read, or refused with a place, in bounded time and memory.

Half of the files are generated from the grammar, with sizes that may be hostile; the others are built-in files that
are cut off, or whose words are swapped, doubled, nested or replaced. A few are no text, or no files. They are loaded
by worker processes that may take no more than a gigabyte; one that takes too long is ended and counts as a fault.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.dsl.source import builtin_sources

NAME = "rules_files"
CASES = 2000
FIXED = 30

# Seconds of the processor, so that other work on the machine is no fault; the wall clock only ends what hangs.
SECONDS = 10.0
_PATIENCE = 600.0
_MEMORY = 1 << 30

_OPS = ("aten.relu", "aten.add.Tensor", "aten.mul.Tensor", "aten.linear", "aten.matmul", "aten.sum.dim_IntList", "x.y")
_NAMES = ("x", "y", "a", "b", "n")
_ITEM = re.compile(r"^(?=(?:simplify|lower|convert|def|extern|layer)\b)", re.MULTILINE)
_KINDS = tuple(map(re.compile, (r"[a-z]", r"[A-Z]", r"\d", r"\s", r'"', r"[()\[\]{}]", r".", r"\n")))
_WORDS = re.compile(r'"[^"\n]*"|\w+|\s+|[^\w\s]')


# ------------------------------------------------------------------------------------ files from the grammar


class _Generator:
    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def file(self) -> str:
        draw = self.draw
        if draw.random() < 0.5:
            return "\n".join(self.hostile(number) for number in range(draw.choice((1, 1, 2))))
        kinds = [self.rule] * 4 + [self.macro] * 2
        return "\n".join(draw.choice(kinds)(number) for number in range(draw.choice((1, 2, 5, 30))))

    def rule(self, number: int) -> str:
        draw = self.draw
        kind = draw.choice(("simplify", "lower", "convert"))
        family = ""
        if draw.random() < 0.2:
            members = ", ".join(str(draw.choice((draw.randrange(9), "aten.relu", "SUM", "[1, 0]"))) for _ in range(5))
            family = f" for F in {members}"
        lines = [f"{kind} r{number}{family}", f"  match {self.pattern(draw.randrange(1, 5))}"]
        lines += [f"  when {self.expression(draw.randrange(4))}" for _ in range(draw.randrange(3))]
        lines += [
            f"  let {draw.choice(_NAMES)} = {self.expression(draw.randrange(5))}" for _ in range(draw.randrange(3))
        ]
        lines.append(f"  emit {self.expression(draw.randrange(4))}")
        if draw.random() < 0.3:
            lines.append(f"  test x: f32[{self.number()}, B=2..{self.number()}], n = {self.expression(2)}")
        return "\n".join(lines)

    def macro(self, number: int) -> str:
        called = f"m{self.draw.randrange(number + 2)}(x, x)" if self.draw.random() < 0.5 else self.expression(3)
        return f"def m{number}(x, y) = {called}"

    def pattern(self, depth: int) -> str:
        draw = self.draw
        if depth == 0:
            return draw.choice(("x", "y: f32[..]", "_", "0.5", "none", "n: int", "[a, ..b]", "~0.7", self.number()))
        opening, closing = draw.choice(("()", "{}"))
        parts = ", ".join(self.pattern(draw.randrange(depth)) for _ in range(draw.randrange(1, 4)))
        return f"{draw.choice(('', '&'))}{draw.choice(_OPS)}{draw.choice(('', '?'))}{opening}{parts}{closing}"

    def expression(self, depth: int) -> str:
        draw = self.draw
        if depth == 0:
            return draw.choice((*_NAMES, self.number(), "none", "true", '"s"', "inf", "f32", "result", "F"))
        one, other = self.expression(depth - 1), self.expression(draw.randrange(depth))
        forms = (
            f"({one} {draw.choice(('+', '-', '*', '//', '%', '/', '++', '==', 'and', 'in'))} {other})",
            f"[{one}, ..{other}]",
            f"[{one} for n in {other}]",
            f"{one} if {other} else {one}",
            f"{draw.choice(('len', 'range', 'sum', 'shape', 'prod', 'm0', 'm1', 'aten.relu', 'trt.unary'))}({one})",
            f"{one}[{other}]",
            f"not {one}",
            f"{one} is {draw.choice(('none', 'aten.relu(..)', '3'))}",
        )
        return draw.choice(forms)

    def number(self) -> str:
        plain = ("0", "1", "2", "7", "-1", "1.5")
        large = ("1e999", "9" * 20, "9" * 30_000, str(1 << 63))
        return self.draw.choice(large if self.draw.random() < 0.02 else plain)

    def hostile(self, number: int) -> str:
        """A short text that stands for much."""
        many = self.draw.choice((20, 100, 1000, 20_000))
        rule = f"lower h{number}\n  match aten.relu(x)\n"
        forms: tuple[Callable[[], str], ...] = (
            lambda: rule + "  emit " + "(" * many + "x" + ")" * many,
            lambda: rule + "  when " + "not " * many + "true\n  emit x",
            lambda: rule + f"  when 1{' + 1' * many} > 0\n  emit x",
            lambda: rule + "  when " + "[" * many + "]" * many + " == []\n  emit x",
            lambda: rule + "  emit " + "x if true else " * many + "x",
            lambda: rule + "  emit x" + "[0]" * many,
            lambda: rule + "".join(f"  let a{i + 1} = [a{i}, a{i}]\n" for i in range(min(many, 1000))) + "  emit x",
            lambda: f"lower h{number}\n  match " + "aten.mul.Tensor{" * many + "x" + ", 0.5}" * many + "\n  emit x",
            lambda: f"lower h{number}\n  match " + "aten.relu?(" * many + "x" + ")" * many + "\n  emit x",
            lambda: f"lower h{number} for N in {', '.join(['1'] * many)}\n  match aten.sum(x, N)\n  emit x",
            lambda: f"lower h{number}\n  match ({', '.join(['aten.relu(x)'] * many)})\n  emit x",
            lambda: f"lower h{number}\n  match aten.cat([{', '.join(f'a{i}' for i in range(many))}], 0)\n  emit x",
            lambda: (
                "".join(f"def d{number}_{i + 1}(x) = d{number}_{i}(d{number}_{i}(x))\n" for i in range(min(many, 1000)))
                + f"def d{number}_0(x) = aten.relu(x)\n{rule}  emit d{number}_{min(many, 1000)}(x)"
            ),
            lambda: "\n".join(f"lower h{number}_{i}\n  match aten.relu(x)\n  emit x" for i in range(min(many, 2000))),
            lambda: "\n".join(f"lower h{number}_{i}\n  match aten.nothing(x)\n  emit" for i in range(min(many, 2000))),
            lambda: "# # # " * many + "\nlower",
            lambda: rule + '  emit "' + "s" * many * 10,
            lambda: "\n" * many + "lower\n" * min(many, 2000),
        )
        return self.draw.choice(forms)()


# ------------------------------------------------------------------------------------ damaged files


def _mutated(sources: list[str], draw: random.Random) -> str:
    """Whole items of the built-in files, some in one file that were not, and then some of their words changed."""
    text = draw.choice(sources)
    if draw.random() < 0.5:
        items = _ITEM.split(text)
        if draw.random() < 0.5:
            items += _ITEM.split(draw.choice(sources))
        some = draw.choice((1, 5, 40))
        text = "".join(draw.choice(items) for _ in range(some)) if draw.random() < 0.5 else "".join(items[:some])
    words = _WORDS.findall(text)
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        _change(words, draw)
    return "".join(words)


def _change(words: list[str], draw: random.Random) -> None:
    if not words:  # all of them are gone
        return
    at, other = draw.randrange(len(words)), draw.randrange(len(words))
    match draw.randrange(12):
        case 0:
            del words[max(1, at) :]
        case 1:
            words[at], words[other] = words[other], words[at]
        case 2:
            words[at:at] = words[other : other + draw.choice((1, 10, 300))] * draw.choice((1, 3))
        case 3:
            words[at] = draw.choice("()[]{}") * draw.choice((1, 3, 200))
        case 4:
            words[at] = draw.choice(("9" * 6000, "\ufeff", "\x00", "\u2028", "\x0c", "\r", '"', "..", "1e400", "_"))
        case 5:
            del words[at : at + draw.choice((1, 5))]
        case 6:
            words[at] = draw.choice(("match", "emit", "for", "if", "else", "in", "convert", "def", "none", ":="))
        case _:
            # A word of the same kind: most such files are sound but for what they mean.
            kind = next(kind for kind in _KINDS if kind.match(words[at]))
            same = [index for index, word in enumerate(words) if kind.match(word)]
            words[at] = words[draw.choice(same)]


def _bytes(text: str, draw: random.Random) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    match draw.randrange(12):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return data.replace(b"\n", b"\r\n")
        case 2:
            at = draw.randrange(len(data) + 1)
            return data[:at] + draw.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00")) + data[at:]
        case 3:
            return text.encode(draw.choice(("utf-16", "utf-32")), "replace")
    return data


# ------------------------------------------------------------------------------------ running them


def _made(folder: Path, number: int, draw: random.Random) -> Path:
    """The path that one case loads."""
    path = folder / f"case{number}.rules"
    special = draw.randrange(40)
    if special == 0:
        os.mkfifo(path)
    elif special == 1:
        path.symlink_to(path)
    elif special == 2:
        path.mkdir()
        (path / "loop").symlink_to(path, target_is_directory=True)
        (path / "empty.rules").write_bytes(b"")
        os.mkfifo(path / "pipe.rules")
    elif special == 3:
        return Path(draw.choice(("/dev/zero", "/proc/self/mem", "/dev/null", str(folder / "nowhere"))))
    else:
        sources = [source.text for source in builtin_sources()]
        text = _Generator(draw).file() if draw.random() < 0.5 else _mutated(sources, draw)
        path.write_bytes(_bytes(text, draw))
    return path


def _work(pipe: Any, cache: str) -> None:
    """Load each path that comes through a pipe, and say how that ended."""
    os.environ["ENGINE_CACHE_DIR"] = cache
    import engine
    from engine.errors import RuleError

    engine.RuleSet.load(builtin=False)  # what is loaded once is no part of a case
    first = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (first + _MEMORY, resource.RLIM_INFINITY))
    pipe.send("ready")
    while (path := pipe.recv()) is not None:
        began = time.process_time()
        try:
            engine.RuleSet.load(path, builtin=False)
            said = ""
        except RuleError as error:
            placed = all(diagnostic.span is not None for diagnostic in error.diagnostics) and str(error)
            said = "" if placed else f"a RuleError without a place: {str(error)[:200]}"
        except BaseException as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
        seconds = time.process_time() - began
        pipe.send(said or (f"{seconds:.1f} s" if seconds > SECONDS else ""))


class _Worker:
    def __init__(self, cache: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(end, cache), daemon=True)
        self.process.start()
        end.close()
        self.pipe.poll(_PATIENCE)
        self.pipe.recv()

    def load(self, path: Path) -> str:
        """What is wrong with how a path was loaded."""
        self.pipe.send(path)
        if not self.pipe.poll(_PATIENCE):
            self.end()
            return f"no answer in {_PATIENCE:.0f} s"
        try:
            return str(self.pipe.recv())
        except EOFError:
            self.end()
            return f"the process ended: exit code {self.process.exitcode}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def run(count: int, seed: int) -> list[str]:
    """Load so many rules files; one line for each that does not end in rules or a ``RuleError``."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="engine-rules-") as name:
        folder = Path(name)
        worker = _Worker(str(folder / "cache"))
        for number in range(count):
            path = _made(folder, number, random.Random(f"{seed}-{number}"))
            said = worker.load(path)
            if said:
                faults.append(f"seed {seed}, case {number}: {said}")
                if not worker.process.is_alive():
                    worker = _Worker(str(folder / "cache"))
        worker.end()
    return faults

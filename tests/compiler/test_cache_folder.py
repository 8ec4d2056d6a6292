"""What the caches on disk share: a lock that is not to be had costs its patience once, and leftovers go."""

import logging
import os
import subprocess
import sys
import threading
import time

import filelock
import pytest
import torch
from torch import nn

import engine
import engine.engine_cache
from engine.dsl import cache as rule_cache
from engine.engine_cache import Damaged, EngineCache, Entry
from engine.runtime.engines.runtime_cache import RuntimeCacheFile
from engine.storage import cache_folder
from engine.storage.cache_folder import locked

_HOLD = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that has a lock until `stop`."""

    def __init__(self, path):
        command = [sys.executable, "-c", _HOLD, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def stop(self):
        self.process.communicate()


@pytest.fixture
def held(tmp_path):
    path = tmp_path / "folder" / ".lock"
    path.parent.mkdir()
    holder = Holder(path)
    yield path, holder
    holder.stop()


@pytest.fixture
def waits(monkeypatch):
    """The patience of each lock that was asked for."""
    found = []

    class Noted(filelock.FileLock):
        def acquire(self, *args, **kwargs):
            found.append(self.timeout)
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr(cache_folder.filelock, "FileLock", Noted)
    return found


def refused(path):
    with pytest.raises(filelock.Timeout), locked(path, 0.05):
        pass


def test_a_lock_is_waited_for_once(held, waits):
    path, holder = held
    for _ in range(3):
        refused(path)
    assert waits == [0.05, 0, 0]
    holder.stop()
    for _ in range(2):
        with locked(path, 0.05):
            pass
    # One that was free is waited for again.
    assert waits == [0.05, 0, 0, 0, 0.05]


def test_after_a_while_a_lock_is_waited_for_again(held, waits, monkeypatch):
    path, _ = held
    refused(path)
    refused(path)
    monkeypatch.setattr(cache_folder, "_REMEMBERED", 0.0)
    refused(path)
    assert waits == [0.05, 0, 0.05]


def test_locks_of_other_folders_are_not_affected(held, waits, tmp_path):
    path, _ = held
    refused(path)
    with locked(tmp_path / ".lock", 0.05):
        pass
    assert waits == [0.05, 0.05]


def test_threads_that_wait_together_are_one_wait_after_another(tmp_path):
    """Locks of one process are no reason to give up: the holder lets go in time."""
    done = []

    def work():
        with locked(tmp_path / ".lock", 30):
            done.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8


def test_engines_of_a_compilation_wait_once(held, waits, monkeypatch, caplog):
    path, _ = held
    monkeypatch.setattr(engine.engine_cache, "_PATIENCE", 0.05)
    layers = [layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.ReLU())]
    options = {"runtime": "interpreter", "min_block_size": 1, "torch_executed_ops": ["aten.relu"]}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            compiled = engine.compile(
                nn.Sequential(*layers).eval(),
                (torch.randn(2, 4),),
                cache_built_engines=True,
                engine_cache_dir=str(path.parent),
                **options,
            )
    here = [wait for wait in waits if wait in (0.05, 0)]
    assert len(here) >= 6
    assert here.count(0.05) == 1
    assert "another process holds it" in caplog.text
    assert sum(segment.backend == "tensorrt" for segment in compiled.report.segments) == 3
    assert [item.name for item in path.parent.iterdir()] == [".lock"]


# --------------------------------------------------------------------------------------------------- leftovers


def unfinished(folder, name, size, age=0.0):
    path = folder / f".{name}.unfinished"
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_killed_writers_left_counts_and_goes_first(tmp_path):
    cache = EngineCache(tmp_path, 20_000)
    cache.store("a", Entry(bytes(6000), "w"))
    left = [unfinished(tmp_path, number, 4000) for number in range(3)]
    cache.store("b", Entry(bytes(6000), "w"))
    assert cache.path("a").exists()  # what somebody uses stays rather than what nobody can
    assert sum(path.exists() for path in left) == 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_what_somebody_writes_is_left_alone(tmp_path):
    code = """
        import fcntl, sys
        with open(sys.argv[1], "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            print(flush=True)
            sys.stdin.read()
    """
    pytest.importorskip("fcntl")
    import textwrap

    cache = EngineCache(tmp_path, 10_000)
    cache.store("a", Entry(bytes(3000), "w"))
    path = unfinished(tmp_path, "b", 4000)
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        cache.store("c", Entry(bytes(4000), "w"))
        assert path.exists()
        assert not cache.path("a").exists()  # the file counts as what it will be
        os.utime(path, (1000, 1000))
        cache.store("d", Entry(bytes(4000), "w"))
        assert not path.exists()
        process.communicate()


def test_a_writer_marks_its_file(tmp_path, monkeypatch):
    """Another process that makes room while an entry is written leaves it alone."""
    pytest.importorskip("fcntl")
    seen = []

    def looked(folder, *_):
        (path,) = folder.glob(".*.unfinished")
        seen.append(cache_folder._is_written(path))
        return []

    cache = EngineCache(tmp_path, 10_000)
    monkeypatch.setattr(EngineCache, "_make_room", lambda self, *_: looked(self.folder))
    cache.store("a", Entry(b"plan", "w"))
    assert seen == [True]
    assert cache.load("a") == Entry(b"plan", "w")


def test_the_rule_cache_keeps_no_leftovers(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    from engine.dsl.checked import Checked

    empty = Checked(rules=(), inactive=(), layers={}, macros={}, externs={}, overridden=(), foreign={})
    rule_cache.store("one", empty)
    left, young = (tmp_path / "rules" / f".two.json.{name}" for name in ("abcdef", "ghijkl"))
    for path in (left, young):
        path.write_text("half")
    os.utime(left, (1000, 1000))
    rule_cache.store("one", empty)
    # What is new may have a writer that is still there.
    assert sorted(item.name for item in left.parent.iterdir()) == [".lock", young.name, "one.json"]


def test_the_runtime_cache_keeps_no_leftovers(tmp_path):
    file = RuntimeCacheFile(tmp_path, {"gpu": "x"})
    own, old, new = (tmp_path / name for name in (".x.cache.aaaa", ".other.cache.bbbb", ".other.cache.cccc"))
    for path in (own, old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert file.write(b"kernels")
    assert not own.exists()
    assert not old.exists()
    assert new.exists()
    assert file.read() == b"kernels"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
def test_entries_that_are_no_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    cache = EngineCache(tmp_path, 10_000)
    os.mkfifo(cache.path("a"))
    with pytest.raises(Damaged, match="is a pipe"):
        cache.load("a")
    file = RuntimeCacheFile(tmp_path, {"gpu": "x"})
    os.mkfifo(file.path)
    with pytest.warns(UserWarning, match="is a pipe"):
        assert file.read() is None
    (tmp_path / "rules").mkdir()
    os.mkfifo(tmp_path / "rules" / "one.json")
    assert rule_cache.load("one") is None


def test_headers_with_a_right_checksum_and_other_things_in_them(tmp_path):
    import hashlib
    import json

    cache = EngineCache(tmp_path, 10_000)
    good = {"key": "a", "weights": "w", "loads": [], "size": 4, "digest": "x"}
    changes = [
        {"key": 3},
        {"weights": None},
        {"loads": 5},
        {"loads": [1]},
        {"size": "x"},
        {"digest": None},
        {"size": -1},
    ]
    lines = [json.dumps({**good, **change}).encode() for change in changes]
    lines += [json.dumps({name: value for name, value in good.items() if name != key}).encode() for key in good]
    for line in [*lines, b"3", b"[]", b"NaN", b"\xff", b"[" * 5000]:
        digest = hashlib.sha256(line).hexdigest().encode()
        cache.path("a").write_bytes(b"engine cache 1\n" + digest + b" " + line + b"\nplan")
        with pytest.raises(Damaged):
            cache.load("a")
        assert not cache.path("a").exists()

"""The engine cache on disk: what is kept, what tells engines apart, and what becomes of damage."""

import logging
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

import engine
from engine.builder.network_key import network_key
from engine.conversion import emit_network
from engine.engine_cache import Damaged, EngineCache, Entry, default_folder
from engine.pipeline.compilation import Compilation
from engine.runtime import TorchTensorRTModule
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities
from tests.comparison import assert_agrees

ROOT = Path(__file__).resolve().parent.parent


class Difference(nn.Module):
    """``x - y`` or ``y - x``, then a linear layer."""

    def __init__(self, swapped: bool = False, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(4, width)
        self.swapped = swapped

    def forward(self, x, y):
        return self.linear(y - x if self.swapped else x - y).relu()


ARGS = (torch.randn(2, 4), torch.randn(2, 4))


def compiled_in(folder, model=None, args=ARGS, **settings):
    given = {"runtime": "interpreter", "min_block_size": 1, "cache_built_engines": True, "reuse_cached_engines": True}
    return engine.compile(model or Difference(), args, engine_cache_dir=str(folder), **{**given, **settings})


def outcome(compiled):
    return compiled.report.segments[0].cache


def plan(compiled):
    return next(m for m in compiled.graph_module.children() if isinstance(m, TorchTensorRTModule)).serialized_engine


def entries(folder):
    return sorted(Path(folder).glob("*.engine"))


def test_an_engine_is_built_once(tmp_path):
    first, second = compiled_in(tmp_path), compiled_in(tmp_path)
    assert [outcome(first), outcome(second)] == ["miss", "hit"]
    assert plan(first) == plan(second)
    assert "build" in first.report.timings.phases
    assert "build" not in second.report.timings.phases
    assert "engine cache: engine_0: hit" in str(second.report)
    assert second.report.as_dict()["segments"][0]["cache"] == "hit"
    assert_agrees(second, Difference(), *ARGS)
    assert len(entries(tmp_path)) == 1
    assert sorted(os.listdir(tmp_path)) == [".lock", entries(tmp_path)[0].name]


def test_the_settings_say_what_is_written_and_what_is_read(tmp_path):
    assert outcome(compiled_in(tmp_path, cache_built_engines=False)) == "miss"
    assert not entries(tmp_path)
    assert outcome(compiled_in(tmp_path, reuse_cached_engines=False)) == "miss"
    assert outcome(compiled_in(tmp_path, reuse_cached_engines=False)) == "miss"
    assert len(entries(tmp_path)) == 1
    assert outcome(compiled_in(tmp_path, cache_built_engines=False)) == "hit"
    neither = compiled_in(tmp_path, cache_built_engines=False, reuse_cached_engines=False)
    assert outcome(neither) == ""
    assert "cache" not in neither.report.timings.phases


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGINE_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "engines"
    compiled_in("")
    assert len(entries(tmp_path / "engines")) == 1


# ------------------------------------------------------------------------------------ keys


def key_of(model, args=ARGS, dynamic_shapes=None, **settings):
    options = CompilationSettings.from_kwargs(min_block_size=1, **settings)
    compilation = Compilation.start(model.eval(), args, None, dynamic_shapes, (), options)
    compilation.place()
    (segment,) = compilation.partition.engines
    ranges = compilation.captured.ranges
    network = emit_network(
        compilation.mirror, segment.tiles, segment.inputs, segment.outputs, ranges, options, name=segment.name
    )
    return network_key(network)


def batch(least, most):
    dim = torch.export.Dim("batch", min=least, max=most)
    return {"x": {0: dim}, "y": {0: dim}}


class Pooled(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, **options)

    def forward(self, x):
        return self.pool(x) + self.pool(x.relu())


IMAGE = (torch.randn(1, 3, 8, 8),)
DIFFERENT = {
    "operands": lambda: key_of(Difference(swapped=True)),
    "weights": lambda: key_of(Difference(seed=1)),
    "width": lambda: key_of(Difference(width=5)),
    "shape": lambda: key_of(Difference(), tuple(torch.randn(3, 4) for _ in range(2))),
    "dtype": lambda: key_of(Difference().half(), tuple(x.half() for x in ARGS)),
    "dynamic": lambda: key_of(Difference(), dynamic_shapes=batch(1, 8)),
    "profile": lambda: key_of(Difference(), dynamic_shapes=batch(1, 9)),
    "optimization_level": lambda: key_of(Difference(), optimization_level=1),
    "opt_shape": lambda: key_of(Difference(), dynamic_shapes=batch(1, 8), opt_shape_profile=True),
    "workspace_size": lambda: key_of(Difference(), workspace_size=1 << 20),
    "target": lambda: key_of(Difference(), target_compute_capabilities=("8.9",)),
    "pooling": lambda: key_of(Pooled(), IMAGE),
    "stride": lambda: key_of(Pooled(stride=1), IMAGE),
    "padding": lambda: key_of(Pooled(padding=1), IMAGE),
    "counting": lambda: key_of(Pooled(padding=1, count_include_pad=False), IMAGE),
}


def test_what_builds_another_engine_has_another_key():
    keys = {"same": key_of(Difference()).network, **{name: make().network for name, make in DIFFERENT.items()}}
    assert len(set(keys.values())) == len(keys)


def test_what_builds_the_same_engine_has_the_same_key():
    key = key_of(Difference())
    assert key_of(Difference()) == key
    for settings in ({"debug": True}, {"trial_load": False}, {"engine_cache_size": 7}, {"use_cuda_graphs": True}):
        assert key_of(Difference(), **settings) == key

    class Elsewhere(Difference):
        def forward(self, x, y):
            # Another class, at another line.
            return self.linear(x - y).relu()

    assert key_of(Elsewhere()) == key


def test_weights_that_tensorrt_can_replace_are_a_key_of_their_own():
    first, second = (key_of(Difference(seed=seed), immutable_weights=False) for seed in (0, 1))
    # Engines of TensorRT-RTX are not refitted but built again.
    assert (first.network == second.network) != capabilities().rtx
    assert (first.weights != second.weights) != capabilities().rtx
    assert key_of(Difference(seed=0), immutable_weights=False) == first


def test_models_with_other_weights_get_their_own_engines(tmp_path):
    first, second = (compiled_in(tmp_path, Difference(seed=seed), immutable_weights=False) for seed in (0, 1))
    assert_agrees(first, Difference(seed=0), *ARGS)
    assert_agrees(second, Difference(seed=1), *ARGS)


# ------------------------------------------------------------------------------------ damage


def damages(data):
    """Every way in which a file may be damaged, by name."""
    generator = random.Random(0)
    yield "empty", b""
    yield "foreign", b"not an engine" * 100
    for place in generator.sample(range(len(data)), 4):
        yield f"cut at {place}", data[:place]
    for place in [3, 20, 90, len(data) - 1, *generator.sample(range(len(data)), 20)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << generator.randrange(8)
        yield f"bit flipped at {place}", bytes(flipped)
    yield "longer", data + b"\0"


def test_a_damaged_entry_is_found_and_removed(tmp_path):
    cache = EngineCache(tmp_path, 1 << 20)
    cache.store("key", Entry(random.Random(1).randbytes(5000), "weights", ("GPU",)))
    data = cache.path("key").read_bytes()
    for name, damaged in damages(data):
        cache.path("key").write_bytes(damaged)
        with pytest.raises(Damaged):
            cache.load("key")
        assert not cache.path("key").exists(), name
        assert cache.load("key") is None
    cache.path("other").write_bytes(data)
    with pytest.raises(Damaged, match="it is the entry key"):
        cache.load("other")


def test_a_damaged_engine_is_built_again(tmp_path, caplog):
    first = compiled_in(tmp_path)
    (path,) = entries(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="engine.cache"):
        second = compiled_in(tmp_path)
    assert outcome(second) == "miss: the entry was damaged: the engine in it is not what was written"
    assert [record.getMessage() for record in caplog.records if record.name == "engine.cache"] == [
        f"engine cache: {path} was damaged and is built again: the engine in it is not what was written"
    ]
    assert plan(second) == plan(first)
    assert outcome(compiled_in(tmp_path)) == "hit"


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        compiled = compiled_in(tmp_path / "file" / "cache")
        assert outcome(compiled).startswith("miss; the cache cannot be used: ")
        assert_agrees(compiled, Difference(), *ARGS)
    messages = [record.getMessage() for record in caplog.records if record.name == "engine.cache"]
    assert len(messages) == 1
    assert "set engine_cache_dir" in messages[0]
    with pytest.raises(engine.EngineError, match="is a file: give a folder"):
        compiled_in(tmp_path / "file")


# ------------------------------------------------------------------------------------ size and processes


def used(cache, *keys):
    """Which of the keys are there, without using them."""
    return [key for key in keys if cache.path(key).exists()]


def test_the_least_recently_used_give_way(tmp_path):
    cache, entry = EngineCache(tmp_path, 3500), Entry(bytes(700), "")
    for age, key in enumerate(("a", "b", "c")):
        assert cache.store(key, entry)
        os.utime(cache.path(key), (1000 + age, 1000 + age))
    assert cache.load("a") == entry
    assert cache.store("d", entry)
    assert used(cache, "a", "b", "c", "d") == ["a", "c", "d"]
    assert cache.store("d", Entry(bytes(800), ""))
    assert used(cache, "a", "c", "d") == ["a", "c", "d"]
    assert cache.store("e", Entry(bytes(2900), ""))
    assert used(cache, "a", "c", "d", "e") == ["e"]
    assert not cache.store("f", Entry(bytes(4000), ""))
    assert used(cache, "e", "f") == ["e"]
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= cache.size


def test_what_a_killed_process_left_is_removed(tmp_path):
    cache = EngineCache(tmp_path, 10_000)
    old, new = tmp_path / ".a.1.unfinished", tmp_path / ".b.2.unfinished"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    cache.store("key", Entry(b"plan", ""))
    assert not old.exists()
    assert new.exists()


def test_an_engine_larger_than_the_cache_is_not_kept(tmp_path):
    compiled = compiled_in(tmp_path, engine_cache_size=1000)
    assert outcome(compiled) == "miss; not kept: larger than engine_cache_size=1000"
    assert not entries(tmp_path)


def test_many_threads_read_write_and_evict(tmp_path):
    cache = EngineCache(tmp_path, 12_000)
    wanted = {f"key{number}": Entry(bytes([number]) * 3000, str(number)) for number in range(6)}
    found = []

    def work(seed):
        generator = random.Random(seed)
        for _ in range(60):
            key = generator.choice(list(wanted))
            entry = cache.load(key)
            if entry is None:
                cache.store(key, wanted[key])
            else:
                found.append(entry == wanted[key])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert found
    assert all(found)
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= cache.size
    assert not list(tmp_path.glob("*.unfinished"))


def work(folder):
    """What a process does that shares the folder with others."""
    for swapped in (False, True, False):
        compiled = compiled_in(folder, Difference(swapped))
        assert_agrees(compiled, Difference(swapped), *ARGS)
    return outcome(compiled)


PROCESS = "import sys; from tests.compiler.test_engine_cache import work; print(work(sys.argv[1]))"


def test_two_processes_share_one_folder(tmp_path):
    arguments = [sys.executable, "-c", PROCESS, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert work(tmp_path) == "hit"
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output == "hit\n"
    # What was the same for one process was the same for the other.
    assert len(entries(tmp_path)) == 2


# ------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
def test_a_kept_engine_gets_the_weights_of_the_model(tmp_path):
    args = tuple(x.cuda() for x in ARGS)
    other = "miss" if capabilities().rtx else "hit, refitted"
    for seed, wanted in ((0, "miss"), (0, "hit"), (1, other), (2, other)):
        model = Difference(seed=seed).cuda()
        compiled = compiled_in(tmp_path, model, args, runtime="python", immutable_weights=False)
        assert outcome(compiled) == wanted
        assert_agrees(compiled, model, *args, tolerance=1e-2)
    assert len(entries(tmp_path)) == (3 if capabilities().rtx else 1)


@pytest.mark.gpu
def test_an_engine_that_was_loaded_here_is_not_tried_again(tmp_path):
    args, model = tuple(x.cuda() for x in ARGS), Difference().cuda()
    first = compiled_in(tmp_path, model, args, runtime="python", trial_load=False)
    second, third, fourth = (
        compiled_in(tmp_path, model, args, runtime="python", trial_load=load) for load in (None, None, True)
    )
    assert [outcome(compiled) for compiled in (first, second, third, fourth)] == ["miss", "hit", "hit", "hit"]
    loads = ["load" in compiled.report.timings.phases for compiled in (first, second, third, fourth)]
    assert loads == [False, True, False, True]
    assert_agrees(third, model, *args, tolerance=1e-2)

"""Plans in files: the source text in them is compressed, the rest lies as it is, and what comes out is the plan."""

import random
import zlib

import pytest
import torch
from torch import nn

import engine
from engine.errors import FileError
from engine.runtime import TorchTensorRTModule
from engine.storage.packed_text import pack, unpack
from tests.files.test_bad_files import members, rewrite

PLAN = "data/constants/engine_0.plan"


class Waves(nn.Module):
    """A few elementwise kernels, which TensorRT-RTX writes into the plan as source text, and few weights."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        for number, convolution in enumerate(self.convolutions):
            x = torch.sin(convolution(x)) * (number + 2)
        return x


def engines(module):
    return [part for part in module.modules() if isinstance(part, TorchTensorRTModule)]


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    return engine.compile(Waves().eval(), (torch.randn(1, 4, 8, 8),), runtime="interpreter", min_block_size=1)


@pytest.fixture(scope="module")
def path(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "waves.pt2"
    engine.save(compiled, path, program=True)
    return path


def text(length, seed=0):
    words = random.Random(seed).choices((b"__global__ ", b"float ", b"x = ", b"1;\n"), k=length // 4)
    return b"".join(words)[:length]


def test_a_file_is_smaller_than_its_plan_and_gives_the_same(compiled, path):
    (made,) = engines(compiled)
    manifest, content = members(path)
    assert manifest["format"] == 2
    assert len(content[PLAN]) < len(made.plan) / 2
    loaded = engine.load(path, runtime="interpreter")
    assert bytes(engines(loaded)[0].plan) == bytes(made.plan)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(loaded(x), compiled(x))
    assert engine.files.inspect(path)["engines"][0]["engine_bytes"] == len(made.plan)


def test_files_of_before_are_read(compiled, path, tmp_path):
    (made,) = engines(compiled)
    older = rewrite(path, tmp_path / "older.pt2", {PLAN: bytes(made.plan)}, format=1, packed={})
    manifest, content = members(older)
    assert manifest["format"] == 1
    assert content[PLAN] == bytes(made.plan)
    assert bytes(engines(engine.load(older, runtime="interpreter"))[0].plan) == bytes(made.plan)


def test_plans_of_weights_lie_as_they_are(tmp_path):
    torch.manual_seed(0)
    linear = engine.compile(
        nn.Linear(1024, 1024).eval(), (torch.randn(2, 1024),), runtime="interpreter", min_block_size=1
    )
    engine.save(linear, tmp_path / "linear.pt2")
    manifest, content = members(tmp_path / "linear.pt2")
    assert manifest["format"] == 1
    assert content[PLAN] == bytes(engines(linear)[0].plan)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_packed_comes_back(seed):
    numbers = random.Random(seed)
    parts = [
        text(numbers.randrange(40_000), seed)
        if numbers.random() < 0.5
        else numbers.randbytes(numbers.randrange(20_000))
        for _ in range(numbers.randrange(1, 8))
    ]
    data = b"".join(parts)
    found = pack(memoryview(data))
    if found is not None:
        runs, stored = found
        assert unpack(stored, runs) == data
        assert len(stored) < 0.98 * len(data)
        assert sum(length for length, _ in runs) == len(data)


def test_what_does_not_pay_is_left():
    weights = random.Random(0).randbytes(1_000_000)
    assert pack(b"") is None
    assert pack(weights) is None
    assert pack(weights + text(10_000)) is None  # less than a fiftieth
    assert pack(b"a" * 100_000) is None  # shorter by more than a reader believes
    assert pack(weights + text(200_000)) is not None


GOOD = zlib.compress(text(10_000))
BAD = {
    "no list": (GOOD, 7),
    "text": (GOOD, "ab"),
    "no pairs": (GOOD, [[1]]),
    "floats": (GOOD, [[10_000.0, len(GOOD)]]),
    "booleans": (b"x", [[True, True]]),
    "nothing": (GOOD, []),
    "too short": (GOOD, [[9_999, len(GOOD)]]),
    "too long": (GOOD, [[10_001, len(GOOD)]]),
    "longer than stored": (GOOD, [[len(GOOD) + 1, len(GOOD) + 1]]),
    "shorter than nothing": (GOOD, [[10_000, -1]]),
    "shrinks": (GOOD, [[10, len(GOOD)]]),
    "something behind": (GOOD + b"xx", [[10_000, len(GOOD) + 2]]),
    "no text": (b"abcdefgh", [[100, 8]]),
    "cut off": (GOOD[:-9], [[10_000, len(GOOD) - 9]]),
    "a bomb": (zlib.compress(bytes(10_000_000)), [[10_000_000, len(zlib.compress(bytes(10_000_000)))]]),
}


@pytest.mark.parametrize("name", BAD)
def test_runs_that_cannot_be(name, path, tmp_path):
    stored, runs = BAD[name]
    with pytest.raises(ValueError, match=r"."):
        unpack(stored, runs)
    bad = rewrite(path, tmp_path / "bad.pt2", {PLAN: stored}, packed={PLAN: runs})
    for read in (engine.load, engine.files.inspect):
        with pytest.raises(FileError, match="damaged"):
            read(bad)


def test_a_manifest_that_does_not_say_what_is_packed(path, tmp_path):
    with pytest.raises(FileError, match="packed"):
        engine.load(rewrite(path, tmp_path / "bad.pt2", packed=[PLAN]))
    with pytest.raises(FileError):  # what is stored is no plan
        engine.load(rewrite(path, tmp_path / "bad.pt2", packed={}))

"""The file of the runtime cache: what is read back, what is refused, and who writes."""

import json
import multiprocessing
from pathlib import Path

import pytest

from engine.runtime.engines.runtime_cache import RuntimeCacheFile

TARGET = {"tensorrt": "tensorrt_rtx 1.6.1.120", "gpu": "NVIDIA H200", "capability": "sm90"}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = RuntimeCacheFile(tmp_path / "kernels", TARGET)
    assert file.read() is None
    assert file.write(b"kernels" * 100)
    assert RuntimeCacheFile(tmp_path / "kernels", TARGET).read() == b"kernels" * 100
    assert file.path.name == "tensorrt-rtx-1.6.1.120-NVIDIA-H200-sm90.cache"
    assert sorted(path.name for path in file.path.parent.iterdir()) == [file.path.name, f"{file.path.name}.lock"]


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    file = RuntimeCacheFile(tmp_path, TARGET)
    assert file.write(b"kernels")
    assert not file.write(b"kernels")
    again = RuntimeCacheFile(tmp_path, TARGET)
    again.read()
    assert not again.write(b"kernels")


def test_a_larger_cache_stays(tmp_path: Path) -> None:
    first, second = RuntimeCacheFile(tmp_path, TARGET), RuntimeCacheFile(tmp_path, TARGET)
    assert first.write(b"one")
    assert second.write(b"one and two")
    assert not first.write(b"three")
    assert RuntimeCacheFile(tmp_path, TARGET).read() == b"one and two"


def damages(data: bytes) -> list[bytes]:
    flipped = [bytes([*data[:i], data[i] ^ 1, *data[i + 1 :]]) for i in range(0, len(data), 7)]
    return [*flipped, data[:-1], data[: len(data) // 2], data + b"x", b"", b"{}\n", b"\x80\x04pickle"]


def test_a_damaged_file_is_refused_and_rebuilt(tmp_path: Path) -> None:
    file = RuntimeCacheFile(tmp_path, TARGET)
    file.write(b"kernels" * 20)
    data = file.path.read_bytes()
    for damaged in damages(data):
        file.path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged or not for this TensorRT and GPU: it is rebuilt"):
            assert RuntimeCacheFile(tmp_path, TARGET).read() is None
    assert RuntimeCacheFile(tmp_path, TARGET).write(b"new")
    assert RuntimeCacheFile(tmp_path, TARGET).read() == b"new"


def test_a_file_for_something_else_is_refused(tmp_path: Path) -> None:
    other = RuntimeCacheFile(tmp_path, {**TARGET, "gpu": "NVIDIA A100"})
    other.write(b"kernels")
    file = RuntimeCacheFile(tmp_path, TARGET)
    assert file.path != other.path
    file.path.write_bytes(other.path.read_bytes())
    with pytest.warns(UserWarning, match="damaged or not for"):
        assert file.read() is None


def test_the_header_can_be_read(tmp_path: Path) -> None:
    file = RuntimeCacheFile(tmp_path, TARGET)
    file.write(b"kernels")
    header = json.loads(file.path.read_bytes().split(b"\n")[1])
    assert header["target"] == TARGET
    assert header["size"] == 7


def write_many(folder: str, letter: str) -> None:
    for size in range(1, 40):
        file = RuntimeCacheFile(folder, TARGET)
        found = file.read()
        assert found is None or len(set(found)) == 1, "a file is always one writer's"
        file.write(letter.encode() * (size * 1000))


@pytest.mark.filterwarnings("error")
def test_processes_take_turns(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(str(tmp_path), letter)) for letter in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = RuntimeCacheFile(tmp_path, TARGET).read()
    assert found is not None
    assert len(found) == 39000

"""Plans of files lie in files without names: what was checked is what is read, and it takes no memory."""

import errno
import io
import mmap
import os
from pathlib import Path

import pytest

import engine
from engine.errors import FileError
from engine.files.archive import Reader, Writer
from engine.files.module_file import read_records
from engine.runtime import TorchTensorRTModule
from engine.runtime.records.metadata import record_of
from engine.storage import unnamed_file
from engine.storage.unnamed_file import SMALL, has_room, kept, read_kept, release

LARGE = os.urandom(1 << 20) * ((SMALL >> 20) + 2)


def anonymous():
    """Bytes of this process that lie in no file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) << 10


def archive(path, content):
    with path.open("w+b") as file, Writer(file) as writer:
        writer.add_bytes("data/constants/engine_0.plan", content)
        writer.finish({})
    return path


def test_large_contents_are_mapped_and_small_ones_are_not():
    assert type(read_kept(io.BytesIO(b"abc"), 3)) is bytes
    assert type(kept(b"abc")) is bytes
    for content in (read_kept(io.BytesIO(b"head" + LARGE), len(LARGE) + 4)[4:], kept(LARGE)):
        assert isinstance(content.obj, mmap.mmap)
        assert content.readonly
        assert content == LARGE
        release(content)
        assert content == LARGE


def test_what_is_read_of_a_file_takes_no_memory(tmp_path):
    path = archive(tmp_path / "a.pt2", LARGE)
    with Reader(path) as reader:
        reader.read("data/constants/engine_0.plan")
        before = anonymous()
        content = reader.read_kept("data/constants/engine_0.plan")
        assert anonymous() - before < len(LARGE) // 2
    # Whoever writes to the file afterwards, or cuts it off, changes nothing.
    os.truncate(path, 10)
    assert content == LARGE


def test_a_damaged_content_is_refused(tmp_path):
    path = archive(tmp_path / "a.pt2", LARGE)
    with path.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"not what was written")
    with Reader(path) as reader, pytest.raises(FileError, match="does not have the SHA-256"):
        reader.read_kept("data/constants/engine_0.plan")


def test_a_file_that_ends_early_gives_what_there_is():
    for content in (b"", LARGE):
        assert bytes(read_kept(io.BytesIO(content), len(LARGE) + SMALL)) == content


def test_without_room_it_stays_in_memory(monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "no space left on device")

        def close(self):
            pass

    monkeypatch.setattr(unnamed_file.tempfile, "TemporaryFile", lambda **_: Full())
    assert kept(LARGE) is LARGE
    file = io.BytesIO(b"head" + LARGE)
    file.seek(4)
    assert read_kept(file, len(LARGE)) == LARGE
    assert not has_room(1 << 62)


def test_large_plans_are_mapped(tmp_path):
    path = tmp_path / "a.plan"
    engine.save(TorchTensorRTModule(LARGE, ["x"], ["y"], name="large", runtime="python"), path)
    loaded = engine.load(path, runtime="python")
    assert isinstance(loaded.plan.obj, mmap.mmap)
    engine.save(loaded, tmp_path / "b.plan")
    assert (tmp_path / "b.plan").read_bytes() == path.read_bytes() == LARGE


def test_large_plans_of_archives_are_mapped(tmp_path):
    module = TorchTensorRTModule(LARGE, ["x"], ["y"], name="large", runtime="python")
    fields = record_of(module, tensorrt="", compute_capabilities=()).replace(engine=b"").to_fields()
    fields[3] = "data/constants/engine_0.plan"
    path = tmp_path / "a.pt2"
    with path.open("w+b") as file, Writer(file) as writer:
        writer.add_bytes(fields[3], LARGE)
        writer.finish({"engines": [fields]})
    with Reader(path) as reader:
        (record,) = read_records(reader)
    assert isinstance(record.engine.obj, mmap.mmap)
    assert record.engine == LARGE

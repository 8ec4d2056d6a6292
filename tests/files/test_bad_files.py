"""Files that are damaged, foreign or made to do harm: an error each, and nothing done."""

import base64
import io
import json
import os
import pickle
import random
import shutil
import zipfile

import pytest
import torch

import engine
from engine.errors import EngineError, FileError
from engine.files.archive import MANIFEST, Reader, Writer
from engine.files.graphs import read_function, read_graph
from engine.files.structures import read_spec
from engine.files.values import read_value, write_value
from engine.storage.whole_file import replacing
from tests.files.models import nested


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.pt2"
    engine.save(nested(), path, program=True)
    return path


def members(path):
    """The manifest and the members of a good file."""
    with Reader(path) as reader:
        names = [name.removeprefix("archive/") for name in zipfile.ZipFile(path).namelist()]
        return dict(reader.manifest), {name: reader.read(name) for name in names if name in reader._members}


def rewrite(path, target, changes=None, **manifest):
    """Write a file like another one, with changed members and manifest, and right checksums."""
    own, content = members(path)
    own.pop("members")
    content.update(changes or {})
    with replacing(target) as file, Writer(file) as writer:
        for name, data in content.items():
            if data is not None:
                writer.add_bytes(name, data)
        writer.finish({**own, **manifest})
    return target


def test_the_helper_rewrites_a_file_as_it_was(path, tmp_path):
    assert rewrite(path, tmp_path / "same.pt2").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["flip", "cut", "overwrite", "insert", "remove"])
def test_every_corruption_is_an_error(path, tmp_path, kind):
    data = path.read_bytes()
    numbers = random.Random(kind)
    target = tmp_path / "bad.pt2"
    for _ in range(100 if kind == "flip" else 40):
        bad = bytearray(data)
        # As likely among the names, sizes and paddings of the zip file as in the contents.
        place = numbers.randrange(len(bad)) if numbers.random() < 0.5 else len(bad) - 1 - numbers.randrange(4000)
        if kind == "flip":
            bad[place] ^= 1 << numbers.randrange(8)
        elif kind == "cut":
            del bad[place:]
        elif kind == "overwrite":
            bad[place : place + 16] = numbers.randbytes(16)
        elif kind == "insert":
            bad[place:place] = numbers.randbytes(numbers.randrange(1, 9))
        else:
            del bad[place : place + numbers.randrange(1, 9)]
        assert bad != data
        target.write_bytes(bad)
        with pytest.raises(FileError, match=r"bad\.pt2"):
            engine.load(target)


def test_every_byte_of_the_zip_structure_is_covered(path, tmp_path):
    """The bytes that no member's checksum covers: names, sizes, dates, paddings, the directory."""
    data = path.read_bytes()
    target = tmp_path / "bad.pt2"
    with Reader(path) as reader:
        contents = [range(start, start + size) for start, size in reader._spans.values()]
    places = [place for place in range(len(data)) if not any(place in content for content in contents)]
    assert len(places) > 1500
    for place in places[::17]:
        bad = bytearray(data)
        bad[place] ^= 0x10
        target.write_bytes(bad)
        with pytest.raises(FileError):
            Reader(target)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip" * 100, b"\x00" * 10_000, b"vtrt" + bytes(500)])
def test_foreign_files(tmp_path, content):
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(FileError, match="not a zip archive, or cut off"):
        engine.load(tmp_path / "x.pt2")


def test_other_archives_of_pytorch(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "exported.pt2")
    with pytest.raises(FileError, match=r"torch\.export\.load"):
        engine.load(tmp_path / "exported.pt2")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt2")
    with pytest.raises(FileError):
        engine.load(tmp_path / "weights.pt2")


def zipped(target, entries, comment=b""):
    with zipfile.ZipFile(target, "w") as archive:
        for name, data, kind in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
        archive.comment = comment
    return target


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "archive/../x",
        "archive/a/../../x",
        "/etc/passwd",
        "archive//x",
        "archive/a\\..\\x",
        "C:/x",
        "archive/",
        "x",
    ],
)
def test_names_that_leave_the_archive(tmp_path, name):
    zipped(tmp_path / "x.pt2", [(name, b"1", zipfile.ZIP_STORED)])
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(FileError, match="a member has the name"):
        engine.load(tmp_path / "x.pt2")
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members(tmp_path):
    entries = [("archive/a", b"1", zipfile.ZIP_STORED), ("archive/a", b"2", zipfile.ZIP_STORED)]
    with pytest.raises(FileError, match="two members have the name 'a'"):
        engine.load(zipped(tmp_path / "x.pt2", entries))


def test_compressed_members_could_be_bombs(tmp_path):
    bomb = zipped(tmp_path / "x.pt2", [(f"archive/{MANIFEST}", bytes(50_000_000), zipfile.ZIP_DEFLATED)])
    assert bomb.stat().st_size < 100_000
    with pytest.raises(FileError, match="compressed or encrypted"):
        engine.load(bomb)


def test_sizes_that_the_file_does_not_have(path, tmp_path):
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")  # the last entry of the directory, the manifest's
    data[place + 20 : place + 28] = (0xFFFFFF00).to_bytes(4, "little") * 2
    (tmp_path / "x.pt2").write_bytes(data)
    with pytest.raises(FileError, match="damaged"):
        engine.load(tmp_path / "x.pt2")


def test_a_tensor_of_a_claimed_size(path, tmp_path):
    manifest, _ = members(path)
    tensors = [dict(entry) for entry in manifest["tensors"]]
    tensors[0]["shape"] = [1 << 40]
    with pytest.raises(FileError, match="does not have"):
        engine.load(rewrite(path, tmp_path / "x.pt2", tensors=tensors))
    tensors[0]["shape"] = [-1]
    with pytest.raises(FileError, match="does not have"):
        engine.load(rewrite(path, tmp_path / "x.pt2", tensors=tensors))


def test_missing_and_extra_members(path, tmp_path):
    _, content = members(path)
    with pytest.raises(FileError, match=r"'extra/graph\.json' is missing"):
        engine.load(rewrite(path, tmp_path / "x.pt2", {"extra/graph.json": None}))
    with zipfile.ZipFile(shutil.copy(path, tmp_path / "more.pt2"), "a") as archive:
        archive.writestr("archive/extra/more.json", b"{}")
    with pytest.raises(FileError):
        engine.load(tmp_path / "more.pt2")
    assert content


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_among_the_metadata_is_refused_unopened(path, tmp_path):
    payload = pickle.dumps(Payload(tmp_path / "made"))
    manifest, _ = members(path)
    engines = [list(fields) for fields in manifest["engines"]]
    engines[0][7] = base64.b64encode(payload).decode()
    bad = rewrite(path, tmp_path / "x.pt2", engines=engines)
    for read in (engine.load, engine.files.inspect):
        with pytest.raises(FileError, match=r"is a pickle.*not opened"):
            read(bad)
    assert not (tmp_path / "made").exists()


def test_pickles_in_the_place_of_other_members(path, tmp_path):
    payload = pickle.dumps(Payload(tmp_path / "made"))
    buffer = io.BytesIO()
    torch.save(Payload(tmp_path / "made"), buffer)
    for name in members(path)[0]["members"]:
        for content in (payload, buffer.getvalue()):
            with pytest.raises(EngineError):
                engine.load(rewrite(path, tmp_path / "x.pt2", {name: content}))
    assert not (tmp_path / "made").exists()


def test_records_with_missing_and_extra_fields(path, tmp_path):
    manifest, _ = members(path)
    for change in (
        lambda fields: fields[:-1],
        lambda fields: [*fields, "0"],
        lambda fields: fields[:3],
        lambda _: None,
    ):
        engines = [change(list(fields)) for fields in manifest["engines"]]
        with pytest.raises(FileError):
            engine.load(rewrite(path, tmp_path / "x.pt2", engines=engines))


@pytest.mark.parametrize("key", ["format", "engines", "tensors", "programs"])
@pytest.mark.parametrize("value", [None, "x", 99, -1, {}, [1]])
def test_damaged_manifests(path, tmp_path, key, value):
    if (key, value) == ("format", -1):
        return
    with pytest.raises(FileError):
        engine.load(rewrite(path, tmp_path / "x.pt2", **{key: value}))


def damaged(value, numbers):
    """Other JSON with one place of ``value`` changed."""
    if isinstance(value, dict) and value and numbers.random() < 0.9:
        key = numbers.choice(sorted(value))
        if numbers.random() < 0.15:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: damaged(value[key], numbers)}
    if isinstance(value, list) and value and numbers.random() < 0.9:
        place = numbers.randrange(len(value))
        return [*value[:place], damaged(value[place], numbers), *value[place + 1 :]]
    return numbers.choice(
        [None, -1, 2**70, "x y", "torch.ops.aten.relu.default", {"node": "zz"}, [[]], {"tuple": 3}, 0.5]
    )


@pytest.mark.parametrize(
    "name", ["extra/graph.json", "extra/signature.json", "extra/report.json", "extra/program_0.json"]
)
def test_damaged_json_with_right_checksums(path, tmp_path, name):
    """Whatever the JSON says, loading works or raises an error of this package."""
    _, content = members(path)
    numbers = random.Random(name)
    refused = 0
    for _ in range(60):
        data = json.dumps(damaged(json.loads(content[name]), numbers)).encode()
        try:
            engine.load(rewrite(path, tmp_path / "x.pt2", {name: data}))
        except EngineError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "builtins.eval", "torch.load", "torch.ops.aten.save.default", "operator.attrgetter",
        "operator.methodcaller", "torch.ops.aten.from_file.default", "torch.ops.load_library", "torch.ops.aten.gone.x",
        "torch.ops.aten.__class__.mro", "torch.ops.higher_order.__class__", "torch.ops.prim.Print.default", "", None, 3,
        "torch.ops.not_a_library.op.default",
    ],
)  # fmt: skip
def test_graphs_call_ops_only(name):
    with pytest.raises(FileError):
        read_function(name)


@pytest.mark.parametrize("name", ["x; import os", "__import__('os')", "a b", "def", "", None, "x.y"])
def test_names_of_nodes_are_not_code(name):
    nodes = [
        {"name": name, "op": "placeholder", "target": "x", "args": [], "kwargs": {}},
        {"name": "output", "op": "output", "target": "output", "args": [[]], "kwargs": {}},
    ]
    with pytest.raises(FileError):
        read_graph({"class": "G", "nodes": nodes}, {}, {})
    nodes[0] |= {"name": "x", "target": name}
    with pytest.raises(FileError):
        read_graph({"class": "G", "nodes": nodes}, {}, {})
    nodes[0] |= {"target": "x"}
    with pytest.raises(FileError):
        read_graph({"class": name, "nodes": nodes}, {}, {})


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "os.PathLike", "context": None, "children": []},
        {"type": "subprocess.Popen", "context": ["ls"], "children": []},
        {"type": "antigravity.fly", "context": None, "children": []},
        {"type": "builtins.eval", "context": None, "children": []},
        {"type": "collections.defaultdict", "context": [{"class": "os._wrap_close"}, []], "children": []},
        {"type": "collections.namedtuple", "context": {"class": "subprocess.Popen"}, "children": []},
        {
            "type": "builtins.dict",
            "context": {"dict": [["_t", "seq"], ["p", "os.system"], ["v", ["id"]]]},
            "children": [],
        },
        {"type": 3, "context": None, "children": []},
        {"type": "builtins.tuple"},
        "x",
    ],
)
def test_structures_name_containers_only(spec):
    import sys

    with pytest.raises((FileError, KeyError, TypeError)):
        read_spec(spec)
    assert "antigravity" not in sys.modules


def test_values_that_json_has_no_form_for():
    values = [
        float("inf"), -0.0, 1 + 2j, slice(1, None, 2), ..., torch.float8_e4m3fn, torch.device("cuda", 1), torch.strided,
        torch.channels_last, (1, [2, (3,)]), {"a": (1,), 2: None}, range(3), b"\x00\xff", 2**80, "text", True,
    ]  # fmt: skip
    for value in values:
        again = read_value(json.loads(json.dumps(write_value(value))))
        assert repr(again) == repr(value)
    for value in (object(), print, torch.ones(1), os):
        with pytest.raises(engine.errors.SaveError):
            write_value(value)
    for value in (
        {"dtype": "load"},
        {"unknown": 1},
        {},
        {"a": 1, "b": 2},
        {"tuple": 3},
        {"float": "1"},
        {"device": "x"},
    ):
        with pytest.raises(FileError):
            read_value(value)

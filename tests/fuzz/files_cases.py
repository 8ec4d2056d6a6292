"""Files with changes, for the search over files: good ones, and what is done to them."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine
from engine.dsl import cache as rule_cache
from engine.engine_cache import Damaged, EngineCache, Entry
from engine.files import archive
from engine.files.archive import Reader, Writer
from engine.runtime.engines.runtime_cache import RuntimeCacheFile

Pair = collections.namedtuple("Pair", "left right")

_KEY = "1" * 40
# What a place may become: values of other types, numbers at their ends, names that mean something elsewhere.
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**70, -(2**70), 10**390, 1.5, 1e308, "", "x", "x y", "é", "\x00", "0",
    [], {}, [[]], [None], {"": 0}, {"a": 1, "b": 2},
    "forward", "to_folder", "training", "_parameters", "__class__", "__dict__", "self", "torch", "device", "inf", "def",
    "<lambda>", "add_submodule", "graph", "_buffers", "load_state_dict", "a.b", "../x", "/dev/zero",
    "torch.ops.aten.relu.default", "torch.ops.aten.set_.source_Tensor_storage_offset",
    "torch.ops.aten.from_file.default", "torch.ops.inductor._reinterpret_tensor.default",
    "torch.ops.higher_order.cond", "torch.ops.higher_order.print",
    "torch.ops.aten.add_.Tensor", "torch.ops.aten.__class__.mro", "torch.ops.nowhere.op.default", "torch.load",
    "torch.ops.quantized.linear.default", "torch.ops._c10d_functional.isend.default", "builtins.eval", "os.system",
    "operator.getitem", "builtins.max", "math.sqrt",
    "antigravity.fly", "this.X", "torch.utils.model_dump.__main__.X", "idlelib.run.X", "builtins.type",
    "tests.fuzz.files_cases.Pair", "tests.fuzz.files_cases.Plain", "transformers.modeling_outputs.Nothing",
    "torchvision.models.nothing.X", "torch.fx.GraphModule", "collections.Counter", "builtins.dict", "builtins.tuple",
    {"node": "x"}, {"node": "output"}, {"node": 3}, {"tensor": 0}, {"tensor": -1}, {"tensor": 99, "as": "t"},
    {"engine": 0, "as": "forward"}, {"engine": 7, "as": "engine_7"}, {"class": "os._wrap_close"},
    {"class": "builtins.set"}, {"tuple": 3}, {"tuple": [1, {"tuple": []}]}, {"dict": [[[], 1]]}, {"dict": [[1]]},
    {"float": "inf"}, {"float": "1"}, {"slice": [0]}, {"range": [0, 10**30, 1]}, {"bytes": "zz"}, {"device": "cuda:99"},
    {"device": "nowhere"}, {"device": 0}, {"dtype": "load"}, {"dtype": "onnx"}, {"dtype": "float64"}, {"layout": []},
    {"complex": [1]}, {"ellipsis": 0}, {"Step": {}}, {"Block": {"nodes": [], "releases": []}}, {"Region": 3},
    {"enum": ["os", "system"]}, {"enum": ["ActivationType", "__class__"]}, {"source": "x"}, {"step": 10**30},
    "s0", "s0*s0", "(s0+1)**64", "LShift(1, 99999)", "PowByNatural(10, 99999)", "FloorDiv(s0, 0)", "1e999", "Mod(1, 0)",
    "Max()", "s0 > 1", "__import__('os')", "s0.__class__", "FloorDiv(" * 40 + "s0" + ", 2)" * 40, "-" * 500 + "s0",
    "9" * 90, "float32", "float4_e2m1fn_x2", "cuda", "meta", "10", "8", "0%8%0%0%", "a%b", "%", "linux_x86_64",
)  # fmt: skip


@dataclass
class Plain:
    """A dataclass that nobody registered."""

    value: Any = None


@dataclass(frozen=True)
class Case:
    """A file and how it is read.

    Attributes:
        what: was done, in a few words.
        path: of the file that an error must name.
        inputs: positional and keyword arguments to call what is loaded with.
    """

    what: str
    path: Path
    read: Callable[[], Any]
    inputs: Any = None


@dataclass(frozen=True)
class Good:
    """Good files: manifests and members of archives, plans with their sidecars, entries of caches."""

    archives: tuple[tuple[dict[str, Any], dict[str, bytes]], ...]
    inputs: tuple[Any, ...]
    raw: tuple[bytes, ...]
    plans: tuple[tuple[bytes, Any], ...]
    engine_entry: bytes
    rule_entry: bytes
    runtime_entry: bytes


class _Mixed(nn.Module):
    """Engines, PyTorch between them, a choice that PyTorch makes, containers and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("table", torch.rand(8, 8).half())

    def forward(self, pair: Any, *, scale: float) -> Any:
        x = torch.special.erfcx(self.first(pair.left).relu()) + self.table[0]
        y = torch.cond(
            x.sum() > 3, lambda v: torch.special.erfcx(v) @ self.second.weight.T, lambda v: v[:, :4] * 2, (x,)
        )
        return {"y": y * scale, "n": pair.left.shape[0], "pair": Pair(y, [x.sum(1)])}


def good_files(folder: Path) -> Good:
    """Files as this version writes them."""
    args = (Pair(torch.rand(3, 8), torch.rand(2)),)
    sizes = {"pair": Pair({0: torch.export.Dim("rows", min=1, max=9)}, None), "scale": None}
    options: dict[str, Any] = {"runtime": "interpreter", "min_block_size": 1}
    mixed = engine.compile(_Mixed().eval(), args, {"scale": 2.5}, dynamic_shapes=sizes, **options)
    small = engine.compile(nn.Linear(4, 4).eval(), (torch.rand(2, 4),), immutable_weights=False, **options)
    archives, raw = [], []
    for name, module, program in (("mixed", mixed, True), ("small", small, True), ("bare", small, False)):
        path = folder / f"{name}.pt2"
        engine.save(module, path, program=program)
        raw.append(path.read_bytes())
        with Reader(path) as reader:
            manifest = dict(reader.manifest)
            archives.append((manifest, {member: reader.read(member) for member in manifest.pop("members")}))
    engine.save(small, folder / "small.plan")
    plan = (folder / "small.plan").read_bytes(), json.loads((folder / "small.json").read_text())
    cache = EngineCache(folder / "engines", 1 << 30)
    cache.store(_KEY, Entry(plan[0][:2000], "weights", ("a GPU",)))
    _runtime(folder).write(b"kernels" * 100)
    rules = json.dumps({"bodies": [], "files": [], "rules": [], "inactive": [], "layers": {}, "macros": {},
                        "externs": {}, "patterns": {}, "overridden": [], "foreign": {}, "emitted": {}, "before": [],
                        "definitions": "[]"})  # fmt: skip
    calls = ((args, {"scale": 2.5}), *[((torch.rand(2, 4),), {})] * 2)
    entries = cache.path(_KEY).read_bytes(), rules.encode(), _runtime(folder).path.read_bytes()
    return Good(tuple(archives), calls, tuple(raw), (plan,), *entries)


def _runtime(folder: Path) -> RuntimeCacheFile:
    return RuntimeCacheFile(folder / "runtime", {"tensorrt": "1.6", "gpu": "none"})


def make(numbers: random.Random, folder: Path, good: Good) -> Case:
    """A case; it depends on nothing but the numbers and the good files."""
    kinds = (_members, _members, _members, _members, _text, _zip, _bytes, _sidecar, _sidecar, _cached)
    return numbers.choice(kinds)(numbers, folder, good)


# ----------------------------------------------------------------------------------------------------- archives


def _load(path: Path, numbers: random.Random) -> Callable[[], Any]:
    if numbers.random() < 0.15:
        return lambda: engine.files.inspect(path)
    runtime = numbers.choice(("interpreter", "interpreter", "auto", "python"))
    return lambda: engine.load(path, runtime=runtime)


def _written(path: Path, manifest: Any, content: dict[str, bytes]) -> Path:
    with path.open("w+b") as file, Writer(file) as writer:
        for name, data in content.items():
            writer.add_bytes(name, data)
        if isinstance(manifest, dict):
            writer.finish(manifest)
        else:
            writer._members = manifest
            writer.finish({})
    return path


def _members(numbers: random.Random, folder: Path, good: Good) -> Case:
    """Other JSON, or other members, with right checksums."""
    which = numbers.choice((0, 0, 1, 2))
    manifest, content = good.archives[which]
    content = dict(content)
    texts = [name for name in content if name.endswith(".json")]
    name = numbers.choice([*texts, "graph", "manifest", "manifest", "metadata", "member"])
    if name == "graph":
        name = "extra/graph.json"
    if name == "manifest":
        manifest = changed(manifest, numbers)
        manifest = manifest if isinstance(manifest, dict) else {"format": 1}
    elif name == "metadata" and manifest["engines"]:
        fields = list(numbers.choice(manifest["engines"]))
        fields[7] = _metadata(fields[7], numbers)
        manifest = {**manifest, "engines": [fields, *manifest["engines"][1:]]}
    elif name in content:
        content[name] = json.dumps(changed(json.loads(content[name]), numbers)).encode()
    else:
        name = numbers.choice(list(content))
        other = numbers.choice(list(content))
        action = numbers.randrange(4)
        if action == 0:
            del content[name]
        elif action == 1:
            content[name], content[other] = content[other], content[name]
        elif action == 2:
            content[name] = content[name][: numbers.randrange(len(content[name]) + 1)]
        else:
            content[numbers.choice(("extra/more.json", "data/weights/weight_99", "x", "a/../b"))] = content[name]
    path = _written(folder / "x.pt2", manifest, content)
    return Case(f"{name} of an archive", path, _load(path, numbers), good.inputs[which])


def _metadata(text: str, numbers: random.Random) -> Any:
    value = changed(json.loads(base64.b64decode(text)), numbers)
    return base64.b64encode(json.dumps(value).encode()).decode()


def _text(numbers: random.Random, folder: Path, good: Good) -> Case:
    """Members that are no JSON, or JSON that Python's reader takes and others do not."""
    manifest, content = numbers.choice(good.archives)
    name = numbers.choice([name for name in content if name.endswith(".json")])
    data = content[name]
    place = numbers.randrange(len(data) + 1)
    kind = numbers.randrange(7)
    if kind == 0:
        data = data[:place]
    elif kind == 1:
        data = data[:place] + numbers.randbytes(4) + data[place:]
    elif kind == 2:
        depth = numbers.choice((150, 300, 5_000, 200_000))
        data = b"[" * depth + data + b"]" * depth
    elif kind == 3:
        value = json.loads(data)
        data = json.dumps(replaced(value, numbers, float(numbers.choice(("inf", "nan"))))).encode()
    elif kind == 4 and b"{" in data:
        at = data.index(b"{") + 1
        data = data[:at] + b'"nodes":3,"in":4,"model":5,"plan":6,"inputs":7,' + data[at:]
    elif kind == 5:
        data = data.decode().encode(numbers.choice(("utf-16", "utf-32", "utf-8-sig")))
    else:
        data = json.dumps(replaced(json.loads(data), numbers, "?")).replace('"?"', '"\\ud800"').encode()
    path = _written(folder / "x.pt2", manifest, {**content, name: data})
    return Case(f"the text of {name}", path, _load(path, numbers))


def _zip(numbers: random.Random, folder: Path, good: Good) -> Case:
    """Other numbers in the headers of the zip file, with a right seal where that can be computed."""
    data = bytearray(numbers.choice(good.raw))
    for _ in range(numbers.randrange(1, 3)):
        starts = [at for at in range(len(data) - 4) if data[at : at + 4] in (b"PK\x01\x02", b"PK\x03\x04")]
        start = numbers.choice(starts)
        field, size = numbers.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4), (18, 4)))
        number = numbers.choice((0, 1, 64, 0xFFFF, numbers.randrange(len(data)), 0xFFFFFFFF)) % (1 << 8 * size)
        struct.pack_into("<H" if size == 2 else "<I", data, start + field, number)
    path = folder / "x.pt2"
    path.write_bytes(data)
    try:
        with path.open("r+b") as file:
            with zipfile.ZipFile(file) as found:
                spans = archive._spans(file, found, len(data))
            digest = archive._structure(file, spans, len(data) - archive._SEAL_LENGTH)
            file.seek(len(data) - 64)
            file.write(digest.encode())
    except Exception:  # no seal fits a file whose structure cannot be read
        pass
    return Case("the structure of an archive", path, _load(path, numbers))


def _bytes(numbers: random.Random, folder: Path, good: Good) -> Case:
    """Damage without right checksums, and files that are nothing at all."""
    data = bytearray(numbers.choice((*good.raw, b"", b"PK\x05\x06" + bytes(18), good.engine_entry)))
    for _ in range(numbers.randrange(1, 4)):
        place = numbers.randrange(len(data) + 1)
        action = numbers.randrange(3)
        if action == 0:
            del data[place:]
        elif action == 1:
            data[place : place + 8] = numbers.randbytes(8)
        else:
            data[place:place] = data[: numbers.randrange(100)]
    path = folder / "x.pt2"
    path.write_bytes(data)
    return Case("bytes of an archive", path, _load(path, numbers))


# ------------------------------------------------------------------------------------------- plans and caches


def _sidecar(numbers: random.Random, folder: Path, good: Good) -> Case:
    """Another sidecar, or a plan that was cut off."""
    plan, beside = numbers.choice(good.plans)
    if numbers.random() < 0.5:
        record = list(beside["record"])
        record[7] = _metadata(record[7], numbers)
        beside = {**beside, "record": record}
    if numbers.random() < 0.8:
        beside = changed(beside, numbers)
    text = json.dumps(beside).encode()
    if numbers.random() < 0.1:
        text = text[: numbers.randrange(len(text))]
    if numbers.random() < 0.1:
        plan = plan[: numbers.randrange(len(plan))]
    path = folder / "x.plan"
    path.write_bytes(plan)
    path.with_suffix(".json").write_bytes(text)
    read = (lambda: engine.files.inspect(path)) if numbers.random() < 0.3 else (lambda: engine.load(path))
    # The error names the plan, or its sidecar.
    return Case("a sidecar", folder / "x.", read)


def _cached(numbers: random.Random, folder: Path, good: Good) -> Case:
    """An entry of the engine cache, the rule cache or the runtime cache."""
    kind = numbers.choice(("engine", "rules", "runtime"))
    if kind == "engine":
        cache = EngineCache(folder, 1 << 30)
        head, _, plan = good.engine_entry.removeprefix(b"engine cache 1\n").partition(b"\n")
        line = json.dumps(changed(json.loads(head.partition(b" ")[2]), numbers)).encode()
        data = b"".join((b"engine cache 1\n", hashlib.sha256(line).hexdigest().encode(), b" ", line, b"\n", plan))
        # A damaged entry is removed: what is left in the folder is the same before and after, nothing or the entry.
        cache.path(_KEY).write_bytes(data)
        return Case("an entry of the engine cache", folder, lambda: _of_cache(cache))
    if kind == "rules":
        text = json.dumps(changed(json.loads(good.rule_entry), numbers))
        return Case(
            "an entry of the rule cache", rule_cache.directory(), lambda: rule_cache.parse(_KEY, _digested(text))
        )
    file = _runtime(folder)
    file.path.parent.mkdir()
    magic, _, rest = good.runtime_entry.partition(b"\n")
    header, _, kernels = rest.partition(b"\n")
    line = json.dumps(changed(json.loads(header), numbers)).encode()
    file.path.write_bytes(magic + b"\n" + line + b"\n" + kernels)
    return Case("an entry of the runtime cache", folder, file.read)


def _of_cache(cache: EngineCache) -> Any:
    content = cache.path(_KEY).read_bytes()
    try:
        return cache.load(_KEY)
    except Damaged:
        cache.path(_KEY).write_bytes(content)
        return None


def _digested(text: str) -> bytes:
    return f"{rule_cache._digest(_KEY, text.encode())}\n{text}".encode()


# ----------------------------------------------------------------------------------------------------- JSON


def changed(value: Any, numbers: random.Random) -> Any:
    """Other JSON: one to three places are changed, moved, doubled, renamed or left out."""
    for _ in range(numbers.choice((1, 1, 1, 2, 3))):
        value = _changed(value, numbers, value)
    return value


def _changed(value: Any, numbers: random.Random, whole: Any) -> Any:
    if isinstance(value, dict) and value and numbers.random() < 0.93:
        key = numbers.choice(sorted(value))
        if numbers.random() < 0.08:
            return {other: item for other, item in value.items() if other != key}
        if numbers.random() < 0.06:
            new = numbers.choice((*map(str, _VALUES[15:40]), *sorted(value)))
            return {new if other == key else other: item for other, item in value.items()}
        return {**value, key: _changed(value[key], numbers, whole)}
    if isinstance(value, list) and value and numbers.random() < 0.93:
        place = numbers.randrange(len(value))
        if numbers.random() < 0.05:
            return value[:place] + value[place + 1 :]
        if numbers.random() < 0.05:
            return [*value, value[place]]
        if numbers.random() < 0.05:
            return numbers.sample(value, len(value))
        return [*value[:place], _changed(value[place], numbers, whole), *value[place + 1 :]]
    return numbers.choice(_VALUES) if numbers.random() < 0.8 else _part(whole, numbers)


def _part(value: Any, numbers: random.Random) -> Any:
    """Something from another place."""
    while isinstance(value, dict | list) and value and numbers.random() < 0.85:
        value = numbers.choice(list(value.values()) if isinstance(value, dict) else value)
    return value


def replaced(value: Any, numbers: random.Random, by: Any) -> Any:
    """One place of JSON replaced."""
    if isinstance(value, dict) and value:
        key = numbers.choice(sorted(value))
        return {**value, key: replaced(value[key], numbers, by)}
    if isinstance(value, list) and value:
        place = numbers.randrange(len(value))
        return [*value[:place], replaced(value[place], numbers, by), *value[place + 1 :]]
    return by

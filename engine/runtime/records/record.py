"""The engine record: an engine and what has to be known to run it, as the list of fields that Torch-TensorRT uses.

Layout "8" (Torch-TensorRT 2.11) has 11 fields, layout "10" (2.14) has 13.  Here field 7, the metadata, is
base64 of JSON; a pickle in its place is recognised by its first bytes and never opened.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import platform as host
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from engine.errors import RecordError
from engine.storage import strict_json

FIELDS = (
    "ABI",
    "name",
    "device",
    "engine",
    "input binding names",
    "output binding names",
    "hardware compatible",
    "metadata",
    "target platform",
    "requires output allocator",
    "resource allocation",
    "native multi-device",
    "aliased inputs and outputs",
)
LENGTHS = {"8": 11, "9": 12, "10": 13}
"""Layout -> number of fields.  Torch-TensorRT 2.13 wrote "9": it is read, and not written."""

PLATFORMS = ("linux_x86_64", "linux_aarch64", "windows_x86_64", "windows_arm64")

_DELIMITER = "%"
_ALIAS_DELIMITER = "@"
_ENGINE, _METADATA = FIELDS.index("engine"), FIELDS.index("metadata")
# The opcodes that a pickle can begin with: a protocol number, or one of protocol 0's and 1's.
_PICKLED = frozenset(b"\x80(])}lcdIKNSVUXGF")


class Device(NamedTuple):
    """The GPU that an engine was built for; ``kind`` 0 is a GPU, 1 a DLA core."""

    id: int
    major: int
    minor: int
    kind: int
    name: str

    @classmethod
    def current(cls) -> Device:
        """The current GPU of the machine; without one, the oldest that TensorRT-RTX serves, with no name."""
        if not torch.cuda.is_available():
            return cls(0, 8, 0, 0, "")
        index = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(index)
        return cls(index, properties.major, properties.minor, 0, properties.name)

    def __str__(self) -> str:
        return _DELIMITER.join(map(str, self))


class Alias(NamedTuple):
    """An output that is an input, updated in place; ``kind`` is ``kv_cache_update`` or ``user``."""

    output: str
    input: str
    kind: str


def current_platform() -> str:
    """The platform of this process, one of ``PLATFORMS``; ``"unknown"`` on others."""
    system = {"linux": "linux", "win32": "windows"}.get(sys.platform, "")
    machine = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(
        host.machine().lower(), ""
    )
    name = f"{system}_{machine}".replace("windows_aarch64", "windows_arm64")
    return name if name in PLATFORMS else "unknown"


@dataclass(frozen=True)
class EngineRecord:
    """One engine with its names and circumstances.

    Attributes:
        name: the engine's name; dots become ``_``.
        engine: the plan.
        inputs, outputs: binding names, in calling order.
        hardware_compatible: the plan runs on GPUs other than ``device``.
        metadata: JSON values (see ``docs/files.md``); empty where a foreign record holds a pickle.
        platform: one of ``PLATFORMS``.
        dynamic_resources: allocate scratch memory per call instead of with the context.
        native_multidevice: the engine holds collectives of TensorRT.
        notes: what was not read of a foreign record, one sentence each.
    """

    name: str
    engine: bytes | memoryview = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: Device = field(default_factory=Device.current)
    hardware_compatible: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    platform: str = field(default_factory=current_platform)
    requires_output_allocator: bool = False
    dynamic_resources: bool = False
    native_multidevice: bool = False
    aliases: tuple[Alias, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_fields(self, *, abi: str = "10", pickled: bool = False) -> list[str | bytes]:
        """The record as a list; field 3 is bytes, the others are strings.

        Args:
            abi: ``"8"`` or ``"10"``.
            pickled: write the metadata as Torch-TensorRT's Python reads it: a pickled dict of the boundary
                shapes.  Nothing of this package reads it back.

        Raises:
            RecordError: a value that the layout cannot hold.
        """
        if abi not in ("8", "10"):
            raise RecordError(f"records are written in layout 8 or 10, not {abi!r}")
        if abi == "8" and (self.native_multidevice or self.aliases):
            raise RecordError(f"layout 8 has no field for {FIELDS[12 if self.aliases else 11]}: write layout 10")
        fields: list[str | bytes] = [
            abi,
            self.name.replace(".", "_"),
            str(self.device._replace(name=self.device.name.replace(_DELIMITER, " "))),
            self.engine if isinstance(self.engine, bytes) else bytes(self.engine),
            _joined("input binding names", self.inputs),
            _joined("output binding names", self.outputs),
            _flag(self.hardware_compatible),
            _pickled(self.metadata) if pickled else _json(self.metadata),
            self.platform,
            _flag(self.requires_output_allocator),
            _flag(self.dynamic_resources),
            _flag(self.native_multidevice),
            _joined(FIELDS[12], [_ALIAS_DELIMITER.join(alias) for alias in self.aliases]),
        ]
        return fields[: LENGTHS[abi]]

    def to_state(self, *, abi: str = "10", pickled: bool = False) -> list[str]:
        """As `to_fields`, with the engine in base64: the state of ``torch.classes.tensorrt.Engine``."""
        fields = self.to_fields(abi=abi, pickled=pickled)
        fields[_ENGINE] = base64.b64encode(self.engine).decode()
        return fields  # type: ignore[return-value]

    @classmethod
    def from_fields(cls, fields: Sequence[str | bytes | memoryview]) -> EngineRecord:
        """Read a record of this package or of Torch-TensorRT; the engine is bytes, as they lie, or a string of base64.

        Raises:
            RecordError: a field is missing, there are too many, or one is damaged; the message names it.
        """
        if not isinstance(fields, Sequence) or isinstance(fields, str | bytes):
            raise RecordError(f"an engine record is a list of fields, not {type(fields).__name__}")
        abi = _text(fields, 0)
        if abi not in LENGTHS:
            raise RecordError(f"{_where(0)}: {abi!r} is not a layout that can be read ({', '.join(LENGTHS)})")
        if len(fields) != LENGTHS[abi]:
            expected = LENGTHS[abi]
            what = (
                f"{', '.join(map(_where, range(len(fields), expected)))} missing"
                if len(fields) < expected
                else f"{len(fields) - expected} more than that"
            )
            raise RecordError(f"an engine record of layout {abi} has {expected} fields; this one: {what}")
        metadata, notes = read_metadata(_text(fields, _METADATA))
        record = cls(
            name=_text(fields, 1),
            engine=_plan(fields[_ENGINE]),
            inputs=_split(fields, 4),
            outputs=_split(fields, 5),
            device=_device(_text(fields, 2)),
            hardware_compatible=_bool(fields, 6),
            metadata=metadata,
            platform=_platform(_text(fields, 8)),
            requires_output_allocator=_bool(fields, 9),
            dynamic_resources=_bool(fields, 10),
            native_multidevice=len(fields) > 11 and _bool(fields, 11),
            aliases=_aliases(_text(fields, 12)) if len(fields) > 12 else (),
            notes=notes,
        )
        record._check()
        return record

    @classmethod
    def from_state(cls, fields: Sequence[str | bytes]) -> EngineRecord:
        """Read a record whose engine is base64, as it is in files, whether it came as a string or as bytes."""
        fields = list(fields)
        if len(fields) > _ENGINE and isinstance(engine := fields[_ENGINE], bytes):
            try:
                fields[_ENGINE] = engine.decode("ascii")
            except UnicodeDecodeError:
                raise RecordError(f"{_where(_ENGINE)} is not base64") from None
        return cls.from_fields(fields)

    def _check(self) -> None:
        if not self.outputs:
            raise RecordError(f"{_where(5)}: an engine needs at least one output")
        for index, names in ((4, self.inputs), (5, self.outputs)):
            if len(set(names)) != len(names) or "" in names:
                raise RecordError(f"{_where(index)}: {list(names)} holds a name twice, or an empty one")
        expected = self.metadata.get("sha256")
        if expected is not None and expected != checksum(self.engine):
            raise RecordError(f"{_where(_ENGINE)} is damaged: its SHA-256 is not the one in the metadata")

    def replace(self, **changes: Any) -> EngineRecord:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)


def checksum(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _where(index: int) -> str:
    return f"field {index} ({FIELDS[index]})" if index < len(FIELDS) else f"field {index}"


def _flag(value: bool) -> str:
    return str(int(value))


def _joined(what: str, names: Sequence[str]) -> str:
    for name in names:
        if _DELIMITER in name or not name or (what != FIELDS[12] and _ALIAS_DELIMITER in name):
            raise RecordError(f"{what}: {name!r} cannot stand in an engine record (empty, or with % or @)")
    return _DELIMITER.join(names)


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise RecordError(f"{_where(_METADATA)}: {error}") from None
    return base64.b64encode(text.encode()).decode()


def _pickled(metadata: Mapping[str, Any]) -> str:
    import pickle  # written for Torch-TensorRT; reading one never happens

    from engine.runtime.records.specs import torch_tensorrt_metadata

    return base64.b64encode(pickle.dumps(torch_tensorrt_metadata(metadata), protocol=2)).decode()


def _text(fields: Sequence[str | bytes | memoryview], index: int) -> str:
    if index >= len(fields):
        raise RecordError(f"{_where(index)} is missing")
    value = fields[index]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RecordError(f"{_where(index)} is not text") from None
    if not isinstance(value, str):
        raise RecordError(f"{_where(index)} is a {type(value).__name__}, not a string")
    return value


def _plan(value: Any) -> bytes | memoryview:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise RecordError(f"{_where(_ENGINE)} is not base64") from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise RecordError(f"{_where(_ENGINE)} is a {type(value).__name__}, not bytes")
    if not len(value):
        raise RecordError(f"{_where(_ENGINE)} is empty: the record was written without its plan")
    # What lies in a file stays there.
    return value if isinstance(value, memoryview) and value.readonly else bytes(value)


def _split(fields: Sequence[str | bytes | memoryview], index: int) -> tuple[str, ...]:
    text = _text(fields, index)
    return tuple(text.split(_DELIMITER)) if text else ()


def _device(text: str) -> Device:
    parts = text.split(_DELIMITER)
    if len(parts) != 5:
        raise RecordError(f"{_where(2)}: {text!r} is not id%major%minor%type%name")
    try:
        number, major, minor, kind = map(int, parts[:4])
        return Device(number, major, minor, kind, parts[4])
    except ValueError:
        raise RecordError(f"{_where(2)}: {text!r} is not id%major%minor%type%name") from None


def _bool(fields: Sequence[str | bytes | memoryview], index: int) -> bool:
    text = _text(fields, index)
    if text not in ("0", "1"):
        raise RecordError(f"{_where(index)}: {text!r} is neither 0 nor 1")
    return text == "1"


def _platform(text: str) -> str:
    if text not in (*PLATFORMS, "unknown"):
        raise RecordError(f"{_where(8)}: {text!r} is not one of {', '.join(PLATFORMS)}")
    return text


def _aliases(text: str) -> tuple[Alias, ...]:
    found = []
    for part in text.split(_DELIMITER) if text else ():
        pieces = part.split(_ALIAS_DELIMITER)
        if len(pieces) != 3:
            raise RecordError(f"{_where(12)}: {part!r} is not output@input@kind")
        found.append(Alias(*pieces))
    return tuple(found)


def read_metadata(text: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Field 7 as JSON values, and notes on what was not read.

    Raises:
        RecordError: it is damaged.
    """
    if not text:
        return {}, ()
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RecordError(f"{_where(_METADATA)} is not base64") from None
    if data[:1] != b"{":
        if data and data[0] in _PICKLED:
            return {}, (f"{_where(_METADATA)} is a pickle, as Torch-TensorRT writes it, and was not opened",)
        raise RecordError(f"{_where(_METADATA)} is not JSON")
    try:
        value = strict_json.parse(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{_where(_METADATA)} is damaged JSON: {error}") from None
    return value, ()


__all__ = [
    "FIELDS",
    "LENGTHS",
    "PLATFORMS",
    "Alias",
    "Device",
    "EngineRecord",
    "checksum",
    "current_platform",
    "read_metadata",
]

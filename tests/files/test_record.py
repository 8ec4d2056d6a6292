"""The engine record: Torch-TensorRT's list of fields, read and written."""

import base64
import os
import pickle

import pytest
import sympy
import torch

import engine
from engine.errors import RecordError
from engine.runtime import TensorSpec
from engine.runtime.records.metadata import check_here, module_of, record_of
from engine.runtime.records.record import FIELDS, Alias, Device, EngineRecord, current_platform

H200 = Device(0, 9, 0, 0, "NVIDIA H200")


def record(**changes):
    values = {
        "name": "engine_0",
        "engine": b"\x00plan%\xff",
        "inputs": ("x", "y"),
        "outputs": ("out0",),
        "device": H200,
        "metadata": {"tensorrt": "TensorRT 10.1", "inputs": None},
        "platform": "linux_x86_64",
    }
    return EngineRecord(**{**values, **changes})


def of_torch_tensorrt(abi="8", payload=None):
    """Fields as Torch-TensorRT writes them: metadata is a pickled dict in base64."""
    payload = pickle.dumps({"settings": None, "inout_symexprs": None}) if payload is None else payload
    fields = [
        abi, "_run_on_acc_0_engine", "0%9%0%0%NVIDIA H200", b"ftrt...", "x%y", "output0", "0",
        base64.b64encode(payload).decode(), "linux_x86_64", "0", "1",
    ]  # fmt: skip
    return fields + {"8": [], "9": ["0"], "10": ["0", "output0@x@kv_cache_update"]}[abi]


def test_layout_of_the_fields():
    fields = record(hardware_compatible=True, aliases=(Alias("out0", "x", "user"),)).to_fields()
    metadata = fields.pop(7)
    assert fields == [
        "10", "engine_0", "0%9%0%0%NVIDIA H200", b"\x00plan%\xff", "x%y", "out0", "1", "linux_x86_64", "0", "0", "0",
        "out0@x@user",
    ]  # fmt: skip
    assert base64.b64decode(metadata) == b'{"inputs":null,"tensorrt":"TensorRT 10.1"}'
    assert len(record().to_fields(abi="8")) == 11
    assert record().to_fields(abi="8")[0] == "8"


@pytest.mark.parametrize("abi", ["8", "10"])
def test_round_trip(abi):
    original = record(requires_output_allocator=True, dynamic_resources=True)
    assert EngineRecord.from_fields(original.to_fields(abi=abi)) == original
    assert EngineRecord.from_state(original.to_state(abi=abi)) == original
    state = original.to_state(abi=abi)
    state[3] = state[3].encode()  # Torch-TensorRT's extra state holds base64 as bytes
    assert EngineRecord.from_state(state) == original


@pytest.mark.parametrize("abi", ["8", "9", "10"])
def test_records_of_torch_tensorrt_are_read_and_their_pickles_are_not(abi):
    found = EngineRecord.from_fields(of_torch_tensorrt(abi))
    assert (found.name, found.inputs, found.outputs, found.device) == (
        "_run_on_acc_0_engine", ("x", "y"), ("output0",), H200,
    )  # fmt: skip
    assert found.dynamic_resources
    assert not found.hardware_compatible
    assert found.metadata == {}
    assert "pickle" in found.notes[0]
    assert found.aliases == ((Alias("output0", "x", "kv_cache_update"),) if abi == "10" else ())
    module = module_of(found)
    assert module.input_binding_names == ["x", "y"]
    assert module.output_specs is None


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_not_opened(tmp_path, protocol):
    target = tmp_path / "made"
    payload = pickle.dumps(Payload(target), protocol=protocol)
    found = EngineRecord.from_fields(of_torch_tensorrt(payload=payload))
    assert found.metadata == {}
    assert not target.exists()
    pickle.loads(payload)
    assert target.exists()  # the payload does what it is meant to do


def test_what_is_written_for_torch_tensorrt_is_a_dict_of_shapes():
    size = sympy.Symbol("s0", integer=True, positive=True)
    module = engine.TorchTensorRTModule(
        b"plan", ["x"], ["out0"], name="a.b",
        input_specs=[TensorSpec((size, 4), torch.float16)], output_specs=[TensorSpec((size, 8), torch.float32)],
    )  # fmt: skip
    fields = record_of(module).to_fields(abi="8", pickled=True)
    assert fields[1] == "a_b"
    shapes = pickle.loads(base64.b64decode(fields[7]))["inout_symexprs"]
    assert shapes["outputs"] == [{"shape_exprs": [size, 8], "dtype": torch.float32}]
    assert shapes["inputs"] == [{"shape_exprs": [size, 4], "dtype": torch.float16}]


def test_a_module_and_its_record():
    size = sympy.Symbol("s7", integer=True, positive=True)
    specs = [TensorSpec((2 * size, 4), torch.bfloat16), size]
    module = engine.TorchTensorRTModule(
        b"plan", ["x", "n"], ["out0"], name="engine_3", settings=engine.CompilationSettings(min_block_size=2),
        weight_name_map={"w": ["model.weight", 0]}, requires_output_allocator=True,
        input_specs=specs, output_specs=[TensorSpec((size // 2, 3), torch.int64)],
    )  # fmt: skip
    again = module_of(EngineRecord.from_fields(record_of(module).to_fields()))
    assert again.input_specs == module.input_specs
    assert again.output_specs == module.output_specs
    assert again.settings == module.settings
    assert again.weight_name_map == module.weight_name_map
    assert again.serialized_engine == b"plan"
    assert again.name == "engine_3"
    assert again.requires_output_allocator
    assert record_of(again).to_fields() == record_of(module).to_fields()


@pytest.mark.parametrize("length", [*range(11), 12, 13, 14, 30])
def test_missing_and_extra_fields(length):
    fields = (record().to_fields(abi="8") + ["0"] * 40)[:length]
    with pytest.raises(RecordError) as caught:
        EngineRecord.from_fields(fields)
    if 1 <= length < 11:
        assert f"field {length} ({FIELDS[length]})" in str(caught.value)
    elif length > 11:
        assert f"{length - 11} more than that" in str(caught.value)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, "7", "layout"),
        (0, 8, "is a int"),
        (1, None, "field 1 (name)"),
        (2, "0%9%0", "id%major%minor%type%name"),
        (2, "0%9%x%0%GPU", "id%major%minor%type%name"),
        (3, b"", "written without its plan"),
        (3, "not base64!", "field 3 (engine) is not base64"),
        (3, 17, "field 3 (engine)"),
        (4, "x%x", "holds a name twice"),
        (4, "x%", "empty"),
        (5, "", "an engine needs at least one output"),
        (6, "yes", "field 6 (hardware compatible)"),
        (7, "!!!", "field 7 (metadata) is not base64"),
        (7, base64.b64encode(b"{").decode(), "damaged JSON"),
        (7, base64.b64encode(b"\x00\x01").decode(), "not JSON"),
        (7, base64.b64encode(b'{"sha256":"00"}').decode(), "SHA-256"),
        (7, base64.b64encode(b'{"a":' * 100_000).decode(), "damaged JSON"),
        (8, "solaris", "target platform"),
        (8, b"\xff", "not text"),
        (9, "", "requires output allocator"),
        (10, "2", "resource allocation"),
        (11, "-1", "native multi-device"),
        (12, "a@b", "output@input@kind"),
    ],
)
def test_damaged_fields_are_named(index, value, message):
    fields = record().to_fields()
    fields[index] = value
    with pytest.raises(RecordError) as caught:
        EngineRecord.from_fields(fields)
    assert message in str(caught.value)


def test_a_record_that_is_no_list():
    for value in (None, "10", b"10", {"0": "10"}):
        with pytest.raises(RecordError, match="list of fields"):
            EngineRecord.from_fields(value)


@pytest.mark.parametrize("name", ["", "a%b", "a@b"])
def test_names_that_the_format_cannot_hold(name):
    with pytest.raises(RecordError, match="cannot stand in an engine record"):
        record(inputs=(name,)).to_fields()


def test_values_that_a_layout_cannot_hold():
    with pytest.raises(RecordError, match="layout 8 has no field for aliased inputs"):
        record(aliases=(Alias("out0", "x", "user"),)).to_fields(abi="8")
    with pytest.raises(RecordError, match="layout 8 or 10"):
        record().to_fields(abi="9")
    with pytest.raises(RecordError, match="metadata"):
        record(metadata={"x": float("nan")}).to_fields()


def test_records_of_other_machines():
    check_here(record(platform=current_platform(), metadata={}))
    other = "windows_arm64" if current_platform() != "windows_arm64" else "linux_x86_64"
    with pytest.raises(engine.EngineError, match=f"was built for {other}"):
        check_here(record(platform=other, metadata={}))
    with pytest.raises(engine.EngineError, match=r"was built by TensorRT-RTX 0\.1, and TensorRT.* is installed"):
        check_here(record(platform=current_platform(), metadata={"tensorrt": "TensorRT-RTX 0.1"}))


@pytest.mark.parametrize(
    "metadata",
    [
        {"inputs": 3},
        {"inputs": [{"shape": 3, "dtype": "float32"}]},
        {"outputs": [{"shape": [1], "dtype": "load"}]},
        {"outputs": [{"shape": ["s0"], "dtype": "float32"}]},
        {"outputs": [{"shape": ["__import__('os').getcwd()"], "dtype": "float32"}]},
        {"outputs": [4]},
        {"outputs": []},
        {"symbols": {"s0": {"evil": True}}},
        {"settings": 3},
        {"settings": {"min_block_size": "many"}},
        {"weight_name_map": [1]},
        {"format": 99},
    ],
)
def test_damaged_metadata(metadata):
    with pytest.raises(engine.EngineError):
        module_of(record(metadata=metadata))


def test_settings_of_another_version_and_folders_of_another_machine_are_left_out(tmp_path):
    settings = {"min_block_size": 7, "from_the_future": 1, "runtime_cache_path": str(tmp_path)}
    found = module_of(record(metadata={"settings": {**settings, "torch_executed_ops": ["aten.gone_op"]}})).settings
    assert found.min_block_size == 7
    assert found.torch_executed_ops == {"aten.gone_op"}
    assert not getattr(found, "runtime_cache_path", "")

"""The C++ library on a machine without a GPU: engine records, registration, and what it refuses."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import engine
from engine.errors import RuntimeUnavailable
from engine.runtime import TorchTensorRTModule, selection
from engine.runtime.engines import cpp_engine
from engine.runtime.engines.cpp_engine import CppEngine, library_problem, load_library, open_tensorrt
from engine.runtime.records.engine_op import engine_object
from engine.runtime.records.metadata import record_of
from engine.runtime.records.record import EngineRecord
from engine.runtime.selection import select_runtime
from tests.runtime import networks

ROOT = Path(engine.__file__).resolve().parent.parent
needs_library = pytest.mark.skipif(load_library() is None, reason=library_problem())
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@pytest.fixture(scope="module")
def record() -> EngineRecord:
    built = networks.relu()
    x = torch.zeros(2, 3)
    module = TorchTensorRTModule(
        built.plan, built.inputs, built.outputs, name="relu", input_specs=[x], output_specs=[x]
    )
    return record_of(module)


@pytest.fixture(scope="module")
def fields(record: EngineRecord) -> list[str | bytes]:
    return record.to_fields()


class Holder(torch.nn.Module):
    def __init__(self, held: torch.ScriptObject) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.tensorrt.execute_engine([x + 1], self.held)[0]


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@needs_library
def test_registers_the_class_and_the_ops() -> None:
    library = load_library()
    assert library is not None
    assert library.not_registered == ""
    assert torch.ops.tensorrt.SERIALIZATION_LEN() == 13
    assert torch.ops.tensorrt.ABI_VERSION() == "10"
    assert torch.ops.tensorrt.ENGINE_IDX() == 3
    schema = str(torch.ops.tensorrt.execute_engine.default._schema)
    assert "__torch__.torch.classes.tensorrt.Engine engine) -> Tensor[]" in schema


@needs_library
def test_knows_the_installed_tensorrt() -> None:
    assert open_tensorrt().startswith("TensorRT")


@needs_library
def test_holds_a_record_as_python_writes_it(record: EngineRecord, fields: list[str | bytes]) -> None:
    made = torch.classes.tensorrt.Engine(fields)
    assert made.fields() == record.to_state()
    assert EngineRecord.from_state(made.fields()) == record
    assert made.name() == "relu"
    assert made.input_binding_names() == ["x"]
    assert made.output_binding_names() == ["out0"]
    assert "'relu' (x) -> (out0)" in str(made)
    short = torch.classes.tensorrt.Engine(record.to_fields(abi="8"))
    assert short.fields() == record.to_state(abi="8")


@needs_library
def test_engines_are_compared_by_identity(fields: list[str | bytes]) -> None:
    first, second = torch.classes.tensorrt.Engine(fields), torch.classes.tensorrt.Engine(fields)
    assert first == first
    assert first != second
    assert first in [second, first]
    assert first != 3
    assert first is not None


@needs_library
def test_survives_torchscript(record: EngineRecord, fields: list[str | bytes], tmp_path: Path) -> None:
    path = tmp_path / "module.ts"
    torch.jit.save(torch.jit.script(Holder(torch.classes.tensorrt.Engine(fields))), path)
    assert torch.jit.load(path).held.fields() == record.to_state()


@needs_library
def test_survives_an_exported_program(record: EngineRecord, tmp_path: Path) -> None:
    exported = torch.export.export(Holder(engine_object(record)), (torch.zeros(2, 3),))
    assert any("execute_engine" in str(node.target) for node in exported.graph.nodes)
    path = tmp_path / "module.pt2"
    torch.export.save(exported, path)
    (held,) = [value for value in torch.export.load(path).constants.values() if isinstance(value, torch.ScriptObject)]
    assert held.fields() == record.to_state()


@needs_library
@without_gpu
def test_running_without_a_gpu_says_what_is_missing(record: EngineRecord, fields: list[str | bytes]) -> None:
    made = torch.classes.tensorrt.Engine(fields)
    with pytest.raises(RuntimeError, match="runs on an NVIDIA GPU only, and this PyTorch has no CUDA"):
        torch.ops.tensorrt.execute_engine([torch.zeros(2, 3)], made)
    with pytest.raises(RuntimeUnavailable, match="runs on an NVIDIA GPU only"):
        CppEngine(record.engine, 0, record.inputs, record.outputs)


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [], r"field 0 \(ABI\) is missing"),
        (lambda f: f[:12], r"has 13 fields; this one: field 12 \(aliased inputs and outputs\) missing"),
        (lambda f: [*f, "", ""], "has 13 fields; this one: 2 more than that"),
        (lambda f: ["7", *f[1:]], r"field 0 \(ABI\): '7' is not a layout that can be read"),
        (lambda f: [*f[:2], "0%8", *f[3:]], r"field 2 \(device\): '0%8' is not id%major%minor%type%name"),
        (lambda f: [*f[:3], b"", *f[4:]], r"field 3 \(engine\) is empty"),
        (lambda f: [*f[:3], f[3][:-1], *f[4:]], r"field 3 \(engine\) is damaged: its SHA-256"),
        (lambda f: [*f[:4], "x%x", *f[5:]], r"field 4 \(input binding names\) holds a name twice"),
        (lambda f: [*f[:5], "", *f[6:]], r"field 5 \(output binding names\): an engine needs at least one output"),
        (lambda f: [*f[:7], "&&&&", *f[8:]], r"field 7 \(metadata\) is not base64"),
        (lambda f: [*f[:8], "beos", *f[9:]], r"field 8 \(target platform\): 'beos' is not a platform"),
        (lambda f: [*f[:9], "yes", *f[10:]], r"field 9 \(requires output allocator\): 'yes' is neither 0 nor 1"),
        (lambda f: [*f[:12], "a@b"], r"field 12 \(aliased inputs and outputs\): 'a@b' is not output@input@kind"),
    ],
)
def test_damaged_records(fields: list[str | bytes], change: object, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.classes.tensorrt.Engine(change(fields))  # type: ignore[operator]


@needs_library
def test_a_pickle_in_the_metadata_stays_closed(record: EngineRecord, fields: list[str | bytes]) -> None:
    foreign = torch.classes.tensorrt.Engine(record.to_fields(pickled=True))
    assert foreign.fields()[7] != fields[7]


@needs_library
def test_random_corruptions_of_the_plan(fields: list[str | bytes]) -> None:
    choose = random.Random(0)
    for _ in range(100):
        plan = bytearray(fields[3])  # type: ignore[arg-type]
        for _ in range(choose.randint(1, 4)):
            position = choose.randrange(len(plan))
            match choose.randrange(3):
                case 0:
                    plan[position] ^= 1 << choose.randrange(8)
                case 1:
                    del plan[position : position + choose.randint(1, 100)]
                case 2:
                    plan[position:position] = choose.randbytes(choose.randint(1, 100))
        if bytes(plan) == fields[3]:
            continue
        with pytest.raises(RuntimeError, match=r"field 3 \(engine\)"):
            torch.classes.tensorrt.Engine([*fields[:3], bytes(plan), *fields[4:]])


@needs_library
def test_random_corruptions_of_fields(record: EngineRecord) -> None:
    choose = random.Random(1)
    refused = 0
    for _ in range(200):
        changed = record.to_fields()
        index = choose.choice([each for each in range(len(changed)) if each != 3])
        text = str(changed[index])
        position = choose.randrange(len(text) + 1)
        changed[index] = text[:position] + choose.choice('%@\0Zé\\"{') + text[position + choose.randrange(2) :]
        problem = _problem(changed)
        # JSON that is damaged inside concerns Python only: C++ needs nothing of it to run.
        if not problem or "JSON" in problem:
            continue
        refused += 1
        with pytest.raises(RuntimeError, match="field"):
            torch.classes.tensorrt.Engine(changed)
    assert refused > 100


@needs_library
def test_random_corruptions_of_a_file(record: EngineRecord, fields: list[str | bytes], tmp_path: Path) -> None:
    choose = random.Random(2)
    path = tmp_path / "module.ts"
    torch.jit.save(torch.jit.script(Holder(torch.classes.tensorrt.Engine(fields))), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    plan = record.to_state()[3].encode()
    (name,) = [name for name, data in members.items() if plan in data]
    start = members[name].index(plan)
    for _ in range(50):
        data = bytearray(members[name])
        position = start + choose.randrange(len(plan))
        data[position] = choose.choice([each for each in b'AZaz09+/=%\x00"' if each != data[position]])
        damaged = tmp_path / "damaged.ts"
        with zipfile.ZipFile(damaged, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, bytes(data) if member == name else content)
        with pytest.raises(RuntimeError, match=r"field 3 \(engine\) is (not base64|damaged)"):
            torch.jit.load(damaged)


def _problem(fields: list[str | bytes]) -> str:
    try:
        EngineRecord.from_fields(fields)
    except engine.errors.RecordError as error:
        return str(error)
    return ""


@needs_library
def test_other_libraries_are_refused(tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    unknown = tmp_path / "libtensorrt_rtx.so.9"
    if compiler is not None:
        source = tmp_path / "other.c"
        source.write_text(
            "int getInferLibVersion(void) { return 90000; }\nvoid* createInferRuntime_INTERNAL(void* l, int v)"
            " { __builtin_trap(); }\n"
        )
        subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", str(source), "-o", str(unknown)], check=True)
    text = run(
        "import torch\n"
        "from engine.runtime.engines.cpp_engine import load_library\n"
        "native = load_library().native\n"
        "for path in PATHS:\n"
        "    try: native.use_library(path)\n"
        "    except Exception as error: print(type(error).__name__, error)\n".replace(
            "PATHS",
            repr(["/nonexistent.so", next(map(str, Path(torch.__file__).parent.glob("lib/libc10.so"))), str(unknown)]),
        )
    )
    lines = text.splitlines()
    assert "RuntimeUnavailable the TensorRT library cannot be opened" in lines[0]
    assert "libc10.so is not a TensorRT library" in lines[1]
    if compiler is not None:
        assert "does not know TensorRT-RTX of version number 90000" in lines[2]


@needs_library
def test_another_runtime_that_registered_first_keeps_the_names(tmp_path: Path) -> None:
    library = load_library()
    assert library is not None
    other = shutil.copy(library.path, tmp_path / "libother_runtime.so")
    code = (
        "import torch\n"
        "{first}\n"
        "from engine.runtime.engines.cpp_engine import load_library\n"
        "print(load_library().not_registered)\n"
        "print(torch.ops.tensorrt.execute_engine.default._schema)\n"
    )
    text = run(code.replace("{first}", f"torch.ops.load_library({str(other)!r})"))
    assert text.startswith("the class tensorrt.Engine was already registered, by another library")
    defined = (
        'kept = torch.library.Library("tensorrt", "DEF")\n'
        'kept.define("execute_engine(Tensor[] tensors, str engine) -> Tensor[]")'
    )
    text = run(code.replace("{first}", defined))
    assert text.startswith("the op tensorrt::execute_engine was already registered")
    assert "str engine" in text


@needs_library
def test_torch_tensorrt_after_this_library_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "torch_tensorrt"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("print('imported')\n")
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    load = "from engine.runtime.engines.cpp_engine import load_library; load_library()\n"
    then = "try: import torch_tensorrt\nexcept ImportError as error: print(error.name, error)\n"
    assert run(path + load + then) == "imported", "a build without a C++ library registers nothing"
    (package / "lib" / "libtorchtrt.so").touch()
    assert run(path + "import torch_tensorrt\n" + load + then) == "imported"
    refused = run(path + load + then)
    assert refused.startswith("torch_tensorrt this process has torch.classes.tensorrt.Engine")
    assert "import torch_tensorrt before" in refused


def test_selection_without_a_gpu_or_library() -> None:
    if load_library() is None:
        with pytest.raises(RuntimeUnavailable, match='runtime="cpp" cannot be used: the C\\+\\+ library'):
            select_runtime("cpp", has_program=False)
    elif not torch.cuda.is_available():
        chosen = select_runtime("cpp", has_program=False)
        assert (chosen.runtime, chosen.usable) == ("cpp", False)
        assert "no GPU can be used" in chosen.reason
    else:
        assert select_runtime("auto", has_program=False).runtime == "cpp"


@pytest.mark.parametrize("built", [True, False], ids=["for-another-pytorch", "not-built"])
def test_a_library_of_another_pytorch_is_warned_of(built: bool, tmp_path: Path, monkeypatch) -> None:
    note = tmp_path / "native.json"
    note.write_text(json.dumps({"built": built, "torch": "1.0.0", "reason": "nobody wanted it"}))
    monkeypatch.setattr(cpp_engine, "_NOTE", note)
    monkeypatch.setattr(cpp_engine, "_FOUND", [])
    caches = (open_tensorrt, selection._problem_of_cpp)
    for cache in caches:
        cache.cache_clear()
    said = "the C++ library was built against PyTorch 1.0.0, this is" if built else "is not built: nobody wanted it"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(RuntimeUnavailable, match=re.escape(said)):
                select_runtime("cpp", has_program=False)
        assert [said in str(warning.message) for warning in caught] == [True] * built
    finally:
        for cache in caches:
            cache.cache_clear()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"PYTHON_ONLY": "1"}, "it was built with PYTHON_ONLY=1"), ({"CXX": "/nonexistent/c++"}, "no C++ compiler")],
    ids=["python-only", "no-compiler"],
)
def test_a_build_without_the_library_notes_why(environment: dict[str, str], reason: str, tmp_path: Path) -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a checkout")
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "engine" / "runtime" / "csrc", tmp_path / "engine" / "runtime" / "csrc")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert reason in done.stderr
    note = (tmp_path / "engine" / "runtime" / "native.json").read_text()
    assert '"built": false' in note
    assert reason in note
    assert not list((tmp_path / "engine" / "runtime").glob("*.so"))

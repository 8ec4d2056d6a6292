"""Round trips through ``engine.save`` and ``engine.load`` on machines without a GPU."""

import collections
import copy
import dataclasses
import json
import subprocess
import sys
import textwrap
import zipfile

import pytest
import torch
from torch import nn

import engine
from engine.errors import EngineError, RuntimeUnavailable, SaveError, SettingsError
from engine.runtime import TorchTensorRTModule
from tests.files.models import Constants, equal, nested


@pytest.fixture(scope="module")
def compiled():
    return nested()


@pytest.fixture(scope="module")
def path(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.pt2"
    engine.save(compiled, path, program=True)
    return path


def load(path):
    """Load for the CPU, also where there is a GPU."""
    return engine.load(path, runtime="interpreter")


def engines(module):
    return [held for held in module.graph_module.children() if isinstance(held, TorchTensorRTModule)]


def test_what_is_loaded_is_what_was_saved(compiled, path):
    loaded = load(path)
    assert loaded.report == compiled.report
    assert str(loaded.report) == str(compiled.report)
    assert loaded.graph_module.code == compiled.graph_module.code
    assert len(engines(loaded)) == 2
    for held, before in zip(engines(loaded), engines(compiled), strict=True):
        assert held.serialized_engine == before.serialized_engine
        assert held.input_binding_names == before.input_binding_names
        assert held.output_binding_names == before.output_binding_names
        assert held.input_specs == before.input_specs
        assert held.output_specs == before.output_specs
        assert held.settings == before.settings
        assert held.name == before.name
    assert loaded._signature.arguments == compiled._signature.arguments
    assert loaded._signature.ranges == compiled._signature.ranges
    assert loaded._signature.in_spec == compiled._signature.in_spec
    assert loaded._signature.out_spec == compiled._signature.out_spec


def test_results_are_the_same_for_every_shape(compiled, path):
    loaded = load(path)
    for batch in (1, 3, 9):
        x = torch.randn(batch, 8)
        assert equal(loaded(x, scale=2.5), compiled(x, scale=2.5))
        assert equal(loaded(x=x, mode="sum", scale=2.5), compiled(x, scale=2.5, mode="sum"))
    assert equal(copy.deepcopy(loaded)(x, scale=2.5), compiled(x, scale=2.5))


@pytest.mark.parametrize(
    "arguments", [((torch.ones(10, 8),), {"scale": 2.5}), ((torch.ones(3, 8),), {"scale": 3}), ((), {"scale": 2.5})]
)
def test_a_loaded_module_checks_its_inputs_as_before(compiled, path, arguments):
    args, kwargs = arguments
    messages = []
    for module in (compiled, load(path)):
        with pytest.raises(engine.errors.InputError) as caught:
            module(*args, **kwargs)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_the_same_module_gives_the_same_bytes(compiled, path, tmp_path):
    engine.save(compiled, tmp_path / "other name.pt2", program=True)
    assert (tmp_path / "other name.pt2").read_bytes() == path.read_bytes()
    engine.save(load(path), tmp_path / "again.pt2", program=True)
    assert (tmp_path / "again.pt2").read_bytes() == path.read_bytes()
    engine.save(load(path), path, program=True)  # over the file it came from
    assert (tmp_path / "again.pt2").read_bytes() == path.read_bytes()


def test_without_a_program_a_file_loads_and_says_what_it_needs(compiled, tmp_path):
    engine.save(compiled, tmp_path / "model.pt2")
    if torch.cuda.is_available():
        return
    loaded = engine.load(tmp_path / "model.pt2")
    assert loaded.report == compiled.report
    with pytest.raises(RuntimeUnavailable, match="no GPU can be used"):
        loaded(torch.randn(3, 8), scale=2.5)
    with pytest.raises(RuntimeUnavailable, match="program=True"):
        engine.load(tmp_path / "model.pt2", runtime="interpreter")
    with pytest.raises(SaveError, match="no program of the interpreter"):
        engine.save(loaded, tmp_path / "other.pt2", program=True)
    assert not (tmp_path / "other.pt2").exists()


def test_the_lowered_graph_is_not_kept(path):
    with pytest.raises(EngineError, match="do not keep the lowered graph"):
        load(path).graph  # noqa: B018


def test_the_archive_is_one_of_pytorch_and_holds_no_pickle(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.read("archive/archive_format") == b"pt2"
        assert archive.testzip() is None
        manifest = json.loads(archive.read("archive/extra/engine.json"))
        assert {info.date_time for info in archive.infolist()} == {archive.infolist()[0].date_time}
        for name in names:
            assert not name.endswith(".pkl")
            assert archive.read(name)[:1] != b"\x80"
    assert set(manifest["members"]) < {name.removeprefix("archive/") for name in names}
    assert torch._C.PyTorchFileReader(str(path)).get_record("archive_format") == b"pt2"


def test_loading_never_unpickles(path, monkeypatch):
    import pickle

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load(path)


def test_constants_of_every_dtype_shared_and_laid_out_as_before(tmp_path):
    model = Constants().eval()
    x = torch.rand(2, 4)
    compiled = engine.compile(
        model, (x,), runtime="interpreter", min_block_size=1, torch_executed_ops=["aten.where", "aten.add", "aten.cat"]
    )
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = load(tmp_path / "model.pt2")
    assert equal(loaded(x), compiled(x))
    before, after = dict(compiled.graph_module.named_buffers()), dict(loaded.graph_module.named_buffers())
    assert before
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert equal(after[name], tensor)
        assert after[name].shape == tensor.shape
        assert after[name].requires_grad is False


def test_a_tensor_with_two_names_is_kept_once(tmp_path):
    from engine.files.graphs import GraphWriter, read_graph

    shared = torch.randn(3)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    both = graph.call_function(torch.ops.aten.add.Tensor, (graph.get_attr("a"), graph.get_attr("b")))
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (x, both)),))
    root = nn.Module()
    root.register_buffer("a", shared)
    root.register_buffer("b", shared)
    writer = GraphWriter()
    data = json.loads(json.dumps(writer.write(torch.fx.GraphModule(root, graph))))
    assert writer.tensors == [shared]
    again = read_graph(data, {0: shared.clone()}, {})
    assert again.a is again.b
    assert torch.equal(again(torch.ones(3))[0], 1 + 2 * shared)


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Answer:
    value: torch.Tensor
    more: dict


def test_containers_of_inputs_and_results(tmp_path):
    class Model(nn.Module):
        def forward(self, pair, table):
            return Answer(pair.left @ pair.right, {"sums": collections.OrderedDict(b=table["x"] + 1, a=(table["x"],))})

    args = (Pair(torch.randn(2, 3), torch.randn(3, 2)), {"x": torch.randn(2)})
    compiled = engine.compile(Model(), args, runtime="interpreter", min_block_size=1)
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = load(tmp_path / "model.pt2")
    found, expected = loaded(*args), compiled(*args)
    assert isinstance(found, Answer)
    assert equal(found.value, expected.value)
    assert equal(found.more, expected.more)


def test_another_process_needs_no_code_of_the_model(compiled, path, tmp_path):
    """What the file needs of Python: classes of a library of models are imported, others are asked for."""
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class Library(nn.Module):
        def forward(self, x):
            return outputs.BaseModelOutput(last_hidden_state=x.relu())

    class Own(nn.Module):
        def forward(self, x):
            return Answer(x.relu(), {})

    for name, model in (("library", Library()), ("own", Own())):
        module = engine.compile(model, (torch.ones(2),), runtime="interpreter", min_block_size=1)
        engine.save(module, tmp_path / f"{name}.pt2", program=True)
    code = """
        import sys, torch, engine
        torch.manual_seed(3)
        x = torch.randn(4, 8)
        out = engine.load(sys.argv[1], runtime="interpreter")(x, scale=2.5)
        print(repr(out["w"].tolist()), out["n"], out["none"])
        print(type(engine.load(sys.argv[2], runtime="interpreter")(torch.ones(2))).__name__)
        assert not [name for name in sys.modules if name.startswith("tests")]
        engine.load(sys.argv[3])
    """
    torch.manual_seed(3)
    expected = compiled(torch.randn(4, 8), scale=2.5)
    command = [sys.executable, "-c", textwrap.dedent(code), path, tmp_path / "library.pt2", tmp_path / "own.pt2"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ran.stdout.splitlines() == [f"{expected['w'].tolist()!r} {expected['n']} None", "BaseModelOutput"]
    assert ran.returncode
    assert "import tests.files.test_save_load before the file is loaded" in ran.stderr


def test_a_graph_that_pytorch_runs_alone(tmp_path):
    class Model(nn.Module):
        def forward(self, x, n: int):
            return torch.special.erfcx(x)[:, : n // 2], n * 2

    args = (torch.rand(3, 8), 6)
    shapes = {"x": {0: torch.export.Dim("b", min=1, max=8)}, "n": torch.export.Dim.DYNAMIC}
    compiled = engine.compile(Model(), args, dynamic_shapes=shapes, runtime="interpreter")
    engine.save(compiled, tmp_path / "model.pt2")
    loaded = engine.load(tmp_path / "model.pt2")
    assert loaded.report == compiled.report
    for x, n in ((torch.rand(2, 8), 6), (torch.rand(5, 8), 3)):
        assert equal(loaded(x, n), compiled(x, n))


def test_modules_that_cannot_be_saved(compiled, tmp_path):
    deferred = engine.compile(nn.Linear(2, 2), runtime="interpreter", min_block_size=1)
    with pytest.raises(SaveError, match="not compiled yet"):
        engine.save(deferred, tmp_path / "x.pt2")
    deferred(torch.ones(1, 2))
    engine.save(deferred, tmp_path / "deferred.pt2")
    with pytest.raises(SaveError, match="not a Linear"):
        engine.save(nn.Linear(2, 2), tmp_path / "x.pt2")
    with pytest.raises(SaveError, match='not a TorchTensorRTModule: format="plan" saves one'):
        engine.save(engines(compiled)[0], tmp_path / "x.pt2")
    for name in ("x", "x.onnx"):
        with pytest.raises(SettingsError, match="the suffix does not say"):
            engine.save(compiled, tmp_path / name)
    with pytest.raises(SettingsError, match="'onnx' is not one of"):
        engine.save(compiled, tmp_path / "x.pt2", format="onnx")
    with pytest.raises(SettingsError, match="program=True goes with pt2"):
        engine.save(compiled, tmp_path / "x.plan", program=True)
    with pytest.raises(SettingsError, match="runtime='gpu'"):
        engine.load(tmp_path / "deferred.pt2", runtime="gpu")
    assert [item.name for item in tmp_path.iterdir()] == ["deferred.pt2"]


def test_unwritable_targets_leave_nothing(compiled, tmp_path):
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").write_text("kept")
    for target in (tmp_path / "missing" / "x.pt2", tmp_path / "folder.pt2", tmp_path / "file" / "x.pt2"):
        with pytest.raises(OSError):
            engine.save(compiled, target)
    with pytest.raises(OSError):
        engine.load(tmp_path / "missing.pt2")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder.pt2"]


def test_a_save_that_fails_keeps_the_file_that_was_there(compiled, tmp_path, monkeypatch):
    target = tmp_path / "x.pt2"
    target.write_bytes(b"before")
    monkeypatch.setattr(engine.files.archive.Writer, "add_tensor", None)
    monkeypatch.setattr(engine.files.archive.Writer, "finish", None)
    with pytest.raises(TypeError):
        engine.save(compiled, target)
    assert target.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_pickling_points_to_save(compiled):
    import pickle

    for module in (compiled, engines(compiled)[0]):
        with pytest.raises(EngineError, match=r"engine\.save"):
            pickle.dumps(module)


def test_a_loaded_module_is_saved_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 3), torch.nn.Linear(6, 8), torch.nn.ReLU()).eval().half()
    compiled = engine.compile(model, (torch.randn(2, 4, 8, dtype=torch.float16),), min_block_size=1)
    assert compiled.report.precision.total
    assert compiled.report.products
    engine.save(compiled, tmp_path / "first.pt2")
    loaded = engine.load(tmp_path / "first.pt2")
    for field in ("precision", "products", "weights", "notes", "fallbacks", "segments"):
        assert getattr(loaded.report, field) == getattr(compiled.report, field)
    engine.save(loaded, tmp_path / "again.pt2")
    assert (tmp_path / "again.pt2").read_bytes() == (tmp_path / "first.pt2").read_bytes()

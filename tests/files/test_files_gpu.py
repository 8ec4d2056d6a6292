"""Files between the two ways to run engines, on a GPU: outputs are the same, bit by bit."""

import itertools
import json
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.torch_version import TorchVersion

import engine
from engine.errors import RuntimeUnavailable
from engine.tensorrt import capabilities
from tests.files.models import Constants, Nested, equal

pytestmark = pytest.mark.gpu


def cpp_is_there():
    try:
        from engine.runtime.engines.cpp_engine import load_library
    except ImportError:
        return False
    return load_library() is not None


def require(*runtimes):
    if "cpp" in runtimes and not cpp_is_there():
        pytest.skip("the C++ library is not built")


def compiled(runtime):
    torch.manual_seed(5)
    x = torch.randn(3, 8, device="cuda")
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=9)}, "scale": None, "mode": None}
    # Otherwise TensorRT-RTX goes over to other kernels, which round differently, while the engine runs.
    settings = {"dynamic_shapes_kernel_specialization_strategy": "none"} if capabilities().rtx else {}
    return engine.compile(
        Nested().eval().cuda(), (x,), {"scale": 2.5, "mode": "sum"}, dynamic_shapes=shapes, min_block_size=1,
        runtime=runtime, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def modules():
    return {runtime: compiled(runtime) for runtime in (["python", "cpp"] if cpp_is_there() else ["python"])}


@pytest.mark.parametrize(("saver", "loader"), itertools.product(["python", "cpp"], repeat=2))
def test_the_four_directions(modules, saver, loader, tmp_path):
    require(saver, loader)
    engine.save(modules[saver], tmp_path / "x.pt2")
    loaded = engine.load(tmp_path / "x.pt2", runtime=loader)
    assert loaded.graph_module.engine_0.runtime == loader
    for batch in (1, 3, 9):
        x = torch.randn(batch, 8, device="cuda")
        assert equal(loaded(x, scale=2.5), modules[saver](x, scale=2.5))
    engine.save(loaded, tmp_path / "again.pt2")
    assert (tmp_path / "again.pt2").read_bytes() == (tmp_path / "x.pt2").read_bytes()


@pytest.mark.parametrize(("saver", "loader"), itertools.product(["python", "cpp"], repeat=2))
def test_the_four_directions_between_processes(modules, saver, loader, tmp_path):
    require(saver, loader)
    engine.save(modules[saver], tmp_path / "x.pt2")
    x = torch.randn(4, 8, device="cuda")
    torch.save({"x": x.cpu(), "w": modules[saver](x, scale=2.5)["w"].cpu()}, tmp_path / "tensors")
    code = """
        import sys, torch, engine
        tensors = torch.load(sys.argv[2], weights_only=True)
        module = engine.load(sys.argv[1], runtime=sys.argv[3])
        assert torch.equal(module(tensors["x"].cuda(), scale=2.5)["w"].cpu(), tensors["w"])
        print(module.graph_module.engine_0.runtime)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.pt2"), str(tmp_path / "tensors"), loader]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == loader


def test_constants_on_the_gpu(tmp_path):
    x = torch.rand(2, 4, device="cuda")
    model = Constants().eval().cuda()
    module = engine.compile(model, (x,), min_block_size=1, torch_executed_ops=["aten.where", "aten.add", "aten.cat"])
    engine.save(module, tmp_path / "x.pt2")
    for device in (None, "cuda:0", 0):
        loaded = engine.load(tmp_path / "x.pt2", device=device)
        assert equal(loaded(x), module(x))
        assert {tensor.device.type for tensor in loaded.buffers()} == {t.device.type for t in module.buffers()}


def test_plans(modules, tmp_path):
    held = modules["python"].graph_module.engine_0
    engine.save(held, tmp_path / "x.plan")
    x = torch.randn(4, 8, device="cuda")
    expected = held(x)
    assert equal(engine.load(tmp_path / "x.plan")(x), expected)
    (tmp_path / "x.json").unlink()
    bare = engine.load(tmp_path / "x.plan")
    assert sorted(bare.output_binding_names) == sorted(held.output_binding_names)
    plan = (tmp_path / "x.plan").read_bytes()
    module = engine.TorchTensorRTModule(plan, held.input_binding_names, held.output_binding_names)
    assert equal(module(x), expected)


def test_a_plan_that_tensorrt_refuses(tmp_path):
    (tmp_path / "x.plan").write_bytes(b"not a plan" * 100)
    with pytest.raises(engine.EngineError, match="TensorRT says"):
        engine.load(tmp_path / "x.plan")


def test_an_engine_for_another_gpu_or_tensorrt(modules, tmp_path):
    held = modules["python"].graph_module.engine_0
    engine.save(held, tmp_path / "x.plan")
    sidecar = json.loads((tmp_path / "x.json").read_text())
    from engine.runtime.records.record import EngineRecord

    fields = sidecar["record"]
    record = EngineRecord.from_fields([*fields[:3], held.serialized_engine, *fields[4:]])
    for changes, message in (
        ({"compute_capabilities": ["SM75"]}, "was built for compute capability SM75; this GPU"),
        ({"tensorrt": "TensorRT 8.6.1"}, "was built by TensorRT 8.6.1"),
    ):
        other = record.replace(metadata={**record.metadata, **changes}, hardware_compatible=False).to_fields()
        other[3] = ""
        (tmp_path / "x.json").write_text(json.dumps({**sidecar, "record": other}))
        with pytest.raises(RuntimeUnavailable, match=message):
            engine.load(tmp_path / "x.plan")


def flat(result):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if leaf is not None]


def test_torchscript(modules, tmp_path):
    require("cpp")
    engine.save(modules["cpp"], tmp_path / "x.ts")
    scripted = torch.jit.load(tmp_path / "x.ts")
    for batch in (1, 3, 9):
        x = torch.randn(batch, 8, device="cuda")
        assert equal(flat(scripted(x)), flat(modules["python"](x, scale=2.5)))


def test_exported_program(modules, tmp_path):
    require("cpp")
    engine.save(modules["cpp"], tmp_path / "x.pt2", format="exported_program")
    program = torch.export.load(tmp_path / "x.pt2").module()
    for batch in (1, 3, 9):
        x = torch.randn(batch, 8, device="cuda")
        assert equal(flat(program(x)), flat(modules["python"](x, scale=2.5)))


def test_an_exported_program_in_a_process_that_loaded_nothing(modules, tmp_path):
    require("cpp")
    engine.save(modules["cpp"], tmp_path / "x.pt2", format="exported_program")
    x = torch.randn(3, 8, device="cuda")
    torch.save((x, flat(modules["python"](x, scale=2.5))), tmp_path / "x.pt")
    code = """
        import sys, torch
        from engine.runtime.engines.cpp_engine import load_library
        from tests.files.models import equal
        load_library()
        x, expected = torch.load(sys.argv[2])
        found = torch.export.load(sys.argv[1]).module()(x)
        found = [leaf for leaf in torch.utils._pytree.tree_leaves(found) if leaf is not None]
        assert equal(found, expected), (found, expected)
    """
    program = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.pt2"), str(tmp_path / "x.pt")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(TorchVersion(torch.__version__) < "2.12", reason="PyTorch 2.11 crashes as it loads the package")
def test_aot_inductor(modules, tmp_path):
    require("cpp")
    engine.save(modules["cpp"], tmp_path / "x.pt2", format="aot_inductor")
    package = torch._inductor.aoti_load_package(str(tmp_path / "x.pt2"))
    for batch in (2, 3, 9):
        x = torch.randn(batch, 8, device="cuda")
        for found, expected in zip(flat(package(x)), flat(modules["python"](x, scale=2.5)), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_op_from_python(modules):
    """The op where there is no C++ library: in a process of its own, since it is registered once."""
    code = """
        import engine, torch
        import engine.runtime.engines.cpp_engine as cpp
        cpp._FOUND.append((None, "hidden by a test"))
        from engine.files.exportable import example_inputs, exportable
        from engine.runtime.records.engine_op import registered_by
        from tests.files.test_files_gpu import compiled
        from tests.files.models import equal
        module = compiled("python")
        try:
            assert registered_by() == "python"
        except engine.errors.RuntimeUnavailable as error:
            raise SystemExit(f"skipped: {error}")
        graph = exportable(module)
        inputs, shapes = example_inputs(module, "cuda")
        program = torch.export.export(graph, inputs, dynamic_shapes=shapes).module()
        for batch in (1, 3, 9):
            x = torch.randn(batch, 8, device="cuda")
            assert equal(program(x)[0], module(x, scale=2.5)["w"])
            assert equal(graph(x)[0], module(x, scale=2.5)["w"])
        print("fine")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    if "skipped: " in ran.stderr:
        pytest.skip(ran.stderr.strip().splitlines()[-1])
    assert ran.stdout.strip().endswith("fine"), ran.stderr[-3000:]


def test_a_loaded_module_is_traced_like_a_compiled_one(modules, tmp_path):
    engine.save(modules["python"], tmp_path / "x.pt2")
    loaded = engine.load(tmp_path / "x.pt2")
    x = torch.randn(4, 8, device="cuda")
    expected = loaded(x, scale=2.5)["w"]

    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = loaded

        def forward(self, x):
            return self.inner(x * 1, scale=2.5)["w"] + 1

    around = Around()
    program = torch.export.export(around, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2, max=9)}})
    assert torch.equal(program.module()(x), expected + 1)
    torch.export.save(program, tmp_path / "exported.pt2")
    again = torch.export.load(tmp_path / "exported.pt2").module()
    for batch in (2, 9):
        x = torch.randn(batch, 8, device="cuda")
        assert torch.equal(again(x), around(x))
    # Inductor may fuse what is around the engine in another order of operations.
    torch.testing.assert_close(torch.compile(around, dynamic=True)(x), around(x))

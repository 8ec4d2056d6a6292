"""TorchScript and exported programs of compiled modules, as far as machines without a GPU go."""

import subprocess
import sys
import textwrap

import pytest
import torch

import engine
from engine.errors import EngineError
from engine.files.exportable import example_inputs, exportable
from engine.runtime.engines.cpp_engine import load_library
from tests.files.models import nested


@pytest.fixture(scope="module")
def compiled():
    return nested()


@pytest.fixture
def library():
    if load_library() is None:
        pytest.skip("the C++ library is not built")


def engines_of(graph):
    return [node for node in graph.nodes if node.target == torch.ops.tensorrt.execute_engine.default]


def check_program(program):
    engines = engines_of(program.graph)
    assert len(engines) == 2
    shapes = [tuple(node.meta["val"].shape) for node in engines[1].users]
    batch = program.graph_signature.user_inputs
    size = next(node for node in program.graph.nodes if node.name == batch[0]).meta["val"].shape[0]
    assert [tuple(map(str, shape)) for shape in shapes] == [(str(size), "4")] * 2


def test_export_with_dynamic_shapes(compiled, library):
    graph = exportable(compiled)
    inputs, shapes = example_inputs(compiled, "cpu")
    program = torch.export.export(graph, inputs, dynamic_shapes=shapes)
    check_program(program)
    assert [(int(r.lower), int(r.upper)) for r in program.range_constraints.values()] == [(1, 9)]
    traced = torch.fx.experimental.proxy_tensor.make_fx(graph, tracing_mode="symbolic")(*inputs)
    assert len(engines_of(traced.graph)) == 2


def test_exported_programs_go_through_files(compiled, library, tmp_path):
    engine.save(compiled, tmp_path / "x.pt2", format="exported_program")
    program = torch.export.load(tmp_path / "x.pt2")
    check_program(program)
    names = {held.name() for held in program.constants.values() if isinstance(held, torch.ScriptObject)}
    assert names == {"engine_0", "engine_1"}
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="runs on an NVIDIA GPU only"):
            program.module()(torch.ones(3, 8))


def test_torchscript_goes_through_files(compiled, library, tmp_path):
    engine.save(compiled, tmp_path / "x.ts")
    scripted = torch.jit.load(tmp_path / "x.ts")
    assert scripted.engine_1.output_binding_names() == compiled.graph_module.engine_1.output_binding_names
    assert scripted.engine_0.fields()[7] == exportable(compiled).engine_0.fields()[7]
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="runs on an NVIDIA GPU only"):
            scripted(torch.ones(3, 8))


def test_torchscript_of_what_pytorch_runs_alone(library, tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x, n: int):
            y = torch.special.erfcx(x)[:, : n // 2]
            return y, n * 2, y.shape[0] + 1

    shapes = {"x": {0: torch.export.Dim("b", min=1, max=8)}, "n": torch.export.Dim.DYNAMIC}
    compiled = engine.compile(Model(), (torch.rand(3, 8), 6), dynamic_shapes=shapes, runtime="interpreter")
    engine.save(compiled, tmp_path / "x.ts")
    scripted = torch.jit.load(tmp_path / "x.ts")
    for x, n in ((torch.rand(2, 8), 6), (torch.rand(5, 8), 3)):
        found, expected = scripted(x, n), compiled(x, n)
        assert torch.equal(found[0], expected[0])
        assert found[1:] == expected[1:]


def test_sizes_are_inputs_of_the_op(library):
    class Model(torch.nn.Module):
        def forward(self, x, n: int):
            y = torch.relu(x)[:, :n]
            return y * 2, torch.zeros(x.shape[0], n) + y

    shapes = {"x": {0: torch.export.Dim("batch", min=2, max=9)}, "n": torch.export.Dim.DYNAMIC}
    compiled = engine.compile(
        Model(), (torch.randn(3, 8), 4), dynamic_shapes=shapes, runtime="interpreter", min_block_size=1
    )
    inputs, dynamic = example_inputs(compiled, "cpu")
    program = torch.export.export(exportable(compiled), inputs, dynamic_shapes=dynamic)
    x, n = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    for node in program.graph.find_nodes(op="output")[0].args[0]:
        assert [str(size) for size in node.meta["val"].shape] == [str(x.meta["val"].shape[0]), str(n.meta["val"])]


def test_without_the_library(compiled, tmp_path):
    """The op in its Python form, in a process of its own: it is registered once."""
    code = """
        import sys, torch, engine
        import engine.runtime.engines.cpp_engine as cpp
        cpp._FOUND.append((None, "hidden by a test"))
        from engine.errors import RuntimeUnavailable
        from engine.runtime.records.engine_op import registered_by
        from tests.files.test_exported import check_program, example_inputs, exportable
        module = engine.load(sys.argv[2])
        for format in ("torchscript", "exported_program", "aot_inductor"):
            try:
                engine.save(module, sys.argv[1], format=format)
            except RuntimeUnavailable as error:
                print(error)
        inputs, shapes = example_inputs(module, "cpu")
        try:
            exportable(module)
        except RuntimeUnavailable as error:
            sys.exit(print(error))
        program = torch.export.export(exportable(module), inputs, dynamic_shapes=shapes)
        check_program(program)
        print(registered_by())
        try:
            torch.export.save(program, sys.argv[1])
        except engine.EngineError as error:
            print(error)
        if not torch.cuda.is_available():
            try:
                program.module()(*inputs)
            except RuntimeUnavailable as error:
                print(error)
    """
    engine.save(compiled, tmp_path / "saved.pt2")
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.pt2"), str(tmp_path / "saved.pt2")]
    ran = subprocess.run(command, capture_output=True, text=True)
    lines = ran.stdout.splitlines()
    assert [line.partition(" needs")[0] for line in lines[:3]] == [
        'format="torchscript"', 'format="exported_program"', 'format="aot_inductor"',
    ], ran.stderr  # fmt: skip
    if "whose ops take Python objects" in lines[3]:
        pytest.skip(lines[3])
    assert lines[3] == "python", ran.stderr
    assert "engine.save(module, path) writes files without it" in lines[4]
    if not torch.cuda.is_available():
        assert "engine 'engine_0' cannot run" in lines[5]


def test_the_fake_kernel_needs_shapes(library):
    from engine.runtime.records.engine_op import engine_object
    from engine.runtime.records.metadata import record_of
    from tests.runtime import networks

    bare = engine_object(record_of(networks.relu().module(name="relu")))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.held = bare

        def forward(self, x):
            return torch.ops.tensorrt.execute_engine([x], self.held)[0]

    with pytest.raises(EngineError, match="does not say which shapes its outputs have"):
        torch.export.export(Model(), (torch.ones(2, 3),))


class KeepsState(torch.nn.Module):
    """All of it stays in PyTorch, so that it runs in any process."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("last", torch.ones(2, 3), persistent=False)

    def forward(self, x, seen):
        before = self.last.clone()
        self.total.add_(torch.special.erfcx(x).sum(0))
        self.last.copy_(torch.special.erfcx(x))
        seen.add_(torch.special.erfcx(seen))
        return torch.special.erfcx(self.total) + before


def runs_like(found, model):
    mine, its = torch.zeros(4), torch.zeros(4)
    for x in torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0)):
        torch.testing.assert_close(found(x, mine), (model(x, its),))
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("format", ["torchscript", "exported_program"])
def test_states_go_through_files(format, library, tmp_path):
    compiled = engine.compile(KeepsState(), (torch.rand(2, 3), torch.zeros(4)), runtime="interpreter")
    engine.save(compiled, tmp_path / "x", format=format)
    loaded = torch.jit.load(tmp_path / "x") if format == "torchscript" else torch.export.load(tmp_path / "x").module()
    runs_like(loaded, KeepsState())
    assert not compiled.states["total"].any()


def test_engines_with_states_are_exported(library):
    class Counts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x.sum(0))
            return x * self.total

    compiled = engine.compile(Counts(), (torch.rand(2, 3),), runtime="interpreter", min_block_size=1)
    inputs, shapes = example_inputs(compiled, "cpu")
    program = torch.export.export(exportable(compiled), inputs, dynamic_shapes=shapes)
    assert len(engines_of(program.graph)) == 1
    functional = program.run_decompositions({})
    assert list(functional.graph_signature.buffers_to_mutate.values()) == ["state_total"]

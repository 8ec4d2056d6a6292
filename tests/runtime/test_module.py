"""The module on a machine without a GPU: construction, choice of runtime, errors, interpretation, tracing."""

import copy
import pickle

import pytest
import torch
from torch import nn

from engine.errors import EngineError, InputError, RuntimeUnavailable, SettingsError
from engine.runtime import TensorSpec, TorchTensorRTModule
from engine.runtime.engines.interpreted_engine import Program
from tests.runtime.networks import Built, affine, affine_reference, relu

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="describes machines without a GPU")


@pytest.fixture(scope="module")
def built() -> Built:
    return affine()


@pytest.fixture(scope="module")
def program() -> Program:
    return affine_reference


def specs(shape_env_dim: object) -> dict[str, object]:
    return {
        "input_specs": [((shape_env_dim, 4), torch.float32), ((3,), torch.float32)],
        "output_specs": [((shape_env_dim, 3), torch.float32), ((shape_env_dim, 4), torch.float32)],
    }


@pytest.fixture
def interpreted(built: Built, program: Program) -> TorchTensorRTModule:
    import sympy

    return built.module(
        runtime="interpreter", program=program, name="affine", **specs(sympy.Symbol("s0", integer=True))
    )


def test_keeps_what_it_was_made_of(built: Built) -> None:
    module = built.module(name="net", weight_name_map={"w": "linear.weight"})
    assert module.serialized_engine == built.plan
    assert module.input_binding_names == ["x", "y"]
    assert module.output_binding_names == ["out0", "out1"]
    assert module.weight_name_map == {"w": "linear.weight"}
    assert module.settings == type(module.settings)()
    assert "net" in repr(module)


def test_takes_host_memory_of_the_builder(built: Built) -> None:
    module = TorchTensorRTModule(memoryview(built.plan), ["x", "y"], ["out0", "out1"])  # type: ignore[arg-type]
    assert module.serialized_engine == built.plan


@no_gpu
def test_auto_without_gpu_interprets_a_program(built: Built, program: Program) -> None:
    module = built.module(program=program)
    assert module.runtime == "interpreter"
    assert "no GPU" in module.runtime_reason


@no_gpu
def test_auto_without_gpu_and_program_says_what_to_do_at_the_first_call(built: Built) -> None:
    module = built.module(name="net")
    assert module.runtime == "unavailable"
    with pytest.raises(
        RuntimeUnavailable, match=r'net.*installed but no GPU.*pass runtime="interpreter" to engine.compile'
    ):
        module(torch.ones(2, 4), torch.ones(3))
    with pytest.raises(RuntimeUnavailable, match="no GPU"):
        module.load()


@no_gpu
def test_python_without_gpu_fails_at_the_first_call(built: Built) -> None:
    module = built.module(runtime="python")
    assert module.runtime == "python"
    with pytest.raises(RuntimeUnavailable, match="no GPU"):
        module(torch.ones(2, 4), torch.ones(3))


def test_runtimes_that_can_run_nowhere(built: Built) -> None:
    with pytest.raises(RuntimeUnavailable, match="serialized engine alone"):
        built.module(runtime="interpreter")
    with pytest.raises(SettingsError, match="auto, cpp, python, interpreter"):
        built.module(runtime="tpu")


def test_interprets(interpreted: TorchTensorRTModule) -> None:
    assert interpreted.runtime == "interpreter"
    x, y = torch.randn(5, 4, requires_grad=True), torch.randn(3)
    result = interpreted(x, y)
    assert isinstance(result, tuple)
    torch.testing.assert_close(result, affine_reference(x.detach(), y))
    assert not result[0].requires_grad


def test_interprets_the_network_that_was_built(built: Built) -> None:
    from engine.interpreter import Program

    module = built.module(runtime="interpreter", program=Program.from_network(built.network))
    x, y = torch.randn(5, 4), torch.randn(3)
    torch.testing.assert_close(module(x, y), affine_reference(x, y))
    with pytest.raises(InputError, match="'x'"):
        module(torch.ones(2, 5), y)


def test_one_output_is_returned_bare() -> None:
    module = relu().module(runtime="interpreter", program=lambda x: (x.relu(),))
    x = torch.randn(2, 3)
    torch.testing.assert_close(module(x), x.relu())


def test_interprets_non_contiguous_inputs(interpreted: TorchTensorRTModule) -> None:
    x, y = torch.randn(4, 6).t(), torch.randn(6)[::2]
    torch.testing.assert_close(interpreted(x, y), affine_reference(x, y))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.ones(2, 4),), "1 inputs given, the engine takes 2: x, y"),
        ((torch.ones(2, 4), torch.ones(3, dtype=torch.float16)), "'y' is torch.float16"),
        ((torch.ones(2, 5), torch.ones(3)), "'x' has size 5 in dim 1, the engine takes 4"),
        ((torch.ones(2, 4, 1), torch.ones(3)), "'x' has shape .* rank 2"),
        ((torch.ones(2, 4), "three"), "'y' is a str"),
    ],
)
def test_wrong_inputs(interpreted: TorchTensorRTModule, inputs: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        interpreted(*inputs)


def test_deepcopy_shares_the_plan(interpreted: TorchTensorRTModule) -> None:
    clone = copy.deepcopy(nn.Sequential(interpreted))[0]
    assert clone is not interpreted
    assert clone.serialized_engine is interpreted.serialized_engine
    assert clone.runtime_reason == interpreted.runtime_reason
    x, y = torch.randn(2, 4), torch.randn(3)
    torch.testing.assert_close(clone(x, y), interpreted(x, y))


def test_pickling_is_refused(interpreted: TorchTensorRTModule) -> None:
    with pytest.raises(EngineError, match="cannot be pickled"):
        pickle.dumps(interpreted)


def test_moving_it_moves_nothing(interpreted: TorchTensorRTModule) -> None:
    assert interpreted.to("cpu").half().eval() is interpreted
    assert interpreted.device is None
    x, y = torch.randn(2, 4), torch.randn(3)
    torch.testing.assert_close(interpreted(x, y), affine_reference(x, y))


def test_exports_with_symbolic_shapes(interpreted: TorchTensorRTModule) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = interpreted

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            first, second = self.inner(x * 2, y)
            return first.sum() + second.sum(0)

    batch = torch.export.Dim("batch", min=2, max=60)
    x, y = torch.randn(5, 4), torch.randn(3)
    exported = torch.export.export(Around(), (x, y), dynamic_shapes=({0: batch}, None))
    assert "engine.execute" in str(exported.graph)
    again = exported.module()
    for n in (5, 9):
        x = torch.randn(n, 4)
        torch.testing.assert_close(again(x, y), Around()(x, y))


def test_compiles_without_a_graph_break(interpreted: TorchTensorRTModule) -> None:
    x, y = torch.randn(5, 4), torch.randn(3)

    def around(x: torch.Tensor) -> torch.Tensor:
        first, second = interpreted(x + 1, y)
        return first.relu() + second[:, :3]

    compiled = torch.compile(around, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), around(x))


def test_sizes_cross_as_numbers() -> None:
    from engine.sizes import normal

    seen = []

    def program(x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(n)
        return (x[: int(n)].clone(),)

    import sympy

    s0, s1 = sympy.symbols("s0 s1", integer=True)
    module = TorchTensorRTModule(
        b"",
        ["x", "n"],
        ["out0"],
        runtime="interpreter",
        program=program,
        input_specs=[((s0,), torch.float32), normal(s1)],
        output_specs=[((s1,), torch.float32)],
    )
    assert module(torch.ones(6), 4).shape == (4,)
    assert seen[0].dtype == torch.int64
    exported = torch.export.export(
        Halves(module), (torch.ones(16),), dynamic_shapes=({0: torch.export.Dim("n", min=4, max=64) * 2},)
    )
    assert exported.module()(torch.ones(10)).shape == (5,)


class Halves(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x.shape[0] // 2)


def test_tracing_without_specs_says_so(built: Built, program: Program) -> None:
    module = built.module(runtime="interpreter", program=program)
    with pytest.raises(RuntimeUnavailable, match="without output_specs"):
        torch.export.export(module, (torch.ones(2, 4), torch.ones(3)))


def test_a_traced_graph_outlives_its_module(built: Built, program: Program) -> None:
    module = built.module(runtime="interpreter", program=program, **specs(2))
    exported = torch.export.export(module, (torch.ones(2, 4), torch.ones(3)))
    again = exported.module()
    again(torch.ones(2, 4), torch.ones(3))
    del module
    import gc

    gc.collect()
    with pytest.raises(RuntimeUnavailable, match="keep the module"):
        again(torch.ones(2, 4), torch.ones(3))


def test_specs_take_fake_tensors(built: Built) -> None:
    module = built.module(
        input_specs=[torch.ones(2, 4), torch.ones(3)], output_specs=[torch.ones(2, 3), torch.ones(2, 4)]
    )
    assert module.output_specs == (TensorSpec((2, 3), torch.float32), TensorSpec((2, 4), torch.float32))

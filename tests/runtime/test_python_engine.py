"""Engines on a GPU through TensorRT's Python bindings."""

import copy
import threading

import pytest
import torch
from torch import nn

from engine.errors import BuildError, InputError, RuntimeUnavailable
from engine.runtime import EngineLoadError, ExecutionError, TorchTensorRTModule, TRTEngine, trial_load
from tests.runtime import networks
from tests.runtime.networks import Built, affine_reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(scope="module")
def affine() -> Built:
    return networks.affine()


@pytest.fixture
def module(affine: Built) -> TorchTensorRTModule:
    return affine.module(name="affine", runtime="python")


def engine_of(module: TorchTensorRTModule) -> TRTEngine:
    return module._engines[torch.cuda.current_device()]


def test_auto_picks_an_engine(affine: Built) -> None:
    module = affine.module()
    assert module.runtime in {"cpp", "python"}
    assert module.runtime_reason


def test_shapes_in_turn(module: TorchTensorRTModule) -> None:
    y = torch.randn(3, device="cuda")
    results = []
    for n in (1, 8, 64, 8, 8, 1, 64, 33):
        x = torch.randn(n, 4, device="cuda")
        results.append((module(x, y), affine_reference(x, y)))
    for result, expected in results:
        torch.testing.assert_close(result, expected)
    assert len(engine_of(module)._shape_bindings) == 4


def test_outputs_are_fresh(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    first = module(x, y)
    kept = [tensor.clone() for tensor in first]
    second = module(x * 2, y + 1)
    torch.testing.assert_close(list(first), kept)
    assert first[0].data_ptr() != second[0].data_ptr()


def test_inputs_may_be_freed_and_changed_between_calls(module: TorchTensorRTModule) -> None:
    y = torch.randn(3, device="cuda")
    results = [(module(torch.full((8, 4), float(i), device="cuda"), y)[0], i) for i in range(20)]
    for result, i in results:
        torch.testing.assert_close(result, (4.0 * i + y).expand(8, 3))


def test_no_call_waits_for_the_gpu(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        module(x, y)
        stream.synchronize()
        torch.cuda._sleep(400_000_000)
        result = module(x, y)
        assert not stream.query(), "the call returned only after the GPU was done"
    stream.synchronize()
    torch.testing.assert_close(result, affine_reference(x, y))


def test_strided_and_misaligned_inputs(module: TorchTensorRTModule) -> None:
    memory = torch.randn(4 * 9 + 1, device="cuda")
    y = torch.randn(6, device="cuda")[::2]
    for x in (
        torch.randn(4, 8, device="cuda").t(),
        memory[1:].view(9, 4),
        torch.randn(1, 4, device="cuda").expand(5, 4),
    ):
        torch.testing.assert_close(module(x, y), affine_reference(x, y))


def test_channels_last() -> None:
    module = networks.relu(shape=(2, 3, 4, 5)).module(runtime="python")
    x = torch.randn(2, 3, 4, 5, device="cuda").to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(x), x.relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, device="cuda", dtype=dtype)
    result = networks.relu(dtype).module(runtime="python")(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result, x.relu())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3), (), (1,)])
def test_integers_and_scalars(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randint(-(2**30), 2**30, shape, device="cuda", dtype=dtype)
    result = networks.add(dtype, shape).module(runtime="python")(x, x + 1)
    torch.testing.assert_close(result, 2 * x + 1)


def test_numbers_stand_for_scalars() -> None:
    module = networks.add(torch.int64, ()).module(runtime="python")
    x = torch.tensor(5, device="cuda")
    assert module(x, 2**40).item() == 5 + 2**40
    assert module(x, torch.tensor(3)).item() == 8
    assert module(3, 4).item() == 7
    with pytest.raises(InputError, match=r"'y' is a float, the engine takes torch.int64"):
        module(x, 2.5)


def test_booleans() -> None:
    x = torch.tensor([[True, False, True], [False, False, True]], device="cuda")
    torch.testing.assert_close(networks.negated().module(runtime="python")(x), ~x)


def test_tensors_without_elements() -> None:
    module = networks.summed().module(runtime="python")
    for n in (0, 5, 0):
        x = torch.randn(n, 4, device="cuda")
        torch.testing.assert_close(module(x), (x.sum(0), x.relu()))


def test_a_call_that_computes_nothing() -> None:
    module = networks.relu(shape=(0, 3)).module(runtime="python")
    assert module(torch.empty(0, 3, device="cuda")).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(65, 4), r"'x' has size 65 in dim 0: the engine takes 1 to 64"),
        (torch.ones(0, 4), r"'x' has size 0 in dim 0: the engine takes 1 to 64"),
        (torch.ones(2, 5), r"'x' has size 5 in dim 1: the engine takes 4"),
        (torch.ones(4), r"'x' has shape \[4\], of rank 1: the engine takes rank 2"),
        (torch.ones(2, 4, dtype=torch.float64), r"'x' is torch.float64, the engine takes torch.float32"),
    ],
)
def test_wrong_inputs(module: TorchTensorRTModule, x: torch.Tensor, message: str) -> None:
    y = torch.ones(3, device="cuda")
    with pytest.raises(InputError, match=message):
        module(x.cuda(), y)
    good = torch.ones(2, 4, device="cuda")
    torch.testing.assert_close(module(good, y), affine_reference(good, y))


def test_wrong_count_device_and_kind(module: TorchTensorRTModule) -> None:
    x, y = torch.ones(2, 4, device="cuda"), torch.ones(3, device="cuda")
    with pytest.raises(InputError, match="1 inputs given, the engine takes 2: x, y"):
        module(x)
    with pytest.raises(InputError, match="'y' is on cpu, the engine runs on cuda:0"):
        module(x, y.cpu())
    with pytest.raises(InputError, match="'y' is a number"):
        module(x, 2.0)
    with pytest.raises(InputError, match="'y' is a str"):
        module(x, "y")


def test_wrong_binding_names(affine: Built) -> None:
    module = TorchTensorRTModule(affine.plan, ["x", "z"], ["out0", "out1"], runtime="python")
    with pytest.raises(RuntimeUnavailable, match=r"\['x', 'z'\].*\['x', 'y'\]"):
        module(torch.ones(2, 4, device="cuda"), torch.ones(3, device="cuda"))


def test_bindings_in_another_order(affine: Built) -> None:
    module = TorchTensorRTModule(affine.plan, ["y", "x"], ["out1", "out0"], runtime="python")
    x, y = torch.randn(2, 4, device="cuda"), torch.randn(3, device="cuda")
    torch.testing.assert_close(module(y, x), affine_reference(x, y)[::-1])


def test_several_profiles() -> None:
    bounds = [((1, 4), (2, 4), (4, 4)), ((4, 4), (16, 4), (32, 4))]
    module = networks.affine([{"x": each} for each in bounds]).module(runtime="python")
    y = torch.randn(3, device="cuda")
    for n in (1, 32, 4, 4, 16, 2):
        x = torch.randn(n, 4, device="cuda")
        torch.testing.assert_close(module(x, y), affine_reference(x, y))
    profiles = {key[0][0]: plan.profile for key, plan in engine_of(module)._shape_bindings.items()}
    assert profiles == {1: 0, 32: 1, 4: 0, 16: 1, 2: 0}
    with pytest.raises(InputError, match=r"(?s)profile 0: .* 1 to 4\n.*profile 1: .* 4 to 32"):
        module(torch.ones(33, 4, device="cuda"), y)


def test_host_inputs() -> None:
    module = networks.reshaped().module(runtime="python")
    x = torch.randn(12, device="cuda")
    for shape in ([3, 4], [2, 6], [3, 4], [1, 12]):
        torch.testing.assert_close(module(x, torch.tensor(shape)), x.reshape(shape))
    torch.testing.assert_close(module(x, torch.tensor([4, 3], device="cuda")), x.reshape(4, 3))
    with pytest.raises(InputError, match="'shape' has the value 5 at index 0: the engine takes 1 to 4"):
        module(x, torch.tensor([5, 4]))
    with pytest.raises(ExecutionError, match=r"does not take the shapes x=\[12\]"):
        module(x, torch.tensor([3, 5]))
    torch.testing.assert_close(module(x, torch.tensor([3, 4])), x.reshape(3, 4))


def test_sizes_are_host_inputs() -> None:
    module = networks.prefix().module(runtime="python")
    x = torch.randn(12, device="cuda")
    for n in (4, 12, 0, 4):
        torch.testing.assert_close(module(x, n), x[:n])
    torch.testing.assert_close(module(x, torch.tensor(7)), x[:7])
    with pytest.raises(InputError, match="'n' has the value 13 at index 0: the engine takes 0 to 12"):
        module(x, 13)


def test_output_allocator(affine: Built) -> None:
    module = affine.module(requires_output_allocator=True, runtime="python")
    y = torch.randn(3, device="cuda")
    results = []
    for n in (1, 8, 8, 64, 1):
        x = torch.randn(n, 4, device="cuda")
        results.append((module(x, y), affine_reference(x, y)))
    for result, expected in results:
        torch.testing.assert_close(result, expected)


def test_streams_side_by_side() -> None:
    module = networks.deep().module(runtime="python")
    inputs = [torch.randn(256 + 64 * i, 256, device="cuda") for i in range(6)]
    expected = [networks.deep_reference(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(5):
        results = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(module(x))
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=2e-2, atol=2e-2)
    assert 1 <= len(engine_of(module)._pool) <= 8


def test_more_streams_than_contexts() -> None:
    built = networks.deep()
    engine = TRTEngine(built.plan, torch.cuda.current_device(), contexts=2)
    inputs = [torch.randn(512, 256, device="cuda") for _ in range(5)]
    expected = [networks.deep_reference(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(4):
        results = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results += engine([x])
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=2e-2, atol=2e-2)
    assert len(engine._pool) <= 2


@pytest.mark.parametrize("own_streams", [True, False])
def test_threads(affine: Built, own_streams: bool) -> None:
    module = affine.module(runtime="python")
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        try:
            stream = torch.cuda.Stream() if own_streams else torch.cuda.default_stream()
            start.wait()
            with torch.cuda.stream(stream):
                generator = torch.Generator("cuda").manual_seed(seed)
                for turn in range(50):
                    x = torch.randn(1 + (seed * 7 + turn) % 64, 4, device="cuda", generator=generator)
                    y = torch.randn(3, device="cuda", generator=generator)
                    torch.testing.assert_close(module(x, y), affine_reference(x, y))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_captured_in_a_cuda_graph(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    module(x, y)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = module(x, y)
    # Other work with the module must not disturb the graph.
    module(torch.randn(64, 4, device="cuda"), y)
    x.copy_(torch.randn(8, 4))
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(result, affine_reference(x, y))


def test_capture_without_a_run_before_says_so(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    module.load()
    with (
        pytest.raises(ExecutionError, match="run it with inputs of the same shapes"),
        # Other threads of the process, TensorRT's among them, may go on.
        torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"),
    ):
        module(x, y)
    torch.cuda.synchronize()
    torch.testing.assert_close(module(x, y), affine_reference(x, y))


def test_copies_run_on_their_own(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    expected = module(x, y)
    clone = copy.deepcopy(nn.ModuleList([module]))[0]
    assert clone.serialized_engine is module.serialized_engine
    torch.testing.assert_close(clone(x, y), expected)
    assert engine_of(clone) is not engine_of(module)


def test_to_remembers_the_device(module: TorchTensorRTModule) -> None:
    assert module.to("cuda:0").device == torch.device("cuda:0")
    module.load()
    assert list(module._engines) == [0]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_where_its_inputs_are(module: TorchTensorRTModule) -> None:
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        x, y = torch.randn(8, 4, device=device), torch.randn(3, device=device)
        result = module(x, y)
        assert result[0].device == torch.device(device)
        torch.testing.assert_close(result, affine_reference(x, y))
    with pytest.raises(InputError, match="'y' is on cuda:0, the engine runs on cuda:1"):
        module(x, y.to("cuda:0"))


def test_requires_no_gradient(module: TorchTensorRTModule) -> None:
    x = torch.randn(8, 4, device="cuda", requires_grad=True)
    y = nn.Parameter(torch.randn(3, device="cuda"))
    result = module(x, y)
    assert not result[0].requires_grad
    torch.testing.assert_close(result, affine_reference(x.detach(), y.detach()))


def test_exports_without_specs_for_known_shapes(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    exported = torch.export.export(module, (x, y))
    torch.testing.assert_close(exported.module()(x, y), affine_reference(x, y))


def test_compiles_without_a_graph_break(module: TorchTensorRTModule) -> None:
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    compiled = torch.compile(lambda x, y: module(x + 1, y)[0].relu(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), affine_reference(x + 1, y)[0].relu())


def test_trial_load(affine: Built) -> None:
    trial_load(affine.plan)


def test_trial_load_of_garbage() -> None:
    with pytest.raises(EngineLoadError, match="TensorRT says") as caught:
        trial_load(b"not a plan" * 100, name="broken")
    assert isinstance(caught.value, BuildError)
    assert caught.value.failed_layers == []
    assert caught.value.messages

"""Engines on a GPU through the C++ library."""

import threading

import pytest
import torch

from engine.errors import InputError, RuntimeUnavailable
from engine.runtime import ExecutionError, TRTEngine
from engine.runtime.engines.cpp_engine import CppEngine, library_problem, load_library, open_tensorrt
from engine.runtime.records.record import EngineRecord
from tests.runtime import networks
from tests.runtime.networks import Built, affine_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(load_library() is None, reason=library_problem()),
]


def engine_of(built: Built, **options: object) -> CppEngine:
    return CppEngine(built.plan, torch.cuda.current_device(), built.inputs, built.outputs, **options)  # type: ignore[arg-type]


def record_of(built: Built, name: str = "net") -> "torch.ScriptObject":
    record = EngineRecord(name, built.plan, tuple(built.inputs), tuple(built.outputs))
    return torch.classes.tensorrt.Engine(record.to_fields())


@pytest.fixture(scope="module")
def affine() -> Built:
    return networks.affine()


@pytest.fixture
def engine(affine: Built) -> CppEngine:
    return engine_of(affine, name="affine")


def xy(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 4, device="cuda"), torch.randn(3, device="cuda")


def check(engine: CppEngine, x: torch.Tensor, y: torch.Tensor) -> None:
    torch.testing.assert_close(tuple(engine((x, y))), affine_reference(x, y))


def test_layout() -> None:
    assert open_tensorrt().startswith("TensorRT")


def test_bindings_are_those_of_python(affine: Built, engine: CppEngine) -> None:
    python = TRTEngine(affine.plan, torch.cuda.current_device(), affine.inputs, affine.outputs)
    assert engine.inputs == python.inputs
    assert engine.outputs == python.outputs
    shapes = engine_of(networks.reshaped())
    python = TRTEngine(networks.reshaped().plan, torch.cuda.current_device(), ["x", "shape"], ["out0"])
    assert shapes.inputs == python.inputs


def test_bit_identical_to_python(affine: Built, engine: CppEngine) -> None:
    python = TRTEngine(affine.plan, torch.cuda.current_device(), affine.inputs, affine.outputs)
    for n in (1, 8, 64, 33):
        x, y = xy(n)
        for ours, theirs in zip(engine((x, y)), python((x, y)), strict=True):
            assert torch.equal(ours, theirs)


def test_shapes_in_turn(engine: CppEngine) -> None:
    y = torch.randn(3, device="cuda")
    results = []
    for n in (1, 8, 64, 8, 8, 1, 64, 33):
        x = torch.randn(n, 4, device="cuda")
        results.append((engine([x, y]), affine_reference(x, y)))
    for result, expected in results:
        torch.testing.assert_close(tuple(result), expected)
    assert engine.shape_bindings == 4
    assert engine.output_shapes([(5, 4), (3,)]) == [(5, 3), (5, 4)]


def test_shapes_that_take_turns_get_contexts_of_their_own(engine: CppEngine) -> None:
    batches = [xy(5), xy(7)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(200):
            for batch in batches:
                engine(batch)
        for x, y in batches:
            check(engine, x, y)
    torch.cuda.synchronize()
    assert engine.contexts in (2, 3)


def test_outputs_are_fresh(engine: CppEngine) -> None:
    x, y = xy()
    first = engine((x, y))
    kept = [tensor.clone() for tensor in first]
    second = engine((x * 2, y + 1))
    torch.testing.assert_close(first, kept)
    assert first[0].data_ptr() != second[0].data_ptr()
    assert not first[0].requires_grad


def test_no_call_waits_for_the_gpu(engine: CppEngine) -> None:
    x, y = xy()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine((x, y))
        stream.synchronize()
        torch.cuda._sleep(400_000_000)
        result = engine((x, y))
        assert not stream.query(), "the call returned only after the GPU was done"
    stream.synchronize()
    torch.testing.assert_close(tuple(result), affine_reference(x, y))


def test_strided_and_misaligned_inputs(engine: CppEngine) -> None:
    memory = torch.randn(4 * 9 + 1, device="cuda")
    y = torch.randn(6, device="cuda")[::2]
    for x in (
        torch.randn(4, 8, device="cuda").t(),
        memory[1:].view(9, 4),
        torch.randn(1, 4, device="cuda").expand(5, 4),
        torch._neg_view(torch.randn(5, 4, device="cuda")),
        torch.randn(5, 4, device="cuda", requires_grad=True),
    ):
        torch.testing.assert_close(tuple(engine((x, y))), affine_reference(x.detach(), y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, device="cuda", dtype=dtype)
    (result,) = engine_of(networks.relu(dtype))((x,))
    assert result.dtype == dtype
    torch.testing.assert_close(result, x.relu())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3), (), (1,)])
def test_integers_and_scalars(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randint(-(2**30), 2**30, shape, device="cuda", dtype=dtype)
    (result,) = engine_of(networks.add(dtype, shape))((x, x + 1))
    torch.testing.assert_close(result, 2 * x + 1)


def test_numbers_stand_for_scalars() -> None:
    engine = engine_of(networks.add(torch.int64, ()))
    x = torch.tensor(5, device="cuda")
    assert engine((x, 2**40))[0].item() == 5 + 2**40
    assert engine((x, torch.tensor(3)))[0].item() == 8
    assert engine((3, 4))[0].item() == 7
    with pytest.raises(InputError, match=r"'y' is a float, the engine takes torch.int64"):
        engine((x, 2.5))


def test_booleans() -> None:
    x = torch.tensor([[True, False, True], [False, False, True]], device="cuda")
    torch.testing.assert_close(engine_of(networks.negated())((x,))[0], ~x)


def test_tensors_without_elements() -> None:
    engine = engine_of(networks.summed())
    for n in (0, 5, 0):
        x = torch.randn(n, 4, device="cuda")
        torch.testing.assert_close(engine((x,)), [x.sum(0), x.relu()])


def test_a_call_that_computes_nothing() -> None:
    (result,) = engine_of(networks.relu(shape=(0, 3)))((torch.empty(0, 3, device="cuda"),))
    assert result.shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(65, 4), r"'x' has size 65 in dim 0: the engine takes 1 to 64"),
        (torch.ones(0, 4), r"'x' has size 0 in dim 0: the engine takes 1 to 64"),
        (torch.ones(2, 5), r"'x' has size 5 in dim 1: the engine takes 4"),
        (torch.ones(4), r"'x' has shape \[4\], of rank 1: the engine takes rank 2"),
        (torch.ones(2, 4, dtype=torch.float64), r"'x' is torch.float64, the engine takes torch.float32"),
        (torch.ones(2, 4).to_sparse(), "'x' is not a dense tensor"),
    ],
)
def test_wrong_inputs(engine: CppEngine, x: torch.Tensor, message: str) -> None:
    y = torch.ones(3, device="cuda")
    with pytest.raises(InputError, match=message):
        engine((x.cuda(), y))
    check(engine, torch.ones(2, 4, device="cuda"), y)


def test_wrong_count_device_and_kind(engine: CppEngine) -> None:
    x, y = torch.ones(2, 4, device="cuda"), torch.ones(3, device="cuda")
    with pytest.raises(InputError, match="1 inputs given, the engine takes 2: x, y"):
        engine((x,))
    with pytest.raises(InputError, match="'y' is on cpu, the engine runs on cuda:0"):
        engine((x, y.cpu()))
    with pytest.raises(InputError, match="'y' is a number"):
        engine((x, 2.0))
    with pytest.raises(InputError, match="'y' is a str"):
        engine((x, "y"))  # type: ignore[arg-type]


def test_wrong_binding_names(affine: Built) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"\['x', 'z'\].*\['x', 'y'\]"):
        CppEngine(affine.plan, torch.cuda.current_device(), ["x", "z"], ["out0", "out1"])
    x, y = xy(2)
    swapped = CppEngine(affine.plan, torch.cuda.current_device(), ["y", "x"], ["out1", "out0"])
    torch.testing.assert_close(tuple(swapped((y, x))), affine_reference(x, y)[::-1])


def test_several_profiles() -> None:
    bounds = [((1, 4), (2, 4), (4, 4)), ((4, 4), (16, 4), (32, 4))]
    engine = engine_of(networks.affine([{"x": each} for each in bounds]))
    for n in (1, 32, 4, 4, 16, 2):
        check(engine, *xy(n))
    with pytest.raises(InputError, match=r"(?s)profile 0: .* 1 to 4\n.*profile 1: .* 4 to 32"):
        engine(xy(33))


def test_host_inputs() -> None:
    engine = engine_of(networks.reshaped())
    x = torch.randn(12, device="cuda")
    for shape in ([3, 4], [2, 6], [3, 4], [1, 12]):
        torch.testing.assert_close(engine((x, torch.tensor(shape)))[0], x.reshape(shape))
    torch.testing.assert_close(engine((x, torch.tensor([4, 3], device="cuda")))[0], x.reshape(4, 3))
    with pytest.raises(InputError, match="'shape' has the value 5 at index 0: the engine takes 1 to 4"):
        engine((x, torch.tensor([5, 4])))
    with pytest.raises(ExecutionError, match=r"does not take the shapes x=\[12\]"):
        engine((x, torch.tensor([3, 5])))
    torch.testing.assert_close(engine((x, torch.tensor([3, 4])))[0], x.reshape(3, 4))


def test_sizes_are_host_inputs() -> None:
    engine = engine_of(networks.prefix())
    x = torch.randn(12, device="cuda")
    for n in (4, 12, 0, 4):
        torch.testing.assert_close(engine((x, n))[0], x[:n])
    torch.testing.assert_close(engine((x, torch.tensor(7)))[0], x[:7])
    with pytest.raises(InputError, match="'n' has the value 13 at index 0: the engine takes 0 to 12"):
        engine((x, 13))


def test_output_allocator(affine: Built) -> None:
    engine = engine_of(affine, requires_output_allocator=True)
    results = []
    for n in (1, 8, 8, 64, 1):
        x, y = xy(n)
        results.append((engine((x, y)), affine_reference(x, y)))
    for result, expected in results:
        torch.testing.assert_close(tuple(result), expected)


def test_streams_side_by_side() -> None:
    engine = engine_of(networks.deep())
    inputs = [torch.randn(256 + 64 * i, 256, device="cuda") for i in range(6)]
    expected = [networks.deep_reference(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(5):
        results = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(engine((x,))[0])
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=2e-2, atol=2e-2)
    assert 1 <= engine.contexts <= 8


def test_more_streams_than_contexts() -> None:
    engine = engine_of(networks.deep(), contexts=2)
    inputs = [torch.randn(512, 256, device="cuda") for _ in range(5)]
    expected = [networks.deep_reference(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(4):
        results = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                results += engine((x,))
        torch.cuda.synchronize()
        for result, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=2e-2, atol=2e-2)
    assert engine.contexts <= 2


@pytest.mark.parametrize("own_streams", [True, False])
def test_threads(affine: Built, own_streams: bool) -> None:
    engine = engine_of(affine)
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
                    check(engine, x, y)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_captured_in_a_cuda_graph(engine: CppEngine) -> None:
    x, y = xy()
    engine((x, y))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = engine((x, y))
    # Other work with the engine must not disturb the graph.
    engine(xy(64))
    x.copy_(torch.randn(8, 4))
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(tuple(result), affine_reference(x, y))
    before = engine.contexts
    captured = engine.take_captured()
    assert len(captured) == 1
    assert engine.take_captured() == []
    graph.reset()
    engine.release_captured(captured)
    assert engine.contexts == before + 1
    check(engine, x, y)


def test_capture_on_the_stream_of_the_run_before(engine: CppEngine) -> None:
    x, y = xy()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        engine((x, y))
        stream.synchronize()
        graph.capture_begin()
        result = engine((x, y))
        graph.capture_end()
        engine(xy(64))
    torch.cuda.synchronize()
    x.copy_(torch.randn(8, 4))
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(tuple(result), affine_reference(x, y))


def test_capture_without_a_run_before_says_so(engine: CppEngine) -> None:
    x, y = xy()
    with (
        pytest.raises(ExecutionError, match="run it with inputs of the same shapes"),
        torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"),
    ):
        engine((x, y))
    torch.cuda.synchronize()
    check(engine, x, y)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_other_device(affine: Built) -> None:
    engine = CppEngine(affine.plan, 1, affine.inputs, affine.outputs)
    x, y = torch.randn(8, 4, device="cuda:1"), torch.randn(3, device="cuda:1")
    result = engine((x, y))
    assert result[0].device == torch.device("cuda:1")
    torch.testing.assert_close(tuple(result), affine_reference(x, y))
    with pytest.raises(InputError, match="'y' is on cuda:0, the engine runs on cuda:1"):
        engine((x, y.to("cuda:0")))

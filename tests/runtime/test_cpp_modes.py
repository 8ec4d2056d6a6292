"""Options of engines that C++ runs, the op, and what is refused, on a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import SettingsError
from engine.runtime import EngineLoadError
from engine.runtime.engines.cpp_engine import CppEngine, library_problem, load_library
from engine.runtime.options import RunOptions
from tests.runtime import networks
from tests.runtime.networks import Built, affine_reference
from tests.runtime.test_cpp_engine import check, engine_of, record_of, xy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(load_library() is None, reason=library_problem()),
]


@pytest.fixture(scope="module")
def affine() -> Built:
    return networks.affine()


def test_out_of_memory_is_an_error_and_no_more() -> None:
    engine = engine_of(networks.deep())
    x = torch.ones(4096, 256, device="cuda")
    engine((x,))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = []

    def fill() -> None:
        for _ in range(64):
            held.extend(engine((x,)))

    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            fill()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(engine((x,))[0], networks.deep_reference(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(share_device_memory=True),
        RunOptions(cuda_graph_strategy="whole_graph_capture"),
        RunOptions(dynamic_shapes_kernel_specialization_strategy="eager"),
        RunOptions(dynamic_shapes_kernel_specialization_strategy="none"),
        RunOptions(cuda_graph_strategy="whole_graph_capture", share_device_memory=True),
    ],
    ids=str,
)
def test_options(affine: Built, options: RunOptions) -> None:
    try:
        options.check()
    except SettingsError as error:
        pytest.skip(str(error))
    engine = engine_of(affine, options=options)
    with torch.cuda.stream(torch.cuda.Stream()):  # nothing can be recorded from the default stream
        for n in (1, 8, 8, 64, 1):
            check(engine, *xy(n))
        engine.configure(RunOptions())
        check(engine, *xy(3))
        engine.configure(options)
        check(engine, *xy(5))


def test_pre_allocated_outputs(affine: Built) -> None:
    engine = engine_of(affine, options=RunOptions(use_pre_allocated_outputs=True))
    x, y = xy()
    first = engine((x, y))
    address = first[0].data_ptr()
    torch.testing.assert_close(tuple(first), affine_reference(x, y))
    second = engine((x + 1, y))
    assert second[0].data_ptr() == address
    torch.testing.assert_close(tuple(second), affine_reference(x + 1, y))
    check(engine, *xy(5))


def test_shared_workspace_of_two_engines(affine: Built) -> None:
    options = RunOptions(share_device_memory=True)
    deep, small = engine_of(networks.deep(), options=options), engine_of(affine, options=options)
    for _ in range(3):
        x = torch.randn(300, 256, device="cuda")
        torch.testing.assert_close(deep((x,))[0], networks.deep_reference(x), rtol=2e-2, atol=2e-2)
        check(small, *xy())


def test_runtime_cache(affine: Built, tmp_path: Path) -> None:
    options = RunOptions(runtime_cache_path=str(tmp_path))
    try:
        options.check()
    except SettingsError as error:
        pytest.skip(str(error))
    engine = engine_of(affine, options=options)
    check(engine, *xy())
    engine.configure(RunOptions())
    engine.configure(options)
    check(engine, *xy())
    assert list(tmp_path.glob("*.cache"))


def test_the_op(affine: Built) -> None:
    engine = record_of(affine)
    x, y = xy()
    torch.testing.assert_close(tuple(torch.ops.tensorrt.execute_engine([x, y], engine)), affine_reference(x, y))
    with pytest.raises(RuntimeError, match="'x' has size 65 in dim 0: the engine takes 1 to 64"):
        torch.ops.tensorrt.execute_engine(list(xy(65)), engine)
    prefix = record_of(networks.prefix())
    x = torch.randn(12, device="cuda")
    torch.testing.assert_close(torch.ops.tensorrt.execute_engine([x, torch.tensor(5)], prefix)[0], x[:5])


class Holder(torch.nn.Module):
    def __init__(self, engine: "torch.ScriptObject") -> None:
        super().__init__()
        self.engine = engine

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = torch.ops.tensorrt.execute_engine([x + 1, y], self.engine)
        return outputs[0] * 2 + outputs[1].sum()


def test_scripted_module(affine: Built, tmp_path: Path) -> None:
    module = Holder(record_of(affine))
    x, y = xy()
    total, relu = affine_reference(x + 1, y)
    expected = total * 2 + relu.sum()
    path = f"{tmp_path}/module.ts"
    torch.jit.save(torch.jit.script(module), path)
    torch.testing.assert_close(torch.jit.load(path)(x, y), expected)
    traced = torch.jit.trace(module, (x, y))
    torch.jit.save(traced, path)
    torch.testing.assert_close(torch.jit.load(path)(*xy(5)).shape, torch.Size([5, 3]))


def test_garbage_is_refused_with_what_tensorrt_says() -> None:
    with pytest.raises(EngineLoadError, match="engine 'broken' does not load; TensorRT says") as caught:
        CppEngine(b"not a plan" * 100, torch.cuda.current_device(), name="broken")
    assert caught.value.messages


def test_truncated_plans(affine: Built, tmp_path: Path) -> None:
    # In a process of its own: TensorRT trusts what is inside a plan. Bits that flipped there are found by the
    # checksums of files and records, before TensorRT sees them.
    path = tmp_path / "net.plan"
    path.write_bytes(affine.plan)
    code = (
        "import sys\n"
        "from engine.runtime import EngineLoadError\n"
        "from engine.runtime.engines.cpp_engine import CppEngine\n"
        "plan = open(sys.argv[1], 'rb').read()\n"
        "for size in (1, 16, len(plan) // 2, len(plan) - 1):\n"
        "    try: CppEngine(plan[:size], 0)\n"
        "    except EngineLoadError: print(size, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 4


def test_flat_memory(affine: Built) -> None:
    engine = engine_of(affine)

    def turn() -> None:
        for n in range(1, 65):
            engine(xy(n))

    turn()
    torch.cuda.synchronize()
    allocated, taken = torch.cuda.memory_allocated(), []
    for _ in range(5):
        free = torch.cuda.mem_get_info()[0]
        for _ in range(5):
            turn()
        torch.cuda.synchronize()
        taken.append(free - torch.cuda.mem_get_info()[0])
    assert torch.cuda.memory_allocated() == allocated
    # What leaks grows every time; other processes and kernels compiled in the background take memory now and then.
    assert min(taken) < 1 << 20, taken

"""Device memory that is given back between calls, and brought again."""

import copy
import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import engine
from engine.errors import RuntimeUnavailable
from engine.runtime import RunOptions, TorchTensorRTModule, enable_cudagraphs, enable_pre_allocated_outputs
from tests.runtime import networks
from tests.runtime.networks import Built, affine_reference

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="describes machines without a GPU")
gpu = pytest.mark.gpu
MIB = 2**20


@pytest.fixture(scope="module")
def built() -> Built:
    return networks.affine()


# ------------------------------------------------------------------------------------ anywhere


class Counting(nn.Module):
    """Keeps a number from call to call, and has an op that no engine runs, which reads a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return (self.linear(x).relu() + self.count).sin() + torch.sin(self.table + x)


def counting(**settings: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Counting().eval()
    place = "cpu" if settings.get("runtime") == "interpreter" else "cuda"
    model.to(place)
    described = [torch.randn(3, 4, device=place)]
    compiled = engine.compile(
        copy.deepcopy(model), described, min_block_size=1, torch_executed_ops=["aten.sin"], **settings
    )
    return compiled, model


def test_an_interpreted_module_goes_on_as_it_is() -> None:
    compiled, model = counting(runtime="interpreter")
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(x), model(x))
    compiled.offload()
    assert compiled.states["count"].tolist() == [1.0] * 4
    torch.testing.assert_close(compiled(x), model(x))
    compiled.onload()
    torch.testing.assert_close(copy.deepcopy(compiled)(x), model(x))


def test_a_module_that_waits_for_its_first_call_has_nothing_to_give_back() -> None:
    model = nn.Linear(4, 4).eval()
    deferred = engine.compile(model, runtime="interpreter", min_block_size=1)
    deferred.offload()
    deferred.onload()
    x = torch.randn(2, 4)
    torch.testing.assert_close(deferred(x), model(x))
    deferred.offload()
    torch.testing.assert_close(deferred(x), model(x))


@no_gpu
def test_an_engine_that_no_machine_here_runs(built: Built) -> None:
    module = built.module(runtime="python")
    module.offload()
    with pytest.raises(RuntimeUnavailable, match="no GPU"):
        module.onload()


# ------------------------------------------------------------------------------------ on a GPU


def large(runtime: str = "auto", **settings: object) -> tuple[nn.Module, nn.Module]:
    """96 MiB of weights in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(6))).cuda().eval()
    return engine.compile(model, [torch.randn(8, 2048, device="cuda")], runtime=runtime, **settings), model


def used() -> int:
    """Bytes of device memory that anybody has, without what PyTorch keeps for later."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def close(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)


@gpu
@pytest.mark.skipif(
    int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1, reason="the memory of a GPU that other processes use too"
)
@pytest.mark.parametrize("runtime", ["python", "auto"])
@pytest.mark.parametrize("immutable", [False, True])
def test_the_memory_of_weights_is_free_meanwhile(runtime: str, immutable: bool) -> None:
    compiled, model = large(runtime, immutable_weights=immutable)
    x = torch.randn(8, 2048, device="cuda")
    close(compiled(x), model(x))
    loaded = used()
    for _ in range(3):
        compiled.offload()
        assert loaded - used() >= 90 * MIB
        compiled.onload()
        assert abs(loaded - used()) <= 16 * MIB
        close(compiled(x), model(x))
    compiled.offload()
    close(compiled(x), model(x))  # the call loads it
    assert abs(loaded - used()) <= 16 * MIB


@gpu
def test_work_that_is_under_way_ends_as_it_began() -> None:
    compiled, model = large()
    x = torch.randn(8, 2048, device="cuda")
    expected = model(x)
    for _ in range(5):
        results = [compiled(x) for _ in range(50)]
        compiled.offload()
        for result in results:
            close(result, expected)


@gpu
@pytest.mark.parametrize("runtime", ["python", "auto"])
def test_states_and_constants_between_engines_are_kept(runtime: str) -> None:
    compiled, model = counting(runtime=runtime)
    x = torch.randn(3, 4, device="cuda")
    for call in range(1, 5):
        close(compiled(x), model(x))
        compiled.offload()
        assert compiled.states["count"].tolist() == [float(call)] * 4
        assert compiled.states["count"].is_cuda
        held = dict(compiled.graph_module.named_buffers(recurse=False))
        states = set(compiled.states.buffers.values())
        assert all(tensor.is_cpu for name, tensor in held.items() if name not in states)
        if call == 3:
            compiled = copy.deepcopy(compiled)
    compiled.to("cuda:0")
    close(compiled(x), model(x))


@gpu
def test_a_file_of_a_module_that_is_offloaded(tmp_path: Path) -> None:
    compiled, model = counting()
    x = torch.randn(3, 4, device="cuda")
    close(compiled(x), model(x))
    compiled.offload()
    engine.save(compiled, tmp_path / "model.pt2")
    close(engine.load(tmp_path / "model.pt2")(x), model(x))


@gpu
def test_modes_stay(tmp_path: Path) -> None:
    compiled, model = large(runtime_cache_path=str(tmp_path))
    x = torch.randn(8, 2048, device="cuda")
    with enable_cudagraphs(compiled), enable_pre_allocated_outputs(compiled):
        for _ in range(3):
            close(compiled(x), model(x))
            assert len(compiled.cuda_graphs) == 1
            compiled.offload()
            assert len(compiled.cuda_graphs) == 0
        (part,) = (each for each in compiled.modules() if isinstance(each, TorchTensorRTModule))
        assert part.options.use_pre_allocated_outputs
        assert part.options != RunOptions()
    assert list(tmp_path.glob("*.cache"))
    close(compiled(x), model(x))


@gpu
@pytest.mark.parametrize("runtime", ["python", "auto"])
def test_a_graph_that_the_caller_captured_holds_it(built: Built, runtime: str) -> None:
    module = built.module(name="affine", runtime=runtime)
    x, y = torch.randn(8, 4, device="cuda"), torch.randn(3, device="cuda")
    close(module(x, y), affine_reference(x, y))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = module(x, y)
    with pytest.raises(RuntimeUnavailable, match="'affine' is in use by a CUDA graph"):
        module.offload()
    graph.replay()
    close(result, affine_reference(x, y))

"""A compiled model on another device than it was captured on."""

import copy

import pytest
import torch
from torch import fx, nn

import engine
from engine.capture.signature import Argument
from engine.compiled.placement import placed
from engine.errors import InputError

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


class Parts(nn.Module):
    """Two engines, and PyTorch between them: an op without a rule, one that makes a tensor, one that reads a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("places", torch.tensor([[3, 1], [0, 2]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.special.erfcx(self.first(x))
        y = y + torch.arange(x.shape[0], device=x.device)[:, None]
        y = torch.special.erfcx(y.index_add(0, self.places[:, 0] * 0, y[:2]))
        return self.second(y)


def compiled(**options: object) -> tuple[nn.Module, engine.CompiledModule]:
    torch.manual_seed(0)
    model = Parts().eval()
    inputs = [engine.Input(min_shape=(2, 8), opt_shape=(4, 8), max_shape=(8, 8))]
    return model, engine.compile(model, inputs, min_block_size=1, torch_executed_ops=["aten.arange"], **options)


def devices(module: engine.CompiledModule) -> set[str]:
    """The kinds of devices that are named in a compiled graph or hold its constants."""
    named = [value for node in module.graph_module.graph.nodes for value in (*node.args, *node.kwargs.values())]
    held = [tensor.device for tensor in module.graph_module.buffers()]
    return {value.type for value in (*named, *held) if isinstance(value, torch.device)}


def test_all_of_a_graph_is_moved() -> None:
    _, module = compiled(runtime="interpreter")
    moved = copy.deepcopy(module)
    moved.place(torch.device("meta"))
    assert devices(module) == {"cpu"}
    assert devices(moved) == {"meta"}
    assert "device(type='meta')" in moved.graph_module.code
    module(torch.randn(4, 8))
    with pytest.raises(InputError, match="input 'x' is on device cpu; the compiled module is on 'meta'"):
        moved(torch.randn(4, 8))
    moved.place(torch.device("cpu"))
    with pytest.raises(InputError, match="input 'x' is on device meta; the compiled module is on 'cpu'"):
        moved(torch.randn(4, 8, device="meta"))


def test_a_graph_stays_on_its_gpu_unless_another_is_named() -> None:
    graph = fx.Graph()
    made = graph.call_function(torch.ops.aten.arange.default, (3,), {"device": torch.device("cuda", 1)})
    graph.output((made,))
    module = fx.GraphModule(nn.Module(), graph)
    arguments = (Argument("x", "x", shape=(3,), dtype=torch.float32, device="cuda"),)
    assert placed(module, arguments, torch.device("cuda")) == arguments
    assert made.kwargs["device"] == torch.device("cuda", 1)
    assert placed(module, arguments, torch.device("cuda", 0)) == arguments
    assert made.kwargs["device"] == torch.device("cuda", 0)


def test_a_conversion_of_dtypes_is_not_a_move() -> None:
    _, module = compiled(runtime="interpreter")
    assert devices(module.float()) == {"cpu"}
    module(torch.randn(4, 8))


def test_a_file_is_run_by_the_interpreter_on_the_cpu(tmp_path) -> None:
    model, module = compiled(runtime="interpreter")
    engine.save(module, tmp_path / "x.pt2", program=True)
    loaded = engine.load(tmp_path / "x.pt2", runtime="interpreter")
    assert devices(loaded) == {"cpu"}
    x = torch.randn(4, 8)
    torch.testing.assert_close(loaded(x), model(x))


class TestOnAGPU:
    pytestmark = gpu

    def test_a_model_on_the_cpu_takes_inputs_on_the_gpu(self) -> None:
        model, module = compiled()
        assert devices(module) == {"cuda"}
        x = torch.randn(4, 8)
        torch.testing.assert_close(module(x.cuda()).cpu(), model(x), rtol=1e-2, atol=1e-2)
        assert next(model.parameters()).device.type == "cpu"
        with pytest.raises(InputError, match="input 'x' is on device cpu; the compiled module is on 'cuda'"):
            module(x)

    def test_a_model_without_an_engine_is_called_like_any_other(self, tmp_path) -> None:
        torch.manual_seed(0)
        model, x = Parts().eval(), torch.randn(4, 8)
        module = engine.compile(model, [x], min_block_size=1000)
        assert not any(segment.engine_bytes for segment in module.report.segments)
        assert devices(module) == {"cuda"}
        torch.testing.assert_close(module(x.cuda()).cpu(), model(x))
        with pytest.raises(InputError, match="input 'x' is on device cpu; the compiled module is on 'cuda'"):
            module(x)
        engine.save(module, tmp_path / "x.pt2")
        torch.testing.assert_close(engine.load(tmp_path / "x.pt2")(x.cuda()).cpu(), model(x))

    @pytest.mark.parametrize("device", [None, "cuda:0"])
    def test_a_file_made_without_a_gpu(self, tmp_path, device) -> None:
        """The graph is as a machine without a GPU leaves it: all of it on the CPU."""
        model, module = compiled()
        module.place(torch.device("cpu"))
        engine.save(module, tmp_path / "x.pt2")
        loaded = engine.load(tmp_path / "x.pt2", device=device)
        x = torch.randn(4, 8)
        torch.testing.assert_close(loaded(x.cuda()).cpu(), model(x), rtol=1e-2, atol=1e-2)
        engine.save(loaded, tmp_path / "y.pt2")
        again = engine.load(tmp_path / "y.pt2").to("cuda")
        assert torch.equal(again(x.cuda()), loaded(x.cuda()))

    def test_graphs_after_a_move(self) -> None:
        model, module = compiled(use_cuda_graphs=True)
        x = torch.randn(4, 8)
        for _ in range(3):
            torch.testing.assert_close(module(x.cuda()).cpu(), model(x), rtol=1e-2, atol=1e-2)
        module.to("cuda")
        for _ in range(3):
            torch.testing.assert_close(module(x.cuda()).cpu(), model(x), rtol=1e-2, atol=1e-2)

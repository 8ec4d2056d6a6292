"""``engine.compile``: what it takes, what it gives back, and that results keep the model's structure and dtypes."""

import copy
import dataclasses
import pickle
import threading
from collections import OrderedDict, namedtuple

import networkx
import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import CoverageError, SettingsError
from tests.comparison import assert_agrees
from tests.models import CACHED, ZOO


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        return self.second(self.norm(self.first(x).relu())).softmax(-1)


def module(function, *parameters):
    """A module whose forward is ``function``."""

    class Function(nn.Module):
        forward = staticmethod(function)

    return Function().eval()


# ------------------------------------------------------------------------------------ what it takes


def test_module():
    model, x = Net().eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x])
    assert isinstance(compiled, engine.CompiledModule)
    assert_agrees(compiled, model, x)
    assert compiled.report.coverage == 1.0
    assert [type(child) for child in compiled.graph_module.children()] == [engine.TorchTensorRTModule]


def test_a_single_tensor_may_stand_for_the_list_of_inputs():
    model, x = Net().eval(), torch.randn(3, 8)
    assert_agrees(engine.compile(model, x), model, x)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("with_args", [False, True])
def test_exported_program(decomposed, with_args):
    model, x = Net().eval(), torch.randn(3, 8)
    batch = Dim("batch", min=1, max=4)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
    if decomposed:
        program = program.run_decompositions()
    before = str(program.graph)
    compiled = engine.compile(program, [x] if with_args else None)
    for size in (1, 3, 4):
        assert_agrees(compiled, model, torch.randn(size, 8))
    assert str(program.graph) == before
    assert compiled.report.coverage == 1.0


def test_graph_module_of_aten_ops():
    model, x = Net().eval(), torch.randn(3, 8)
    graph_module = torch.fx.experimental.proxy_tensor.make_fx(model, tracing_mode="fake", _allow_non_fake_inputs=True)(
        x
    )
    before = graph_module.code
    compiled = engine.compile(graph_module, [x])
    assert_agrees(compiled, model, x)
    assert graph_module.code == before
    # Its fake values say what its inputs are.
    assert_agrees(engine.compile(graph_module), model, x)


def test_graph_module_of_torch_functions_is_exported():
    model, x = Net().eval(), torch.randn(3, 8)
    assert_agrees(engine.compile(torch.fx.symbolic_trace(model), [x]), model, x)


def test_keyword_arguments_by_position_and_by_name():
    class Keywords(nn.Module):
        def forward(self, x, *, scale, shift=None):
            return x * scale if shift is None else x * scale + shift

    model = Keywords().eval()
    x, scale, shift = torch.randn(2, 3), torch.randn(3), torch.randn(3)
    compiled = engine.compile(model, [x], {"scale": scale, "shift": shift})
    assert_agrees(compiled, model, x, scale=scale, shift=shift)
    assert_agrees(compiled, model, x, shift=shift, scale=scale)
    assert_agrees(engine.compile(model, [x], {"scale": scale}), model, x, scale=scale)
    assert_agrees(engine.compile(model, (), {"x": x, "scale": scale}), model, x, scale=scale)


def test_shapes_are_taken_from_the_first_call():
    model, x = Net().eval(), torch.randn(3, 8)
    compiled = engine.compile(model)
    with pytest.raises(RuntimeError, match="after the first call"):
        compiled.report  # noqa: B018
    assert list(compiled.parameters()) == []
    assert_agrees(compiled, model, x)
    assert compiled.report.coverage == 1.0
    assert isinstance(compiled.graph, networkx.MultiDiGraph)
    with pytest.raises(engine.EngineError, match="dim 0 of input 'x' has size 4"):
        compiled(torch.randn(4, 8))


def test_shapes_are_taken_once_when_the_first_calls_come_together():
    model, x = Net().eval(), torch.randn(3, 8)
    compiled = engine.compile(model)
    results = [None] * 3

    def call(index):
        results[index] = compiled(x)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, results[0]) for result in results)


def test_settings_are_checked_before_the_first_call():
    with pytest.raises(SettingsError, match="did you mean 'min_block_size'"):
        engine.compile(Net(), min_blok_size=3)
    with pytest.raises(SettingsError, match="runtime='gpu' is not one of auto, python, cpp, interpreter"):
        engine.compile(Net(), runtime="gpu")


def test_scalars_among_the_inputs():
    class Scalars(nn.Module):
        def forward(self, x, count: int, scale: float, flip: bool, mode=None):
            x = x * scale + count
            return x.flip(0) if flip else x

    model, x = Scalars().eval(), torch.randn(2, 3)
    compiled = engine.compile(model, [x, 3, 0.5, True, None])
    assert_agrees(compiled, model, x, 3, 0.5, True, None)
    assert_agrees(compiled, model, x, 3, 0.5, True)
    with pytest.raises(engine.EngineError, match=r"input 'scale' was 0\.5 when the model was captured"):
        compiled(x, 3, 0.75, True)


# ------------------------------------------------------------------------------------ structures

Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


def test_nested_inputs_and_outputs():
    class Nested(nn.Module):
        def forward(self, batch, others):
            a, (b, c) = batch["a"], others
            return {"sum": a + b, "parts": [a * 2, (b, c - 1)], "nothing": None, "number": 3, "text": "mean",
                    "ordered": OrderedDict(last=c.exp())}  # fmt: skip

    model = Nested().eval()

    def inputs():
        return {"a": torch.randn(2, 3)}, [torch.randn(2, 3), torch.randn(2, 3)]

    compiled = engine.compile(model, inputs())
    result = assert_agrees(compiled, model, *inputs())
    assert result["nothing"] is None
    assert result["number"] == 3


def test_named_tuples_and_dataclasses():
    class Named(nn.Module):
        def forward(self, x):
            return Point(x.relu(), x.neg())

    model, x = Named().eval(), torch.randn(2, 3)
    result = assert_agrees(engine.compile(model, [x]), model, x)
    assert isinstance(result, Point)

    class Paired(nn.Module):
        def forward(self, pair):
            return Pair(pair.first + pair.second, pair.first * pair.second)

    torch.export.register_dataclass(Pair)
    model, pair = Paired().eval(), Pair(torch.randn(2, 3), torch.randn(2, 3))
    assert isinstance(assert_agrees(engine.compile(model, [pair]), model, pair), Pair)


def test_dataclass_outputs_of_transformers():
    built = ZOO["BertModel"].build("small")
    compiled = engine.compile(built.model, built.args, built.kwargs, min_block_size=1)
    result = compiled(**built.kwargs)
    assert type(result).__name__ == "BaseModelOutputWithPoolingAndCrossAttentions"
    assert result.past_key_values is None
    assert result.last_hidden_state.shape == (2, 16, 32)


def test_key_value_cache_of_a_decoder():
    built = CACHED["LlamaForCausalLM+cache"].build("small", dynamic=False)
    compiled = engine.compile(built.model, built.args, built.kwargs)
    assert compiled.report.coverage == 1.0
    with torch.no_grad():
        wanted = built.model(**built.kwargs)
    result = compiled(**built.kwargs)
    torch.testing.assert_close(result.logits, wanted.logits, rtol=1e-3, atol=1e-3)
    for have, want in zip(result.past_key_values.layers, wanted.past_key_values.layers, strict=True):
        torch.testing.assert_close(have.keys, want.keys, rtol=1e-3, atol=1e-3)


def identity(x, y):
    return x, x + y, x


def same_twice(x, y):
    z = x + y
    return z, {"again": z}, [z]


def constants_too(x, y):
    return x * y, torch.arange(4), torch.ones(2, 2) * 3, 7


def only_views(x, y):
    return x.view(-1), y.t(), x.reshape(3, 2).unsqueeze(0)


def nothing_happens(x, y):
    return y, x


def only_constants(x, y):
    return torch.arange(5) * 2


def no_results(x, y):
    return None, ()


@pytest.mark.parametrize(
    "function", [identity, same_twice, constants_too, only_views, nothing_happens, only_constants, no_results]
)
def test_outputs_of_every_kind(function):
    model, x, y = module(function), torch.randn(2, 3), torch.randn(2, 3)
    compiled = engine.compile(model, [x, y])
    assert_agrees(compiled, model, x, y)
    assert_agrees(compiled, model, torch.randn(2, 3), torch.randn(2, 3))
    assert compiled.report.coverage == 1.0
    assert str(compiled.report)


def test_constant_outputs_are_not_shared_with_the_model():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(4.0))

        def forward(self, x):
            return x + self.table, self.table * 2

    model, x = Buffered().eval(), torch.randn(4)
    compiled = engine.compile(model, [x])
    assert_agrees(compiled, model, x)
    assert torch.equal(model.table, torch.arange(4.0))


# ------------------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.int32, torch.bool])
def test_dtypes_are_kept(dtype):
    class Keep(nn.Module):
        def forward(self, x, y):
            return torch.where(x == y, x, y), torch.cat([x, y]), (x != y)

    model = Keep().eval()
    x = torch.randint(0, 2, (2, 3)).to(dtype)
    y = torch.randint(0, 2, (2, 3)).to(dtype)
    compiled = engine.compile(model, [x, y])
    assert_agrees(compiled, model, x, y)
    assert compiled.report.coverage == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models(dtype):
    model, x = Net().eval().to(dtype), torch.randn(3, 8).to(dtype)
    compiled = engine.compile(model, [x])
    assert compiled.report.coverage == 1.0
    assert_agrees(compiled, model, x, tolerance=2e-2)


def test_float64_runs_in_pytorch_or_truncated():
    model, x = Net().eval().double(), torch.randn(3, 8).double()
    compiled = engine.compile(model, [x])
    assert compiled.report.coverage == 0.0
    assert all("float64" in fallback.reason for fallback in compiled.report.fallbacks), compiled.report.fallbacks
    assert_agrees(compiled, model, x, tolerance=1e-12)
    truncated = engine.compile(model, [x], truncate_double=True)
    assert len(truncated.report.segments) >= 1
    assert any(segment.backend == "tensorrt" for segment in truncated.report.segments)
    assert_agrees(truncated, model, x, tolerance=1e-4)


@pytest.mark.parametrize(
    ("dtype", "setting"), [(torch.float64, "truncate_double"), (torch.int16, "widen_int16")], ids=str
)
def test_casts_that_a_setting_asks_for_leave_a_model_whole(dtype, setting):
    class Small(nn.Module):
        def forward(self, x):
            return x * 2 + x.amax(), x > 0

    x = torch.arange(-3, 3).to(dtype)
    compiled = engine.compile(Small(), [x], require_full_compilation=True, **{setting: True})
    assert [segment.backend for segment in compiled.report.segments] == ["torch", "tensorrt", "torch"]
    assert {fallback.op for fallback in compiled.report.fallbacks} == {"aten._to_copy.default"}
    assert all("where values enter or leave" in fallback.reason for fallback in compiled.report.fallbacks)
    assert_agrees(compiled, Small(), x)
    # One engine by default as well: there is nothing else that PyTorch computes.
    assert len(engine.coverage(Small(), [x], **{setting: True}).segments) == 3
    with pytest.raises(CoverageError, match=f"{setting}=True"):
        engine.compile(Small(), [x], require_full_compilation=True)


# ------------------------------------------------------------------------------------ what stays as it was


def test_the_model_is_not_changed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    model[1].eval()
    model[3].eval()
    model.train(False)
    model.train(True)
    for child in model[1:]:
        child.eval()
    training = [child.training for child in model.modules()]
    state = copy.deepcopy(model.state_dict())
    requires = [parameter.requires_grad for parameter in model.parameters()]
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    compiled = engine.compile(model, [x])
    assert_agrees(compiled, model, x)
    assert [child.training for child in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == requires
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_two_compiled_models_side_by_side_and_in_threads():
    first, second = Net().eval(), nn.Sequential(nn.Linear(8, 3), nn.Sigmoid()).eval()
    x = engine.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(6, 8))
    compiled = [engine.compile(first, [x]), engine.compile(second, [x])]
    models = [first, second]
    problems = []

    def work(index):
        try:
            for round_ in range(6):
                which = (index + round_) % 2
                assert_agrees(compiled[which], models[which], torch.randn(1 + (index + round_) % 6, 8))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_compiling_in_two_threads_at_once():
    models = [Net().eval(), nn.Sequential(nn.Linear(8, 3), nn.Sigmoid()).eval()]
    compiled = [None, None]

    def work(index):
        compiled[index] = engine.compile(models[index], [torch.randn(2, 8)])

    # torch.export itself is not safe to run from two threads at once.
    programs = [torch.export.export(model, (torch.randn(2, 8),)) for model in models]
    models = programs

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, program in zip(compiled, programs, strict=True):
        assert_agrees(one, program.module(), torch.randn(2, 8))


def test_a_compiled_model_can_be_copied_and_moved_about():
    model, x = Net().eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x])
    twin = copy.deepcopy(compiled)
    assert_agrees(twin, model, x)
    assert_agrees(compiled.eval(), model, x)
    assert_agrees(nn.Sequential(compiled, nn.Identity()), model, x)
    with pytest.raises(engine.EngineError, match="cannot be pickled"):
        pickle.dumps(compiled)


def test_the_graph_is_a_networkx_graph():
    compiled = engine.compile(Net().eval(), [torch.randn(3, 8)])
    graph = compiled.graph
    assert isinstance(graph, networkx.MultiDiGraph)
    ops = {data["op"] for _, data in graph.nodes(data=True)}
    assert "aten.linear.default" in ops
    assert networkx.is_directed_acyclic_graph(graph)


def test_coverage_is_the_report_without_building():
    model, x = Net().eval(), torch.randn(3, 8)
    report = engine.coverage(model, [x])
    compiled = engine.compile(model, [x]).report
    assert report.coverage == compiled.coverage == 1.0
    assert report.rules_used == compiled.rules_used
    assert report.segments[0].tiles == compiled.segments[0].tiles
    assert report.engine_bytes == 0
    assert "build" not in report.timings.phases

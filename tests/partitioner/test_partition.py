"""Segments: what runs where, why, and that values cross from one to the other unharmed."""

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import CoverageError, SettingsError
from engine.testing import portable
from engine.testing.graphs import partition_text
from tests.comparison import assert_agrees
from tests.operators import halves, swirl


class Chain(nn.Module):
    """Ops before and after one that no rule knows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x):
        y = self.first(x).relu()
        y = swirl(y)
        return self.second(y).sigmoid() * 2


def backends(report):
    return [segment.backend for segment in report.segments]


def test_an_op_without_rule_splits_the_graph(snapshot):
    model, x = Chain().eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x], min_block_size=1)
    report = compiled.report
    assert backends(report) == ["tensorrt", "torch", "tensorrt"]
    assert [(f.node, f.op) for f in report.fallbacks] == [("swirl", "engine_tests.swirl.default")]
    assert "no rule converts engine_tests.swirl.default" in report.fallbacks[0].reason
    assert report.fallbacks[0].source.endswith(f"test_partition.py:{Chain.forward.__code__.co_firstlineno + 2}")
    assert report.coverage == pytest.approx(1 - 1 / report.nodes)
    assert_agrees(compiled, model, x)
    assert partition_text(report) == snapshot


@pytest.mark.parametrize("name", ["torch.ops.aten.relu", "aten.relu", "aten.relu.default", torch.ops.aten.relu, "relu"])
def test_torch_executed_ops(name):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x], min_block_size=1, torch_executed_ops=[name])
    assert backends(compiled.report) == ["tensorrt", "torch", "tensorrt"]
    assert compiled.report.fallbacks[0].reason.startswith("torch_executed_ops names ")
    assert_agrees(compiled, model, x)


def test_torch_executed_ops_by_node_name_takes_one_node():
    class Twice(nn.Module):
        def forward(self, x):
            return (x.relu() + 1).relu()

    model, x = Twice().eval(), torch.randn(2, 3)
    report = engine.coverage(model, [x], min_block_size=1, torch_executed_ops=["relu_1"])
    assert [fallback.node for fallback in report.fallbacks] == ["relu_1"]


def test_an_unknown_op_in_torch_executed_ops_is_refused():
    with pytest.raises(SettingsError, match=r"PyTorch has no op 'aten\.relv'; did you mean 'aten\.rel"):
        engine.coverage(Chain(), [torch.randn(3, 8)], torch_executed_ops=["aten.relv"])


def test_small_segments_run_in_pytorch(snapshot):
    model, x = Chain().eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x], min_block_size=3)
    assert backends(compiled.report) == ["torch", "tensorrt"]
    assert_agrees(compiled, model, x)
    nothing = engine.compile(model, [x], min_block_size=50)
    assert backends(nothing.report) == ["torch"]
    assert nothing.report.coverage == 0.0
    assert_agrees(nothing, model, x)
    assert partition_text(compiled.report) + "\n\n" + partition_text(nothing.report) == snapshot


def test_a_whole_graph_is_one_engine_however_small():
    report = engine.coverage(nn.ReLU(), [torch.randn(2)], min_block_size=100)
    assert backends(report) == ["tensorrt"]


def test_everything_in_pytorch():
    class Only(nn.Module):
        def forward(self, x):
            return swirl(x)

    model, x = Only().eval(), torch.randn(2, 3)
    compiled = engine.compile(model, [x])
    assert compiled.report.coverage == 0.0
    assert backends(compiled.report) == ["torch"]
    assert_agrees(compiled, model, x)


def test_outputs_of_a_multi_output_op_cross_boundaries():
    class Split(nn.Module):
        def forward(self, x):
            a, b = halves(x * 2, 3.0)
            return a.relu() + b, halves(b, 1.0)[1]

    model, x = Split().eval(), torch.randn(2, 8)
    compiled = engine.compile(model, [x], min_block_size=1)
    assert backends(compiled.report) == ["tensorrt", "torch", "tensorrt"]
    assert_agrees(compiled, model, x)


def test_outputs_of_an_engine_with_several_outputs_cross_boundaries():
    class Split(nn.Module):
        def forward(self, x):
            values, indices = torch.topk(x, 3)
            a, b = torch.chunk(values.exp(), 2, 0)
            return swirl(values), indices + 1, swirl(a) + b

    model, x = Split().eval(), torch.randn(4, 8)
    compiled = engine.compile(model, [x], min_block_size=1)
    assert_agrees(compiled, model, x)
    assert {f.op for f in compiled.report.fallbacks} == {"engine_tests.swirl.default"}


def test_a_value_read_in_pytorch_and_in_an_engine_is_computed_once():
    class Diamond(nn.Module):
        def forward(self, x):
            y = x.relu() * 2
            return swirl(y) + y.exp(), y

    model, x = Diamond().eval(), torch.randn(2, 3)
    compiled = engine.compile(model, [x], min_block_size=1)
    assert backends(compiled.report) == ["tensorrt", "torch", "tensorrt"]
    assert_agrees(compiled, model, x)


def test_dynamic_sizes_cross_segments(snapshot):
    class Sizes(nn.Module):
        def forward(self, x, y):
            z = swirl(x.relu())
            z = z.reshape(x.shape[0] * 2, -1) + torch.arange(x.shape[0] * 2).unsqueeze(1)
            z = swirl(z)
            return z.reshape(x.shape[0], -1) * y.shape[1], x.shape[0] + 1

    model = Sizes().eval()
    batch, width = Dim("batch", min=1, max=8), Dim("width", min=2, max=6)
    compiled = engine.compile(
        model,
        [torch.randn(3, 8), torch.randn(3, 4)],
        dynamic_shapes={"x": {0: batch}, "y": {0: batch, 1: width}},
        min_block_size=1,
    )
    assert [f.op for f in compiled.report.fallbacks] == ["engine_tests.swirl.default"] * 2
    for size, columns in ((1, 2), (3, 4), (8, 6)):
        assert_agrees(compiled, model, torch.randn(size, 8), torch.randn(size, columns))
    assert partition_text(compiled.report) == snapshot


def test_dynamic_batch_with_a_segment_in_pytorch():
    model = Chain().eval()
    compiled = engine.compile(
        model, [engine.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(8, 8))], min_block_size=1
    )
    for size in (1, 2, 5, 8):
        assert_agrees(compiled, model, torch.randn(size, 8))


def test_constants_are_shared_between_segments():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            return swirl(swirl(x @ self.weight) + self.weight[0]) @ self.weight

    model, x = Shared().eval(), torch.randn(2, 8)
    assert_agrees(engine.compile(model, [x], min_block_size=1), model, x)


def test_require_full_compilation(snapshot):
    with pytest.raises(CoverageError) as caught:
        engine.compile(Chain().eval(), [torch.randn(3, 8)], require_full_compilation=True)
    line = Chain.forward.__code__.co_firstlineno + 2
    assert f"test_partition.py:{line}" in str(caught.value)
    assert portable(str(caught.value), rule_lines=True) == snapshot
    with pytest.raises(CoverageError):
        engine.coverage(Chain().eval(), [torch.randn(3, 8)], require_full_compilation=True)
    assert engine.compile(nn.ReLU(), [torch.randn(2)], require_full_compilation=True).report.coverage == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16])
def test_dtypes_that_tensorrt_does_not_have_stay_in_pytorch(dtype):
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2 + 1

    model, x = Twice().eval(), torch.ones(2, 3).to(dtype)
    compiled = engine.compile(model, [x], min_block_size=1)
    assert compiled.report.coverage == engine.coverage(model, [x], min_block_size=1).coverage == 0.0
    name = str(dtype).removeprefix("torch.")
    assert all(f"TensorRT has no {name} tensors" in f.reason for f in compiled.report.fallbacks)
    assert_agrees(compiled, model, x)


class NineDims(nn.Module):
    """One dim more than a network may have."""

    def forward(self, x):
        return torch.relu(x), torch.relu(x.reshape(2, 12))


def test_an_input_of_nine_dims_stays_in_torch():
    model, x = NineDims(), torch.randn(2, 3, 1, 1, 1, 1, 1, 1, 4)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter")
    assert any(segment.backend == "tensorrt" for segment in compiled.report.segments)
    refused = {fallback.node: fallback.reason for fallback in compiled.report.fallbacks}
    assert "TensorRT does not support 9 dims, which input x has" in refused["relu"]
    assert_agrees(compiled, model, x)

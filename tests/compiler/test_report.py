"""The report: as text for people, as data for programs, the same from run to run."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import engine
from engine.report import Fallback, Report, SegmentReport
from engine.report.table import render_report
from engine.testing import portable
from engine.testing.graphs import graph_text, partition_text
from engine.testing.helpers import start
from engine.testing.networks import networks_text
from tests.operators import swirl

# What differs from run to run and from machine to machine.
VARYING = re.compile(
    r"\d+\.\d+(?= (KiB|MiB))|\d+\.\d{3}\b|#+|TensorRT(-RTX)? \d[\d.]+|SM\d+(, SM\d+)*|^(load) .*\n", re.M
)


def stable(text):
    # A bar stands behind its row, or on a line of its own where the row is full.
    without_bars = re.sub(r"\n?[ \t]+#+[ \t]*(?=\n)", "", portable(text))
    return re.sub(r"[ \t]+\n", "\n", re.sub(r" {2,}", "  ", VARYING.sub("_", without_bars)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        q, k, v = self.project(self.norm(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = nn.functional.hardswish(self.norm(self.conv(x)))
        return nn.functional.max_pool2d(y, 2).mean((2, 3), keepdim=True)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = self.linear(swirl(self.linear(x).relu()))
        return y.softmax(-1), swirl(y)


RANGED = engine.Input(min_shape=(1, 6, 16), opt_shape=(2, 6, 16), max_shape=(8, 6, 16))
CASES = {
    "attention": (Attention, [RANGED], {}),
    "convolution": (Convolution, [torch.zeros(1, 3, 8, 8)], {}),
    "mixed": (Mixed, [torch.zeros(2, 8)], {"min_block_size": 2}),
}


def texts(name):
    model, args, settings = CASES[name]
    compilation = start(model().eval(), args, **settings)
    return "\n\n".join([graph_text(compilation.mirror), partition_text(compilation.report), networks_text(compilation)])


@pytest.mark.parametrize("name", CASES)
def test_graph_partition_and_network(name, snapshot):
    first = texts(name)
    assert texts(name) == first
    assert first == snapshot


@pytest.mark.parametrize("seed", ["1", "2"])
def test_text_is_the_same_in_every_process(seed):
    code = "from tests.compiler.test_report import texts\nprint(texts('mixed') + texts('attention'), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == texts("mixed") + texts("attention")


def test_plans_are_made_from_the_same_network_every_time():
    model = Mixed().eval()
    reports = [engine.compile(model, [torch.zeros(2, 8)]).report for _ in range(2)]
    first, second = ({**report.as_dict(), "timings": None} for report in reports)
    for report in (first, second):
        for segment in report["segments"]:
            segment.pop("engine_bytes")
    assert first == second


@pytest.mark.parametrize("width", [60, 110])
def test_report_text(width, snapshot, monkeypatch, tmp_path):
    compiled = engine.compile(Mixed().eval(), [torch.zeros(2, 8)], min_block_size=2)
    with open(tmp_path / "report.txt", "w+") as file:
        render_report(compiled.report, file, width=width, color=False)
        file.seek(0)
        text = file.read()
    assert stable(text) == snapshot


def long_report():
    names = tuple(f"some_rather_long_name_of_a_value_{index}" for index in range(9))
    return Report(
        model="Model",
        coverage=0.5,
        nodes=120,
        segments=[
            SegmentReport("engine_0", "tensorrt", 60, 60, names, names[:2], 70, 123456789),
            SegmentReport("torch_0", "torch", 60, 60, names[:2], names[:1]),
        ],
        fallbacks=[
            Fallback(f"node_{index}", "aten.some_op.default", "expected [bold]f32[2, 3][/bold] :smile: [x]", "a.py:12")
            for index in range(60)
        ],
    )


@pytest.mark.parametrize("width", [30, 60, 200])
def test_nothing_of_importance_is_cut_in_narrow_terminals(width, tmp_path):
    with open(tmp_path / "report.txt", "w+") as file:
        render_report(long_report(), file, width=width, color=False)
        file.seek(0)
        text = file.read()
    for needed in (
        "engine_0",
        "torch_0",
        "TensorRT",
        "PyTorch",
        "117.7 MiB",
        "node_24  aten.some_op.default  at a.py:12",
    ):
        assert needed in text
    assert "expected [bold]f32[2, 3][/bold] :smile: [x]" in text
    assert "... and 35 more nodes" in text
    assert "…" not in text


def test_report_as_data():
    compiled = engine.compile(Mixed().eval(), [torch.zeros(2, 8)], min_block_size=2)
    data = json.loads(json.dumps(compiled.report.as_dict()))
    assert data["coverage"] == compiled.report.coverage
    assert [segment["backend"] for segment in data["segments"]] == [s.backend for s in compiled.report.segments]
    assert {"node", "op", "reason", "source", "module"} == set(data["fallbacks"][0])
    assert data["timings"]["own"] <= data["timings"]["total"]


def test_fallbacks_unpack_as_node_op_reason():
    report = engine.coverage(Mixed().eval(), [torch.zeros(2, 8)], min_block_size=2)
    for node, op, reason, _ in report.fallbacks:
        assert node
        assert op.count(".") >= 1
        assert reason
    assert all(isinstance(fallback.module, str) for fallback in report.fallbacks)


def test_of_nothing():
    report = engine.coverage(nn.Identity(), [torch.zeros(2)])
    assert report.coverage == 1.0
    assert report.segments == []
    assert "0 of 0 nodes" in str(report)


def test_a_fallback_inside_a_library_module_says_where_it_is_in_the_users_model():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    report = engine.coverage(model, [torch.randn(1, 4, 8)], torch_executed_ops=["aten.layer_norm"])
    norms = [fallback.module for fallback in report.fallbacks if fallback.op == "aten.layer_norm.default"]
    assert norms == ["layers.0.norm1", "layers.0.norm2", "layers.1.norm1", "layers.1.norm2"]
    assert "in layers.1.norm2  at " in str(report)


def test_an_op_that_writes_to_its_operands_is_called_by_its_name():
    class Writes(nn.Module):
        def forward(self, x):
            y = x + 1
            torch.ops.engine_tests.twice_in_place(y)
            return y + 1

    report = engine.coverage(Writes(), [torch.randn(4)], min_block_size=1)
    (fallback,) = report.fallbacks
    assert fallback.op == "engine_tests.twice_in_place.default"
    assert "no rule converts engine_tests.twice_in_place.default: it writes to its argument 'x'" in fallback.reason
    assert report.query(color="torch")[0].op == "engine_tests.twice_in_place.default"


@torch.library.custom_op("engine_tests::twice_in_place", mutates_args=("x",))
def twice_in_place(x: torch.Tensor) -> None:
    x.mul_(2)


def test_constants_that_pytorch_needs_do_not_count_as_nodes_outside():
    import torch.ao.quantization.fx._decomposed  # registers the ops

    class Dequantized(nn.Module):
        def __init__(self):
            super().__init__()
            self.codes = nn.Buffer(torch.randint(-127, 128, (4, 8), dtype=torch.int8))
            self.scales = nn.Buffer(torch.rand(4))

        def forward(self, x):
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                self.codes, self.scales, None, 0, -127, 127, torch.int8
            )
            return nn.functional.linear(x, weight).relu()

    report = engine.coverage(Dequantized(), [torch.randn(2, 8)], torch_executed_ops=["aten.linear"], min_block_size=1)
    assert report.nodes == 2
    assert report.coverage == 0.5


class Signed(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,)).cumsum(0).to(torch.float64)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda report: pickle.loads(pickle.dumps(report))])
def test_copies_and_pickles_say_the_same(way):
    report = engine.coverage(Signed(), [torch.randn(2, 3)], min_block_size=1)
    other = way(report)
    assert other == report
    assert str(other) == str(report)
    assert other.as_dict() == report.as_dict()
    assert other.query(color="torch") == report.query(color="torch")
    assert dict(other.graph.nodes(data=True)) == dict(report.graph.nodes(data=True))
    assert sorted(other.graph.edges(keys=True)) == sorted(report.graph.edges(keys=True))
    assert other.decisions.inner_graphs().keys() == report.decisions.inner_graphs().keys() != set()


def test_a_pickled_report_says_what_it_does_not_keep():
    report = pickle.loads(pickle.dumps(engine.coverage(Signed(), [torch.randn(2, 3)])))
    for ask in (lambda: report.why("sin"), report.costly, report.gains):
        with pytest.raises(engine.EngineError, match="pickles keep what rules said"):
            ask()
    again = copy.deepcopy(pickle.loads(pickle.dumps(report)))
    assert again.query() == report.query()

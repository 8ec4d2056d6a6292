"""Colours, the quotient graph and what the graph of a compiled model says of each node."""

import json

import networkx
import pytest
import torch
from torch import nn

import engine
from engine.partitioner.coloring import Color, Quotient
from engine.testing.helpers import start
from tests.operators import swirl


class Block(nn.Module):
    """Two layers around an op that no rule knows."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, x):
        return self.second(swirl(self.first(x).relu())).sigmoid() + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.blocks(x) * 2


@pytest.fixture
def compilation():
    return start(Net().eval(), [torch.randn(3, 8)], min_block_size=1)


def test_the_quotient_graph_has_a_vertex_for_each_tile_and_each_uncovered_node(compilation):
    tiling = compilation.graph.tiling
    quotient = Quotient(compilation.mirror, tiling.tiles, tiling.reasons)
    colors = dict(quotient.graph.nodes(data="color"))
    assert {node for node, color in colors.items() if color is Color.TENSORRT} == set(tiling.tiles)
    assert {node for node, color in colors.items() if color is Color.PYTORCH} == set(tiling.reasons)
    assert networkx.is_directed_acyclic_graph(quotient.graph)


def test_levels_change_with_the_colour_only_and_never_decrease(compilation):
    tiling = compilation.graph.tiling
    quotient = Quotient(compilation.mirror, tiling.tiles, tiling.reasons)
    level = {node: number for number, nodes in quotient.levels().items() for node in nodes}
    for node, color in quotient.graph.nodes(data="color"):
        assert level[node] % 2 == (color is Color.TENSORRT)
    for before, after in quotient.graph.edges:
        assert level[before] <= level[after]
    # As few as can be: a vertex of a later level reads from the level just before.
    for node, number in level.items():
        if number > 1:
            assert max(level[before] for before in quotient.graph.pred[node]) >= number - 1


def test_tiles_that_read_each_other_have_no_order(compilation):
    tiling = compilation.graph.tiling
    quotient = Quotient(compilation.mirror, tiling.tiles, tiling.reasons)
    first, *_, last = quotient.graph.nodes
    quotient.graph.add_edge(last, first)
    with pytest.raises(networkx.NetworkXUnfeasible):
        quotient.levels()


def test_nodes_of_the_graph_say_what_was_decided():
    model, x = Net().eval(), torch.randn(3, 8)
    compiled = engine.compile(model, [x], min_block_size=1)
    graph, report = compiled.graph, compiled.report
    stays = {fallback.node: fallback.reason for fallback in report.fallbacks}
    backends = {segment.name: segment.backend for segment in report.segments}
    computing = {name: data for name, data in graph.nodes(data=True) if data["color"]}
    assert len(computing) == report.nodes
    for name, data in computing.items():
        assert backends[data["segment"]] == data["color"] == ("torch" if name in stays else "tensorrt")
        assert data["reason"] == stays.get(name, "")
        assert bool(data["rule"]) == bool(data["rule_at"]) == (name not in stays)
    [linear] = [data for data in computing.values() if data["module"] == "blocks.1.first"]
    assert linear["op"] == "aten.linear.default"
    assert (linear["dtype"], linear["shape"]) == ("float32", "[3, 8]")
    assert "linear.rules:" in linear["rule_at"]


def test_coverage_has_the_same_graph_before_anything_is_built():
    model, x = Net().eval(), torch.randn(3, 8)
    report = engine.coverage(model, [x], min_block_size=1)
    compiled = engine.compile(model, [x], min_block_size=1)
    assert dict(report.graph.nodes(data=True)) == dict(compiled.graph.nodes(data=True))
    assert report.as_dict()["decisions"] == compiled.report.as_dict()["decisions"]


@pytest.mark.parametrize("form", ["json", "graphml", "gexf"])
def test_the_graph_survives_networkx_s_own_writers(tmp_path, form):
    graph = engine.coverage(Net().eval(), [torch.randn(3, 8)], min_block_size=1).graph
    path = tmp_path / "graph"
    if form == "json":
        path.write_text(json.dumps(networkx.node_link_data(graph)))
        read = networkx.node_link_graph(json.loads(path.read_text()))
    elif form == "graphml":
        networkx.write_graphml(graph, path)
        read = networkx.read_graphml(path, force_multigraph=True)
    else:
        networkx.write_gexf(graph, path)
        read = networkx.read_gexf(path)
    attributes = next(iter(graph.nodes.values())).keys()
    kept = {name: {key: data[key] for key in attributes} for name, data in read.nodes(data=True)}
    assert kept == dict(graph.nodes(data=True))
    assert sorted(read.edges()) == sorted(graph.edges())
    outputs = [data["output"] for *_, data in sorted(read.edges(data=True), key=lambda edge: edge[:2])]
    assert outputs == [data["output"] for *_, data in sorted(graph.edges(data=True), key=lambda edge: edge[:2])]


def test_a_file_does_not_keep_the_graph(tmp_path):
    compiled = engine.compile(nn.Linear(4, 4).eval(), [torch.randn(3, 4)], runtime="interpreter")
    engine.save(compiled, tmp_path / "net.pt2", program=True)
    loaded = engine.load(tmp_path / "net.pt2", runtime="interpreter")
    with pytest.raises(engine.EngineError, match="files do not keep the lowered graph"):
        loaded.graph  # noqa: B018

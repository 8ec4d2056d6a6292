"""The networkx view, reachability and convexity."""

from __future__ import annotations

import itertools

import networkx
import torch

from engine.graph.mirror import Mirror, Value
from tests.graph.build import find, mirror_of

aten = torch.ops.aten


def diamond(x: torch.Tensor) -> torch.Tensor:
    a = torch.relu(x)
    b, c = torch.exp(a), torch.neg(a)
    d = torch.sin(c)
    return b * d + (a + a)


def fresh(mirror: Mirror) -> networkx.MultiDiGraph:
    return Mirror(mirror.graph, mirror.constants, mirror.fake_mode, mirror.shape_env).nx


def assert_same(a: networkx.MultiDiGraph, b: networkx.MultiDiGraph) -> None:
    assert dict(a.nodes(data=True)) == dict(b.nodes(data=True))
    key = lambda edge: (edge[0].name, edge[1].name, edge[2])  # noqa: E731
    assert sorted(a.edges(keys=True, data=True), key=key) == sorted(b.edges(keys=True, data=True), key=key)


def test_one_edge_per_use() -> None:
    mirror = mirror_of(lambda x: torch.cat([x + x, x]), [torch.randn(2)])
    x, add, cat = (find(mirror, op) for op in ("placeholder", "aten.add.Tensor", "aten.cat.default"))
    assert mirror.nx.get_edge_data(x, add) == {(0,): {"output": 0}, (1,): {"output": 0}}
    assert mirror.nx.get_edge_data(x, cat) == {(0, 1): {"output": 0}}
    assert mirror.nx.nodes[cat]["op"] == "aten.cat.default"
    assert mirror.nx.nodes[cat]["shape"] == (4,)
    assert mirror.nx.nodes[cat]["dtype"] == torch.float32


def test_outputs_are_edge_data() -> None:
    mirror = mirror_of(lambda x: torch.max(x, 0), [torch.randn(2, 3)])
    top, output = find(mirror, "aten.max.dim"), find(mirror, "output")
    assert mirror.nx.get_edge_data(top, output) == {(0, 0): {"output": 0}, (0, 1): {"output": 1}}
    assert mirror.nx.nodes[top]["dtype"] == (torch.float32, torch.int64)
    assert mirror.nx.number_of_nodes() == 3


def test_view_follows_edits() -> None:
    mirror = mirror_of(diamond, [torch.randn(3)])
    assert_same(mirror.nx, fresh(mirror))
    neg = find(mirror, "aten.neg.default")
    node = mirror.insert(aten.abs.default, mirror.inputs(neg), neg)
    mirror.nx  # noqa: B018  # reading between edits must not lose any
    mirror.replace(Value(neg), Value(node))
    mirror.erase_dead([neg])
    one = mirror.constant_node(torch.ones(3), "one")
    mirror.replace(Value(node), Value(one))
    assert_same(mirror.nx, fresh(mirror))


def test_reachability_agrees_with_networkx() -> None:
    mirror = mirror_of(diamond, [torch.randn(3)])
    nodes = list(mirror.graph.nodes)
    for a, b in itertools.product(nodes, nodes):
        assert mirror.reachable(a, b) == (a is b or networkx.has_path(mirror.nx, a, b))


def test_convexity_agrees_with_networkx() -> None:
    mirror = mirror_of(diamond, [torch.randn(3)])
    nodes = [node for node in mirror.graph.nodes if node.op == "call_function"]
    graph = mirror.nx
    checked = 0
    for count in (2, 3, 4):
        for chosen in itertools.combinations(nodes, count):
            inside = set(chosen)
            below = set().union(*(networkx.descendants(graph, node) for node in chosen)) - inside
            above = set().union(*(networkx.ancestors(graph, node) for node in chosen)) - inside
            assert mirror.convex(chosen) == (not below & above)
            checked += mirror.convex(chosen)
    assert checked > 20


def test_getitem_does_not_break_convexity() -> None:
    mirror = mirror_of(lambda x: torch.max(x, 0)[0] + 1, [torch.randn(2, 3)])
    assert mirror.convex([find(mirror, "aten.max.dim"), find(mirror, "aten.add.Tensor")])

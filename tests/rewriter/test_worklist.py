"""The worklist keeps graph order while the graph changes."""

from __future__ import annotations

from torch import fx

from engine.rewriter.worklist import Worklist


def chain(count: int) -> tuple[fx.Graph, list[fx.Node]]:
    graph = fx.Graph()
    return graph, [graph.placeholder(f"n{index}") for index in range(count)]


def test_pops_in_graph_order_and_holds_each_node_once() -> None:
    _, nodes = chain(5)
    worklist = Worklist([nodes[3], nodes[1]])
    for node in (nodes[4], nodes[0], nodes[3]):
        worklist.push(node)
    assert len(worklist) == 4
    assert [worklist.pop() for _ in range(5)] == [nodes[0], nodes[1], nodes[3], nodes[4], None]


def test_skips_erased_nodes() -> None:
    graph, nodes = chain(2)
    worklist = Worklist(nodes)
    graph.erase_node(nodes[0])
    assert worklist
    assert worklist.pop() is nodes[1]
    assert not worklist


def test_follows_nodes_that_move() -> None:
    _, nodes = chain(3)
    worklist = Worklist(nodes)
    nodes[2].append(nodes[0])
    assert [worklist.pop() for _ in range(3)] == [nodes[1], nodes[2], nodes[0]]


def test_a_popped_node_can_come_back() -> None:
    _, nodes = chain(1)
    worklist = Worklist(nodes)
    assert worklist.pop() is nodes[0]
    worklist.push(nodes[0])
    assert worklist.pop() is nodes[0]

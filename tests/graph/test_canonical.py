import time
from collections.abc import Sequence

import pytest
import torch
from torch import fx

import engine
from engine.graph.canonical import canonical_arguments, canonicalise

aten = torch.ops.aten
X = torch.empty(2, 3, 4)
IMAGE = torch.empty(1, 3, 8, 8)


def arguments(op, *args, **kwargs):
    return canonical_arguments(op, args, kwargs)


def test_defaults_are_filled_and_keyword_only_stays():
    args, kwargs = arguments(aten.add.Tensor, X, X)
    assert len(args) == 2
    assert kwargs == {"alpha": 1}
    args, kwargs = arguments(aten.mean.dim, X, [-1])
    assert args[1:] == ([2], False)
    assert kwargs == {"dtype": None}
    args, kwargs = arguments(aten.layer_norm.default, X, [4])
    assert args[1:] == ([4], None, None, 1e-05, True)


@torch.library.custom_op("engine_canonical::stack", mutates_args=())
def of_somebody_else(x: torch.Tensor, dim: int, axes: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Called like an op of ATen, with arguments called like its, and -1 is a factor."""
    return x * dim * sum(axes) + len(stride)


of_somebody_else.register_fake(lambda x, dim, axes, stride: torch.empty_like(x))


def test_what_an_op_of_somebody_else_means_by_a_dim_only_that_op_knows():
    op = torch.ops.engine_canonical.stack.default
    args, _ = arguments(op, X, -1, [-1, -2], [])
    assert args[1:] == (-1, [-1, -2], [])
    model = torch.nn.Module()
    model.forward = lambda x: of_somebody_else(x.relu(), -1, [-1, -2], []) + 1
    x = torch.randn(2, 3)
    compiled = engine.compile(model, [x], runtime="interpreter", min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x))
    rules = """
      lower by_minus_one
        match engine_canonical.stack(x: floating, -1, axes: [int], stride: [int])
        emit  aten.add.Tensor(aten.mul.Tensor(x, -sum(axes)), len(stride))
        test  x: f32[2, 3], axes = [-1, -2], stride = []
    """
    ruled = engine.compile(
        model, [x], runtime="interpreter", rules=engine.RuleSet.from_text(rules, builtin=True), min_block_size=1
    )
    assert ruled.report.coverage == 1
    torch.testing.assert_close(ruled(x), model(x))


def test_named_positional_arguments_are_placed():
    args, _ = arguments(aten.transpose.int, X, dim1=-1, dim0=0)
    assert args[1:] == (0, 2)


@pytest.mark.parametrize(
    ("op", "args", "dims"),
    [
        (aten.unsqueeze.default, (X, -1), 3),
        (aten.stack.default, ([X, X], -1), 3),
        (aten.cat.default, ([X, X], -1), 2),
        (aten.cat.default, ([torch.empty(0), X], -1), 2),
        (aten.softmax.int, (X, -2), 1),
        (aten.select.int, (X, -3, 0), 0),
        (aten.sum.dim_IntList, (X, [-1, -3]), [2, 0]),
        (aten.permute.default, (X, [0, -1, 1]), [0, 2, 1]),
        (aten.softmax.int, (torch.empty(()), -1), 0),
        (aten.glu.default, (X,), 2),
        (aten.flip.default, (X, [-1]), [2]),
        (aten.linalg_vecdot.default, (X[0], X), None),
        (aten.mean.dim, (X, None), None),
        (aten.tile.default, (X, [2, 1, 1]), [2, 1, 1]),
        (aten.cosine_similarity.default, (X, X[0], -1), None),
    ],
)
def test_dims_count_from_the_front(op, args, dims):
    values, _ = canonical_arguments(op, args, {})
    given = values[1]
    if op is aten.linalg_vecdot.default:
        assert canonical_arguments(op, args, {})[1] == {"dim": 2}
    elif op is aten.cosine_similarity.default:
        assert values[2] == 2
    else:
        assert given == dims


def test_both_ends_of_a_flatten():
    assert arguments(aten.flatten.using_ints, X)[0][1:] == (0, 2)
    assert arguments(aten.movedim.int, X, -1, -3)[0][1:] == (2, 0)
    assert arguments(aten.diagonal.default, X, 0, -2, -1)[0][1:] == (0, 1, 2)
    assert arguments(aten.diag_embed.default, X)[0][1:] == (0, 2, 3)
    assert arguments(aten.tensordot.default, X, X[0], [-1], [-1])[0][2:] == ([2], [1])


def test_minus_one_of_a_weight_norm_is_no_dim():
    assert arguments(aten._weight_norm.default, X, X, -1)[0][2] == -1


def test_lists_are_broadcast():
    kernel = torch.empty(4, 3, 3, 3)
    args, _ = arguments(aten.conv2d.default, IMAGE, kernel, None, 2, [1])
    assert args[3:] == ([2, 2], [1, 1], [1, 1], 1)
    args, _ = arguments(aten.max_pool2d.default, IMAGE, 3)
    assert args[1:] == ([3, 3], [3, 3], [0, 0], [1, 1], False)
    args, _ = arguments(aten.avg_pool2d.default, IMAGE, [3], [2])
    assert args[1:3] == ([3, 3], [2, 2])
    args, _ = arguments(aten.convolution.default, IMAGE, kernel, None, [1], [0], [1], False, [0], 1)
    assert args[3:8] == ([1, 1], [0, 0], [1, 1], False, [0, 0])
    assert arguments(aten.sum.dim_IntList, X, 1)[0][1] == [1]
    assert arguments(aten.sum.dim_IntList, X, [1])[0][1] == [1]
    assert arguments(aten.roll.default, X, 1, -1)[0][1:] == ([1], [2])


def test_rank_may_be_given():
    args, _ = canonical_arguments(aten.unsqueeze.default, ("x", -1), {}, rank=lambda value: 2 if value == "x" else None)
    assert args == ("x", 2)
    args, _ = canonical_arguments(aten.unsqueeze.default, ("x", -1), {}, rank=lambda value: None)
    assert args == ("x", -1)


def test_missing_arguments_are_named():
    with pytest.raises(TypeError, match="'dim1'"):
        arguments(aten.transpose.int, X, 0)


def test_canonical_calls_give_the_same_results():
    kernel = torch.randn(4, 3, 3, 3)
    image = torch.randn(1, 3, 8, 8)
    for op, args in [
        (aten.conv2d.default, (image, kernel, None, [2], [1])),
        (aten.max_pool2d.default, (image, [3])),
        (aten.sum.dim_IntList, (image, [-1, -2], True)),
        (aten.cat.default, ([torch.empty(0), image], -1)),
        (aten.roll.default, (image, [1], [-1])),
        (aten.flatten.using_ints, (image, -2)),
    ]:
        new, keywords = canonical_arguments(op, args, {})
        torch.testing.assert_close(op(*new, **keywords), op(*args))


def big_graph(nodes):
    mode = torch._subclasses.FakeTensorMode()
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = mode.from_tensor(torch.empty(4, 4))
    node = x
    for index in range(nodes):
        op, args = [(aten.softmax.int, (node, -1)), (aten.add.Tensor, (node, x)), (aten.transpose.int, (node, -1, -2))][
            index % 3
        ]
        node = graph.call_function(op, args)
        node.meta["val"] = x.meta["val"]
    graph.call_function(aten._assert_tensor_metadata.default, (x,))
    graph.call_function(aten.relu.default, (x,))
    graph.output((node,))
    return graph


def test_large_graph_is_quick_and_dead_nodes_go():
    graph = big_graph(2000)
    start = time.perf_counter()
    canonicalise(graph)
    assert time.perf_counter() - start < 0.5
    assert len(graph.nodes) == 2002
    assert all(node.args[1] == 1 for node in graph.find_nodes(op="call_function", target=aten.softmax.int))
    graph.lint()


def test_canonicalising_twice_changes_nothing():
    graph = big_graph(9)
    canonicalise(graph)
    once = str(graph)
    canonicalise(graph)
    assert str(graph) == once

"""Mirror: arguments, users, edits, sizes."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx, nn
from torch.export import Dim

from engine.errors import EngineError
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import Provenance, history
from tests.graph.build import find, mirror_of, run

aten = torch.ops.aten


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.weight.t()) + 1


def two_outputs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values, indices = torch.max(x, 1)
    return values + 1, indices * 2, values


def test_arguments_are_in_schema_order_with_defaults() -> None:
    mirror = mirror_of(lambda x: torch.cat([x, x + 2], 1).view(2, 12), [torch.randn(4, 3)])
    x = Value(find(mirror, "placeholder"))
    add = find(mirror, "aten.add.Tensor")
    assert mirror.arguments(add) == (x, 2, 1)
    assert mirror.arguments(find(mirror, "aten.cat.default")) == ((x, Value(add)), 1)
    assert mirror.arguments(find(mirror, "aten.view.default"))[1] == (2, 12)
    assert mirror.inputs(find(mirror, "aten.cat.default")) == (x, Value(add))


def test_getitem_is_folded_into_values() -> None:
    mirror = mirror_of(two_outputs, [torch.randn(4, 3)])
    top = find(mirror, "aten.max.dim")
    output = find(mirror, "output")
    assert mirror.users(Value(top, 0)) == (find(mirror, "aten.add.Tensor"), output)
    assert mirror.users(Value(top, 1)) == (find(mirror, "aten.mul.Tensor"),)
    assert mirror.node_users(top) == (
        find(mirror, "aten.add.Tensor"),
        find(mirror, "aten.mul.Tensor"),
        output,
    )
    assert mirror.dtype(Value(top, 1)) == torch.int64
    assert mirror.outputs(top) == (Value(top, 0), Value(top, 1))
    assert mirror.arguments(find(mirror, "aten.mul.Tensor")) == (Value(top, 1), 2)


def test_sizes_are_symbolic_ints() -> None:
    mirror = mirror_of(lambda x: x.view(x.shape[0] * 2, 3), [torch.randn(4, 6)], ({0: Dim("B", min=2, max=9)},))
    (batch, six) = mirror.shape_of(find(mirror, "placeholder"))
    assert six == 6
    assert mirror.arguments(find(mirror, "aten.view.default"))[1] == (2 * batch, 3)
    assert mirror.sizes.range(batch) == (2, 9)


def test_insert_infers_and_replaces() -> None:
    model = Linear().eval()
    mirror = mirror_of(model, [torch.randn(2, 4)])
    relu = find(mirror, "aten.relu.default")
    (operand,) = mirror.inputs(relu)
    rule = Provenance("activation.test", "activation.rules:3", (relu.name,))
    node = mirror.insert(aten.leaky_relu.default, (operand, 0.0), relu, origin=[relu], rule=rule)
    assert mirror.shape_of(node) == (2, 3)
    mirror.replace(Value(relu), Value(node))
    assert mirror.unused(Value(relu))
    assert mirror.erase_dead([relu]) == [operand.node]
    assert mirror.users(operand) == (node,)
    assert history(node) == (rule,)
    assert node.meta.get("stack_trace") == relu.meta.get("stack_trace")
    x = torch.randn(2, 4)
    torch.testing.assert_close(run(mirror, x)[0], model(x))


def test_replace_one_output_of_several() -> None:
    mirror = mirror_of(two_outputs, [torch.randn(4, 3)])
    top = find(mirror, "aten.max.dim")
    x = Value(find(mirror, "placeholder"))
    node = mirror.insert(aten.amax.default, (x, (1,), False), top)
    mirror.replace(Value(top, 0), Value(node))
    assert mirror.unused(Value(top, 0))
    assert not mirror.unused(Value(top, 1))
    assert mirror.users(Value(node)) == (find(mirror, "aten.add.Tensor"), find(mirror, "output"))
    data = torch.randn(4, 3)
    for got, expected in zip(run(mirror, data), two_outputs(data), strict=True):
        torch.testing.assert_close(got, expected)


def test_new_outputs_get_their_getitem() -> None:
    mirror = mirror_of(lambda x: (x[:, :2] + 1, x[:, 2:] * 2), [torch.randn(4, 5)])
    slices = [node for node in mirror.graph.nodes if mirror.op(node) == "aten.slice.Tensor"]
    x = Value(find(mirror, "placeholder"))
    split = mirror.insert(aten.split_with_sizes.default, (x, (2, 3), 1), slices[0])
    last = [node for node in slices if not mirror.unused(Value(node)) and node.args[1] == 1]
    for index, node in enumerate(last):
        mirror.replace(Value(node), Value(split, index))
    assert [mirror.shape(value) for value in mirror.outputs(split)] == [(4, 2), (4, 3)]
    mirror.erase_dead(slices)
    assert split.next.target is operator.getitem
    data = torch.randn(4, 5)
    torch.testing.assert_close(run(mirror, data), (data[:, :2] + 1, data[:, 2:] * 2))


def test_erase_stops_at_used_nodes_and_reports_them() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    mirror = mirror_of(function, [torch.randn(2)])
    relu = find(mirror, "aten.relu.default")
    a = mirror.insert(aten.neg.default, (Value(relu),), relu.next)
    b = mirror.insert(aten.exp.default, (Value(a),), a.next)
    assert mirror.erase_dead([a]) == []  # b uses it
    assert mirror.erase_dead([b]) == [relu]
    assert [node.op for node in mirror.graph.nodes] == ["placeholder", "call_function", "output"]


def test_symbolic_arguments_become_shared_nodes_at_the_top() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).reshape(-1)

    mirror = mirror_of(function, [torch.randn(4, 6)], ({0: Dim("B", min=2, max=9)},))
    view = next(node for node in mirror.graph.nodes if "shape" in str(node.target) or "view" in str(node.target))
    (operand,) = mirror.inputs(view)
    size = mirror.shape_of(view)[0]
    one = mirror.insert(aten.view.default, (operand, (size,)), view)
    two = mirror.insert(aten.expand.default, (Value(one), (3, size), False), view)
    assert one.args[1][0] is two.args[1][1]
    assert one.args[1][0] < operand.node
    mirror.replace(Value(view), Value(one))
    mirror.erase_dead([two, view])
    data = torch.randn(7, 6)
    torch.testing.assert_close(run(mirror, data)[0], function(data))


def test_derived_dims_are_solved_for_their_symbol() -> None:
    half = Dim("half", min=2, max=8)
    mirror = mirror_of(lambda x: torch.relu(x), [torch.randn(6)], ({0: 2 * half},))
    relu = find(mirror, "aten.relu.default")
    symbol = mirror.sizes.shape_env and next(iter(mirror.shape_of(relu)[0].free_symbols))
    node = mirror.insert(aten.view.default, (Value(find(mirror, "placeholder")), (2, symbol)), relu)
    mirror.replace(Value(relu), Value(node))
    mirror.erase_dead([relu])
    assert run(mirror, torch.randn(10))[0].shape == (2, 5)


def test_sizes_of_intermediates_are_hoisted() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        return (y + 1).view(y.shape[0] * 3, 2)

    mirror = mirror_of(function, [torch.randn(4, 6)], ({0: Dim("B", min=2, max=9)},))
    relu = find(mirror, "aten.relu.default")
    size = mirror.graph.call_function(aten.sym_size.int, (relu, 0))
    relu.append(size)
    size.meta["val"] = relu.meta["val"].shape[0]
    view = find(mirror, "aten.view.default")
    product = view.args[1][0]
    product.args = (size, 3)
    mirror = Mirror(mirror.graph, {}, mirror.fake_mode, mirror.shape_env)
    assert mirror.hoist_sizes() == 2
    assert mirror.users(Value(relu)) == (find(mirror, "aten.add.Tensor"),)
    data = torch.randn(5, 6)
    torch.testing.assert_close(run(mirror, data)[0], function(data))


def test_unbacked_sizes_follow_their_definition() -> None:
    class Nonzero(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nonzero(x) + 1

    mirror = mirror_of(Nonzero(), [torch.tensor([1, 0, 2])])
    nonzero, add = find(mirror, "aten.nonzero.default"), find(mirror, "aten.add.Tensor")
    size = mirror.shape_of(add)[0]
    node = mirror.insert(aten.view.default, (Value(nonzero), (size, 1)), add)
    assert nonzero < node.args[1][0] < node
    with pytest.raises(EngineError, match="before it exists"):
        mirror.insert(aten.ones.default, ((size,), None, None, None, None), nonzero)


def test_refused_arguments_name_the_op() -> None:
    mirror = mirror_of(lambda x: torch.relu(x), [torch.randn(2, 3)])
    relu = find(mirror, "aten.relu.default")
    x = Value(find(mirror, "placeholder"))
    with pytest.raises(EngineError, match=r"aten\.view\.default does not accept"):
        mirror.insert(aten.view.default, (x, (5,)), relu)
    with pytest.raises(EngineError, match="needs the argument 'size'"):
        mirror.insert(aten.view.default, (x,), relu)


def test_missing_fake_values_are_refused() -> None:
    graph = fx.Graph()
    graph.output((graph.call_function(aten.relu.default, (graph.placeholder("x"),)),))
    with pytest.raises(EngineError, match="no fake value"):
        Mirror(graph, {}, None, None)


def test_missing_constants_are_refused() -> None:
    graph = fx.Graph()
    graph.output((graph.create_node("get_attr", "w"),))
    with pytest.raises(EngineError, match="no constant named 'w'"):
        Mirror(graph, {}, None, None)


def three(x: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
    first = torch.relu(x)
    used = torch.exp(first)
    late = torch.neg(a)
    second = torch.mul(x, late)
    return used, second


def test_insert_point_moves_dependents_behind_the_last_operand() -> None:
    mirror = mirror_of(three, [torch.randn(3), torch.randn(3)])
    relu, mul = find(mirror, "aten.relu.default"), find(mirror, "aten.mul.Tensor")
    exp, neg = find(mirror, "aten.exp.default"), find(mirror, "aten.neg.default")
    x = Value(find(mirror, "placeholder"))
    point = mirror.insert_point([relu, mul], [x, Value(neg)])
    assert neg < point
    assert point is exp
    node = mirror.insert(aten.add.Tensor, (x, Value(neg), 1), point)
    mirror.replace(Value(relu), Value(node))
    mirror.replace(Value(mul), Value(node))
    mirror.erase_dead([relu, mul])
    x_, a = torch.randn(3), torch.randn(3)
    got = run(mirror, x_, a)
    torch.testing.assert_close(got, (torch.exp(x_ - a), x_ - a))


def test_insert_point_is_the_first_root_when_operands_allow() -> None:
    mirror = mirror_of(lambda x: (torch.relu(x), torch.exp(x)), [torch.randn(3)])
    relu, exp = find(mirror, "aten.relu.default"), find(mirror, "aten.exp.default")
    assert mirror.insert_point([exp, relu], [Value(find(mirror, "placeholder"))]) is relu


def test_insert_point_refuses_dependent_roots() -> None:
    mirror = mirror_of(lambda x: torch.exp(torch.neg(torch.relu(x))), [torch.randn(3)])
    relu, neg, exp = (find(mirror, f"aten.{name}.default") for name in ("relu", "neg", "exp"))
    with pytest.raises(EngineError, match="cannot be replaced together"):
        mirror.insert_point([relu, exp], [Value(neg)])


def test_inference_assumes_nothing_about_sizes() -> None:
    dims = ({0: Dim("B", min=2, max=9)}, {0: Dim("C", min=2, max=9)})
    mirror = mirror_of(lambda x, y: torch.relu(x), [torch.randn(4, 6), torch.randn(4, 6)], dims)
    x, y = (Value(find(mirror, "placeholder", number)) for number in range(2))
    batch, other = mirror.shape(x)[0], mirror.shape(y)[0]
    assert mirror.infer(aten.view.default, (x, (2 * batch, 3))).shape == (2 * mirror.fake(x).shape[0], 3)
    for wrong in ((aten.view.default, (x, (4, 6))), (aten.add.Tensor, (x, y, 1))):
        with pytest.raises(EngineError, match=r"does not accept .* it would need"):
            mirror.infer(*wrong)
    relu = find(mirror, "aten.relu.default")
    with pytest.raises(EngineError, match="it would need"):
        mirror.insert(aten.add.Tensor, (x, y, 1), relu)
    assert str(mirror.fake(x).shape[0]) == str(batch)
    assert mirror.sizes.compare("==", batch, other) not in (True, False)
    assert mirror.sizes.decide(batch < 5) is None
    assert mirror.shape_of(mirror.insert(aten.neg.default, (x,), relu)) == (batch, 6)

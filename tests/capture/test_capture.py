import dataclasses

import pytest
import torch
from torch import nn
from torch._ops import OpOverload
from torch.export import Dim
from torch.utils import _pytree as pytree

from engine.capture import Input, Range, capture
from engine.errors import CaptureError, InputError


def run(captured, *args, **kwargs):
    with torch.no_grad():
        return captured.signature().unflatten(captured.module()(*captured.bind(args, kwargs)))


def check(captured, model, *args, **kwargs):
    with torch.no_grad():
        expected = model(*args, **kwargs)
    found = run(captured, *args, **kwargs)
    expected_leaves, spec = pytree.tree_flatten(expected)
    found_leaves, found_spec = pytree.tree_flatten(found)
    assert spec == found_spec
    for want, got in zip(expected_leaves, found_leaves, strict=True):
        assert type(want) is type(got) or isinstance(want, torch.Tensor)
        if isinstance(want, torch.Tensor):
            torch.testing.assert_close(got, want)
        else:
            assert got == want


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)
        self.register_buffer("scale", torch.full((5,), 2.0), persistent=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean((-2, -1))
        return self.linear(x) * self.scale + torch.tensor([1.0])


def test_graph_is_canonical():
    model = Net().eval()
    captured = capture(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: Dim("batch", min=1, max=8)}})
    kinds = {node.op for node in captured.graph.nodes}
    assert kinds == {"placeholder", "get_attr", "call_function", "output"}
    assert [node.name for node in captured.graph.nodes if node.op == "placeholder"] == ["x"]
    for node in captured.graph.nodes:
        if node.op == "get_attr":
            assert node.target in captured.constants
        if isinstance(node.target, OpOverload):
            schema = node.target._schema.arguments
            assert len(node.args) + len(node.kwargs) == len(schema)
            assert list(node.kwargs) == [a.name for a in schema if a.kwarg_only]
            assert not node.target._schema.is_mutable
        if node.op != "output":
            values = pytree.tree_leaves(node.meta["val"])
            assert all(v.fake_mode is captured.fake_mode for v in values if isinstance(v, torch.Tensor))
    assert captured.fake_mode.shape_env is captured.shape_env
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    assert captured.model_class == "Net"
    for batch in (1, 3, 8):
        check(captured, model, torch.randn(batch, 3, 8, 8))


def test_constants_are_the_model_s_own_memory():
    model = Net().eval()
    captured = capture(model, (torch.randn(2, 3, 8, 8),))
    assert captured.constants["conv.weight"].data_ptr() == model.conv.weight.data_ptr()
    assert captured.constants["scale"].data_ptr() == model.scale.data_ptr()
    assert not captured.constants["conv.weight"].requires_grad
    assert "norm.num_batches_tracked" not in captured.constants


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = set(vars(model))
    parameters = list(map(id, model.parameters()))
    capture(model, (torch.randn(2, 3),))
    assert not model.training
    assert set(vars(model)) == attributes
    assert list(map(id, model.parameters())) == parameters
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled()
    model.train()
    capture(nn.Sequential(model[0]).train(), (torch.randn(2, 3),))
    assert model.training


def test_tied_weights_share_one_constant():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    captured = capture(Tied(), (torch.tensor([[1, 2]]),))
    assert len(captured.constants) == 1
    assert len(captured.tied) == 1
    assert {*captured.constants, *captured.tied} == {"embedding.weight", "head.weight"}


# ------------------------------------------------------------------------------------ outputs and inputs


class Outputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x, y=None):
        z = x + 1
        return {"twice": (z, z), "input": x, "view": x.view(-1), "none": y, "number": 3, "weight": self.weight}, [
            "text",
            x.shape[0],
            torch.ones(2),
        ]


def test_every_kind_of_output():
    model = Outputs()
    captured = capture(model, (torch.randn(2, 3),), dynamic_shapes={"x": {0: Dim("b", min=1, max=8)}})
    check(captured, model, torch.randn(2, 3))
    found = run(captured, torch.randn(5, 3))
    assert found[1][1] == 5
    assert found[0]["none"] is None
    output = captured.graph.output_node().args[0]
    assert isinstance(output, tuple)
    assert output[0] is output[1]


@dataclasses.dataclass
class Result:
    total: torch.Tensor
    extra: torch.Tensor | None = None


def test_dataclass_outputs_are_registered():
    class Model(nn.Module):
        def forward(self, x):
            return Result(x + 1)

    captured = capture(Model(), (torch.randn(2),))
    x = torch.randn(2)
    found = run(captured, x)
    assert isinstance(found, Result)
    torch.testing.assert_close(found.total, x + 1)
    assert found.extra is None


def test_symbolic_int_inputs():
    class Model(nn.Module):
        def forward(self, x, n):
            return x * n, n + 1

    captured = capture(Model(), (torch.randn(2), 5), dynamic_shapes={"x": None, "n": Dim.DYNAMIC(min=2, max=9)})
    assert captured.input_names == ("x", "n")
    check(captured, Model(), torch.randn(2), 7)
    with pytest.raises(InputError, match="input 'n' has size 12; its range is"):
        captured.bind((torch.randn(2), 12))


def test_unused_inputs_keep_their_place():
    class Model(nn.Module):
        def forward(self, unused, x):
            return x + 1

    captured = capture(Model(), (torch.randn(4), torch.randn(2)))
    assert captured.placeholders == ("unused", "x")
    check(captured, Model(), torch.randn(4), torch.randn(2))


# ------------------------------------------------------------------------------------ dynamic shapes


class Add(nn.Module):
    def forward(self, x, y):
        return x + y


class Apart(nn.Module):
    def forward(self, x, y):
        return x * 2, y * 3


class Position(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(16, 4))

    def forward(self, x):
        return x + self.table[: x.shape[1]]


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) + torch.ones(2, 12)


def batched(high=8, opt=2):
    return Input(min_shape=(1, 3), opt_shape=(opt, 3), max_shape=(high, 3))


def test_inputs_share_a_batch_where_the_model_needs_it():
    captured = capture(Add(), (batched(), batched(high=16)))
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    for size in (1, 5):
        check(captured, Add(), torch.randn(size, 3), torch.randn(size, 3))
    captured = capture(Apart(), (batched(), batched(high=16)))
    assert sorted(captured.ranges.values()) == [Range(1, 2, 8), Range(1, 2, 16)]
    check(captured, Apart(), torch.randn(5, 3), torch.randn(12, 3))


def test_batch_one_may_be_the_usual_size():
    captured = capture(Add(), [batched(opt=1), batched(opt=1)])
    assert list(captured.ranges.values()) == [Range(1, 1, 8)]
    check(captured, Add(), torch.randn(1, 3), torch.randn(1, 3))
    batch = Dim("batch", min=1, max=8)
    x = torch.randn(1, 3)
    captured = capture(Add(), (x, x), dynamic_shapes=({0: batch}, {0: batch}))
    assert list(captured.ranges.values()) == [Range(1, 1, 8)]
    check(captured, Add(), torch.randn(6, 3), torch.randn(6, 3))
    captured = capture(Add(), (x, x), dynamic_shapes=({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}))
    assert list(captured.ranges.values()) == [Range(1, 1, 8)]
    assert "no upper bound" in captured.notes[0]


def test_one_tensor_passed_twice_is_two_inputs():
    x = torch.randn(2, 3)
    captured = capture(Apart(), (x, x), dynamic_shapes={"x": {0: Dim.DYNAMIC}, "y": None})
    check(captured, Apart(), torch.randn(5, 3), torch.randn(2, 3))


def test_relations_between_named_dims_are_found():
    a, b = Dim("a", min=1, max=8), Dim("b", min=1, max=16)
    captured = capture(Add(), (torch.randn(2, 3), torch.randn(2, 3)), dynamic_shapes={"x": {0: a}, "y": {0: b}})
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    assert any("b = a" in note for note in captured.notes)


def test_derived_dims_of_size_one():
    class Model(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, x]) + y

    a = Dim("a", min=1, max=8)
    captured = capture(Model(), (torch.randn(1, 3), torch.randn(2, 3)), dynamic_shapes={"x": {0: a}, "y": {0: 2 * a}})
    assert list(captured.ranges.values()) == [Range(1, 1, 8)]
    assert captured.profile.shape("y", "max") == (16, 3)
    check(captured, Model(), torch.randn(3, 3), torch.randn(6, 3))


def test_bounds_of_the_model_hold_where_the_user_gave_none():
    captured = capture(Position(), (torch.randn(2, 3, 4),), dynamic_shapes={"x": {1: Dim("length")}})
    assert list(captured.ranges.values()) == [Range(0, 3, 16)]
    captured = capture(Position(), (torch.randn(2, 3, 4),), dynamic_shapes={"x": {1: Dim.AUTO}})
    assert list(captured.ranges.values()) == [Range(1, 3, 16)]


@pytest.mark.parametrize(
    "given",
    [
        {"args": (torch.randn(2, 3, 4),), "dynamic_shapes": {"x": {1: Dim("length", max=32)}}},
        {"args": (torch.randn(2, 3, 4),), "dynamic_shapes": {"x": {1: Dim.DYNAMIC(min=1, max=32)}}},
        {"args": (Input(min_shape=(2, 1, 4), opt_shape=(2, 8, 4), max_shape=(2, 32, 4)),)},
    ],
)
def test_a_range_that_the_model_cannot_keep_is_refused(given):
    with pytest.raises(CaptureError, match=r"32.*16"):
        capture(Position(), **given)


@pytest.mark.parametrize(
    "given",
    [
        {"args": (torch.randn(2, 3, 4),), "dynamic_shapes": {"x": {0: Dim("batch", max=32)}}},
        {"args": (Input(min_shape=(1, 3, 4), opt_shape=(2, 3, 4), max_shape=(8, 3, 4)),)},
    ],
)
def test_a_fixed_dim_is_refused_with_advice(given):
    with pytest.raises(CaptureError, match=r"(?s)specialized.*try: the model needs these dims"):
        capture(Fixed(), **given)


def test_ranges_without_a_common_size_are_refused():
    low = Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(4, 3))
    high = Input(min_shape=(5, 3), opt_shape=(6, 3), max_shape=(8, 3))
    with pytest.raises(CaptureError):
        capture(Add(), (low, high))


def test_inputs_and_dynamic_shapes_exclude_each_other():
    with pytest.raises(InputError, match="not both"):
        capture(Add(), (batched(), batched()), dynamic_shapes={"x": {0: Dim.AUTO}, "y": None})


def test_named_inputs_become_keywords():
    captured = capture(Add(), (Input((2, 3), name="y"), Input((2, 3), name="x")))
    assert set(captured.input_names) == {"x", "y"}
    check(captured, Add(), torch.randn(2, 3), torch.randn(2, 3))


# ------------------------------------------------------------------------------------ other kinds of models


def test_exported_programs_are_taken():
    model = Net().eval()
    batch = Dim("batch", min=1, max=8)
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}})
    before = str(program.graph), program.call_spec.out_spec
    captured = capture(program)
    assert (str(program.graph), program.call_spec.out_spec) == before
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    assert captured.input_names == ("x",)
    check(captured, model, torch.randn(5, 3, 8, 8))
    check(capture(program.run_decompositions()), model, x)


def test_saved_programs_are_taken(tmp_path):
    model = Net().eval()
    program = torch.export.export(model, (torch.randn(2, 3, 8, 8),), dynamic_shapes={"x": {0: Dim("b", min=1, max=8)}})
    torch.export.save(program, tmp_path / "model.pt2")
    captured = capture(torch.export.load(tmp_path / "model.pt2"))
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    check(captured, model, torch.randn(5, 3, 8, 8))


def test_graph_modules_are_taken_as_they_are():
    model = Net().eval()
    x = torch.randn(2, 3, 8, 8)
    source = capture(model, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1, max=8)}})
    module = source.module()
    before = str(module.graph)
    captured = capture(module)
    assert str(module.graph) == before
    assert list(captured.ranges.values()) == [Range(1, 2, 8)]
    assert captured.input_names == ("x",)
    torch.testing.assert_close(captured.module()(*captured.bind((x,)))[0], source.module()(x)[0])


def test_traced_graph_modules_are_exported():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    captured = capture(torch.fx.symbolic_trace(model), (torch.randn(2, 3),))
    check(captured, model, torch.randn(2, 3))


def test_other_things_are_refused():
    with pytest.raises(CaptureError, match="cannot capture a function"):
        capture(lambda x: x, (torch.randn(2),))


def test_control_flow_keeps_its_graphs():
    class Model(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,))

    captured = capture(Model(), (torch.ones(3),))
    assert len(captured.submodules) == 2
    check(captured, Model(), torch.ones(3))
    check(captured, Model(), -torch.ones(3))


# ------------------------------------------------------------------------------------ refusals


def test_what_is_written_to_is_a_result_more():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1), persistent=False)

        def forward(self, x):
            self.steps.add_(1)
            x.mul_(2)
            return x + self.steps

    model, x = Model(), torch.randn(2)
    captured = capture(model, (x,))
    (state,) = captured.states
    assert (state.name, state.persistent) == ("steps", False)
    assert set(captured.written) == {"x", state.placeholder}
    assert captured.input_names == ("x",)
    found = captured.module()(x, torch.tensor([3.0]))
    values = dict(zip(captured.written, found[1:], strict=True))
    torch.testing.assert_close(found[0], x * 2 + 4)
    torch.testing.assert_close(values, {"x": x * 2, state.placeholder: torch.tensor([4.0])})
    torch.testing.assert_close(captured.run([x]), [x * 2 + 1])
    assert model.steps == 0


def test_branches_on_data_are_refused_with_the_line():
    class Model(nn.Module):
        def forward(self, x):
            while x.sum() > 0:
                x = x - 1
            return x

    with pytest.raises(CaptureError) as caught:
        capture(Model(), (torch.randn(2),))
    text = str(caught.value)
    assert "could not take Model" in text
    assert f"{__file__}:" in text
    assert "while x.sum() > 0" in text
    assert "torch.cond" in text
    assert "TORCH_LOGS" not in text


def test_a_scripted_module_is_named():
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(
        CaptureError, match=r"'1' of Sequential is a module of TorchScript \(Linear\).* use the Python module"
    ):
        capture(model.eval(), (torch.randn(2, 3),))


def test_errors_of_the_model_are_quoted():
    class Model(nn.Module):
        def forward(self, x):
            return x @ torch.ones(7, 7)

    with pytest.raises(CaptureError) as caught:
        capture(Model(), (torch.randn(2, 3),))
    assert "torch.ones(7, 7)" in str(caught.value)


def test_wrong_example_inputs_are_refused():
    with pytest.raises(InputError, match=r"Add\.forward does not take these inputs"):
        capture(Add(), (batched(),))

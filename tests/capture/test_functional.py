"""Exported programs that write to tensors become graphs of values without being traced once more."""

import io
import random

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.capture import capture
from engine.errors import CaptureError
from engine.testing import as_module

TWICE = "the exported program was traced once more to make it functional"


def activations(x):
    y = (x * 2).relu_()
    return y.add_(x).mul_(0.5), y


def parts_of_parts(x):
    y = x.clone()
    y[:, 1:3][..., 0] = 7.0
    y[0].mul_(2)
    return y, y[:, 1].sum()


def view_before(x):
    y = x.clone()
    flat, turned, first = y.view(-1), y.transpose(0, 1), y[0]
    before = first * 1
    flat[3:5].add_(10)
    turned[1] = -1.0
    return before, first, flat, turned, y


def pieces(x):
    y = x * 1
    a, b = y.split(2, 1)
    c, d = y.unbind(0)
    b.zero_()
    d.add_(1)
    return a + b, c, d, y.chunk(2, 1)[1]


def narrower(x):
    y = x.half()
    y += x.double().mean()
    y.add_(x.new_ones(4, 3).to(torch.float32)[0, 0])
    mask = y > 0
    mask.logical_or_(x[..., :] < -1)
    z = torch.zeros(2, 4, 3, dtype=torch.int32)
    z.copy_(x * 3)
    z.ge_(1)
    return y, mask, z


def reshaped(x):
    y = x + 1
    same, copied = y.reshape(-1, 3), y.transpose(1, 2).reshape(2, -1)
    same[0] = 5.0
    copied.neg_()
    return y, same, copied


def converted(x):
    y = x + 1
    here, there = y.to(torch.float32), y.to(torch.float64)
    here.add_(1)
    there.mul_(3)
    return y.contiguous().relu_(), y, here, there


def scattered(x):
    y = x.clone()
    y.index_put_((torch.tensor([0, 1]), torch.tensor([1, 2])), torch.tensor(3.0))
    y.masked_fill_(x > 1, 0.0)
    y.diagonal(dim1=1, dim2=2).add_(4)
    y.permute(2, 0, 1)[1] *= 2
    return y


def expanded(x):
    row = x[:, :1].clone()
    wide = row.expand(2, 4, 3)
    row.sub_(1)
    return wide + x, row.squeeze(1)


FUNCTIONS = [activations, parts_of_parts, view_before, pieces, narrower, reshaped, converted, scattered, expanded]


def flat(results):
    return [results] if isinstance(results, torch.Tensor) else list(results)


def check(captured, function, *inputs):
    assert not any(TWICE in note for note in captured.notes), captured.notes
    for x in inputs:
        for ours, theirs in zip(captured.run([x]), flat(function(x.clone())), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_are_eagers(function):
    x = torch.randn(2, 4, 3)
    check(capture(as_module(function), (x,)), function, x, torch.randn(2, 4, 3))


@pytest.mark.parametrize("function", [activations, reshaped, converted])
def test_dynamic_sizes(function):
    # Of one row, PyTorch's `reshape` gives a view where it copies several.
    shapes = ({1: Dim("n", min=2, max=9)},)
    captured = capture(as_module(function), (torch.randn(2, 4, 3),), dynamic_shapes=shapes)
    check(captured, function, torch.randn(2, 9, 3), torch.randn(2, 2, 3))


def drawn(seed):
    """A function of some views of a tensor, some writes to them, and everything at the end."""

    def function(x):
        draw = random.Random(seed)
        held = [x * 1, x + 1]
        for _ in range(7):
            one = draw.choice(held)
            dim = draw.randrange(one.dim()) if one.dim() else None
            what = draw.choice(["view", "write", "write", "new"])
            if what == "write":
                number = draw.randrange(3)
                (one.add_, one.mul_, one.fill_)[number](draw.randrange(2, 5))
            elif what == "new" or dim is None:
                held.append(one.sum() + draw.choice(held).amax())
            elif one.shape[dim] > 1 and draw.random() < 0.5:
                held.append(draw.choice([one.select(dim, 1), one.narrow(dim, 0, 1), one.split(1, dim)[-1]]))
            else:
                held.append(draw.choice([one.unsqueeze(dim), one.transpose(0, dim), one.reshape(-1), one.flatten()]))
        return tuple(held)

    return function


@pytest.mark.parametrize("seed", range(24))
def test_drawn_views_and_writes(seed):
    function = drawn(seed)
    x = torch.arange(24.0).reshape(2, 4, 3)
    captured = capture(as_module(function), (x,))
    for ours, theirs in zip(captured.run([x + 1]), function(x + 1), strict=True):
        torch.testing.assert_close(ours, theirs)


def from_file(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_programs_from_files(function):
    """Their fake values say nothing of memory: the schemas of what an op calls decide."""
    x = torch.randn(2, 4, 3)
    program = from_file(torch.export.export(as_module(function), (x,)))
    check(capture(program), function, x, torch.randn(2, 4, 3))


@pytest.mark.parametrize("function", [activations, reshaped, converted])
def test_programs_of_dynamic_sizes_from_files(function):
    shapes = ({1: Dim("n", min=2, max=9)},)
    program = torch.export.export(as_module(function), (torch.randn(2, 4, 3),), dynamic_shapes=shapes)
    check(capture(from_file(program)), function, torch.randn(2, 9, 3), torch.randn(2, 2, 3))


@pytest.mark.parametrize("seed", range(24))
def test_drawn_programs_from_files(seed):
    function = drawn(seed)
    x = torch.arange(24.0).reshape(2, 4, 3)
    captured = capture(from_file(torch.export.export(as_module(function), (x,))))
    for ours, theirs in zip(captured.run([x + 1]), function(x + 1), strict=True):
        torch.testing.assert_close(ours, theirs)


class Keeper:
    """Holds tensors that a module has too, as caches do."""


class Cached(nn.Module):
    """Writes to its state by another way than its buffers, and through what may be a view of it."""

    def __init__(self, registered):
        super().__init__()
        self.keeper = Keeper()
        self.keeper.rows, self.keeper.count = torch.zeros(4, 3), torch.zeros((), dtype=torch.int64)
        if registered:
            self.register_buffer("rows", self.keeper.rows, persistent=False)
            self.register_buffer("count", self.keeper.count, persistent=False)

    def forward(self, x):
        count = self.keeper.count.to(torch.int64)
        place = torch.arange(2) + count
        count.add_(2)
        self.keeper.rows.index_copy_(0, place % 4, x)
        self.keeper.rows.reshape(2, 6)[0].mul_(2)
        half = self.keeper.rows.to(torch.float16)
        half.zero_()
        return self.keeper.rows.sum(0), self.keeper.rows.view(-1)[1:3], half


@pytest.mark.parametrize("registered", [True, False])
def test_states_that_objects_hold(registered):
    """The trace gives tensors that no module registers memory of their own in every fake value."""
    model, x = Cached(registered), torch.randn(2, 3)
    compiled = engine.compile(Cached(registered), (x,), runtime="interpreter", min_block_size=1)
    assert not any(TWICE in note for note in compiled.report.notes), compiled.report.notes
    for _ in range(4):
        x = torch.randn(2, 3)
        for ours, theirs in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_program_that_somebody_brings_stays_as_it_was():
    program = torch.export.export(as_module(view_before), (torch.randn(2, 4, 3),))
    before = str(program.graph)
    capture(program)
    assert str(program.graph) == before


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(3, 4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls.add_(1)
        self.rows[1].add_(x[0])
        self.rows[:, 2] = self.calls
        x.mul_(2)
        return self.rows.sum(), x + 1


def test_states_and_inputs_that_are_written_to():
    model = Counts()
    compiled = engine.compile(Counts(), (torch.randn(2, 4),), runtime="interpreter")
    assert not any(TWICE in note for note in compiled.report.notes)
    for _ in range(3):
        mine = torch.randn(2, 4)
        theirs = mine.clone()
        for ours, eager in zip(compiled(mine), model(theirs), strict=True):
            torch.testing.assert_close(ours, eager)
        torch.testing.assert_close(mine, theirs)


def test_names_lines_and_modules_are_those_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten())
    captured = capture(model, (torch.randn(1, 3, 2, 2),))
    calls = {node.name: node for node in captured.graph.nodes if node.op == "call_function"}
    assert list(calls) == ["conv2d", "relu", "view"]
    assert all("stack_trace" in node.meta and "nn_module_stack" in node.meta for node in calls.values())
    assert "inplace" in calls["relu"].meta["stack_trace"]


def without_autocast(x):
    y = x.clone()
    with torch.autocast("cpu", enabled=False):
        y.add_(1)
        a, b = (y @ y.mT).relu_(), y[0]
    with torch.enable_grad():
        b.mul_(2)
    return a, b, y


def test_other_modes_are_written_into_the_graph():
    x = torch.randn(2, 4, 3)
    check(capture(as_module(without_autocast), (x,)), without_autocast, x, torch.randn(2, 4, 3))


class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x)


def test_what_is_not_shown_is_traced_once_more():
    model = Trained().train()
    captured = capture(model, (torch.randn(5, 4),))
    assert any(TWICE in note and "writes to its operands" in note for note in captured.notes)
    assert {state.name for state in captured.states} >= {"norm.running_mean", "norm.running_var"}


def test_assigned_buffers_of_another_shape_are_refused():
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", torch.zeros(1, 4))

        def forward(self, x):
            self.rows = torch.cat((self.rows, x))
            return self.rows.sum(0)

    with pytest.raises(CaptureError):
        capture(Grows(), (torch.randn(2, 4),))


@pytest.mark.parametrize("held", [True, False])
def test_composites_that_read_data_are_traced_once_more(held):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.tensor([1, 3]))

        def forward(self, x, places=None):
            return torch.tensor_split(x, self.places if held else places, 0)

    x = torch.randn(5, 4)
    inputs = (x,) if held else (x, torch.tensor([2, 4]))
    compiled = engine.compile(Split(), inputs)
    assert any(note.startswith(TWICE) and "reads data" in note for note in compiled.report.notes)
    if held:
        assert compiled.report.coverage == 1
    for got, wanted in zip(compiled(*inputs), Split()(*inputs), strict=True):
        assert torch.equal(got, wanted)


class Observed(nn.Module):
    """A fused observer, whose op writes to all of its buffers but the two that turn it on and off."""

    def __init__(self, on):
        super().__init__()
        self.on, self.quantises = nn.Buffer(torch.tensor([on])), nn.Buffer(torch.tensor([1]))
        self.least, self.most = nn.Buffer(torch.tensor([-1.0])), nn.Buffer(torch.tensor([2.0]))
        self.scale, self.zero = nn.Buffer(torch.tensor([1.0])), nn.Buffer(torch.tensor([0], dtype=torch.int32))

    def forward(self, input):
        ranges = self.least, self.most, self.scale, self.zero
        return torch.fused_moving_avg_obs_fake_quant(input, self.on, self.quantises, *ranges, 0.01, 0, 255, 0)


class Switched(Observed):
    def forward(self, input):
        self.on += 1
        return super().forward(input)


@pytest.mark.parametrize(("kind", "on", "states"), [(Observed, 0, 0), (Observed, 1, 4), (Switched, 0, 5)])
def test_what_is_written_where_the_model_turns_that_off_is_no_state(kind, on, states):
    model, x = kind(on), torch.randn(4, 5)
    captured = capture(model, (x,))
    assert len(captured.states) == states
    compiled = engine.compile(kind(on), (x,), runtime="interpreter", min_block_size=1)
    for scale in (1.0, 3.0):
        torch.testing.assert_close(compiled(scale * x), model(scale * x))

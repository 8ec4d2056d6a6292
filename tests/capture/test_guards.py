"""Guards: what is compiled holds for some sizes only, and calls with others are refused."""

import io
import math

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils._sympy import functions

import engine
import engine.torch_compile.backend
from engine.capture import capture
from engine.capture.inputs import Range
from engine.capture.sizes import branches
from engine.capture.sizes.guards import Guard, settle
from engine.capture.sizes.predicates import function_of, text_of
from engine.errors import CaptureError, InputError
from engine.graph.symbolic import layouts, proofs
from engine.testing import as_module
from tests.comparison import assert_agrees

S, N = (sympy.Symbol(name, integer=True, positive=True) for name in "sn")


class Ways(nn.Module):
    """Long sequences go one way, even ones another."""

    def forward(self, x):
        if x.shape[1] > 8:
            return x.relu() * 2
        if x.shape[1] % 2 == 0:
            return x.neg()
        return x


class Pair(nn.Module):
    def forward(self, x, y):
        return x.sum() + y if x.shape[0] * 2 > y.shape[0] else x.sum() - y


class ShiftedWindows(nn.Module):
    """As swin_t: maps of more than one window are rolled before they are cut into windows, and weighted."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, 8)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        batch, height, width, channels = x.shape
        shift = [2, 2]
        x = F.pad(x, (0, 0, 0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        padded_height, padded_width = x.shape[1:3]
        if padded_height <= 4:
            shift[0] = 0
        if padded_width <= 4:
            shift[1] = 0
        if sum(shift) > 0:
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = x.view(batch, padded_height // 4, 4, padded_width // 4, 4, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, channels)
        return (x * self.weight[..., None]).sum((1, 2)).view(batch, -1, channels)


def ranged(low, usual, high):
    return engine.Input(min_shape=low, opt_shape=usual, max_shape=high)


def test_a_range_that_crosses_a_branch_is_an_error_that_names_the_line():
    with pytest.raises(CaptureError) as error:
        capture(Ways(), [ranged((2, 2), (2, 10), (2, 64))])
    assert "dim 1 of input 'x' was given the range 2..64" in str(error.value)
    assert "only holds for sizes from 9 to 64" in str(error.value)
    assert f"{__file__}:" in str(error.value)
    assert "in forward: if x.shape[1] > 8" in str(error.value)


def test_a_range_that_nobody_gave_is_narrowed():
    captured = capture(Ways(), [torch.randn(2, 10)], dynamic_shapes={"x": {1: Dim.AUTO}})
    assert [tuple(allowed) for allowed in captured.ranges.values()] == [(9, 10, 32)]
    assert captured.guards == ()
    captured = capture(Ways(), [torch.randn(2, 6)], dynamic_shapes={"x": {1: Dim.AUTO}})
    assert [tuple(allowed) for allowed in captured.ranges.values()] == [(2, 6, 8)]


def test_calls_on_the_other_side_of_a_branch_are_refused():
    model = Ways()
    compiled = engine.compile(model, [ranged((2, 2), (2, 6), (2, 8))], min_block_size=1, runtime="interpreter")
    (note,) = compiled.report.notes
    assert "calls must have sizes with x.shape[1] % 2 == 0" in note
    assert f"note: {note}" in str(compiled.report)
    for size in (2, 4, 8):
        assert_agrees(compiled, model, torch.randn(2, size))
    with pytest.raises(InputError) as error:
        compiled(torch.randn(2, 5))
    message = str(error.value)
    assert message.startswith("the model was compiled for sizes with x.shape[1] % 2 == 0, by which its code decides")
    assert "in forward: if x.shape[1] % 2 == 0)" in message
    assert "that does not hold for x [2, 5]" in message
    assert_agrees(compiled, model, torch.randn(2, 6))


def test_guards_of_several_sizes():
    model = Pair()
    inputs = [ranged((1,), (4,), (8,)), ranged((1,), (6,), (8,))]
    compiled = engine.compile(model, inputs, min_block_size=1, runtime="interpreter")
    for sizes in ((4, 6), (1, 1), (8, 8), (5, 8)):
        assert_agrees(compiled, model, *map(torch.randn, sizes))
    for sizes in ((1, 2), (4, 8), (2, 7)):
        with pytest.raises(InputError, match=r"2 \* x\.shape\[0\] > y\.shape\[0\].*x \[\d\], y \[\d\]"):
            compiled(*map(torch.randn, sizes))


def test_guards_survive_a_file(tmp_path):
    compiled = engine.compile(
        Ways(), [ranged((2, 2), (2, 6), (2, 8))], min_block_size=1, runtime="interpreter"
    )  # fmt: skip
    engine.save(compiled, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    assert loaded._signature.guards == compiled._signature.guards != ()
    assert loaded.report.notes == compiled.report.notes
    x = torch.randn(2, 4)
    assert torch.equal(loaded(x), -x)
    with pytest.raises(InputError, match=r"x\.shape\[1\] % 2 == 0"):
        loaded(torch.randn(2, 5))


def test_guards_of_exported_programs():
    program = torch.export.export(
        Pair(), (torch.randn(4), torch.randn(6)), dynamic_shapes={"x": {0: Dim.AUTO}, "y": {0: Dim.AUTO}}
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for each in (program, torch.export.load(file)):
        captured = capture(each)
        captured.bind((torch.randn(4), torch.randn(7)))
        with pytest.raises(InputError, match=r"2 \* x\.shape\[0\] > y\.shape\[0\]"):
            captured.bind((torch.randn(2), torch.randn(4)))


def test_torch_compile_takes_the_other_way():
    model = Ways()
    compiled = torch.compile(
        model, backend="engine", dynamic=True, options={"runtime": "interpreter", "min_block_size": 1}
    )
    for size in (6, 7, 12, 5, 4, 33):
        x = torch.randn(2, size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------ sizes of one


def test_what_the_model_does_with_one_is_tried():
    same = as_module(lambda x: x + 1 if x.shape[0] == 1 else 1 + x)
    other = as_module(lambda x: x * 3 if x.shape[0] == 1 else x + 1)
    fits, crosses = ranged((2, 2), (4, 2), (8, 2)), ranged((1, 2), (4, 2), (8, 2))
    compiled = engine.compile(same, [crosses], min_block_size=1, runtime="interpreter")
    for size in (1, 2, 8):
        assert_agrees(compiled, same, torch.randn(size, 2))
    with pytest.raises(CaptureError, match=r"holds for sizes from 2 to 8(.|\n)*result 0 of the model has other values"):
        capture(other, [crosses])
    assert capture(other, [fits]).guards == ()
    captured = capture(other, [torch.randn(4, 2)], dynamic_shapes={"x": {0: Dim("b", max=8)}})
    assert [tuple(allowed) for allowed in captured.ranges.values()] == [(2, 4, 8)]
    assert "is compiled for sizes from 2 to 8 only" in captured.notes[0]


def test_the_trial_writes_to_no_buffer():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            if not torch.compiler.is_exporting():
                self.calls += 1
            return x if x.shape[0] == 1 else 1 * x

    model = Counting()
    capture(model, [ranged((1, 2), (4, 2), (8, 2))])
    assert model.calls == 0


def test_squeeze_keeps_its_rank():
    with pytest.raises(CaptureError, match="squeeze leaves out the dim"):
        capture(as_module(torch.squeeze), [ranged((1, 3), (4, 3), (8, 3))])
    assert capture(as_module(torch.squeeze), [ranged((2, 3), (4, 3), (8, 3))]).guards == ()


@pytest.mark.parametrize(("low", "message"), [(0, "from 2 to 8"), (1, "from 2 to 8"), (2, "")])
def test_slices_of_more_elements_than_there_are(low, message):
    inputs = [ranged((low, 3), (4, 3), (8, 3))]
    if message:
        with pytest.raises(CaptureError, match=f"{message}(.|\n)*a slice has fewer elements"):
            capture(as_module(lambda x: x[:2]), inputs)
    else:
        assert capture(as_module(lambda x: x[:2]), inputs).guards == ()
    # From 1 on there is always something in front of the second element, be it nothing.
    if low:
        assert capture(as_module(lambda x: x[1:]), inputs).guards == ()


@pytest.mark.parametrize("promise", ["assert", "torch._assert", "torch._check"])
def test_a_model_that_refuses_one(promise):
    def refusing(x):
        if promise == "assert":
            assert x.shape[0] > 1, "one is not enough"
        elif promise == "torch._assert":
            torch._assert(x.shape[0] > 1, "one is not enough")
        else:
            torch._check(x.shape[0] > 1, lambda: "one is not enough")
        return x / (x.shape[0] - 1)

    with pytest.raises(CaptureError, match=r"the model raises (AssertionError|RuntimeError): one is not enough"):
        capture(as_module(refusing), [ranged((1, 3), (4, 3), (8, 3))])


def test_a_model_of_one_size_says_where():
    class Fixed(nn.Module):
        def forward(self, x):
            torch._assert(x.shape[1] == 4, "only 4")
            return x * 2

    with pytest.raises(
        CaptureError, match=r"the model fixes a size at .*test_guards\.py:\d+ in forward: torch\._assert"
    ):
        capture(Fixed(), [ranged((2, 2), (2, 4), (2, 8))])


@pytest.mark.parametrize(
    "fixing",
    [
        lambda x: sum(x[place] * place for place in range(x.shape[0])),  # an int is asked for
        lambda x: torch.stack([row.sum() for row in x]),  # in C++
        lambda x: x + x.new_zeros(4, 1),  # by an operator that compares
    ],
)
def test_a_model_that_fixes_the_size_of_its_batch_says_where(fixing):
    with pytest.raises(CaptureError, match=r"the model fixes a size at .*test_guards\.py:\d+ in forward: lambda x: "):
        capture(as_module(fixing), [ranged((2, 6), (4, 6), (8, 6))])


# ------------------------------------------------------------------------------------ windows


def test_shifted_windows_hold_for_more_than_one_window():
    model = ShiftedWindows().eval()
    side = Dim("side", min=4, max=24)
    shapes = {"x": {0: Dim("batch", min=1, max=4), 2: 8 * side, 3: 8 * side}}
    # One window has 32 pixels; the example has three.
    with pytest.raises(CaptureError) as error:
        capture(model, [torch.randn(2, 3, 96, 96)], dynamic_shapes=shapes)
    assert "was given the range 32..192" in str(error.value)
    assert "only holds for sizes from 40 to 192" in str(error.value)
    assert "if padded_height <= 4" in str(error.value)


def test_shifted_windows_at_every_size_that_they_hold_for():
    model = ShiftedWindows().eval()
    side = Dim("side", min=5, max=24)
    shapes = {"x": {0: Dim("batch", min=1, max=4), 2: 8 * side, 3: 8 * side}}
    compiled = engine.compile(
        model, [torch.randn(2, 3, 96, 96)], dynamic_shapes=shapes, min_block_size=1, runtime="interpreter",
        require_full_compilation=True,
    )  # fmt: skip
    assert compiled.report.notes == ()
    for batch, pixels in ((1, 40), (3, 64), (2, 72), (4, 192)):
        assert_agrees(compiled, model, torch.randn(batch, 3, pixels, pixels))
    with pytest.raises(InputError, match=r"has size 32; its range is 40\.\.192"):
        compiled(torch.randn(1, 3, 32, 32))


def test_a_slice_with_an_end_that_an_operator_compares():
    model = as_module(lambda x: x[:, : x.shape[0] // 2] * 2)
    captured = capture(model, [torch.randn(6, 8)], dynamic_shapes={"x": {0: Dim.DYNAMIC}})
    # From 18 on, half of it is more than there is, and the size of the result would be another.
    (allowed,) = captured.ranges.values()
    assert allowed.max <= 17


# ------------------------------------------------------------------------------------ how it is done


def test_guards_are_asked_once_for_the_same_shapes():
    asked = []

    class Asked(Guard):
        def holds(self, sizes):
            asked.append(dict(sizes))
            return super().holds(sizes)

    captured = capture(Ways(), [ranged((2, 2), (2, 6), (2, 8))])
    signature = captured.signature()
    signature.guards = tuple(Asked(guard.relation) for guard in signature.guards)
    for _ in range(5):
        signature.bind((torch.randn(2, 4),), {})
    assert len(asked) == 1
    signature.bind((torch.randn(2, 8),), {})
    assert len(asked) == 2


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Eq(functions.Mod(N * (S + functions.Mod(4 - functions.Mod(S, 4), 4)), 4 * N), 0),
        functions.FloorDiv(S, 3) > 2,
        sympy.And(S > 2, N < 9),
        sympy.Or(sympy.Not(sympy.Eq(S, N)), S >= 5),
        sympy.Piecewise((S, S > 2), (N, True)) > 3,
        sympy.Rational(1, 2) * S > 3,
        sympy.Ne(S**2, N + 1),
        functions.Max(S, N) > functions.Min(S, 4),
        functions.CeilToInt(functions.IntTrueDiv(S, 2)) > 2,
        functions.ToFloat(S) > 2.5,
        functions.PythonMod(S - N, 3) <= 1,
    ],
    ids=str,
)
def test_functions_and_texts_of_relations(expression):
    function = function_of(expression)
    names = {S: "x.shape[0]", N: "x.shape[1]"}
    code = compile(text_of(expression, names), "text", "eval")
    for s in range(1, 12):
        for n in range(1, 6):
            wanted = bool(expression.subs({S: s, N: n}))
            assert function({S: s, N: n}) == wanted
            assert eval(code, {"x": torch.empty(s, n), "math": math, "float": float}) == wanted


def test_settling():
    ranges = {S: Range(1, 4, 8), N: Range(2, 4, 1 << 20)}
    settled = settle([Guard(S < 9), Guard(functions.FloorDiv(N, 2) >= 1), Guard(sympy.Ne(S, 1))], ranges)
    assert (settled.guards, settled.missed, settled.narrowed) == ([], [], {})
    settled = settle([Guard(S > 2), Guard(S < 7), Guard(sympy.Eq(functions.Mod(S, 2), 0)), Guard(N > 3 * S)], ranges)
    assert settled.narrowed[S][:2] == (3, 6)
    assert [str(guard.relation) for guard in settled.missed] == ["Eq(Mod(s, 2), 0)", "(s < 2) | (n > 3*s)"]
    # Nothing is divided by zero, and what has no value does not hold.
    assert not Guard(sympy.Eq(functions.Mod(N, functions.FloorDiv(S, 8)), 0)).holds({S: 3, N: 4})


def test_the_question_of_an_operator_is_not_taken_for_the_models():
    model = as_module(lambda x: F.max_pool2d(x[:, None], 3, 2, ceil_mode=True).reshape(x.shape[0], 4, -1))
    captured = capture(model, [torch.randn(4, 30, 8)], dynamic_shapes=[{1: Dim.DYNAMIC, 2: Dim.DYNAMIC}])
    asking = {noted.sloc.framework_loc.filename for noted in captured.shape_env.guards}
    assert asking
    assert not asking & {module.__file__ for module in (branches, layouts, proofs)}


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_the_strides_of_a_result_on_a_gpu_bound_no_size(mode):
    """PyTorch lays out what has 4, or 16, channels in another way; here they are the batch, as in DETR's masks."""
    model = as_module(lambda x: F.interpolate(x[None], size=(6, 5), mode=mode)[0])
    captured = capture(model, [torch.randn(20, 4, 4, device="cuda")], dynamic_shapes=[{0: Dim("b", min=1, max=32)}])
    assert list(captured.ranges.values()) == [Range(1, 20, 32)]


def test_what_torch_export_cannot_prove_of_square_images_has_its_line_and_the_sizes_that_hold():
    side = Dim("side", min=8, max=40)

    def half(x):
        return x * 2 if x.shape[2] // 2 != x.shape[2] - 4 else x

    with pytest.raises(CaptureError) as error:
        capture(as_module(half), [torch.randn(1, 3, 12, 12)], dynamic_shapes=[{2: side, 3: side}])
    assert "the model only holds for sizes from 9 to 40" in str(error.value)
    assert f"{__file__}:" in str(error.value)

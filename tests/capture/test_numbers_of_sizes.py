"""Models that make Python numbers of sizes: what stays a size, what strict mode takes, and what is said of the rest."""

import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from engine.capture import capture
from engine.errors import CaptureError, InputError
from engine.testing import as_module
from tests.comparison import assert_agrees


def table(x):
    return torch.arange(32, dtype=x.dtype).view(1, 2, 4, 4).sin()


# These are traced as they are.
SIZES = {
    "linspace": lambda x: x + torch.linspace(-1, 1, x.shape[0])[:, None],
    "linspace to the last": lambda x: x + torch.linspace(0, x.shape[0] - 1, x.shape[0]).view(-1, 1),
    "linspace in half": lambda x: torch.linspace(0.5, x.shape[0] - 0.5, x.shape[0], dtype=torch.float16),
    "as_tensor": lambda x: x / torch.as_tensor((x.shape[0], x.shape[1])).sum(),
    "tensor": lambda x: x * torch.tensor([[x.shape[1], x.shape[0]], [0.5, 2]])[:, :1].sum(),
    "new_tensor": lambda x: x / x.new_tensor([x.shape[0], 1]).prod(),
    "sqrt": lambda x: x / math.sqrt(x.shape[0]),
    "fftfreq": lambda x: x[:, 0] + torch.fft.fftfreq(x.shape[0], d=0.5),
    "rfftfreq": lambda x: torch.fft.rfftfreq(x.shape[0]) * 2,
    "bicubic": lambda x: F.interpolate(table(x), scale_factor=((x.shape[0] + 0.1) / 4, 1.5), mode="bicubic"),
    "bilinear": lambda x: F.interpolate(table(x), scale_factor=x.shape[0] / 3, mode="bilinear"),
    "linear": lambda x: F.interpolate(table(x)[0], scale_factor=x.shape[0] / 3, mode="linear", align_corners=True),
    "the size that follows": lambda x: F.interpolate(
        table(x), scale_factor=x.shape[0] / 3, mode="bilinear", recompute_scale_factor=True
    ),
}
# These are numbers to Python.
NUMBERS = {
    "len": lambda x: x + torch.arange(len(x))[:, None],
    "int": lambda x: x.new_ones(int(x.shape[0]), 2) * x[:, :2],
    "of a product": lambda x: x.new_ones(int(x.shape[0] * 1.5)).cumsum(0),
    "of a quotient": lambda x: x.repeat(2, 1)[: int(x.shape[0] / 2)],
    "float": lambda x: x * float(x.shape[0]) ** -0.5,
    "windows put together": lambda x: x.flatten().view(int(x.shape[0] * x.shape[1] / 3 / 1), -1),
    "with a linspace": lambda x: x[: int(x.shape[0])] * torch.linspace(0, 1, len(x))[:, None],
}


@pytest.mark.parametrize("name", [*SIZES, *NUMBERS])
def test_every_size(name):
    model = as_module((SIZES | NUMBERS)[name])
    captured = capture(model, [torch.randn(6, 3)], dynamic_shapes=[{0: Dim("n", min=1, max=40)}])
    assert any("strict mode" in note for note in captured.notes) is (name in NUMBERS)
    assert captured.guards == ()
    for rows in (1, 2, 5, 13, 40):
        x = torch.randn(rows, 3)
        (found,) = captured.module()(*captured.bind([x]))
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)


# The side of a map, from its tokens.
SIDES = {
    "power": lambda n: int(n**0.5),
    "root": lambda n: int(math.sqrt(n)),
    "rounded": lambda n: round(n**0.5),
    "sym_int": lambda n: torch.sym_int(n**0.5),
}


@pytest.mark.parametrize("pooled", [1, 2])
@pytest.mark.parametrize("name", SIDES)
def test_the_side_of_square_images(name, pooled):
    import engine

    def model(x):
        tokens = F.avg_pool2d(x, pooled).flatten(2)
        side = SIDES[name](tokens.shape[2])
        return tokens.mT.reshape(x.shape[0], side, side, 3).sin()

    side = Dim("side", min=4, max=40)
    shapes = [{0: Dim("n", min=1, max=4), 2: side, 3: side}]
    compiled = engine.compile(
        as_module(model), [torch.randn(2, 3, 12, 12)], dynamic_shapes=shapes, runtime="interpreter", min_block_size=1
    )
    assert compiled.report.coverage == 1.0
    for batch, size in [(1, 4), (3, 13), (4, 40), (2, 29)]:
        assert_agrees(compiled, as_module(model), torch.randn(batch, 3, size, size))


def test_the_root_of_what_is_no_square_is_no_side():
    """Of images that need not be square there is no such side: calls are held against what the model needs."""
    model = as_module(lambda x: x.flatten(2).reshape(1, int((x.shape[2] * x.shape[3]) ** 0.5), -1))
    shapes = [{2: Dim("h", min=4, max=40), 3: Dim("w", min=4, max=40)}]
    captured = capture(model, [torch.randn(1, 3, 12, 12)], dynamic_shapes=shapes)
    x = torch.randn(1, 3, 20, 20)
    (found,) = captured.module()(*captured.bind([x]))
    torch.testing.assert_close(found, model(x))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        model(torch.randn(1, 3, 13, 7))
    with pytest.raises(InputError):
        captured.bind([torch.randn(1, 3, 13, 7)])


@pytest.mark.parametrize("name", ["linspace to the last", "bilinear", "of a quotient"])
def test_in_an_engine(name):
    import engine

    model = as_module((SIZES | NUMBERS)[name])
    shapes = [{0: Dim("n", min=2, max=40)}]
    compiled = engine.compile(
        model, [torch.randn(6, 3)], dynamic_shapes=shapes, runtime="interpreter", min_block_size=1
    )
    assert compiled.report.coverage == 1.0
    for rows in (2, 5, 13, 40):
        assert_agrees(compiled, model, torch.randn(rows, 3))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: sum(x[i] for i in range(x.shape[0])), "torch.arange"),
        (lambda x: x * math.log(x.shape[0]), "torch.scalar_tensor"),
        (lambda x: F.interpolate(x[None], scale_factor=float(x.shape[0])), "size="),
    ],
    ids=["range", "log", "scale_factor"],
)
def test_what_to_write_instead(function, said):
    with pytest.raises(CaptureError) as error:
        capture(as_module(function), [torch.randn(6, 3)], dynamic_shapes=[{0: Dim("n", min=1, max=40)}])
    assert f"{__file__}:" in str(error.value)
    assert said in str(error.value)


def test_a_branch_that_strict_mode_takes():
    """Strict mode takes sizes to be 2 or more as well, and says nothing of what it decides by that."""

    def single(x):
        return (x * 2 if x.shape[0] == 1 else x) + x.new_ones(len(x), 1)

    with pytest.raises(CaptureError, match=r"sizes from 2 to 40.*\n.*in forward.*\n.*other values"):
        capture(as_module(single), [torch.randn(6, 3)], dynamic_shapes=[{0: Dim("n", min=1, max=40)}])
    captured = capture(as_module(single), [torch.randn(6, 3)], dynamic_shapes=[{0: Dim("n", min=2, max=40)}])
    x = torch.randn(2, 3)
    torch.testing.assert_close(captured.module()(x)[0], single(x))


def test_windows_that_are_put_together_again():
    """Their number over that of one sequence is the batch, for a batch of 1 too."""

    def windowed(x):
        x = F.pad(x, (0, -x.shape[1] % 4))
        rows = x.view(x.shape[0], x.shape[1] // 4, 4).reshape(-1, 4).softmax(-1)
        return rows.view(int(rows.shape[0] / (x.shape[1] / 4)), -1)

    dims = {0: Dim.DYNAMIC(min=1, max=9), 1: Dim.DYNAMIC(min=5, max=90)}
    captured = capture(as_module(windowed), [torch.randn(3, 14)], dynamic_shapes=[dims])
    for shape in ((1, 5), (1, 8), (9, 90)):
        x = torch.randn(shape)
        (found,) = captured.module()(*captured.bind([x]))
        torch.testing.assert_close(found, windowed(x))


def test_an_equality_of_several_sizes_that_holds_almost_nowhere():
    def area(x):
        return x * 2 if x.shape[0] * x.shape[1] == 12 else x

    dims = {0: Dim.DYNAMIC(min=1, max=90), 1: Dim.DYNAMIC(min=1, max=90)}
    with pytest.raises(CaptureError, match=r"next to none of these sizes\n.*in forward"):
        capture(as_module(area), [torch.randn(4, 3)], dynamic_shapes=[dims])
    # Dims that are equal are as many as there are.
    square = as_module(lambda x: x @ x if x.shape[0] // 2 == x.shape[1] // 2 else x)
    captured = capture(square, [torch.randn(4, 4)], dynamic_shapes=[dims])
    assert captured.guards != () or len(captured.ranges) == 1


@pytest.mark.parametrize("form", ["keyword", "positional", "branch"])
def test_attention_that_is_causal_from_two_on(form):
    """As in Whisper's decoder; one token attends to itself, whatever the mask."""

    def attend(x):
        causal = x.shape[2] > 1
        if form == "positional":
            return F.scaled_dot_product_attention(x, x, x, None, 0.0, causal)
        return F.scaled_dot_product_attention(x, x, x, is_causal=causal if form == "keyword" else bool(causal))

    captured = capture(as_module(attend), [torch.randn(1, 2, 5, 8)], dynamic_shapes=[{2: Dim("t", min=1, max=16)}])
    assert captured.guards == ()
    for length in (1, 2, 16):
        x = torch.randn(1, 2, length, 8)
        torch.testing.assert_close(captured.module()(*captured.bind([x]))[0], attend(x))


def test_causal_attention_to_more_than_there_are_queries():
    memory = torch.randn(1, 2, 7, 8)
    model = as_module(lambda x: F.scaled_dot_product_attention(x, memory, memory, is_causal=x.shape[2] > 1))
    with pytest.raises(CaptureError, match="holds for sizes from 2 to 16"):
        capture(model, [torch.randn(1, 2, 5, 8)], dynamic_shapes=[{2: Dim("t", min=1, max=16)}])


def test_the_shape_as_a_tensor():
    def scaled(x):
        height, width = torch._shape_as_tensor(x)[-2:]
        return x / torch.stack([width, height]).prod()

    captured = capture(as_module(scaled), [torch.randn(5, 3)], dynamic_shapes=[{0: Dim("n", min=1, max=16)}])
    for rows in (1, 2, 16):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(captured.module()(*captured.bind([x]))[0], scaled(x))


@pytest.mark.parametrize("function", [numpy.arange, numpy.sqrt])
def test_what_to_write_instead_of_numpy(function):
    """Where PyTorch does not read the code that calls it."""

    @torch.compiler.disable
    def called(size):
        return torch.as_tensor(function(size))

    with pytest.raises(CaptureError, match=r"functions of numpy do not take sizes: torch\.arange"):
        capture(
            as_module(lambda x: x + called(x.shape[1])),
            [torch.randn(6, 3)],
            dynamic_shapes=[{1: Dim("n", min=2, max=9)}],
        )

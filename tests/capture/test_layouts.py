"""What PyTorch asks about strides while a model is captured bounds no size, and hides no question of the model's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import engine
from engine.capture import capture
from engine.errors import InputError
from engine.testing import as_module
from tests.comparison import assert_agrees


class Patches(nn.Module):
    """A map of patches of 8 x 8, given to a function; sizes from 8 on make maps of one row or one column."""

    def __init__(self, function):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 8, 8)
        self.function = function

    def forward(self, image):
        return self.function(self.patches(image))


def windows(x):
    """Padded to windows of 2 x 2, cut into them, put together, and cropped back."""
    x = x.permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % 2, 0, -height % 2))
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x.view(batch, rows, 2, columns, 2, channels).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, channels)
    x = x.softmax(1).view(-1, rows, columns, 2, 2, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, 2 * rows, 2 * columns, channels)
    return x[:, :height, :width].contiguous().view(batch, height * width, channels)


def attended(x):
    tokens = x.flatten(2).transpose(1, 2)
    heads = tokens.reshape(1, -1, 2, 2).permute(0, 2, 1, 3)
    return (heads @ heads.mT).softmax(-1) @ heads


FORMS = {
    "tokens": lambda x: x.flatten(2).mT * 2,
    "rows": lambda x: x.permute(0, 2, 3, 1).reshape(-1, 4).relu(),
    "beside its mean": lambda x: x - x.mean((2, 3), keepdim=True).expand_as(x),
    "laid out anew": lambda x: x.roll((1, 1), (2, 3)).permute(0, 2, 3, 1).contiguous() + 1,
    "and back": lambda x: x.flatten(2).mT.sin().mT.reshape(x.shape).contiguous(memory_format=torch.channels_last),
    "windows": windows,
    "attended": attended,
}


@pytest.mark.parametrize("name", FORMS)
def test_maps_of_one_row(name):
    model = Patches(FORMS[name]).eval()
    dims = {2: Dim("h", min=8, max=48), 3: Dim("w", min=8, max=48)}
    compiled = engine.compile(model, [torch.randn(1, 3, 20, 28)], dynamic_shapes=[dims], runtime="interpreter")
    assert compiled.report.coverage == 1.0
    assert compiled.report.notes == ()
    for height, width in [(8, 32), (32, 8), (8, 8), (17, 23), (48, 48)]:
        with torch.no_grad():
            assert_agrees(compiled, model, torch.randn(1, 3, height, width))


def test_a_question_of_the_model_that_strides_ask_too():
    """Whether a map has one row is asked to lay out its tokens, before the model decides by it."""

    def taller(x):
        tokens = x.flatten(2).mT + 1
        return tokens * 2 if x.shape[2] * x.shape[3] != x.shape[3] else tokens

    model = Patches(taller).eval()
    image = [torch.randn(1, 3, 20, 28)]
    captured = capture(model, image, dynamic_shapes=[{2: Dim.DYNAMIC(min=8, max=48), 3: Dim.DYNAMIC(min=8, max=48)}])
    (guard,) = captured.guards
    assert guard.asked
    assert f"{__file__}:" in guard.source
    assert "in taller: return tokens * 2 if x.shape[2] * x.shape[3] != x.shape[3]" in guard.source
    captured.bind([torch.randn(1, 3, 16, 8)])
    with pytest.raises(InputError, match="in taller"):
        captured.bind([torch.randn(1, 3, 8, 16)])


def test_what_a_view_needs_is_asked_of_calls():
    model = Patches(lambda x: x.reshape(x.shape[0], 2, -1, 3))
    image = [torch.randn(1, 3, 24, 24)]
    captured = capture(model, image, dynamic_shapes=[{3: Dim.DYNAMIC(min=8, max=48)}])
    captured.bind([torch.randn(1, 3, 24, 8)])
    assert captured.guards == ()  # 3 rows: 2 * 3 divides what there is of any width
    captured = capture(model, image, dynamic_shapes=[{2: Dim.DYNAMIC(min=8, max=48)}])
    captured.bind([torch.randn(1, 3, 8, 24)])
    captured = capture(model, image, dynamic_shapes=[{2: Dim.DYNAMIC(min=8, max=48), 3: Dim.DYNAMIC(min=8, max=48)}])
    with pytest.raises(InputError, match="% 6 == 0"):
        captured.bind([torch.randn(1, 3, 16, 16)])


class Table(nn.Module):
    """Patches with a part of a table of places; at 40 pixels with all of it, whose rows lie as those of the patches."""

    def __init__(self, places):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.register_buffer("table", torch.randn(1, 400, 8))
        self.places = places

    def forward(self, image):
        rows, columns = image.shape[2] // 2, image.shape[3] // 2
        top, left = (20 - rows) // 2, (20 - columns) // 2
        part = self.table.view(1, 20, 20, 8)[:, top : top + rows, left : left + columns]
        return self.patches(image).flatten(2).mT + self.places(part)


PLACES = {
    "reshape": lambda part: part.reshape(1, -1, 8),
    "flatten": lambda part: part.flatten(1, 2).sin(),
    "permuted": lambda part: part.permute(0, 3, 1, 2).flatten(2).mT,
    "contiguous": lambda part: part.contiguous().view(1, -1, 8),
    "selected": lambda part: part[0].reshape(-1, 8)[None],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_part_of_a_table_may_be_all_of_it(name):
    model = Table(PLACES[name]).eval()
    dims = {2: Dim("h", min=8, max=40), 3: Dim("w", min=8, max=40)}
    captured = capture(model, [torch.randn(1, 3, 12, 16)], dynamic_shapes=[dims])
    assert captured.guards == ()
    for height, width in [(8, 40), (40, 8), (40, 40), (17, 23), (8, 8)]:
        image = torch.randn(1, 3, height, width)
        (found,) = captured.module()(*captured.bind([image]))
        torch.testing.assert_close(found, model(image))


def test_a_part_of_a_table_of_square_images():
    model = Table(PLACES["reshape"]).eval()
    side = Dim("side", min=8, max=40)
    compiled = engine.compile(
        model, [torch.randn(1, 3, 12, 12)], dynamic_shapes=[{2: side, 3: side}], runtime="interpreter"
    )
    assert compiled.report.coverage == 1.0
    for size in (8, 17, 29, 39, 40):
        with torch.no_grad():
            assert_agrees(compiled, model, torch.randn(1, 3, size, size))


def test_elements_of_a_known_number_are_no_question_of_strides():
    """The example has as many elements as the view has to have; no other size has."""
    with pytest.raises(engine.EngineError, match=r"specialized it to be a constant \(20\)"):
        capture(as_module(lambda x: x.reshape(40, 2) + 1), [torch.randn(20, 4)], dynamic_shapes=[{0: Dim("n", max=40)}])

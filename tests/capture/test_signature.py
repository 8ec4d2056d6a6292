import time

import pytest
import torch
from torch import nn
from torch.export import Dim

from engine.capture import Input, capture
from engine.errors import InputError

DEFAULT_BIAS = torch.full((3,), 0.25)


class Pair(nn.Module):
    def forward(self, x, y, scale=None, mode="sum"):
        result = x + y if mode == "sum" else x - y
        return result if scale is None else result * scale


def pair(**extra):
    batch = Dim("batch", min=1, max=8)
    dynamic = {"x": {0: batch}, "y": {0: batch}, **dict.fromkeys(extra)}
    return capture(Pair(), (torch.randn(2, 3), torch.randn(2, 3)), extra, dynamic_shapes=dynamic)


def test_calls_by_position_and_by_keyword_bind_alike():
    captured = pair()
    x, y = torch.randn(5, 3), torch.randn(5, 3)
    for args, kwargs in [((x, y), {}), ((x,), {"y": y}), ((), {"y": y, "x": x}), ((x, y), {"scale": None})]:
        bound = captured.bind(args, kwargs)
        assert bound[0] is x
        assert bound[1] is y


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((torch.randn(2, 3),), {}, r"the model takes 2 inputs \(x, y\); 'y' is missing"),
        ((torch.randn(2, 3),) * 5, {}, "5 positional inputs"),
        ((torch.randn(2, 3), torch.randn(2, 3).double()), {}, r"input 'y' has dtype torch.float64"),
        ((torch.randn(2, 3), torch.randn(2, 3, device="meta")), {}, "input 'y' is on device meta"),
        ((torch.randn(2, 3), torch.randn(3)), {}, r"input 'y' has rank 1 .*\[1..8, 3\]"),
        ((torch.randn(2, 4), torch.randn(2, 4)), {}, r"dim 1 of input 'x' has size 4; it is static"),
        ((torch.randn(9, 3), torch.randn(9, 3)), {}, r"dim 0 of input 'x' has size 9; its range is 1..8"),
        ((torch.randn(0, 3), torch.randn(0, 3)), {}, r"has size 0; its range is 1..8"),
        (
            (torch.randn(4, 3), torch.randn(5, 3)),
            {},
            r"dim 0 of input 'y' has size 5; it must equal dim 0 of input 'x'",
        ),
        ((torch.randn(2, 3), None), {}, "input 'y' is a tensor, not None"),
        ((torch.randn(2, 3), torch.randn(2, 3)), {"scale": torch.ones(1)}, "input 'scale' was not given"),
        ((torch.randn(2, 3), torch.randn(2, 3)), {"mode": "difference"}, "input 'mode' was not given"),
        ((torch.randn(2, 3), torch.randn(2, 3)), {"z": 1}, "input 'z' was not given"),
        ((torch.randn(2, 3), torch.randn(2, 3)), {"x": torch.randn(2, 3)}, "both by position and by keyword"),
    ],
)
def test_wrong_calls_are_refused_by_name(args, kwargs, message):
    captured = pair()
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            captured.bind(args, kwargs)


def test_constant_inputs_are_checked():
    captured = pair(scale=None, mode="difference")
    x = torch.randn(2, 3)
    assert captured.input_names == ("x", "y")
    assert len(captured.bind((x, x), {"scale": None, "mode": "difference"})) == 2
    assert len(captured.bind((x, x), {"mode": "difference"})) == 2
    with pytest.raises(InputError, match=r"input 'mode' was 'difference'.*now it is 'sum'"):
        captured.bind((x, x), {"scale": None, "mode": "sum"})
    with pytest.raises(InputError, match=r"input 'scale' was None.*a tensor \(1,\)"):
        captured.bind((x, x), {"scale": torch.ones(1), "mode": "difference"})


class Options(nn.Module):
    """Every kind of parameter that a call may leave out."""

    def forward(self, x, scale=1.0, pair=(1, 2.0), bias=DEFAULT_BIAS, /, *rest, flip=False, shift=None, **more):
        y = x * scale * pair[0] + pair[1] + bias
        for other in rest:
            y = y + other
        y = y if shift is None else y + shift
        y = y * more["factor"] if "factor" in more else y
        return {"y": y.flip(0)} if flip else (y,)


OPTIONS = {
    "number": ((0.5,), {}),
    "nested": ((1.0, (1, 3.0)), {}),
    "integer for a float": ((1,), {}),
    "minus zero": ((-0.0,), {}),
    "another tensor": ((1.0, (1, 2.0), torch.full((3,), 5.0)), {}),
    "the defaults": ((1.0, (1, 2.0), DEFAULT_BIAS), {"flip": False, "shift": None}),
    "more positional": ((1.0, (1, 2.0), DEFAULT_BIAS, torch.ones(3), torch.ones(3)), {}),
    "keyword only": ((), {"flip": True}),
    "None by default": ((), {"shift": 2.0}),
    "a tensor, None by default": ((), {"shift": torch.ones(3)}),
    "further keywords": ((), {"factor": 3.0}),
    "nothing": ((), {}),
}


@pytest.mark.parametrize("given", OPTIONS)
def test_what_a_call_leaves_out_is_the_default_of_the_model(given):
    """Whatever was given when capturing, a call gives what the model gives for the same arguments, or is refused."""
    model, x = Options(), torch.randn(2, 3)
    args, kwargs = OPTIONS[given]
    captured = capture(model, (x, *args), kwargs)

    def call(args, kwargs):
        outputs = captured.module()(*captured.bind((x, *args), kwargs))
        return captured.signature().unflatten(outputs)

    torch.testing.assert_close(call(args, kwargs), model(x, *args, **kwargs))
    answered = 0
    for other_args, other_kwargs in OPTIONS.values():
        try:
            result = call(other_args, other_kwargs)
        except InputError as error:
            assert "input" in str(error)  # noqa: PT017
            continue
        answered += 1
        torch.testing.assert_close(result, model(x, *other_args, **other_kwargs))
    assert answered >= 1


def test_a_refusal_says_which_default_is_meant():
    x = torch.randn(2, 3)
    captured = capture(Options(), (x, 0.5))
    with pytest.raises(
        InputError, match=r"'scale' was 0\.5 .* now it is 1\.0.*leaves out scale=1\.0, which is the model"
    ):
        captured.bind((x,))
    captured = capture(Options(), (x,), {"shift": torch.ones(3)})
    with pytest.raises(InputError, match=r"'shift' is a tensor, not None.*leaves out shift=None"):
        captured.bind((x,))
    captured = capture(Options(), (x,), {"factor": 3.0})
    with pytest.raises(InputError, match=r"'factor' is missing: no default .* pass factor=3\.0"):
        captured.bind((x,))


def test_an_exported_program_knows_no_defaults():
    x = torch.randn(2, 3)
    captured = capture(torch.export.export(Pair(), (x, x, None, "difference")))
    assert len(captured.bind((x, x, None, "difference"))) == 2
    assert len(captured.bind((x, x), {"scale": None, "mode": "difference"})) == 2
    with pytest.raises(InputError, match=r"'scale' is missing: no default .*was None when the model was captured"):
        captured.bind((x, x))
    with pytest.raises(InputError, match=r"'mode' is missing.*pass mode='difference'"):
        captured.bind((x, x, None))


class Nested(nn.Module):
    def forward(self, batch, states):
        return {"sum": batch["image"] + states[0], "rest": (states[1], batch["image"])}


def test_nested_inputs_are_named_by_their_path():
    image, state = torch.randn(2, 3), torch.randn(2, 3)
    captured = capture(Nested(), ({"image": image}, [state, state]))
    assert captured.input_names == ("batch['image']", "states[0]", "states[1]")
    with pytest.raises(InputError, match=r"batch\['image'\]"):
        captured.bind(({"image": torch.randn(3, 3)}, [state, state]))
    with pytest.raises(InputError, match="nested in another way"):
        captured.bind(({"image": image}, [state]))
    outputs = captured.module()(*captured.bind(({"image": image}, [state, state])))
    result = captured.signature().unflatten(outputs)
    torch.testing.assert_close(result["sum"], image + state)
    assert isinstance(result["rest"], tuple)


class Repeat(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, x]) + y


def test_derived_dims_are_checked():
    captured = capture(
        Repeat(),
        (
            Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(8, 3)),
            Input(min_shape=(2, 3), opt_shape=(4, 3), max_shape=(16, 3)),
        ),
    )
    captured.bind((torch.randn(3, 3), torch.randn(6, 3)))
    with pytest.raises(
        InputError, match="dim 0 of input 'y' has size 5; with the size of dim 0 of input 'x' it must be 6"
    ):
        captured.bind((torch.randn(3, 3), torch.randn(5, 3)))


def test_repeated_signature_is_cheap():
    captured = pair()
    args = (torch.randn(4, 3), torch.randn(4, 3))
    captured.bind(args, {})
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            captured.bind(args, {})
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 30e-6

import pytest
import sympy
import torch

from engine.capture import Input, Profile, Range
from engine.capture.inputs import unbounded
from engine.errors import InputError


def test_static_input():
    given = Input((1, 3, 8, 8), dtype=torch.float16)
    assert given.min_shape == given.opt_shape == given.max_shape == (1, 3, 8, 8)
    assert given.dynamic_dims == {}
    example = given.example()
    assert example.shape == (1, 3, 8, 8)
    assert example.dtype == torch.float16


def test_dynamic_input():
    given = Input(min_shape=(1, 3), opt_shape=(4, 3), max_shape=(8, 3))
    assert given.dynamic_dims == {0: Range(1, 4, 8)}
    assert given.shape == ("1..8", 3)
    assert given.example().shape == (4, 3)


def test_opt_may_equal_min_and_example_is_then_larger():
    given = Input(min_shape=(1, 3), opt_shape=(1, 3), max_shape=(8, 3))
    assert given.dynamic_dims == {0: Range(1, 1, 8)}
    assert given.example().shape == (2, 3)


def test_integers_and_formats():
    assert Input((2, 4), dtype=torch.int64).example().tolist() == [[1] * 4] * 2
    assert Input((2,), dtype=torch.bool).example().all()
    example = Input((2, 3, 4, 4), format=torch.channels_last).example()
    assert example.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Input((3,)).example(), Input((3,)).example())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "missing"),
        ({"shape": (1,), "min_shape": (1,)}, "either"),
        ({"min_shape": (1,), "opt_shape": (2,)}, "max_shape missing"),
        ({"min_shape": (3,), "opt_shape": (2,), "max_shape": (4,)}, "dim 0 has min 3, opt 2, max 4"),
        ({"min_shape": (1,), "opt_shape": (2, 2), "max_shape": (4,)}, "differ in rank"),
        ({"shape": (-1, 3)}, "size -1"),
        ({"shape": ("a",)}, "size 'a'"),
        ({"shape": (1,), "dtype": "float"}, "torch.dtype"),
        ({"shape": (1, 2), "format": torch.channels_last}, "rank 4"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Input(**arguments)


@pytest.mark.parametrize(("example", "bound"), [(1, 8), (2, 8), (4, 8), (5, 16), (128, 256), (224, 512)])
def test_default_bound_stays_near_the_example(example, bound):
    assert unbounded(example) == bound


def test_profile_evaluates_sizes():
    s = sympy.Symbol("s", integer=True, positive=True)
    profile = Profile.of({"x": (s, 3, 2 * s + 1)}, {s: Range(1, 4, 8)})
    assert profile.shape("x", "min") == (1, 3, 3)
    assert profile.shape("x", "opt") == (4, 3, 9)
    assert profile.shape("x", "max") == (8, 3, 17)

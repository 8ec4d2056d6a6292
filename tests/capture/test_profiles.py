"""Several optimization profiles for one model: how they are described, captured and built."""

from typing import Any

import pytest
import torch
from torch import nn

import engine
from engine.capture import capture
from engine.conversion import emit_network
from engine.errors import InputError
from engine.pipeline.compilation import Compilation
from engine.settings import CompilationSettings

SMALL = {"min_shape": (1, 4), "opt_shape": (2, 4), "max_shape": (4, 4)}
LARGE = {"min_shape": (3, 4), "opt_shape": (32, 4), "max_shape": (64, 4)}


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x + y).relu()


def ranges(captured: object) -> list[list[tuple[int, int, int]]]:
    return [[tuple(each) for each in profile.values()] for profile in captured.profiles]


def test_an_input_covers_its_profiles() -> None:
    described = engine.Input(profiles=[SMALL, LARGE], dtype=torch.float16)
    assert (described.min_shape, described.opt_shape, described.max_shape) == ((1, 4), (2, 4), (64, 4))
    assert described.profiles == (((1, 4), (2, 4), (4, 4)), ((3, 4), (32, 4), (64, 4)))
    assert engine.Input((2, 3)).profiles == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profiles": []}, "profiles is a list of dicts with min_shape, opt_shape, max_shape"),
        ({"profiles": [{"min_shape": (1,)}]}, "profile 0 is a dict with"),
        ({"profiles": [SMALL], "shape": (2, 4)}, "either profiles, or shapes"),
        ({"profiles": [SMALL, {**LARGE, "max_shape": (2, 4)}]}, "min <= opt <= max"),
        ({"profiles": [SMALL, dict.fromkeys(SMALL, (1, 2, 3))]}, "differ in rank"),
    ],
)
def test_what_is_no_profile(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.Input(**arguments)


def test_symbols_have_a_range_in_each_profile() -> None:
    described = [engine.Input(profiles=[SMALL, LARGE]), engine.Input(profiles=[SMALL, LARGE])]
    captured = capture(Sum(), described)
    assert [tuple(each) for each in captured.ranges.values()] == [(1, 2, 64)]
    assert ranges(captured) == [[(1, 2, 4)], [(3, 32, 64)]]


def test_inputs_without_profiles_follow() -> None:
    whole = engine.Input(min_shape=(2, 4), opt_shape=(2, 4), max_shape=(40, 4))
    captured = capture(Sum(), [engine.Input(profiles=[SMALL, LARGE]), whole])
    assert ranges(captured) == [[(2, 2, 4)], [(3, 32, 40)]]
    assert capture(Sum(), [whole, whole]).profiles == ()


def test_profiles_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="inputs have different numbers of profiles"):
        capture(Sum(), [engine.Input(profiles=[SMALL, LARGE]), engine.Input(profiles=[SMALL])])
    other = {"min_shape": (10, 4), "opt_shape": (32, 4), "max_shape": (64, 4)}
    with pytest.raises(InputError, match="profile 1 leaves no size for dim 0 of input 'x'"):
        capture(Sum(), [engine.Input(profiles=[LARGE, SMALL]), engine.Input(profiles=[LARGE, other])])


def profiles_of_the_network(described: list[engine.Input], **settings: Any) -> list[list[tuple[int, ...]]]:
    options = CompilationSettings(min_block_size=1, **settings)
    compilation = Compilation.start(Sum(), described, None, None, (), options)
    compilation.place()
    (segment,) = compilation.partition.engines
    captured = compilation.captured
    built = emit_network(
        compilation.mirror,
        segment.tiles,
        segment.inputs,
        segment.outputs,
        captured.ranges,
        compilation.settings,
        profiles=captured.profiles,
    )
    made = [profile for profile in (built.profile, *built.more_profiles) if profile is not None]
    found = [profile.get_shape(built.input_names[0]) for profile in made]
    return [[tuple(shape) for shape in shapes] for shapes in found]


def test_a_network_has_them_all() -> None:
    described = [engine.Input(profiles=[SMALL, LARGE]), engine.Input(profiles=[SMALL, LARGE])]
    small, large = [(1, 4), (2, 4), (4, 4)], [(3, 4), (32, 4), (64, 4)]
    assert profiles_of_the_network(described) == [small, large]
    exact = [[(2, 4)] * 3, small, [(32, 4)] * 3, large]
    assert profiles_of_the_network(described, opt_shape_profile=True) == exact


def test_a_range_and_its_optimal_shapes() -> None:
    whole = [engine.Input(min_shape=(1, 4), opt_shape=(8, 4), max_shape=(64, 4))] * 2
    assert profiles_of_the_network(whole, opt_shape_profile=True) == [[(8, 4)] * 3, [(1, 4), (8, 4), (64, 4)]]
    fixed = [engine.Input((8, 4))] * 2
    assert profiles_of_the_network(fixed, opt_shape_profile=True) == []


def test_compiles_and_runs() -> None:
    described = engine.Input(profiles=[SMALL, LARGE])
    compiled = engine.compile(Sum(), [described, described], min_block_size=1, runtime="interpreter")
    for n in (1, 4, 3, 64):
        x, y = torch.randn(n, 4), torch.randn(n, 4)
        torch.testing.assert_close(compiled(x, y), (x + y).relu())
    with pytest.raises(InputError, match=r"its range is 1\.\.64"):
        compiled(torch.randn(65, 4), torch.randn(65, 4))


@pytest.mark.gpu
def test_optimal_shapes_and_others_on_a_gpu() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).cuda().half()
    image = engine.Input(
        min_shape=(1, 8, 12, 12), opt_shape=(8, 8, 12, 12), max_shape=(16, 8, 12, 12), dtype=torch.float16
    )
    compiled = engine.compile(model, [image], min_block_size=1, opt_shape_profile=True)
    for n in (8, 5, 16, 8, 1):
        x = torch.randn(n, 8, 12, 12, device="cuda").half()
        torch.testing.assert_close(compiled(x), model(x), rtol=5e-3, atol=5e-3)

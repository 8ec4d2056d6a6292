"""Several optimization profiles for one model: how they are described, captured and built."""

import pytest
import torch
from torch import nn

import engine
from engine.capture import capture
from engine.compiler import Compilation
from engine.conversion import emit_network
from engine.errors import InputError
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


def test_a_network_has_them_all() -> None:
    described = [engine.Input(profiles=[SMALL, LARGE]), engine.Input(profiles=[SMALL, LARGE])]
    compilation = Compilation.start(Sum(), described, None, None, (), CompilationSettings(min_block_size=1))
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
    found = [profile.get_shape(built.input_names[0]) for profile in (built.profile, *built.more_profiles)]
    assert [[tuple(shape) for shape in shapes] for shapes in found] == [
        [(1, 4), (2, 4), (4, 4)],
        [(3, 4), (32, 4), (64, 4)],
    ]


def test_compiles_and_runs() -> None:
    described = engine.Input(profiles=[SMALL, LARGE])
    compiled = engine.compile(Sum(), [described, described], min_block_size=1, runtime="interpreter")
    for n in (1, 4, 3, 64):
        x, y = torch.randn(n, 4), torch.randn(n, 4)
        torch.testing.assert_close(compiled(x, y), (x + y).relu())
    with pytest.raises(InputError, match=r"its range is 1\.\.64"):
        compiled(torch.randn(65, 4), torch.randn(65, 4))

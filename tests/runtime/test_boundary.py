"""Output shapes from recorded ones."""

import pytest
import sympy
import torch
from torch.utils._sympy.functions import FloorDiv

from engine.errors import InputError
from engine.runtime import Boundary, TensorSpec

s0, s1 = sympy.symbols("s0 s1", integer=True, positive=True)


def boundary(inputs: list[tuple[object, ...]], outputs: list[tuple[object, ...]]) -> Boundary:
    return Boundary(
        tuple(TensorSpec(shape, torch.float32) for shape in inputs),  # type: ignore[arg-type]
        tuple(TensorSpec(shape, torch.float32) for shape in outputs),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "actual", "expected"),
    [
        ([(s0, 4)], [(s0, 2 * s0)], [(3, 4)], [(3, 6)]),
        ([(s0, s1)], [(s0 * s1,), ()], [(3, 4)], [(12,), ()]),
        ([(2 * s0 + 1,)], [(s0,)], [(7,)], [(3,)]),
        ([(s0 + s1, s1)], [(s0,)], [(7, 2)], [(5,)]),
        ([(FloorDiv(s0, 2),)], [(3 * FloorDiv(s0, 2) + 1,)], [(5,)], [(16,)]),
        ([(s0,)], [(FloorDiv(s0 - 1, 2) + 1,)], [(10,)], [(5,)]),
        ([(s0,)], [(0, 5)], [(1,)], [(0, 5)]),
        ([(s0 * s1, s0)], [(s0, s0 * s1)], [(12, 3)], [(3, 12)]),
    ],
)
def test_output_shapes(inputs: list, outputs: list, actual: list, expected: list) -> None:
    found = boundary(inputs, outputs).output_shapes([torch.empty(shape) for shape in actual])
    assert found == expected


def test_a_size_that_does_not_follow() -> None:
    recorded = boundary([(FloorDiv(s0, 2),)], [(s0, s0)])
    with pytest.raises(InputError, match="s0 does not follow"):
        recorded.output_shapes([torch.empty(3)])
    sizes = iter((7, 8))
    assert recorded.output_shapes([torch.empty(3)], lambda: next(sizes)) == [(7, 7)]


def test_recorded_from_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    dynamic = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.DYNAMIC])
    real = torch.ones(6, 4)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        x = mode.from_tensor(real, symbolic_context=dynamic)
        recorded = Boundary.of([x, x.shape[0]], [torch.cat([x, x])])
    assert recorded.output_shapes([torch.empty(5, 7), 5]) == [(10, 7)]

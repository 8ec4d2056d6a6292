"""Outputs that TensorRT could fold to a constant: it gives other bools for some, and does not build what reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import engine

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
aten = torch.ops.aten


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


MASK = torch.ones(1, 6, dtype=torch.bool)
# Of bools of shape [5, 6] and floats of the same shape.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "or_true": lambda b, x: aten.bitwise_or.Scalar(b, True),
    "and_false": lambda b, x: aten.bitwise_and.Scalar(b, False),
    "or_mask": lambda b, x: b | MASK.to(b.device),
    "and_mask": lambda b, x: b & ~MASK.to(b.device),
    "swapped": lambda b, x: torch.logical_or(torch.ones((), dtype=torch.bool, device=b.device), b),
    "of_floats": lambda b, x: torch.logical_and(x, torch.zeros((), device=b.device)),
    "or_number": lambda b, x: torch.logical_or(b, torch.full((1,), 2.5, device=b.device)),
    "sum_of_bools": lambda b, x: b + True,
    "product_of_bools": lambda b, x: b * False,
    "compared": lambda b, x: (x > 0.5) | True,
    "negated": lambda b, x: ~aten.bitwise_or.Scalar(b, True),
    "joined": lambda b, x: torch.cat([aten.bitwise_or.Scalar(b, True), b]),
    "chosen": lambda b, x: torch.where(aten.bitwise_and.Scalar(b, False), x.exp(), x.sin()),
    "counted": lambda b, x: aten.bitwise_or.Scalar(b, True).sum(1),
    "in_a_row": lambda b, x: (aten.bitwise_and.Scalar(b, False) | b) & (x > 0),
    "moved": lambda b, x: (b.t() | True).reshape(3, 10),
    "beside_others": lambda b, x: (aten.bitwise_or.Scalar(b, True), x + 1, ~b, aten.bitwise_and.Scalar(b, False)),
    "settled_by_nothing": lambda b, x: (b | ~MASK.to(b.device), b & MASK.to(b.device), b ^ MASK.to(b.device)),
    "itself": lambda b, x: (b == b, x == x, b ^ b, b | ~b),
    "numbers": lambda b, x: (x * 0, x.clamp(2, 2), x - x, b.long() * 0, b.int().clamp(min=2, max=2), (x * 0).half()),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("device", DEVICES)
def test_values_of_constant_outputs(device: str, dynamic: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    args = (torch.rand(5, 6, generator=generator) > 0.4, torch.randn(5, 6, generator=generator))
    args = tuple(value.to(device) for value in args)
    rows = torch.export.Dim("rows", min=2, max=9)
    shapes = {"args": ({0: rows}, {0: rows})} if dynamic else None
    names = [name for name in FUNCTIONS if not (dynamic and name == "moved")]
    # One network each: what TensorRT does to an output depends on what else there is.
    for name in names if device == "cuda" else names[:: 1 if not dynamic else 4]:
        model = Function(FUNCTIONS[name])
        compiled = engine.compile(model, args, dynamic_shapes=shapes, min_block_size=1)
        assert compiled.report.coverage == 1.0, (name, compiled.report.fallbacks)
        for junk in (0x55, 0xAA, 0xFF, 0x00):
            # Memory that the results may come to lie in.
            held = [torch.full((1 << 16,), junk, dtype=torch.uint8, device=device) for _ in range(4)]
            del held
            got, wanted = compiled(*args), model(*args)
            pairs = zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]
            for left, right in pairs:
                assert left.dtype == right.dtype
                torch.testing.assert_close(
                    left, right, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
                )


RULES = """
convert mine_or
  match aten.bitwise_or.Scalar(x: bool[..], k: bool)
  emit  trt.elementwise(x, trt.shuffle(scalar(k, bool), reshape=[1 for _ in range(rank(x))]), op=OR)

convert mine_not
  match aten.bitwise_and.Scalar(x: bool[..], k: bool)
  emit  trt.elementwise(x, trt.unary(filled(not k, [1 for _ in range(rank(x))], bool), op=NOT), op=AND)
"""


def test_a_rule_that_would_give_such_a_layer_does_not_apply(tmp_path: Any) -> None:
    path = tmp_path / "mine.rules"
    path.write_text(RULES)
    b = torch.tensor([[True, False, True]])
    without = engine.RuleSet.load(path).without("logical.bool_connective_with_scalar", "logical.bitwise", "narrow.*")
    for function, taken, rule in (
        (lambda b: aten.bitwise_or.Scalar(b, True), False, "mine.mine_or"),
        (lambda b: aten.bitwise_or.Scalar(b, False), True, "mine.mine_or"),
        (lambda b: aten.bitwise_and.Scalar(b, False), False, "mine.mine_not"),
        (lambda b: aten.bitwise_and.Scalar(b, True), True, "mine.mine_not"),
    ):
        report = engine.coverage(Function(function), (b,), rules=[without], min_block_size=1)
        assert (rule in report.rules_used) == taken
        if not taken:
            assert (
                "TensorRT builds an engine that computes wrong results for trt.elementwise"
                in report.fallbacks[0].reason
            )

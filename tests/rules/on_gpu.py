"""Compare the interpreter with TensorRT, rule by rule: ``python -m tests.rules.on_gpu``.

Every test line of every ``convert`` rule becomes an engine, which runs on the GPU at each of the line's sizes, and the
interpreter runs the same network.  ``--build-only`` needs no GPU.  Cases are named ``file.rule-line``.  A first call of
TensorRT-RTX runs kernels that serve all shapes; ``--specialization eager`` has it run those that it compiles for each.

TensorRT-RTX multiplies float32 matrices in TF32, whatever it is told.  How much that may matter is measured: the
interpreter runs once more with the operands of its products rounded so.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.builder.builder import build
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.errors import BuildError, ConversionError
from engine.interpreter import Program
from engine.runtime import TorchTensorRTModule
from engine.runtime.failures import EngineLoadError
from engine.settings import CompilationSettings
from engine.verify.agreement import NotApplied, converted
from engine.verify.instances import Inapplicable
from tests.interpreter.agreement import arguments, compare

_PRODUCTS = {
    torch.ops.aten.matmul.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
}
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
# Another order of sums rounds other intermediate results to TF32.
_SPREAD = 4

# Elementary functions and sums of many terms differ in the last digits; float16 and bfloat16 in theirs.
TOLERANCES = {torch.float32: (2e-3, 1e-4), torch.float16: (5e-3, 5e-3), torch.bfloat16: (3e-2, 3e-2)}


@functools.cache
def _rules() -> RuleSet:
    return RuleSet.load()


@functools.cache
def cases() -> list[tuple[Rule, int]]:
    """Every test line that a ``convert`` rule has to fire on."""
    chosen = sorted((rule for rule in _rules().rules if rule.kind == "convert"), key=lambda rule: rule.id)
    return [(rule, n) for rule in chosen for n, test in enumerate(rule.tests) if not test.rejects]


def examine(index: int, build_only: bool, specialization: str) -> dict[str, Any]:
    """Build, run and compare one case."""
    rule, number = cases()[index]
    try:
        network, samples = converted(rule, rule.tests[number], _rules())
        plan = build(network)
    except (Inapplicable, NotApplied) as reason:
        return {"status": "unsupported", "error": 0.0, "reason": str(reason).splitlines()[0]}
    except (BuildError, ConversionError) as error:
        return {"status": "refused", "error": 0.0, "reason": str(error)}
    program = Program.from_network(network.network, network.weights.tensors)
    if build_only:
        return {"status": "agreed", "error": 0.0, "reason": ""}
    rounded = [_in_tf32(program, inputs) for inputs in samples]
    settings = CompilationSettings(dynamic_shapes_kernel_specialization_strategy=specialization)
    module = TorchTensorRTModule(plan, network.input_names, network.output_names, settings=settings)
    worst, wrong = 0.0, ""
    for inputs, coarse in zip(samples, rounded, strict=True):
        scalars = len(network.scalars)
        given = [tensor.cuda() for tensor in inputs[: len(inputs) - scalars]]
        given += [int(tensor) for tensor in inputs[len(inputs) - scalars :]]
        try:
            found = module(*given)
        except EngineLoadError as error:
            return {"status": "refused", "error": 0.0, "reason": str(error)}
        found = [found] if isinstance(found, torch.Tensor) else list(found)
        for expected, near, have in zip(program(*inputs), coarse, found, strict=True):
            same, error = _compared(expected, near, have.cpu(), rule)
            worst = max(worst, error)
            wrong = wrong or ("" if same else f"{error:.3g}: interpreter {_shown(expected)}, TensorRT {_shown(have)}")
    return {"status": "disagreed" if wrong else "agreed", "error": worst, "reason": wrong}


class _Tf32(TorchDispatchMode):
    """Products of float32 matrices whose elements keep ten bits after the first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATTENTION:
            with self:
                return _attended(*args[:3], **kwargs)
        if func in _PRODUCTS:
            args = tuple(map(_rounded, args))
        return func(*args, **(kwargs or {}))


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float, attn_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as its two products."""
    scores = query @ key.mT * scale
    if attn_mask is not None:
        blocked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if blocked else scores + attn_mask
    return torch.softmax(scores, -1) @ value, torch.logsumexp(scores, -1)


def _rounded(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    bits = value.contiguous().view(torch.int32)
    return torch.where(value.isfinite(), ((bits + 0x1000) & ~0x1FFF).view(torch.float32), value)


def _in_tf32(program: Program, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with _Tf32():
        return list(program(*inputs))


def _compared(expected: torch.Tensor, coarse: torch.Tensor, found: torch.Tensor, rule: Rule) -> tuple[bool, float]:
    """Whether two results agree, and the greatest difference.

    Args:
        coarse: what is expected where products are in TF32.
    """
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        return False, float("inf")
    if not expected.numel() or "uninitialized" in rule.relax:
        return True, 0.0
    finite = expected.isfinite() & found.isfinite()
    difference = (expected.double() - found.double()).abs()[finite]
    relative, absolute = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    if expected.is_floating_point():
        absolute += _SPREAD * float((expected.double() - coarse.double()).abs().nan_to_num(0.0, 0.0, 0.0).max())
    same = torch.allclose(found, expected, rtol=relative, atol=absolute, equal_nan=True)
    return same, float(difference.max()) if difference.numel() else 0.0


def _shown(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} {tensor.flatten()[:8].tolist()}"


def main() -> int:
    """Compare rules."""
    options = arguments(__doc__)
    names = {index: f"{rule.id}-{number}" for index, (rule, number) in enumerate(cases())}
    chosen = {index: name for index, name in names.items() if options.only in name}
    how = {"build_only": options.build_only, "specialization": options.specialization}
    return compare(chosen, functools.partial(examine, **how), options)


if __name__ == "__main__":
    sys.exit(main())

"""Compare the interpreter with TensorRT, rule by rule: ``python -m tests.rules.on_gpu``.

Every test line of every ``convert`` rule becomes an engine, which runs on the GPU at each of the line's sizes, and the
interpreter runs the same network.  ``--build-only`` needs no GPU.  Cases are named ``file.rule-line``.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from engine.conversion.builder import build
from engine.dsl.rule import Rule
from engine.dsl.ruleset import RuleSet
from engine.errors import BuildError, ConversionError
from engine.interpreter import Program
from engine.runtime import TorchTensorRTModule
from engine.runtime.failures import EngineLoadError
from engine.verify.agreement import NotApplied, converted
from engine.verify.instance import Inapplicable
from tests.interpreter.agreement import arguments, compare

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


def examine(index: int, build_only: bool) -> dict[str, Any]:
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
    module = TorchTensorRTModule(plan, network.input_names, network.output_names)
    worst, wrong = 0.0, ""
    for inputs in samples:
        scalars = len(network.scalars)
        given = [tensor.cuda() for tensor in inputs[: len(inputs) - scalars]]
        given += [int(tensor) for tensor in inputs[len(inputs) - scalars :]]
        try:
            found = module(*given)
        except EngineLoadError as error:
            return {"status": "refused", "error": 0.0, "reason": str(error)}
        found = [found] if isinstance(found, torch.Tensor) else list(found)
        for expected, have in zip(program(*inputs), found, strict=True):
            same, error = _compared(expected, have.cpu(), rule)
            worst = max(worst, error)
            wrong = wrong or ("" if same else f"{error:.3g}: interpreter {_shown(expected)}, TensorRT {_shown(have)}")
    return {"status": "disagreed" if wrong else "agreed", "error": worst, "reason": wrong}


def _compared(expected: torch.Tensor, found: torch.Tensor, rule: Rule) -> tuple[bool, float]:
    """Whether two results agree, and the greatest difference."""
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        return False, float("inf")
    if not expected.numel() or "uninitialized" in rule.relax:
        return True, 0.0
    finite = expected.isfinite() & found.isfinite()
    difference = (expected.double() - found.double()).abs()[finite]
    relative, absolute = TOLERANCES.get(expected.dtype, (0.0, 0.0))
    same = torch.allclose(found, expected, rtol=relative, atol=absolute, equal_nan=True)
    return same, float(difference.max()) if difference.numel() else 0.0


def _shown(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} {tensor.flatten()[:8].tolist()}"


def main() -> int:
    """Compare rules."""
    options = arguments(__doc__)
    names = {index: f"{rule.id}-{number}" for index, (rule, number) in enumerate(cases())}
    chosen = {index: name for index, name in names.items() if options.only in name}
    return compare(chosen, functools.partial(examine, build_only=options.build_only), options)


if __name__ == "__main__":
    sys.exit(main())

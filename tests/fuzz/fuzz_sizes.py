"""Programs of arithmetic on sizes: examples that divide evenly, calls that do not, each compared with eager PyTorch.

A program is a short chain of steps, each of which reads sizes of the tensor so far, computes with them as a model
does, and crops, pads, views, cuts or fills by the result.  It is compiled with an example whose sizes divide, and
called with sizes that do not.  A refusal that says why is right; another result than PyTorch's is a fault, and so is
any error that is not one of the compiler's own.
"""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import CaptureError, EngineError, InputError

NAME = "sizes"
CASES = 2000
FIXED = 16

# Sizes of the example: multiples of what programs divide by.
_EXAMPLES = (8, 12, 16, 24)
_LEAST, _MOST = 1, 40

Number = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Step:
    """One step of a program: its text, and what it does to a tensor."""

    text: str
    run: Callable[[torch.Tensor], torch.Tensor]


class Program(nn.Module):
    """A chain of steps; the last size that a step computed is a result too, where it is asked for."""

    def __init__(self, steps: list[Step], *, gives_size: bool) -> None:
        super().__init__()
        self.steps = steps
        self.gives_size = gives_size

    def forward(self, x: torch.Tensor) -> Any:
        """The tensor after all steps."""
        rows = x.shape[1]
        for step in self.steps:
            x = step.run(x)
        return (x, x.shape[1], rows) if self.gives_size else x

    def __str__(self) -> str:
        return "; ".join(step.text for step in self.steps)


def run(count: int, seed: int) -> list[str]:
    """A line for each program that gives another result than PyTorch, or an error that is none of ours."""
    faults: list[str] = []
    for number in range(count):
        # The number of the program alone does not tell programs of several seeds apart.
        chance = random.Random(f"{seed} {number}")
        program, example, ranges = _program(chance)
        found = _fault(program, example, ranges, chance, lazily=number % 8 == 7)
        if found:
            shape = f"{list(example)} with dims {sorted(ranges)} in {_LEAST}..{_MOST}"
            faults.append(f"seed {seed}, program {number}: {program} | example {shape}: {found}")
    return faults


# ------------------------------------------------------------------------------------ programs


def _program(chance: random.Random) -> tuple[Program, tuple[int, ...], dict[int, Any]]:
    steps = [_step(chance) for _ in range(chance.randint(1, 3))]
    example = (chance.choice((1, 2)), chance.choice(_EXAMPLES), chance.choice(_EXAMPLES))
    dims = chance.choice(((1,), (2,), (1, 2), (1, 2), (0, 1)))
    # A batch of the example that is 1 would be taken for a constant.
    example = (2, *example[1:]) if 0 in dims else example
    least = chance.choice((_LEAST, _LEAST, 4))
    kind = chance.choice(("named", "hint"))
    ranges = {
        dim: Dim(f"d{dim}", min=1 if dim == 0 else least, max=_MOST)
        if kind == "named"
        else Dim.DYNAMIC(min=1 if dim == 0 else least, max=_MOST)
        for dim in dims
    }
    return Program(steps, gives_size=chance.random() < 0.3), example, ranges


def _number(chance: random.Random) -> tuple[str, Number]:
    """Arithmetic on two sizes ``m`` and ``n``; it gives a whole number, which need not be in any range."""
    k = chance.choice((2, 2, 3, 4, 4, 8))
    made: list[tuple[str, Number]] = [
        (f"m % {k}", lambda m, n: m % k),
        (f"m - m % {k}", lambda m, n: m - m % k),
        (f"(-m) % {k}", lambda m, n: (-m) % k),
        (f"m // {k}", lambda m, n: m // k),
        (f"m // {k} * {k}", lambda m, n: m // k * k),
        (f"-(-m // {k})", lambda m, n: -(-m // k)),
        (f"-(-m // {k}) * {k} - m", lambda m, n: -(-m // k) * k - m),
        (f"math.ceil(m / {k})", lambda m, n: math.ceil(m / k)),
        (f"math.ceil(m / {k}) * {k} - m", lambda m, n: math.ceil(m / k) * k - m),
        (f"math.floor(m / {k})", lambda m, n: math.floor(m / k)),
        (f"math.trunc((n - m) / {k}) % 5", lambda m, n: math.trunc((n - m) / k) % 5),
        (f"round(m / {k})", lambda m, n: round(m / k)),
        (f"round((m - n) / {k}) % 7", lambda m, n: round((m - n) / k) % 7),
        (f"math.floor(m * 0.{k})", lambda m, n: math.floor(m * float(f"0.{k}"))),
        ("m - n", lambda m, n: m - n),
        ("abs(m - n)", lambda m, n: abs(m - n)),
        (f"torch.sym_min(m, n // {k})", lambda m, n: torch.sym_min(m, n // k)),
        (f"torch.sym_max(m - n, {k})", lambda m, n: torch.sym_max(m - n, k)),
        (f"torch.sym_min(m, {k})", lambda m, n: torch.sym_min(m, k)),
        (f"max(m - {k}, 0)", lambda m, n: max(m - k, 0)),
        (f"min(m, n + {k})", lambda m, n: min(m, n + k)),
        (f"(m + n) % {k}", lambda m, n: (m + n) % k),
        (f"m * n % {k}", lambda m, n: m * n % k),
        (f"(m % {k} != 0) * 2 if m > {k} else 1", lambda m, n: 2 if m > k and m % k != 0 else 1),
        ("m % n", lambda m, n: m % n),
        (f"torch.sym_int(m ** 0.5) + {k}", lambda m, n: torch.sym_int(m**0.5) + k),
    ]
    return chance.choice(made)


def _step(chance: random.Random) -> Step:
    text, number = _number(chance)
    k = chance.choice((2, 3, 4))
    dim = chance.choice((1, 2))
    other = 3 - dim

    def size(x: torch.Tensor) -> Any:
        return number(x.shape[dim], x.shape[other])

    d = f"m = x.shape[{dim}]; k = {text}; "
    made: list[Step] = [
        Step(f"{d}x.narrow({dim}, 0, m - k % m)", lambda x: x.narrow(dim, 0, x.shape[dim] - size(x) % x.shape[dim])),
        Step(f"{d}x[from k]", lambda x: _from(x, dim, size(x))),
        Step(f"{d}x[to k]", lambda x: _to(x, dim, size(x))),
        Step(f"{d}x[from k to -1]", lambda x: _from(x, dim, size(x)).narrow(dim, 0, 1)),
        Step(f"{d}x[::{k}] + k", lambda x: _every(x, dim, k) + size(x)),
        Step(f"{d}pad(x, k % 9)", lambda x: _pad(x, dim, size(x) % 9)),
        Step(
            f"{d}pad(x, (k % 6 // 2, k % 6 - k % 6 // 2))",
            lambda x: _pad(x, dim, size(x) % 6 // 2, size(x) % 6 - size(x) % 6 // 2),
        ),
        Step(f"pad to a multiple of {k}, fold", lambda x: _folded(_pad(x, dim, (-x.shape[dim]) % k), dim, k)),
        Step(f"crop to a multiple of {k}, fold", lambda x: _folded(_to(x, dim, x.shape[dim] // k * k), dim, k)),
        Step(f"crop the front to a multiple of {k}", lambda x: _from(x, dim, x.shape[dim] % k) * 2),
        Step(f"same padding, pooled by {k}", lambda x: _same_pooled(x, dim, k)),
        Step(f"chunk({k})", lambda x: x.chunk(k, dim)[0] * 2),
        Step(f"cat of x and x[to m // {k}]", lambda x: torch.cat((x, _to(x, dim, x.shape[dim] // k)), dim)),
        Step(f"{d}x * full(k) + arange(m)", lambda x: x * torch.full((1,), 0.5) * size(x) + _arange(x, dim)),
        Step(f"flip of x[from m % {k}]", lambda x: _from(x, dim, x.shape[dim] % k).flip(dim)),
        Step(f"{d}roll(x, k)", lambda x: x.roll(size(x), dim)),
        Step(f"{d}x + x.new_ones(k % 4 + 1).sum()", lambda x: x + x.new_ones(size(x) % 4 + 1).sum()),
        Step(f"x / sqrt(m) [{dim}]", lambda x: x / torch.sym_sqrt(x.shape[dim])),
        Step(f"x * (m / n) [{dim}]", lambda x: x * (x.shape[dim] / x.shape[other])),
        Step(f"reshape(b, -1) to a multiple of {k}", lambda x: _rows(x, k)),
        Step(f"{d}where(arange(m) < k, x, -x)", lambda x: torch.where(_arange(x, dim) < size(x), x, -x)),
        Step(f"{d}expanded pad", lambda x: torch.cat((x, x.narrow(dim, 0, 1).expand(_like(x, dim, size(x) % 5))), dim)),
        Step(f"interpolate to m * {k} // 2", lambda x: _interpolated(x, k)),
        Step(f"unfold({k}, {k}) of a crop", lambda x: x.unfold(dim, k, k).sum(-1) if x.shape[dim] >= k else x),
    ]
    return chance.choice(made)


def _from(x: torch.Tensor, dim: int, start: Any) -> torch.Tensor:
    return x[:, start:] if dim == 1 else x[:, :, start:]


def _to(x: torch.Tensor, dim: int, end: Any) -> torch.Tensor:
    return x[:, :end] if dim == 1 else x[:, :, :end]


def _every(x: torch.Tensor, dim: int, step: int) -> torch.Tensor:
    return x[:, ::step] if dim == 1 else x[:, :, ::step]


def _pad(x: torch.Tensor, dim: int, before: Any, after: Any = 0) -> torch.Tensor:
    return nn.functional.pad(x, (before, after) if dim == 2 else (0, 0, before, after))


def _folded(x: torch.Tensor, dim: int, parts: int) -> torch.Tensor:
    batch, rows, columns = x.shape
    if dim == 1:
        return x.view(batch, rows // parts, parts, columns).sum(2)
    return x.reshape(batch, rows, columns // parts, parts).mean(-1)


def _same_pooled(x: torch.Tensor, dim: int, stride: int) -> torch.Tensor:
    size = x.shape[dim]
    total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
    return _every(_to(_pad(x, dim, total // 2, total - total // 2), dim, -2), dim, stride) + 1


def _arange(x: torch.Tensor, dim: int) -> torch.Tensor:
    places = torch.arange(x.shape[dim], dtype=x.dtype)
    return places[:, None] if dim == 1 else places


def _rows(x: torch.Tensor, k: int) -> torch.Tensor:
    flat = x.reshape(x.shape[0], -1)
    flat = flat[:, : flat.shape[1] - flat.shape[1] % k]
    return flat.reshape(x.shape[0], k, -1)


def _like(x: torch.Tensor, dim: int, size: Any) -> tuple[Any, ...]:
    return tuple(size if axis == dim else -1 for axis in range(3))


def _interpolated(x: torch.Tensor, k: int) -> torch.Tensor:
    return nn.functional.interpolate(x, size=x.shape[2] * k // 2 + 1, mode="nearest")


# ------------------------------------------------------------------------------------ judging


def _fault(
    program: Program, example: tuple[int, ...], ranges: dict[int, Any], chance: random.Random, *, lazily: bool
) -> str:
    """What is wrong; empty where nothing is, or where the program is not one that PyTorch can run or capture."""
    x = _tensor(example)
    try:
        program(x)
    except Exception:
        return ""
    shapes = [_called(example, ranges, chance) for _ in range(5)]
    try:
        compiled = _compiled(program, x, ranges, lazily=lazily, fragments=chance.random() < 0.3)
    except CaptureError:
        return ""
    except EngineError as error:
        return f"does not compile: {type(error).__name__}: {_line(error)}"
    for shape in (example, *shapes):
        found = _differs(program, compiled, shape, is_example=shape == example)
        if found and _is_exported(program, x, ranges):
            return f"called with {list(shape)}: {found}"
    return ""


def _is_exported(program: Program, x: torch.Tensor, ranges: dict[int, Any]) -> bool:
    """Whether torch.export understands the program at its own example; what it does not is none of our faults.

    PyTorch takes ``min(8 * n, 10) % 6`` for 0, for one (findings/sizes.sh).
    """
    try:
        exported = torch.export.export(program, (x,), dynamic_shapes=({**ranges},)).module()
    except Exception:
        return True
    return not _differs(program, exported, tuple(x.shape), is_example=True)


def _compiled(program: Program, x: torch.Tensor, ranges: dict[int, Any], *, lazily: bool, fragments: bool) -> Any:
    options: dict[str, Any] = {"runtime": "interpreter", "min_block_size": 1}
    if fragments:
        options["torch_executed_ops"] = {"aten.cat", "aten.mul.Tensor", "aten.constant_pad_nd"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not lazily:
            return engine.compile(program, (x,), dynamic_shapes=({**ranges},), **options)
    torch._dynamo.reset()
    compiled = torch.compile(program, backend="engine", options=options, dynamic=True)

    def call(*args: Any) -> Any:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return compiled(*args)

    return call


def _called(example: tuple[int, ...], ranges: dict[int, Any], chance: random.Random) -> tuple[int, ...]:
    shape = list(example)
    for dim, allowed in ranges.items():
        least = allowed.min or 1
        shape[dim] = chance.choice((chance.randint(least, 12), chance.randint(5, 37), least, least + 1))
    return tuple(shape)


def _tensor(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def _differs(program: Program, compiled: Any, shape: tuple[int, ...], *, is_example: bool) -> str:
    x = _tensor(shape)
    try:
        wanted = program(x)
    except Exception:
        # Not a call that the model takes: whatever the compiled one says of it is as good.
        return ""
    try:
        found = compiled(x)
    except InputError as error:
        return f"the example is refused: {_line(error)}" if is_example else ""
    except Exception as error:
        # PyTorch rounds down where it truncates a quotient below 0, and then refuses its own guard (findings/sizes.sh).
        if "Guard failed on the same frame it was created" in str(error):
            return ""
        return f"{type(error).__name__}: {_line(error)}"
    wanted, found = (value if isinstance(value, tuple) else (value,) for value in (wanted, found))
    for want, have in zip(wanted, found, strict=True):
        if not isinstance(want, torch.Tensor):
            if want != have:
                return f"gives {have}, not {want}"
        elif want.shape != have.shape or want.dtype != have.dtype:
            return f"gives {have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}"
        elif not torch.allclose(have, want, rtol=1e-4, atol=1e-4, equal_nan=True):
            return "gives other values"
    return ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


logging.getLogger("torch").setLevel(logging.CRITICAL)

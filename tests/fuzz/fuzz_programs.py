"""Programs of two to four ops: views that are written to, indices, ties, mixed dtypes, sizes of one.

A program is a few lines drawn from ``steps.py``, each of which reads what earlier lines made. Several are compiled in
one engine, and called with the sizes of the example and with others in their ranges; what comes back is compared with
eager PyTorch, and so are the inputs that a program wrote to, and whether a result lies in the memory of an input though
PyTorch's does not. A program that differs is compiled again alone.
"""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import engine
from engine.errors import CaptureError, EngineError, InputError
from tests.fuzz.checking import checking
from tests.fuzz.steps import CHOICES, STEPS

NAME = "programs"
CASES = 2000
FIXED = 24

TOGETHER = 6
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES = (*_FLOATS * 3, torch.int64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.int8)
_TOLERANCES = {torch.float32: 2e-4, torch.float64: 2e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_MOST_ELEMENTS = 4000
_BATCHES, _LENGTHS = (1, 2, 8, 3, 7), (3, 4, 16, 7, 13)  # the least, the example's, the greatest, two in between

Shape = tuple[Any, ...]  # of sizes, or "B" and "M" for those that are dynamic


@dataclass(frozen=True)
class Program:
    """Lines of Python, and the shapes and dtypes of the tensors ``x`` and ``z`` that they read."""

    lines: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]
    run: Callable[..., Any]
    halves: bool

    def tensors(self, batch: int, length: int) -> list[Tensor]:
        """Inputs of these sizes."""
        names = {"B": batch, "M": length}
        return [
            _values([names.get(size, size) for size in shape], dtype, place, self.halves)
            for place, (shape, dtype) in enumerate(zip(self.shapes, self.dtypes, strict=True))
        ]

    def dims(self, number: int) -> list[dict[int, Any]]:
        """The dynamic dims of each input; dims of other programs have other names."""
        named = {
            "B": Dim(f"batch{number}", min=_BATCHES[0], max=_BATCHES[2]),
            "M": Dim(f"length{number}", min=_LENGTHS[0], max=_LENGTHS[2]),
        }
        return [{axis: named[size] for axis, size in enumerate(shape) if size in named} for shape in self.shapes]

    def __str__(self) -> str:
        inputs = ", ".join(f"{dtype}{list(shape)}" for dtype, shape in zip(self.dtypes, self.shapes, strict=True))
        return f"{'; '.join(self.lines)} | x, z: {inputs}".replace("torch.", "")


class _Together(nn.Module):
    def __init__(self, programs: Sequence[Program]) -> None:
        super().__init__()
        self.programs = programs

    def forward(self, inputs: list[list[Tensor]]) -> list[Any]:
        return [program.run(*tensors) for program, tensors in zip(self.programs, inputs, strict=True)]


def _values(shape: Sequence[int], dtype: torch.dtype, seed: int, halves: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    if not dtype.is_floating_point:
        return torch.randint(*((0, 256) if dtype == torch.uint8 else (-4, 5)), shape, generator=generator).to(dtype)
    if halves:
        return (torch.randint(-8, 9, shape, generator=generator) * 0.5).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def _kind(dtype: torch.dtype) -> str:
    return "b" if dtype == torch.bool else "f" if dtype.is_floating_point else "i"


def _line(chance: random.Random, made: dict[str, Tensor], name: str) -> str:
    """A line for one of the tensors made so far; empty where the step that was drawn takes none of its kind."""
    step = chance.choice(STEPS)
    x = [*made][-1] if chance.random() < 0.75 else chance.choice([*made])
    rank = made[x].dim()
    if not (step.least <= rank <= step.most and _kind(made[x].dtype) in step.kinds):
        return ""
    fields = {key: chance.choice(values) for key, values in CHOICES.items()}
    dims = {"d": chance.randrange(-rank, rank), "e": chance.randrange(rank)} if rank else {"d": 0, "e": 0}
    return step.text.format(x=x, v=name, y=chance.choice([*made]), **dims, **fields)


def _program(chance: random.Random, *, dynamic: bool) -> Program:
    while True:
        rank = chance.choice((1, 2, 3, 3, 4) if dynamic else (0, 1, 2, 2, 3, 3, 4, 4))
        shape: Shape = tuple(
            chance.choice(("B", "M", 4, 3, 1) if dynamic else (1, 2, 3, 4, 5, 6, 0)) for _ in range(rank)
        )
        if dynamic and not {"B", "M"} & {*shape}:
            continue
        shapes = [shape]
        dtypes = [chance.choice(_DTYPES)]
        if chance.random() < 0.3:
            shapes.append(tuple(1 if chance.random() < 0.25 else size for size in shape))
            dtypes.append(dtypes[0] if chance.random() < 0.6 else chance.choice((*_FLOATS, torch.int64, torch.bool)))
        empty = Program((), tuple(shapes), tuple(dtypes), lambda *_: None, chance.random() < 0.5)
        lines = _lines(chance, empty.tensors(_BATCHES[1], _LENGTHS[1]))
        if len(lines) > 2:
            names = ("x", "z")[: len(shapes)]
            text = f"def run({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)
            space: dict[str, Any] = {"torch": torch, "F": nn.functional}
            exec(text, space)
            return Program(tuple(lines), tuple(shapes), tuple(dtypes), space["run"], empty.halves)


def _lines(chance: random.Random, tensors: list[Tensor]) -> list[str]:
    made = dict(zip(("x", "z"), tensors, strict=False))
    lines: list[str] = []
    wanted = chance.choice((2, 2, 3, 4))
    for _ in range(60):
        name = f"v{len(lines)}"
        line = _line(chance, made, name)
        space = {"torch": torch, "F": nn.functional, **copy.deepcopy(made)}
        try:
            exec(line, space)
        except Exception:
            continue  # PyTorch does not take this step of this tensor.
        value = space.get(name)
        if not isinstance(value, Tensor) or value.numel() > _MOST_ELEMENTS or value.is_complex():
            continue
        if value.is_floating_point() and not value.isfinite().all():
            continue
        made = {key: space[key] for key in (*made, name)}
        lines.append(line)
        if len(lines) == wanted:
            break
    several = chance.random() < 0.4
    return [
        *lines,
        f"return {lines and name_of(len(lines) - 2)}, {name_of(len(lines) - 1)}"
        if several
        else f"return {name_of(len(lines) - 1)}",
    ]


def name_of(number: int) -> str:
    return f"v{number}"


def _leaves(result: Any) -> list[Any]:
    return [*result] if isinstance(result, tuple | list) else [result]


def _difference(actual: Any, wanted: Tensor) -> str:
    """How a tensor differs from PyTorch's; empty where it does not."""
    if (actual.shape, actual.dtype) != (wanted.shape, wanted.dtype):
        return f"{actual.dtype} {list(actual.shape)} for {wanted.dtype} {list(wanted.shape)}"
    if not wanted.is_floating_point():
        return "" if torch.equal(actual, wanted) else f"{actual.flatten()[:8]} for {wanted.flatten()[:8]}"
    have, want = actual.double(), wanted.double()
    finite = want.isfinite()
    largest = float(want[finite].abs().max()) if finite.any() else 0.0
    tolerance = _TOLERANCES[wanted.dtype]
    if torch.allclose(have, want, rtol=tolerance, atol=tolerance * max(largest, 1.0), equal_nan=True):
        return ""
    return f"{actual.flatten()[:8]} for {wanted.flatten()[:8]}"


def _shares(results: list[Any], inputs: list[Tensor]) -> list[bool]:
    held = {tensor.untyped_storage().data_ptr() for tensor in inputs if tensor.numel()}
    return [result.numel() > 0 and result.untyped_storage().data_ptr() in held for result in results]


def _as_float32(program: Program, inputs: list[Tensor]) -> list[Any] | None:
    """Results of a program with float32 instead of half precision, or None where it cannot run so."""
    try:
        return _leaves(program.run(*(x.float() if x.dtype in _FLOATS else x for x in copy.deepcopy(inputs))))
    except Exception:
        return None


def _fault(program: Program, actual: Any, given: list[Tensor], inputs: list[Tensor]) -> str:
    """What is wrong with the results of a program, and with the inputs after it; empty where nothing is."""
    kept = copy.deepcopy(inputs)
    wanted = _leaves(program.run(*kept))
    found = _leaves(actual)
    better = _as_float32(program, inputs) or wanted
    for place, (have, want) in enumerate(zip(found, wanted, strict=True)):
        differs = _difference(have, want)
        # Where PyTorch gives another result in float32, it is rounding that decides what is compared or cut off.
        if differs and not _difference(want, better[place].to(want.dtype)):
            return f"result {place}: {differs}"
    for place, (have, want) in enumerate(zip(given, kept, strict=True)):
        if _difference(have, want):
            return f"input {place} afterwards: {_difference(have, want)}"
    for ours, theirs in zip(_shares(found, given), _shares(wanted, kept), strict=True):
        if ours and not theirs:
            return "a result lies in the memory of an input"
    return ""


def _faults(programs: Sequence[Program], *, dynamic: bool) -> dict[int, str]:
    """By place, what is wrong with programs that are compiled in one engine."""
    example = [program.tensors(_BATCHES[1], _LENGTHS[1]) for program in programs]
    dims = {"inputs": [program.dims(number) for number, program in enumerate(programs)]} if dynamic else None
    torch._dynamo.reset()
    try:
        model = _Together(programs)
        compiled = engine.compile(
            model, (copy.deepcopy(example),), dynamic_shapes=dims, runtime="interpreter", min_block_size=1
        )
    except CaptureError as error:
        return {} if len(programs) == 1 else dict.fromkeys(range(len(programs)), str(error))
    except EngineError as error:
        return dict.fromkeys(range(len(programs)), f"{type(error).__name__}: {error}")
    found: dict[int, str] = {}
    for place in range(len(_BATCHES)) if dynamic else (1,):
        inputs = []
        for program, usual in zip(programs, example, strict=True):
            tensors = program.tensors(_BATCHES[place], _LENGTHS[place])
            try:
                program.run(*copy.deepcopy(tensors))
            except Exception:
                tensors = usual  # Not a call that the model takes.
            inputs.append(tensors)
        given = copy.deepcopy(inputs)
        try:
            actual = compiled(given)
        except InputError as error:
            if place == 1 or len(programs) > 1:
                return dict.fromkeys(range(len(programs)), f"the call is refused: {error}")
            continue
        for number, program in enumerate(programs):
            wrong = _fault(program, actual[number], given[number], inputs[number])
            if wrong:
                found[number] = f"batch {_BATCHES[place]}, length {_LENGTHS[place]}: {wrong}"
    return found


def run(count: int, seed: int) -> list[str]:
    """Faults among ``count`` programs, one line each."""
    faults = []
    with checking(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for start in range(0, count, TOGETHER):
            numbers = range(start, min(start + TOGETHER, count))
            dynamic = start // TOGETHER % 2 == 1
            programs = [_program(random.Random(f"{seed} {number}"), dynamic=dynamic) for number in numbers]
            for place in _faults(programs, dynamic=dynamic):
                alone = _faults([programs[place]], dynamic=dynamic)
                faults += [f"{seed}/{numbers[place]} {programs[place]}: {line[:400]}" for line in alone.values()]
    return faults


logging.getLogger("torch").setLevel(logging.CRITICAL)

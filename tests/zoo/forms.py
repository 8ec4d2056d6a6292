"""The forms that a model is asked for in: a float dtype, and a batch that is one size or a range of sizes."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from tests.zoo.request import Built

__all__ = ["FORMS", "Form", "Outcome", "cast", "covered", "exported"]


@dataclass(frozen=True)
class Form:
    """A dtype for parameters and inputs, and whether the batch is dynamic."""

    dtype: torch.dtype
    dynamic: bool

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}-{'dynamic' if self.dynamic else 'static'}"


FORMS = tuple(itertools.starmap(Form, itertools.product((torch.float32, torch.float16, torch.bfloat16), (False, True))))


@dataclass(frozen=True)
class Outcome:
    """What ``engine.coverage`` said of a model in a form.

    Attributes:
        coverage: the share of nodes in an engine; None where it raised.
        left: node, op and reason of what stays in PyTorch.
        error: class and message of what it raised.
    """

    coverage: float | None
    left: list[list[str]] = field(default_factory=list)
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cast(dtype: torch.dtype, built: Built) -> Built:
    """The model and its example inputs in ``dtype``; integers stay as they are."""

    def moved(value: torch.Tensor) -> torch.Tensor:
        return value.to(dtype) if value.is_floating_point() else value

    args, kwargs = pytree.tree_map_only(torch.Tensor, moved, (built.args, built.kwargs))
    # The method of the base class: diffusers logs a warning from its own at every call.
    return built._replace(model=nn.Module.to(built.model, dtype), args=args, kwargs=kwargs)


def covered(built: Built) -> Outcome:
    """Ask for the coverage of a model; what is raised is part of the answer."""
    import engine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            report = engine.coverage(built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes)
        except Exception as error:
            return Outcome(None, error=f"{type(error).__name__}: {error}")
    return Outcome(report.coverage, [[f.node, str(f.op), f.reason] for f in report.fallbacks])


def exported(built: Built) -> str:
    """What PyTorch's own export of a model raises, with an empty table after it; empty where it takes the model."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes, strict=False
            )
            program.run_decompositions({})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""

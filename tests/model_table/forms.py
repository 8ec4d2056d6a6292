"""The forms that every model of the table is asked for in: a float dtype, and which sizes one engine takes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

__all__ = ["FORMS", "Form"]


@dataclass(frozen=True)
class Form:
    """A dtype for parameters and inputs, and what is dynamic: ``static``, ``batch``, or ``sizes`` (with the batch)."""

    dtype: torch.dtype
    dynamic: str

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}-{self.dynamic}"


FORMS = {
    str(form): form
    for form in itertools.starmap(
        Form,
        (
            (torch.float32, "static"),
            (torch.float16, "static"),
            (torch.bfloat16, "static"),
            (torch.float32, "batch"),
            (torch.float32, "sizes"),
            (torch.float16, "sizes"),
        ),
    )
}

"""Compile a small network and save it for a C++ program: ``python -m examples.libtorch.make_module FOLDER``.

Writes ``model.ts`` (the compiled network as TorchScript) and ``example.ts`` (an input, and the output that
PyTorch gives for it).  Needs the C++ library, and no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import engine


class Example(nn.Module):
    """An input and what is expected for it, for a program that cannot read pickles."""

    def __init__(self, x: torch.Tensor, expected: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x)
        self.register_buffer("expected", expected)

    def forward(self) -> torch.Tensor:
        return self.x  # type: ignore[return-value]


def main(folder: str) -> None:
    torch.manual_seed(0)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    compiled = engine.compile(model, (x,))
    engine.save(compiled, path / "model.ts", format="torchscript")
    with torch.no_grad():
        torch.jit.save(torch.jit.script(Example(x, model(x))), str(path / "example.ts"))
    print(f"wrote {path / 'model.ts'} and {path / 'example.ts'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")

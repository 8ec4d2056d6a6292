"""Models for tests of files: PyTorch between engines, nested results, shared constants of several dtypes."""

from __future__ import annotations

import torch
from torch import nn

import engine


class Nested(nn.Module):
    """Two engines with PyTorch between them, keyword arguments, and results of several kinds."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x, *, scale, mode="sum"):
        y = torch.relu(self.first(x))
        z = torch.special.erfcx(y)
        w = self.second(z)
        return {"w": w * scale, "n": x.shape[0], "others": (z, [w + y.mean()]), "none": None}


class Constants(nn.Module):
    """Constants of many dtypes that PyTorch nodes read, one of them twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("f16", torch.randn(4, dtype=torch.float16))
        self.register_buffer("brain", torch.randn(4, dtype=torch.bfloat16))
        self.register_buffer("whole", torch.tensor([3, -(2**40), 1, 0]))
        self.register_buffer("flags", torch.tensor([True, False, True, True]))
        self.register_buffer("many", torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        self.register_buffer("nothing", torch.empty(0, 4))
        self.register_buffer("wide", torch.randn(4, dtype=torch.float64))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        a = torch.special.erfcx(x) + self.f16 + self.brain
        b = torch.where(self.flags, self.whole, self.whole + 1) + torch.special.i1(self.wide)
        c = torch.special.erfcx(self.many).sum() + torch.special.i1(self.wide).sum()
        return self.linear(a.float()), b, c, torch.cat([self.nothing, x]), self.f16


def nested(dynamic=True, **options):
    """A compiled ``Nested`` for the CPU, and inputs for it."""
    x = torch.randn(3, 8)
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=9)}, "scale": None, "mode": None} if dynamic else None
    options = {"runtime": "interpreter", "min_block_size": 1, **options}
    return engine.compile(Nested().eval(), (x,), {"scale": 2.5, "mode": "sum"}, dynamic_shapes=shapes, **options)


def equal(a, b):
    """Whether two results are the same, bit by bit, in structure too."""
    leaves, spec = torch.utils._pytree.tree_flatten(a)
    others, other_spec = torch.utils._pytree.tree_flatten(b)
    return spec == other_spec and all(
        torch.equal(p, q) and p.dtype == q.dtype and p.stride() == q.stride() if isinstance(p, torch.Tensor) else p == q
        for p, q in zip(leaves, others, strict=True)
    )

"""Comparing a compiled model with the model it was made from."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

# By device: TensorRT-RTX multiplies float32 matrices in TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 3e-3}


def assert_agrees(compiled: Any, model: Any, *args: Any, tolerance: float = 1e-4, **kwargs: Any) -> Any:
    """Call both; structures and dtypes are equal, values within ``tolerance`` of the largest magnitude.

    Returns what the compiled model gave.
    """
    with torch.no_grad():
        wanted = model(*args, **kwargs)
    got = compiled(*args, **kwargs)
    wanted_leaves, wanted_spec = pytree.tree_flatten(wanted)
    got_leaves, got_spec = pytree.tree_flatten(got)
    assert got_spec == wanted_spec
    for want, have in zip(wanted_leaves, got_leaves, strict=True):
        if not isinstance(want, torch.Tensor):
            assert have == want
            continue
        assert (have.dtype, have.shape, have.device) == (want.dtype, want.shape, want.device)
        assert not have.requires_grad
        if want.is_floating_point():
            scale = max(float(want.detach().double().abs().max()), 1e-6) if want.numel() else 1.0
            torch.testing.assert_close(have.double(), want.detach().double(), rtol=0, atol=tolerance * scale)
        else:
            assert torch.equal(have, want)
    return got

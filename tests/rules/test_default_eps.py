"""Norms without an epsilon use the one that PyTorch uses, which shows where the values are small."""

import pytest
import torch

import engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_of_small_values(dtype, affine):
    torch.manual_seed(0)
    model = torch.nn.RMSNorm(16, elementwise_affine=affine, dtype=dtype).eval()
    x = (torch.randn(8, 16) * 1e-2).to(dtype)
    compiled = engine.compile(model, (x,))
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=1e-3)

"""Functions that assert something of values, or ask for another reason.

They are in a file of their own: pytest writes the assertions of tests in another way.
"""

import torch


def asserted(x: torch.Tensor) -> torch.Tensor:
    assert (x * 2 >= x + x - 1).all(), f"no {x.shape}"
    return x.relu()


def raised(x: torch.Tensor) -> torch.Tensor:
    if x.isnan().any():
        raise ValueError(f"nan among {x.numel()}")
    assert not x.isinf().any()
    return x + 1


def ranges(x: torch.Tensor) -> torch.Tensor:
    assert x.min() > -99 and x.max() < 99  # noqa: PT018
    assert -99 < x.mean() < 99
    torch._assert((x == x).all(), "nan")
    return x * 2


def numbers(x: torch.Tensor) -> torch.Tensor:
    assert x.abs().max().item() < 99
    assert torch.isfinite(x).all().item()
    return x * 3


def comparisons(x: torch.Tensor) -> torch.Tensor:
    assert torch.allclose(x + 1, 1 + x)
    assert x.equal(x.clone())
    return x * 4


def sized(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    count: int = n.item()  # type: ignore[assignment]
    assert 0 < count <= 8
    return x.sum() + torch.zeros(count, 3)


def known(x: torch.Tensor) -> torch.Tensor:
    assert torch.tensor(3) == 4
    return x


def looped(x: torch.Tensor) -> torch.Tensor:
    while x.sum() < 9:
        x = x + 1
    return x


def caught(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        for _ in range(2):
            x = x + 1
        raise ValueError(x)
    raise KeyError

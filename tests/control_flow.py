"""Models with control flow: sides of conditions, loops that a condition ends, loops over rows, and nests of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as mapped
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop


class Call(nn.Module):
    """One function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Gated(nn.Module):
    """Sides with weights of their own, a convolution among them, and several outputs of different kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        def then(y: Tensor) -> Any:
            return self.left(y).sin(), y > 0, (y * 10).int()

        def otherwise(y: Tensor) -> Any:
            return self.conv(y[:, None])[:, 0] * 2, y.abs() > 0.5, (y * 20).int()

        value, mask, whole = torch.cond(x.sum() > 0, then, otherwise, (self.right(x),))
        return value.relu(), mask, whole


class Cell(nn.Module):
    """A recurrent cell: two states, two rows of results, weights, and a tensor that every trip reads."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.hidden, self.visible = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        mean = x.mean(0) if self.options.get("dim", 0) == 0 else x.mean(1)

        def step(states: Any, row: Tensor) -> Any:
            hidden, count = states
            following = (self.hidden(hidden) + self.visible(row)).tanh() + mean
            return (following, count + 1), (following.sin(), row * count)

        zero = torch.zeros_like(mean)
        (last, count), rows = scan(step, (zero, zero + 1), x, **{"dim": 0, **self.options})
        return last, count, rows


def _by_size(x: Tensor) -> Tensor:
    return torch.cond(x.shape[0] > 5, lambda y: y.sin() * 2, lambda y: y.cos() * y.shape[0], (x,))


def _one_element(x: Tensor) -> Tensor:
    return torch.cond(x.sum(dim=0)[:1] > 0, lambda y: y + 1, lambda y: y - y.shape[0], (x,))


def _made(x: Tensor) -> Tensor:
    """Sides that make what they give out of nothing but sizes."""
    return torch.cond(
        x.sum() > 0,
        lambda y: torch.ones(y.shape[0], 3, device=y.device),
        lambda y: torch.arange(y.shape[0], device=y.device).float()[:, None].expand(-1, 3) * 2,
        (x,),
    )


def _deep(x: Tensor) -> Tensor:
    def then(y: Tensor) -> Tensor:
        return torch.cond(y.max() > 0.9, lambda z: z * 2, lambda z: z + x[0], (y,))

    return torch.cond(x.sum() > 0, then, lambda y: y.exp(), (x.sin(),))


def _exchanged(x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda a, b: (b.clone(), a.clone()), lambda a, b: (a * 2, b * 3), (x, x + 1))


def _doubled(x: Tensor) -> Any:
    """Until it is large: no trip at all, or several."""
    return while_loop(lambda y: y.abs().sum() < 1000, lambda y: (y * 1.5 + 0.1,), (x * 100,))[0].sin()


def _counted(x: Tensor) -> Any:
    factor = x.mean(0)
    rows = x.shape[0]
    return while_loop(
        lambda i, y: i < 5, lambda i, y: (i + 1, y * factor + rows), (torch.tensor(0, device=x.device), x)
    )


def _counted_by_number(x: Tensor) -> Any:
    return while_loop(lambda i, y: i < x.shape[0], lambda i, y: (i + 1, y + x[i] * i), (0, x[0] * 0))[1]


def _fibonacci(x: Tensor) -> Any:
    return while_loop(
        lambda i, a, b: i < 6, lambda i, a, b: (i + 1, b.clone(), a + b), (torch.tensor(0, device=x.device), x, x + 1)
    )


def _swapped(x: Tensor) -> Any:
    """States that become each other, and one that follows another a trip later."""
    return while_loop(
        lambda i, a, b, c: i < 5,
        lambda i, a, b, c: (i + 1, b.clone(), a.clone(), a * 0.5),
        (torch.tensor(0, device=x.device), x, x + 1, x * 2),
    )[1:]


def _halved(x: Tensor) -> Any:
    """A state that becomes what another one was, which changes itself."""
    return while_loop(
        lambda i, a, b: i < 5, lambda i, a, b: (i + 1, b.clone(), b * 0.5), (torch.tensor(0, device=x.device), x, x + 1)
    )[1:]


def _lagging(x: Tensor) -> Any:
    """Each row is given two rows later."""

    def step(states: Any, row: Tensor) -> Any:
        return [row.clone(), states[0].clone()], states[1].clone()

    return scan(step, [x[0] * 0, x[0] * 0], x, dim=0)


def _alone(x: Tensor) -> Any:
    """Nothing but a counter decides, and nothing from outside is read."""
    layer = while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 0.5), (torch.tensor(0, device=x.device), x))
    return layer[1] + layer[0]


def _attending(x: Tensor) -> Any:
    """Attention, for which there is no layer inside a loop."""

    def body(i: Tensor, y: Tensor) -> Any:
        attended = torch.nn.functional.scaled_dot_product_attention(y, y.sin(), y)
        # PyTorch compares the strides of states, and those of attention depend on the device.
        return i + 1, attended.clone(memory_format=torch.contiguous_format)

    return while_loop(lambda i, y: i < 2, body, (torch.tensor(0, device=x.device), x[None, None]))[1]


def _seen_twice(x: Tensor) -> Any:
    """Sides that attend with the same query."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return torch.cond(x.sum() > 0, lambda y: attend(y, y.sin(), y), lambda y: attend(y, y, y), (x[None, None],))


def _pooled(x: Tensor) -> Any:
    """A convolution and a pool on one side."""
    weight = torch.ones(2, 1, 3, device=x.device) * 0.3

    def then(y: Tensor) -> Tensor:
        return torch.nn.functional.max_pool1d(torch.nn.functional.conv1d(y[:, None], weight, padding=1), 2)

    return torch.cond(x.sum() > 0, then, lambda y: y[:, None, :2].expand(-1, 2, -1) * 2, (x,))


def _flagged(x: Tensor) -> Any:
    def body(going: Tensor, y: Tensor) -> Any:
        return (y + 1).sum() < 40, y + 1

    return while_loop(lambda going, y: going.clone(), body, (x.sum() < 40, x))[1]


def _loops(x: Tensor) -> Any:
    def outer(i: Tensor, y: Tensor) -> Any:
        inner = while_loop(lambda j, z: j < i, lambda j, z: (j + 1, z.sin() + i), (torch.zeros_like(i), y))
        return i + 1, inner[1]

    return while_loop(lambda i, y: i < 4, outer, (torch.tensor(1, device=x.device), x))[1]


def _choice_in_a_loop(x: Tensor) -> Any:
    mean = x.mean(0)

    def body(i: Tensor, y: Tensor) -> Any:
        # Not 0, which is what the sum of the first side is but for rounding.
        z = torch.cond(y.sum() > 0.5, lambda a: a - mean, lambda a: a + 2 * i, (y,))
        return i + 1, z

    return while_loop(lambda i, y: i < 5, body, (torch.tensor(0, device=x.device), x))[1]


def _loop_in_a_choice(x: Tensor) -> Any:
    def then(y: Tensor) -> Any:
        return while_loop(
            lambda i, z: i < 3, lambda i, z: (i + 1, z * 1.1), (torch.zeros((), dtype=torch.int64, device=y.device), y)
        )[1]

    return torch.cond(x.sum() > 0, then, lambda y: scan(lambda c, r: (c + r, c * r), y[0] * 0, y, dim=0)[1], (x,))


def _choice_per_row(x: Tensor) -> Any:
    def step(total: Tensor, row: Tensor) -> Any:
        following = torch.cond(row.sum() > 0, lambda a, b: a + b, lambda a, b: a - b, (total, row))
        return following, following * 2

    return scan(step, x[0] * 0, x, dim=0)


def _rows_of_rows(x: Tensor) -> Any:
    def step(total: Tensor, row: Tensor) -> Any:
        inner, sums = scan(lambda c, e: (c + e, c * e), row[0] * 0, row, dim=0)
        return total + inner, sums

    return scan(step, x[0, 0] * 0, x, dim=0)


def _running(x: Tensor) -> Any:
    """What is stacked is a state, and a row, as they are."""
    return scan(lambda c, row: (c + row, (c.clone(), row.clone())), x[0] * 0, x, dim=0)


def _rows_that_carry_nothing(x: Tensor) -> Any:
    rows = {"a": x, "b": (x + 1).int()}
    return scan(lambda c, row: (c.clone(), row["a"] * row["b"] + c), x.sum(), rows, dim=0)[1]


class Mapped(nn.Module):
    """Rows that know nothing of each other, weights, and a tensor that every row is computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        rows = {"a": x, "b": (x * 10).int()}
        return mapped(lambda row, mean: (self.linear(row["a"]).tanh() * mean, row["b"] + 1), rows, x.mean(0))


class Case(NamedTuple):
    """A model of one input with four columns.

    Attributes:
        rows: of an example; not as many as columns, which torch.export would take for the same size.
        dynamic: whether there may be any number of rows.
    """

    model: Callable[[], nn.Module]
    rows: int = 6
    dynamic: bool = True


CASES = {
    "gated": Case(Gated),
    "by_size": Case(lambda: Call(_by_size)),
    "one_element": Case(lambda: Call(_one_element)),
    "made": Case(lambda: Call(_made)),
    "deep": Case(lambda: Call(_deep)),
    "exchanged": Case(lambda: Call(_exchanged)),
    "doubled": Case(lambda: Call(_doubled)),
    "counted": Case(lambda: Call(_counted)),
    "counted_by_number": Case(lambda: Call(_counted_by_number)),
    "fibonacci": Case(lambda: Call(_fibonacci)),
    "swapped": Case(lambda: Call(_swapped)),
    "halved": Case(lambda: Call(_halved)),
    "alone": Case(lambda: Call(_alone)),
    "attending": Case(lambda: Call(_attending)),
    "seen_twice": Case(lambda: Call(_seen_twice)),
    "pooled": Case(lambda: Call(_pooled)),
    "flagged": Case(lambda: Call(_flagged)),
    "loops": Case(lambda: Call(_loops)),
    "choice_in_a_loop": Case(lambda: Call(_choice_in_a_loop)),
    "loop_in_a_choice": Case(lambda: Call(_loop_in_a_choice)),
    "choice_per_row": Case(lambda: Call(_choice_per_row)),
    "lagging": Case(lambda: Call(_lagging)),
    "running": Case(lambda: Call(_running)),
    "rows_that_carry_nothing": Case(lambda: Call(_rows_that_carry_nothing)),
    "mapped": Case(Mapped),
    "cell": Case(Cell),
    "cell_backwards": Case(lambda: Cell(reverse=True)),
    "cell_along_columns": Case(lambda: Cell(dim=1), rows=4, dynamic=False),
}

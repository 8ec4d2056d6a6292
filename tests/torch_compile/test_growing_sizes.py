"""Caches that grow by rows: a symbol from the first graph that has them, and one engine for all lengths."""

import pytest
import torch
from torch import nn

from engine.torch_compile.growing_sizes import growing


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def fast(model, **options):
    return torch.compile(model, backend="engine", options={"runtime": "interpreter", "min_block_size": 1}, **options)


class Cache:
    """Keys and values [batch, rows, size], and how many rows there are."""

    def __init__(self, keys, values):
        self.keys, self.values, self.count = keys, values, keys.shape[1]


class Attention(nn.Module):
    """A token [batch, 1, size] that looks at all before it; ``kept`` are the rows that stay, all by default."""

    def __init__(self, kept=None):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(4, 12)
        self.kept = kept

    def forward(self, x, cache, mask=None):
        query, key, value = self.project(x).chunk(3, -1)
        keys, values = torch.cat([cache.keys, key], 1), torch.cat([cache.values, value], dim=-2)
        scores = query @ keys.transpose(1, 2) + cache.count
        scores = scores if mask is None else scores.masked_fill(~mask[:, None], -1e9)
        cache.keys, cache.values = (
            (keys, values) if self.kept is None else (keys[:, -self.kept :], values[:, -self.kept :])
        )
        cache.count += 1
        return scores.softmax(-1) @ values


def run(model, count, first=5, masked=False):
    torch.manual_seed(1)
    cache = Cache(torch.randn(2, first, 4), torch.randn(2, first, 4))
    results = []
    for step in range(count):
        mask = torch.ones(2, first + step + 1, dtype=torch.bool) if masked else None
        if masked:
            mask[0, 0] = False
        results.append(model(torch.randn(2, 1, 4), cache, mask))
    return [*results, cache.keys, cache.values]


@pytest.mark.parametrize("masked", [False, True])
def test_a_growing_cache_is_one_engine(masked, reports):
    model = Attention().eval()
    wanted = run(model, 6, masked=masked)
    found = run(fast(model), 6, masked=masked)
    torch.testing.assert_close(found, wanted)
    assert [len(report.segments) for report in reports] == [1]


def test_a_sequence_of_a_thousand_rows_is_one_engine(reports):
    model = Attention().eval()
    compiled = fast(model)
    for first in (5, 900, 70):
        torch.testing.assert_close(run(compiled, 2, first), run(model, 2, first))
    assert len(reports) == 1
    torch.testing.assert_close(run(compiled, 2, 1200), run(model, 2, 1200))
    assert len(reports) == 2


def test_a_window_that_fills_up(reports):
    model = Attention(kept=9).eval()
    torch.testing.assert_close(run(fast(model), 9), run(model, 9))
    # Growing, up to two at the edge, and full: the slice asks how long the rows are, which Dynamo makes guards of.
    assert 2 <= len(reports) <= 4


def test_rows_of_one_are_a_number_first(reports):
    model = Attention().eval()
    torch.testing.assert_close(run(fast(model), 5, first=1), run(model, 5, first=1))
    assert len(reports) == 2


def test_sizes_stay_numbers_where_dynamo_was_told_so(reports):
    model = Attention().eval()
    torch.testing.assert_close(run(fast(model, dynamic=False), 3), run(model, 3))
    assert len(reports) == 3


class Joined(nn.Module):
    """What it returns is longer than its input, and is no cache."""

    def __init__(self, two):
        super().__init__()
        self.two = two

    def forward(self, x, y):
        if self.two:
            return torch.cat([x, y], 1), torch.cat([y, x], 1)
        return torch.cat([x, y * 2], 1), x.sin()


@pytest.mark.parametrize("two", [False, True])
def test_what_is_no_cache_keeps_its_sizes(two, reports):
    compiled, model = fast(Joined(two)), Joined(two)
    x, y = torch.randn(2, 3), torch.randn(2, 4)
    torch.testing.assert_close(compiled(x, y), model(x, y))
    assert not any("upper bound" in note for report in reports for note in report.notes)


def test_what_grows_is_found_in_any_spelling():
    def graph(x, k, v):
        return torch.concat((k, x * 2), dim=1), torch.concatenate([v, x + 1], -1)

    values = {"x": torch.ones(2, 3), "k": torch.ones(2, 5), "v": torch.ones(2, 7)}
    module = torch.fx.symbolic_trace(graph)
    env = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = values[node.name]
        elif node.op == "call_function":
            env[node] = node.target(*torch.fx.node.map_arg(node.args, env.get), **node.kwargs)
        node.meta["example_value"] = env.get(node)
    assert [(each.node.name, each.dim, each.before, each.after) for each in growing(module)] == [
        ("k", 1, 5, 8),
        ("v", 1, 7, 10),
    ]

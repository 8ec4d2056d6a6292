"""Caches that TensorRT's cache update writes to where they lie."""

import copy

import pytest
import torch
from torch import nn

import engine
from tests.compiled.test_state import Keeping

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Attention(Keeping):
    """A decoder's attention with a cache of its own; ``write`` says how rows get into it."""

    def __init__(self, write, dtype=torch.float32, device="cpu"):
        super().__init__(**{name: torch.zeros(2, 2, 16, 8, dtype=dtype, device=device) for name in ("keys", "values")})
        self.write = write

    def forward(self, q, k, v, p):
        if self.write == "index_copy":
            self.keys.index_copy_(2, p, k)
            self.values.index_copy_(2, p, v)
        elif self.write == "index":
            self.keys[:, :, p] = k
            self.values[:, :, p] = v
        else:
            rows = torch.arange(q.shape[2], device=q.device) + p[0]
            self.keys.index_copy_(2, rows, k)
            self.values.index_copy_(2, rows, v)
        mask = torch.arange(16, device=q.device) <= p[:, None]
        return nn.functional.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)


def call(position, count=1, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(position)
    q, k, v = torch.randn(3, 2, 2, count, 8, generator=generator).to(device, dtype)
    return q, k, v, torch.arange(position, position + count, device=device)


def check(compiled, eager, calls, tolerance=1e-5):
    for given in calls:
        torch.testing.assert_close(compiled(*given), eager(*given), atol=tolerance, rtol=tolerance)
    for name, state in compiled.states.items():
        torch.testing.assert_close(state, eager.get_buffer(name))


RULES = {"index_copy": "caches.cache_row", "index": "caches.cache_row_by_index", "run": "caches.cache_row"}


@pytest.mark.parametrize(
    ("write", "dtype"), [("index_copy", "f32"), ("index_copy", "bf16"), ("index", "f16"), ("run", "f32")]
)
def test_rows_are_written_in_place(write, dtype):
    model = Attention(write, DTYPES[dtype])
    eager = copy.deepcopy(model)
    compiled = engine.compile(model, call(0, dtype=DTYPES[dtype]), runtime="interpreter")
    assert compiled.report.rules_used[RULES[write]] == 2
    (note,) = (note for note in compiled.report.notes if "states" in note)
    assert "2 of them where they lie" in note
    assert "copied" not in note
    check(compiled, eager, [call(i, dtype=DTYPES[dtype]) for i in (0, 1, 2, 1, 15)], 1e-5 if dtype == "f32" else 2e-2)
    before = {name: state.clone() for name, state in compiled.states.items()}
    with pytest.raises(engine.EngineError, match="16"):
        compiled(*call(16, dtype=DTYPES[dtype]))
    torch.testing.assert_close(dict(compiled.states), before)


def test_as_many_rows_as_a_call_has():
    n = torch.export.Dim("n", max=16)
    model = Attention("run")
    compiled = engine.compile(model, call(0, 4), dynamic_shapes=({2: n}, {2: n}, {2: n}, {0: n}), runtime="interpreter")
    assert compiled.report.rules_used["caches.cache_rows"] == 2
    check(compiled, copy.deepcopy(model), [call(0, 6), call(6), call(7), call(3, 5), call(0, 16)])
    with pytest.raises(engine.EngineError, match="16"):
        compiled(*call(12, 5))


class Returns(Keeping):
    def forward(self, x, p):
        if self.old:
            old = self.cache[:, :, 0] * 2
            self.cache.index_copy_(2, p, x)
            return self.cache.sum(2), old
        self.cache.index_copy_(2, p, x)
        return self.cache.sum(2), self.cache, torch.sort(self.cache.double().select(2, 0)).values


@pytest.mark.parametrize("old", [True, False])
def test_a_cache_that_somebody_else_reads_is_copied(old):
    model = Returns(cache=torch.zeros(1, 2, 8, 4))
    model.old = old
    eager = copy.deepcopy(model)
    calls = [(torch.full((1, 2, 1, 4), i + 1.0), torch.tensor([i])) for i in range(3)]
    compiled = engine.compile(model, calls[0], runtime="interpreter", min_block_size=1)
    assert not any(rule.startswith("caches.") for rule in compiled.report.rules_used)
    for given in calls:
        torch.testing.assert_close(compiled(*given), copy.deepcopy(eager(*given)))


def test_rules_can_be_left_out():
    rules = engine.RuleSet.load().without("caches.*")
    compiled = engine.compile(Attention("index_copy"), call(0), runtime="interpreter", rules=[rules])
    assert compiled.report.rules_used["indexing.scatter"] == 2
    check(compiled, Attention("index_copy"), [call(i) for i in range(3)])


# ------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["python", "cpp"])
@pytest.mark.parametrize("graphs", [None, "module", "engine"])
@pytest.mark.parametrize("write", ["index_copy", "index", "run"])
def test_engines_write_to_the_state_itself(runtime, graphs, write):
    settings = {} if graphs is None else {"use_cuda_graphs": True, "cuda_graph_scope": graphs}
    for dtype in (torch.float16, torch.float32):
        model = Attention(write, dtype, "cuda")
        compiled = engine.compile(model, call(0, 1, dtype, "cuda"), runtime=runtime, **settings)
        assert compiled.report.rules_used[RULES[write]] == 2
        places = [state.data_ptr() for state in compiled.states.values()]
        calls = [call(i % 16, 1, dtype, "cuda") for i in range(20)]
        check(compiled, copy.deepcopy(model), calls, 2e-2 if dtype is torch.float16 else 1e-3)
        assert [state.data_ptr() for state in compiled.states.values()] == places
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            compiled(*calls[0])
            torch.cuda.synchronize()
        copies = [event.name for event in profile.events() if "Memcpy DtoD" in event.name]
        # A recorded call copies its result, and inputs that lie elsewhere than when it was recorded; no cache.
        assert len(copies) <= (0 if graphs is None else 1 + len(calls[0]))


class Counts(Keeping):
    def forward(self, x):
        self.hidden.mul_(0.5).add_(x)
        self.count += 1
        return self.hidden * self.count


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["python", "cpp"])
@pytest.mark.parametrize("graphs", [None, "module", "engine"])
def test_states_are_right_with_engines(runtime, graphs):
    settings = {} if graphs is None else {"use_cuda_graphs": True, "cuda_graph_scope": graphs}
    model = Counts(hidden=torch.zeros(4, 8), count=torch.tensor(0)).cuda()
    compiled = engine.compile(model, (torch.ones(4, 8).cuda(),), runtime=runtime, **settings)
    eager, twin = copy.deepcopy(model), copy.deepcopy(compiled)
    for i in range(6):  # warming up and recording leave the state as it is
        x = torch.full((4, 8), float(i)).cuda()
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(twin(torch.ones(4, 8).cuda()), torch.ones(4, 8).cuda())
    compiled.load_state_dict({"hidden": torch.zeros(4, 8).cuda(), "count": torch.tensor(0).cuda()}, assign=True)
    torch.testing.assert_close(compiled(torch.ones(4, 8).cuda()), torch.ones(4, 8).cuda())


@pytest.mark.gpu
def test_one_stream_at_a_time():
    model = Counts(hidden=torch.zeros(4, 8), count=torch.tensor(0)).cuda()
    compiled = engine.compile(model, (torch.ones(4, 8).cuda(),))
    x, other = torch.ones(4, 8).cuda(), torch.cuda.Stream()
    compiled(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        compiled(x)
        torch.cuda._sleep(1 << 30)
    before = compiled.states["count"]
    with pytest.raises(engine.errors.StateError, match=r"'hidden'.*another stream"):
        compiled(x)
    torch.cuda.synchronize()
    assert int(before) == 2
    compiled(x)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(engine.errors.StateError, match="under capture"), torch.cuda.graph(graph):
        compiled(x)

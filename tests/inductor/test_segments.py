"""What stays in PyTorch as modules of its own, and compiled by Inductor."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.errors import SettingsError
from engine.inductor.grouping import grouped, inlined, torch_segments
from tests.files.models import equal

OPS = ["aten.erf", "aten.cumsum", "aten.mul", "aten.nonzero"]


class Between(nn.Module):
    """Two engines, and between them ops on two tensors, one of whose sizes is computed."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.register_buffer("scale", torch.rand(6) + 0.5)

    def forward(self, x):
        y = self.first(x).relu()
        z = torch.erf(y * self.scale)
        z = torch.cumsum(z * x.shape[0], 1)
        return self.second(z), y


class Counter(nn.Module):
    """Keeps a state that a segment of PyTorch reads and gives the next value of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen.add_(torch.erf(x).sum(0))
        return torch.erf(self.seen) + x


def compiled(model, *args, dynamic_shapes=None, **settings):
    return engine.compile(
        model,
        args,
        dynamic_shapes=dynamic_shapes,
        torch_executed_ops=OPS,
        min_block_size=1,
        runtime="interpreter",
        **settings,
    )


def batches():
    return ({0: Dim("n", min=1, max=16)},)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Between().eval()


@pytest.fixture(scope="module")
def made(model):
    return compiled(model, torch.randn(4, 6), dynamic_shapes=batches(), torch_segments="inductor")


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.library.custom_op("engine_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@doubled.register_fake
def _(x):
    return torch.empty_like(x)


class Foreign(nn.Module):
    def forward(self, x):
        return torch.ops.engine_tests.doubled(x) + 1


def test_what_inductor_does_not_take_runs_op_by_op():
    model, x = Foreign(), torch.randn(5, 6)
    with torch._inductor.config.patch(implicit_fallbacks=False):
        eager = compiled(model, x, torch_segments="inductor")
    assert all(not segment.inductor for segment in eager.report.segments)
    (note,) = [note for note in eager.report.notes if "Inductor" in note]
    assert note.startswith("Inductor: torch_0 runs op by op: ")
    assert "engine_tests.doubled" in note
    close(eager(x), model(x))


def test_other_values_are_errors(model):
    with pytest.raises(SettingsError, match="torch_segments is one of 'eager', 'inductor', not 'tensorrt'"):
        compiled(model, torch.randn(5, 6), torch_segments="tensorrt")


def test_by_default_nothing_is_compiled(model):
    eager = compiled(model, torch.randn(5, 6))
    assert not list(torch_segments(eager))
    assert "inductor" not in eager.report.timings.phases


def test_segments_are_put_back_for_those_who_want_ops(model):
    eager = compiled(model, torch.randn(4, 6), dynamic_shapes=batches())
    apart = grouped(eager.graph_module, {})
    assert [segment.name for segment in torch_segments(apart)] == ["torch_0"]
    back = inlined(apart)
    assert not list(torch_segments(back))
    ops = [[str(node.target) for node in graph.graph.nodes if node.op == "call_function"] for graph in (back, apart)]
    assert {"aten.erf.default", "aten.cumsum.default"} <= set(ops[0]) - set(ops[1])
    x = torch.randn(3, 6)
    want = eager.graph_module(x)
    assert equal(apart(x), want)
    assert equal(back(x), want)


def test_states_are_written_after_all_that_reads_them():
    torch.manual_seed(0)
    model = Counter()
    eager = compiled(copy.deepcopy(model), torch.randn(3, 4))
    eager.graph_module = grouped(eager.graph_module, {})
    eager._keep(type(eager.states)(eager.graph_module, eager.states.buffers))
    for _ in range(3):
        x = torch.randn(3, 4)
        close(eager(x), model(x))
    close(eager.states["seen"], model.seen)


class Numbers(nn.Module):
    """A number that is read from a tensor stands between ops of one segment."""

    def forward(self, x):
        e = torch.erf(x)
        return torch.erf(e * e.abs().sum().item())


def test_what_takes_numbers_read_from_tensors_stays_between():
    model = Numbers()
    x = torch.randn(3, 4)
    eager = compiled(model, x)
    apart = grouped(eager.graph_module, {})
    names = [segment.name for segment in torch_segments(apart)]
    assert names == ["torch_0", "torch_0_2"]
    assert any(node.target is torch.ops.aten.mul.Tensor for node in apart.graph.nodes) or len(names) == 2
    close(apart(x)[0], model(x))


def test_results_are_those_of_the_model_at_every_size(model, made):
    (segment,) = torch_segments(made)
    assert segment.code is not None
    assert {s.name: s.inductor for s in made.report.segments if s.backend == "torch"} == {"torch_0": "aot_inductor"}
    assert "Inductor" in str(made.report)
    assert not [note for note in made.report.notes if "Inductor" in note]
    for size in (4, 1, 9, 16):
        x = torch.randn(size, 6)
        close(made(x), model(x))
    # A size of 1 is none that the code was made for.
    assert sorted(plan.compiled for plan in segment._plans.values()) == [False, True, True, True]


def test_memory_in_another_order_is_read_right(model, made):
    x = torch.randn(6, 8).t()
    close(made(x), model(x))
    wide = torch.randn(5, 12)
    close(made(wide[:, ::2]), model(wide[:, ::2]))


def test_a_call_follows_no_mode(made):
    x = torch.randn(4, 6)
    want = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(made(x), want)
    with torch.inference_mode():
        assert equal(made(x), want)
    assert equal(made(x.requires_grad_()), want)


def test_copies_share_the_code(made):
    clone = copy.deepcopy(made)
    x = torch.randn(4, 6)
    assert equal(clone(x), made(x))
    assert next(torch_segments(clone)).code is next(torch_segments(made)).code
    assert next(torch_segments(clone)).graph_module is not next(torch_segments(made)).graph_module


def test_a_file_keeps_the_code_for_those_who_trust_it(made, tmp_path):
    engine.save(made, tmp_path / "model.pt2", program=True)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter", allow_host_code=True)
    x = torch.randn(7, 6)
    assert equal(loaded(x), made(x))
    assert loaded.report == made.report
    engine.save(loaded, tmp_path / "again.pt2", program=True)
    assert (tmp_path / "again.pt2").read_bytes() == (tmp_path / "model.pt2").read_bytes()
    with pytest.raises(SettingsError, match="allow_host_code is True or False"):
        engine.load(tmp_path / "model.pt2", allow_host_code="yes")


class Found(nn.Module):
    """The size of one of its results is decided by the data."""

    def forward(self, x):
        places = torch.nonzero(torch.erf(x).relu())
        return places * 2, torch.erf(x)[places[:, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("model", [Found(), Counter()], ids=["sizes of the data", "states"])
def test_other_models_are_compiled(model):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    made = compiled(copy.deepcopy(model), x, torch_segments="inductor")
    assert all(segment.code is not None for segment in torch_segments(made))
    for _ in range(2):
        close(made(x), model(x))


@pytest.mark.slow
def test_a_file_from_a_stranger_is_compiled_again(made, tmp_path, monkeypatch):
    engine.save(made, tmp_path / "model.pt2", program=True)
    # Its own code is not loaded.
    monkeypatch.setattr("engine.inductor.records.loaded", None)
    loaded = engine.load(tmp_path / "model.pt2", runtime="interpreter")
    x = torch.randn(6, 6)
    close(loaded(x), made(x))
    assert [segment.inductor for segment in loaded.report.segments] == ["", "aot_inductor", ""]


@pytest.mark.slow
def test_torch_compile_takes_the_setting(model):
    made = torch.compile(
        model,
        backend="engine",
        options={
            "torch_segments": "inductor",
            "torch_executed_ops": OPS,
            "min_block_size": 1,
            "runtime": "interpreter",
        },
    )
    x = torch.randn(4, 6)
    with torch.no_grad():
        close(made(x), model(x))


@pytest.mark.slow
def test_refitted_modules_keep_the_code(model):
    made = compiled(model, torch.randn(4, 6), torch_segments="inductor", immutable_weights=False)
    other = Between().eval()
    fresh = engine.refit(made, other)
    assert next(torch_segments(fresh)).code is next(torch_segments(made)).code
    x = torch.randn(4, 6)
    close(fresh(x), other(x))

"""Models that keep state: right over any number of calls, and through everything that is done to a compiled module."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import engine
from engine.errors import CaptureError, InputError, StateError


class Keeping(nn.Module):
    """Holds buffers of given values."""

    def __init__(self, **buffers):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value)


class IndexCopy(Keeping):
    def forward(self, x, p):
        self.cache.index_copy_(1, p, x)
        return torch.einsum("bnd,bmd->bnm", x, self.cache)


class IndexPut(Keeping):
    def forward(self, x, p):
        self.cache[:, p] = x
        return self.cache.sum(1) + x[:, 0]


class IndexPutRows(Keeping):
    def forward(self, x, p):
        rows = torch.arange(x.shape[0])
        self.cache.index_put_((rows, p.expand(x.shape[0])), x[:, 0])
        return self.cache.mean(-1)


class Slice(Keeping):
    def forward(self, x, p):
        self.cache[:, 2:4] = x
        return self.cache * p


class SliceScatter(Keeping):
    def forward(self, x, p):
        self.cache.copy_(torch.slice_scatter(self.cache, x, 1, 5, 6))
        return self.cache[:, -2:] + p


class Rolling(Keeping):
    """The state of a causal convolution."""

    def forward(self, x, p):
        window = torch.cat((self.cache[:, 1:], x), 1)
        self.cache.copy_(window)
        return F.conv1d(window.transpose(1, 2), self.kernel) * p


class Recurrent(Keeping):
    def forward(self, x, p):
        self.hidden.mul_(0.5).add_(x[:, 0])
        self.count += 1
        return torch.tanh(self.hidden) + self.count


class Assigned(Keeping):
    def forward(self, x, p):
        self.hidden = self.hidden * 0.25 + x[:, 0]
        return self.hidden.relu()


class Swapped(Keeping):
    def forward(self, x, p):
        before = self.one.clone()
        self.one.copy_(self.two)
        self.two.copy_(before + x[:, 0])
        return self.one - self.two


class Shifted(Keeping):
    """Each becomes what the one before it was: nothing but copies."""

    def forward(self, x, p):
        self.third.copy_(self.second)
        self.second.copy_(self.first)
        self.first.copy_(x[:, 0])
        return self.third + p


class Before(Keeping):
    """Returns the value from before the write, and one from after it."""

    def forward(self, x, p):
        before = self.hidden.clone()
        self.hidden.add_(x[:, 0])
        return before, before[0], self.hidden, self.hidden * 2


class Flags(Keeping):
    def forward(self, x, p):
        self.seen[p] = True
        self.last.copy_(p[0])
        return x * self.seen.sum(), self.last + 1


class Reset(Keeping):
    def forward(self, x, p):
        total = self.total + x.sum()
        self.total.zero_()
        self.total.add_(torch.where(total > 3, 0.0, total))
        return x + total


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a_b = Recurrent(hidden=torch.zeros(2, 4), count=torch.tensor(0))
        self.a = nn.ModuleDict({"b": Recurrent(hidden=torch.ones(2, 4), count=torch.tensor(5))})

    def forward(self, x, p):
        return self.a_b(x, p) + self.a["b"](x, p)


class Plain(nn.Module):
    """A cache that no module registers, as in many implementations of decoders."""

    def __init__(self):
        super().__init__()
        self.cache = torch.zeros(2, 8, 4)
        self.others = [torch.zeros(2, 4)]

    def forward(self, x, p):
        self.cache[:, p] = x
        self.others[0].add_(x[:, 0])
        return self.cache.sum(1) + self.others[0]


class Twice(Keeping):
    """One buffer under two names."""

    def __init__(self):
        super().__init__(cache=torch.zeros(2, 8, 4))
        self.reader = Keeping(cache=self.cache)

    def forward(self, x, p):
        self.cache[:, p] = x
        return self.reader.cache.sum(1)


class InPyTorch(Keeping):
    """What is between the engines reads and writes as well."""

    def forward(self, x, p):
        old = self.hidden[0]
        self.hidden.copy_(torch.linalg.qr(x.transpose(1, 2) @ x + torch.eye(4)).R[:, 0])
        return torch.sort(self.hidden.double(), -1).values, old * 1


def cache():
    return torch.zeros(2, 8, 4)


MODELS = {
    "index_copy": lambda: IndexCopy(cache=cache()),
    "index_put": lambda: IndexPut(cache=cache()),
    "index_put_rows": lambda: IndexPutRows(cache=cache()),
    "slice": lambda: Slice(cache=cache()[:, :5]),
    "slice_scatter": lambda: SliceScatter(cache=cache()),
    "rolling": lambda: Rolling(cache=torch.zeros(2, 3, 4), kernel=torch.randn(5, 4, 3)),
    "recurrent": lambda: Recurrent(hidden=torch.zeros(2, 4), count=torch.tensor(0)),
    "recurrent_int32": lambda: Recurrent(hidden=torch.ones(2, 4), count=torch.zeros(1, dtype=torch.int32)),
    "assigned": lambda: Assigned(hidden=torch.ones(2, 4)),
    "swapped": lambda: Swapped(one=torch.ones(2, 4), two=torch.zeros(2, 4)),
    "shifted": lambda: Shifted(first=torch.zeros(2, 4), second=torch.ones(2, 4), third=torch.ones(2, 4) * 2),
    "before": lambda: Before(hidden=torch.zeros(2, 4)),
    "flags": lambda: Flags(seen=torch.zeros(8, dtype=torch.bool), last=torch.tensor(0)),
    "reset": lambda: Reset(total=torch.tensor(0.0)),
    "nested": Nested,
    "plain": Plain,
    "twice": Twice,
    "in_pytorch": lambda: InPyTorch(hidden=torch.zeros(2, 4)),
}


def steps(count=4, first=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(first)
    for i in range(first, first + count):
        yield torch.randn(2, 1, 4, generator=generator).to(dtype), torch.tensor([i % 8])


def example():
    return torch.ones(2, 1, 4), torch.tensor([1])


def compiled_and_eager(name, **options):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    eager = copy.deepcopy(model)
    return engine.compile(model, example(), runtime="interpreter", min_block_size=1, **options), eager


def same(compiled, eager, count=4, first=0):
    for x, p in steps(count, first):
        with torch.no_grad():
            wanted = copy.deepcopy(eager(x, p))
        torch.testing.assert_close(compiled(x, p), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_eagers_over_many_calls(name):
    compiled, eager = compiled_and_eager(name)
    same(compiled, eager, 6)
    assert compiled.states
    buffers = dict(eager.named_buffers())
    for state, value in compiled.states.items():
        if state in buffers:
            torch.testing.assert_close(value, buffers[state], atol=1e-5, rtol=1e-5)


def test_the_model_and_what_it_gave_stay_as_they_are():
    model = MODELS["before"]().eval()
    compiled = engine.compile(model, example(), runtime="interpreter")
    first = compiled(*example())
    kept = copy.deepcopy(first)
    compiled(*example())
    torch.testing.assert_close(first, kept)
    assert not model.hidden.any()
    model.hidden.fill_(7)
    assert compiled.states["hidden"].max() == 2


def test_half_precision_and_dynamic_sizes():
    model = IndexCopy(cache=torch.zeros(2, 8, 4, dtype=torch.bfloat16))
    eager = copy.deepcopy(model)
    n = torch.export.Dim("n", max=4)
    call = torch.ones(2, 2, 4).bfloat16(), torch.tensor([0, 1])
    compiled = engine.compile(model, call, dynamic_shapes=({1: n}, {0: n}), runtime="interpreter")
    for i, n in enumerate((3, 1, 2, 1)):
        call = torch.randn(2, n, 4).bfloat16(), torch.arange(n) + i
        torch.testing.assert_close(compiled(*call), eager(*call), atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("name", ["recurrent", "swapped", "nested", "plain", "in_pytorch"])
def test_copies_have_states_of_their_own(name):
    compiled, eager = compiled_and_eager(name)
    same(compiled, eager, 2)
    twin, other = copy.deepcopy(compiled), copy.deepcopy(eager)
    same(compiled, eager, 3, first=2)
    same(twin, other, 3, first=2)
    same(twin.to("cpu"), other, 1, first=5)


@pytest.mark.parametrize("name", ["index_copy", "recurrent", "nested", "plain", "in_pytorch"])
def test_files_keep_states(name, tmp_path):
    compiled, eager = compiled_and_eager(name)
    same(compiled, eager, 2)
    engine.save(compiled, tmp_path / "x.pt2", program=True)
    loaded = engine.load(tmp_path / "x.pt2", runtime="interpreter")
    assert list(loaded.states) == list(compiled.states)
    assert set(loaded.state_dict()) == set(compiled.state_dict())
    same(loaded, copy.deepcopy(eager), 3, first=2)
    same(compiled, eager, 1, first=2)


def test_state_dicts_have_the_names_of_the_model():
    compiled, eager = compiled_and_eager("nested")
    assert set(eager.state_dict()) <= set(compiled.state_dict())
    same(compiled, eager, 2)
    kept, its = copy.deepcopy(compiled.state_dict()), copy.deepcopy(eager.state_dict())
    same(compiled, eager, 2, first=2)
    compiled.load_state_dict(kept)
    eager.load_state_dict(its)
    same(compiled, eager, 2, first=2)
    other = Nested()
    compiled.load_state_dict(other.state_dict(), strict=False)
    same(compiled, other)
    both = nn.Sequential(compiled)
    assert "0.a.b.count" in both.state_dict()
    both.load_state_dict({f"0.{name}": value for name, value in kept.items()})
    assert compiled.states["a.b.count"] == kept["a.b.count"]


def test_what_state_dicts_leave_out_they_leave_out_here(tmp_path):
    model = Keeping()
    model.register_buffer("hidden", torch.zeros(2, 4), persistent=False)
    model.forward = lambda x: model.hidden.add_(x) * 1
    compiled = engine.compile(model, (torch.ones(2, 4),), runtime="interpreter")
    twin = copy.deepcopy(compiled)
    assert not compiled.state_dict()
    assert not twin.state_dict()
    assert list(compiled.states) == list(twin.states) == ["hidden"]
    twin.load_state_dict(compiled.state_dict())
    path = tmp_path / "hidden.pt2"
    engine.save(compiled, path)
    loaded = engine.load(path)
    assert list(loaded.states) == ["hidden"]
    assert not loaded.state_dict()


def test_states_can_be_written_to_between_calls():
    compiled, eager = compiled_and_eager("recurrent")
    same(compiled, eager, 3)
    for name, state in compiled.states.items():
        state.zero_()
        eager.get_buffer(name).zero_()
    same(compiled, eager, 2)


class Weighted(Keeping):
    def __init__(self):
        super().__init__(hidden=torch.zeros(2, 4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x, p):
        self.hidden.mul_(0.5).add_(self.linear(x[:, 0]))
        return self.hidden * p


@pytest.mark.parametrize("in_place", [False, True])
def test_refit_gives_other_weights_and_states(in_place):
    torch.manual_seed(0)
    model, other = Weighted().eval(), Weighted().eval()
    eager = copy.deepcopy(model)
    compiled = engine.compile(model, example(), runtime="interpreter", immutable_weights=False)
    same(compiled, eager, 2)
    kept = engine.refit(
        compiled, {"linear.weight": other.linear.weight, "linear.bias": other.linear.bias}, strict=False
    )
    going_on = copy.deepcopy(other)
    going_on.hidden.copy_(eager.hidden)
    same(kept, going_on, 2, first=2)
    other.hidden.fill_(3)
    refitted = engine.refit(compiled, other.state_dict(), in_place=in_place)
    assert (refitted is compiled) == in_place
    same(refitted, copy.deepcopy(other), 3)
    if not in_place:
        same(compiled, eager, 1, first=2)
    checked = engine.refit(compiled, other, verify_output=True, args=example())
    same(checked, copy.deepcopy(other), 2)


def test_refit_wants_the_states_of_the_state_dict():
    compiled = engine.compile(Weighted().eval(), example(), runtime="interpreter", immutable_weights=False)
    weights = Weighted().state_dict()
    del weights["hidden"]
    with pytest.raises(engine.EngineError, match="missing keys: hidden"):
        engine.refit(compiled, weights)
    with pytest.raises(engine.EngineError, match=r"hidden is float32\[1, 4\].*float32\[2, 4\]"):
        engine.refit(compiled, {**weights, "hidden": torch.zeros(1, 4)})


# ------------------------------------------------------------------------------------ written inputs


class WritesInputs(nn.Module):
    def forward(self, x, keys, values, p):
        keys.index_copy_(1, p, x)
        old = values.clone()
        values[:, p] = x * 2
        return torch.einsum("bnd,bmd->bnm", x, keys) @ values, old, keys


def test_inputs_are_written_to():
    model = WritesInputs()
    mine, its = (cache(), cache()), (cache(), cache())
    compiled = engine.compile(model, (example()[0], *mine, example()[1]), runtime="interpreter")
    assert not mine[0].any()
    for x, p in steps():
        found, wanted = compiled(x, *mine, p), model(x, *its, p)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(mine, its)


def test_inputs_that_share_memory_are_refused():
    compiled = engine.compile(WritesInputs(), (example()[0], cache(), cache(), example()[1]), runtime="interpreter")
    x, p = example()
    both, kept = cache(), cache()
    with pytest.raises(InputError, match="'keys' and 'values' share their memory"):
        compiled(x, both, both, p)
    with pytest.raises(InputError, match=r"'values'.*expanded"):
        compiled(x, kept, torch.zeros(1, 8, 4).expand(2, 8, 4), p)
    assert not both.any()
    assert not kept.any()
    packed = torch.zeros(2, 2, 8, 4)
    compiled(x, packed[:, 0], packed[:, 1], p)
    assert packed[:, 0, 1].any()
    assert packed[:, 1, 1].any()


def test_a_cache_of_another_kind_is_refused_by_name():
    compiled = engine.compile(WritesInputs(), (example()[0], cache(), cache(), example()[1]), runtime="interpreter")
    x, p = example()
    for wrong in (cache().half(), torch.zeros(1, 8, 4), torch.zeros(2, 9, 4), cache().to("meta"), None):
        with pytest.raises(InputError, match="'keys'"):
            compiled(x, wrong, cache(), p)


def test_a_cache_that_wants_gradients_is_refused_before_anything_is_written():
    compiled = engine.compile(WritesInputs(), (example()[0], cache(), cache(), example()[1]), runtime="interpreter")
    x, p = example()
    keys, values = cache(), cache().requires_grad_()
    with pytest.raises(InputError, match=r"'values' is written to.*torch\.no_grad"):
        compiled(x, keys, values, p)
    assert not keys.any()
    with torch.no_grad():
        compiled(x, keys, values, p)
    assert values.any()


# ------------------------------------------------------------------------------------ what cannot be


def unchanged_by(compiled, error, match, *call):
    before = {name: state.clone() for name, state in compiled.states.items()}
    with pytest.raises(error, match=match):
        compiled(*call)
    for name, state in compiled.states.items():
        torch.testing.assert_close(state, before[name])


def test_positions_past_the_end():
    for name in ("index_copy", "index_put"):
        compiled, eager = compiled_and_eager(name)
        same(compiled, eager, 2)
        unchanged_by(compiled, engine.EngineError, "8", example()[0], torch.tensor([8]))


def test_states_of_another_dtype_shape_or_module():
    compiled, _ = compiled_and_eager("recurrent")
    compiled(*example())
    other, _ = compiled_and_eager("recurrent")
    with pytest.raises(StateError, match=r"'hidden' is float64\[2, 4\]; .* float32\[2, 4\]"):
        copy.deepcopy(compiled).double()(*example())
    other.load_state_dict({"hidden": torch.zeros(2, 4), "count": torch.tensor(0)}, assign=True)
    other(*example())
    other.load_state_dict(compiled.state_dict(), assign=True)
    unchanged_by(other, StateError, "'hidden' is also state 'hidden' of another compiled module", *example())
    alone = copy.deepcopy(compiled)
    del compiled
    other.load_state_dict(alone.state_dict())
    alone.load_state_dict({"hidden": torch.zeros(2, 4)}, strict=False, assign=True)
    alone(*example())


def test_state_dicts_that_do_not_fit_name_the_state():
    compiled, eager = compiled_and_eager("nested")
    same(compiled, eager, 2)
    before = {name: state.clone() for name, state in compiled.states.items()}
    wrong = {name: torch.ones(3, 4) for name in before if name.endswith("hidden")}
    with pytest.raises(RuntimeError, match=r"state 'a\.b\.hidden' has the shape \[3, 4\]; .* \[2, 4\]") as refused:
        nn.Sequential(compiled)[0].load_state_dict(wrong, strict=False)
    assert "graph_module" not in str(refused.value)
    with pytest.raises(RuntimeError, match=r'Missing key.*"a\.b\.count"') as refused:
        compiled.load_state_dict({"a_b.hidden": before["a_b.hidden"], "a_b.count": before["a_b.count"]})
    assert "graph_module.state" not in str(refused.value)
    found = compiled.load_state_dict({"a_b.count": before["a_b.count"]}, strict=False)
    assert set(found.missing_keys) == before.keys() - {"a_b.count"}
    torch.testing.assert_close(dict(compiled.states), before)
    same(compiled, eager, 2, first=2)


def test_states_that_share_their_memory_are_refused():
    compiled, _ = compiled_and_eager("swapped")
    both = torch.ones(2, 4)
    compiled.load_state_dict({"one": both, "two": both}, assign=True)
    unchanged_by(compiled, StateError, "states 'one' and 'two' share their memory", *example())


def test_shared_states_are_those_of_both():
    compiled, eager = compiled_and_eager("recurrent")
    other, _ = compiled_and_eager("recurrent")
    other.states.share(compiled.states)
    for step, module in enumerate((compiled, other, other, compiled)):
        same(module, eager, 1, first=step)
    alone = copy.deepcopy(other)
    alone(*example())
    same(other, eager, 1)
    other.load_state_dict({"hidden": torch.zeros(2, 4), "count": torch.tensor(0)}, assign=True)
    unchanged_by(other, StateError, "is shared by two compiled modules, and only one of them", *example())
    other.states.share(compiled.states)
    same(other, eager, 1)
    with pytest.raises(StateError, match="differ: states are shared by modules that keep the same ones"):
        other.states.share(compiled_and_eager("nested")[0].states)


def test_more_tokens_than_there_is_room_for_change_nothing():
    n = torch.export.Dim("n", max=4)
    call = torch.ones(2, 2, 4), torch.tensor([0, 1])
    compiled = engine.compile(
        IndexCopy(cache=cache()), call, dynamic_shapes=({1: n}, {0: n}), runtime="interpreter", min_block_size=1
    )
    compiled(*call)
    unchanged_by(
        compiled, InputError, r"dim 1 of input 'x' has size 5; its range is", torch.ones(2, 5, 4), torch.arange(5)
    )
    unchanged_by(compiled, InputError, "must equal dim 1 of input 'x'", torch.ones(2, 3, 4), torch.arange(2))
    unchanged_by(compiled, InputError, "'x' is on device meta", torch.ones(2, 2, 4, device="meta"), torch.arange(2))


@pytest.mark.parametrize("change", [lambda module: module.to("meta"), lambda module: module.half()])
def test_states_on_another_device_or_of_another_dtype_are_refused(change):
    compiled, _ = compiled_and_eager("recurrent")
    compiled(*example())
    with pytest.raises(StateError, match="state 'hidden' is"):
        change(copy.deepcopy(compiled))(*example())
    assert compiled.states["count"] == 1


def test_tensors_that_overlap_are_refused():
    class Overlapping(Keeping):
        def __init__(self):
            super().__init__(cache=cache())
            self.row = Keeping(first=self.cache[0])

        def forward(self, x, p):
            self.cache[:, p] = x
            return self.row.first * 2

    with pytest.raises(CaptureError, match=r"writes to 'cache'.*'row\.first'"):
        engine.compile(Overlapping(), example(), runtime="interpreter")


def test_the_report_says_what_is_kept():
    compiled, _ = compiled_and_eager("nested")
    (note,) = [note for note in compiled.report.notes if "state" in note]
    assert "a_b.hidden" in note
    assert "copied" in note


def test_training_mode_is_said():
    model = nn.Sequential(nn.BatchNorm1d(4)).train()
    x = torch.randn(8, 4)
    with torch.no_grad():
        compiled = engine.compile(copy.deepcopy(model), (x,), runtime="interpreter", min_block_size=1)
        for _ in range(3):
            torch.testing.assert_close(compiled(x), model(x))
    torch.testing.assert_close(compiled.states["0.running_mean"], model[0].running_mean)
    assert any("model.eval()" in note for note in compiled.report.notes)


# ------------------------------------------------------------------------------------ around it


def test_a_compiled_module_is_exported_with_its_states():
    compiled, eager = compiled_and_eager("recurrent")
    program = torch.export.export(compiled, example()).run_decompositions({})
    again = program.module()
    for x, p in steps():
        torch.testing.assert_close(again(x, p), eager(x, p))


@pytest.mark.parametrize("strict", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_programs(strict):
    model = MODELS["nested"]().eval()
    program = torch.export.export(copy.deepcopy(model), example(), strict=strict)
    same(engine.compile(program, runtime="interpreter"), model)
    same(engine.compile(program.run_decompositions(), runtime="interpreter"), MODELS["nested"]().eval())


class AssignsPlain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.hidden = torch.zeros(2, 4)
        self.seen = None

    def forward(self, x, p):
        self.seen = x * 2
        self.inner.hidden = self.inner.hidden * 0.5 + x[:, 0]
        return self.inner.hidden * p


class Grows(Keeping):
    def forward(self, x, p):
        self.rows = torch.cat((self.rows, x[:, 0]))
        return self.rows.sum(0)


def test_state_that_an_export_loses_is_refused():
    with pytest.raises(CaptureError, match=r"assigns 'inner\.hidden'.*register_buffer"):
        engine.compile(AssignsPlain(), example(), runtime="interpreter")
    with pytest.raises(CaptureError, match="Grows"):
        engine.compile(Grows(rows=torch.zeros(1, 4)), example(), runtime="interpreter")

"""Compiling and coverage leave a model, its class, its helpers and the process as they were."""

import collections
import copy
import functools
import random
import types
from typing import ClassVar

import numpy
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import engine
from engine.capture.tracing.module_caches import _modules
from engine.capture.tracing.unchanged import unchanged
from engine.errors import CaptureError

GRIDS = {}
LAST = None
COUNTED = collections.Counter()


@functools.cache
def made_once(size):
    return torch.arange(size, dtype=torch.float32)


def from_globals(size):
    global LAST
    if size not in GRIDS:
        GRIDS[size] = torch.arange(size, dtype=torch.float32)
    LAST = GRIDS[size]
    return GRIDS[size]


class Helper:
    __slots__ = ("grid", "uses")

    def __init__(self):
        self.uses = 0

    def __call__(self, size):
        self.uses += 1
        self.grid = torch.arange(size, dtype=torch.float32)
        return self.grid


class Keeps(nn.Module):
    """Keeps something of its last call in every place where Python keeps things."""

    calls = 0
    shared: ClassVar[dict] = {}

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("table", torch.zeros(6), persistent=False)
        self.register_buffer("absent", None)
        self.grid = self.seen = None
        self.history, self.queue, self.sizes = [], collections.deque(maxlen=2), set()
        self.by_size = {"nested": {"deeper": []}}
        self.ordered = collections.OrderedDict(b=1, a=2)
        self.helper = Helper()
        self.space = types.SimpleNamespace(last=None)
        self.parts = {"inner": [nn.ReLU()]}
        self.generator = random.Random(3)
        self.notes = []
        count = 0

        def hook(module, inputs, output):
            nonlocal count
            count += 1
            notes.append(output)

        notes = self.notes
        self.layer.register_forward_hook(hook)

    @functools.cached_property
    def positions(self):
        return torch.arange(6, dtype=torch.float32)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def cached(self, size):
        return (torch.arange(size, dtype=torch.float32),)

    def forward(self, x):
        size = x.shape[-1]
        if self.seen != x.shape:
            self.grid = torch.arange(size, dtype=x.dtype)
            self.seen = x.shape
        type(self).calls += 1
        self.shared[size] = self.grid
        self.added = self.grid * 2
        self.history.append(x)
        self.queue.append(x)
        self.sizes.add(size)
        self.by_size["nested"]["deeper"].append(self.grid)
        self.by_size[size] = self.grid
        self.ordered.move_to_end("b")
        self.space.last = x
        self.parts["inner"][0].seen = x
        self.training = True
        self.generator.random()
        random.random()
        numpy.random.rand()
        y = self.layer(x) + self.grid + self.helper(size) + self.positions + made_once(size) + from_globals(size)
        return y + self.cached(size)[0] + self.shared[size]


def picture(value, seen=None):
    """Everything that a model holds, by identity of what cannot change and by content of what can."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return ("again", seen[id(value)])
    if isinstance(value, torch.Tensor | type(None) | int | float | str | type):
        return (type(value).__name__, id(value) if isinstance(value, torch.Tensor) else value)
    seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return [(key, picture(item, seen)) for key, item in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return [picture(item, seen) for item in value]
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, types.FunctionType):
        return [picture(cell.cell_contents, seen) for cell in value.__closure__ or ()]
    slots = [getattr(value, name, "nothing") for name in getattr(type(value), "__slots__", ())]
    return [picture(getattr(value, "__dict__", {}), seen), picture(slots, seen)]


def states():
    numbers = numpy.random.get_state()[1].tolist()
    return (
        random.getstate(),
        numbers,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def fakes():
    held = [*made_once.__wrapped__.__globals__["GRIDS"].values(), LAST, made_once(6), *Keeps.shared.values()]
    return [value for value in held if isinstance(value, FakeTensor)]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("what", ["compile", "coverage"])
def test_a_model_is_as_it_was(what, warm):
    model, x = Keeps().eval(), torch.randn(2, 6)
    GRIDS.clear()
    made_once.cache_clear()
    expected = copy.deepcopy(Keeps.forward(copy.deepcopy(model), x).detach())
    if warm:
        model(x)
    before, calls, shared, state = picture(model), Keeps.calls, dict(Keeps.shared), states()
    if what == "compile":
        compiled = engine.compile(model, (x,), runtime="interpreter")
        torch.testing.assert_close(compiled(x), expected)
    else:
        engine.coverage(model, (x,))
    assert picture(model) == before
    assert (Keeps.calls, Keeps.shared) == (calls, shared)
    assert states() == state
    assert not fakes()
    result = model(x)
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result.detach(), expected)


def test_it_is_as_it_was_when_compiling_fails():
    class Fails(Keeps):
        def forward(self, x):
            y = super().forward(x)
            torch.set_grad_enabled(False)
            torch.set_default_dtype(torch.float64)
            while y.sum() > 0:
                y = y - 1
            return -y

    model, x = Fails().eval(), torch.randn(2, 6)
    before, state = picture(model), states()
    with pytest.raises(CaptureError):
        engine.compile(model, (x,), runtime="interpreter")
    assert picture(model) == before
    assert states() == state
    assert not fakes()


class Refreshed(nn.Module):
    """Its anchors are an attribute, made again when sizes change; a trial runs it with small sizes."""

    def __init__(self):
        super().__init__()
        self.grid = torch.zeros(3)
        self.runs = 0

    def forward(self, x):
        self.grid = torch.arange(x.shape[-1], dtype=x.dtype)
        self.runs += 1
        return (x if x.shape[0] == 1 else x + 0) + self.grid


def test_it_can_be_compiled_again_for_other_sizes():
    model = Refreshed().eval()
    grid = model.grid
    for size in (6, 3, 6):
        x = torch.randn(2, 2, size)
        ranged = engine.Input(min_shape=(1, 2, size), opt_shape=(2, 2, size), max_shape=(4, 2, size))
        compiled = engine.compile(model, (ranged,), runtime="interpreter")
        assert model.grid is grid
        assert model.runs == 0
        for batch in (1, 3):
            x = torch.randn(batch, 2, size)
            torch.testing.assert_close(compiled(x), copy.deepcopy(model)(x))


def test_values_of_tensors_come_back_where_a_model_computes():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = {"steps": torch.zeros(2)}

        def forward(self, x):
            self.plain["steps"] += 1
            return x

    model = Counts()
    with unchanged(model, values=True):
        model(torch.ones(1))
        assert model.plain["steps"].tolist() == [1, 1]
    assert model.plain["steps"].tolist() == [0, 0]


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())

    def forward(self, x):
        return self.layers(x)


def test_lazy_modules_stay_lazy():
    model, x = Lazy().eval(), torch.randn(2, 3)
    report = engine.coverage(model, (x,))
    assert report.coverage == 1.0
    assert type(model.layers[0]) is nn.LazyLinear
    with pytest.raises(CaptureError, match=r"'layers\.0\.weight' of Lazy is not initialised yet: call the model once"):
        engine.compile(model, (x,), runtime="interpreter")
    assert type(model.layers[0]) is nn.LazyLinear
    assert model.layers[0].has_uninitialized_params()
    model(x)
    torch.testing.assert_close(engine.compile(model, (x,), runtime="interpreter")(x), model(x).detach())


@functools.lru_cache
def exported_before(size):
    return torch.arange(size, dtype=torch.float32)


EXPORTED = {}


class UsesCache(nn.Module):
    def __init__(self, through_function):
        super().__init__()
        self.through_function = through_function

    def forward(self, x):
        size = x.shape[-1]
        if self.through_function:
            return x * exported_before(size)
        if size not in EXPORTED:
            EXPORTED[size] = torch.arange(size, dtype=torch.float32)
        return x * EXPORTED[size]


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("through_function", [True, False])
def test_a_cache_that_torch_export_filled(through_function):
    """torch.export itself leaves fake tensors in caches: they never become results."""
    model, x = UsesCache(through_function), torch.randn(2, 3)
    torch.export.export(model, (x,))
    assert isinstance(exported_before(3) if through_function else EXPORTED[3], FakeTensor)
    try:
        result = engine.compile(model, (x,), runtime="interpreter")(x)
    except CaptureError as error:
        assert "test_unchanged.py" in str(error)  # noqa: PT017
    else:
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, x * torch.arange(3.0))
    finally:
        exported_before.cache_clear()
        EXPORTED.clear()
    torch.testing.assert_close(engine.compile(model, (x,), runtime="interpreter")(x), x * torch.arange(3.0))
    assert not EXPORTED


def test_the_compilers_own_modules_are_not_looked_through():
    # Which are hundreds, where the package is not installed, as here: looking took longer than a small capture.
    looked_through = {module.__name__ for module in _modules([Keeps])}
    assert __name__ in looked_through
    assert [name for name in looked_through if name.partition(".")[0] == "engine"] == []

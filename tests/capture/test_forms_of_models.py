"""What people do to models before they deploy them: caches, hooks, forwards, parametrizations, fusion, layouts."""

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fusion, parametrizations, parametrize

import engine
from engine.errors import CaptureError

BATCHES = (1, 2, 5)


def right(model, *shape, **options):
    """Compile with a dynamic batch and compare, and run the model as before."""
    low, opt, high = ((batch, *shape) for batch in (1, 3, 5))
    inputs = [engine.Input(min_shape=low, opt_shape=opt, max_shape=high, **options)]
    compiled = engine.compile(model.eval(), inputs, runtime="interpreter", min_block_size=1)
    assert compiled.report.fallbacks == []
    for batch in BATCHES:
        x = torch.randn(batch, *shape).to(memory_format=options.get("format", torch.contiguous_format))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    return compiled


@functools.lru_cache
def table(size, device):
    return torch.arange(size, device=device).float().sin()


class Tables(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = {}
        self.weight = nn.Parameter(torch.rand(8, 8))

    @functools.cached_property
    def square(self):
        return self.weight @ self.weight

    @functools.lru_cache(maxsize=4)  # noqa: B019 (that is what models do)
    def outer(self, size):
        return torch.outer(torch.arange(size).float(), self.weight[0])

    def forward(self, x):
        rows = len(self.tables.setdefault(8, torch.arange(8.0)))
        return (x + table(8, x.device) + self.tables[rows]) @ self.square @ self.outer(8)


@pytest.mark.parametrize("warm", [True, False])
def test_tables_that_are_kept(warm):
    table.cache_clear()
    model = Tables()
    if warm:
        with torch.no_grad():
            model(torch.randn(2, 8))
    right(model, 8)
    right(model, 8)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    name: str = "output"


class ReturnsDataclass(nn.Module):
    def forward(self, x):
        return [Output(x * 2, (x + 1, x.mean()))]


class TakesDataclass(nn.Module):
    def forward(self, given):
        return given.logits * 2 + given.hidden[0]


def test_dataclasses():
    x = torch.randn(2, 8)
    (found,) = engine.compile(ReturnsDataclass(), [x], runtime="interpreter", min_block_size=1)(x)
    assert isinstance(found, Output)
    assert found.name == "output"
    torch.testing.assert_close((found.logits, *found.hidden), (x * 2, x + 1, x.mean()))
    compiled = engine.compile(TakesDataclass(), [Output(x, (x,))], runtime="interpreter", min_block_size=1)
    torch.testing.assert_close(compiled(Output(x, (x * 3,))), x * 5)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def scaled(self, x, factor=1):
    return nn.Sequential.forward(self, x) * factor


def test_other_forwards():
    model = layers()
    model.forward = functools.partial(scaled, model, factor=3)
    model[0].forward = functools.partial(lambda layer, x: F.linear(x, layer.weight), model[0])
    forward = model[2].forward
    model[2].forward = lambda x: forward(x) * 2
    right(model, 8)


def test_hooks():
    model, features = layers(), {}
    model[0].register_forward_hook(lambda *given: given[-1] * 2)
    model[1].register_forward_hook(lambda *given: features.__setitem__("relu", given[-1]))
    model[2].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    model.register_forward_pre_hook(lambda _, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True)
    model.register_forward_hook(lambda _, args, result: (result, args[0]))
    right(model, 8)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "the older weight_norm": torch.nn.utils.weight_norm,
    "the older spectral_norm": torch.nn.utils.spectral_norm,
    "symmetric": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()) or layer,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations(name):
    torch.manual_seed(0)
    right(nn.Sequential(PARAMETRIZED[name](nn.Linear(8, 8)), nn.ReLU()), 8)


def test_parametrized_convolutions():
    torch.manual_seed(0)
    first = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    right(nn.Sequential(first, parametrizations.spectral_norm(nn.ConvTranspose2d(4, 3, 2))), 3, 8, 8)


def normed(norm):
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm.eval()


def test_fused_layers():
    torch.manual_seed(0)
    right(fusion.fuse_conv_bn_eval(nn.Conv2d(3, 4, 3).eval(), normed(nn.BatchNorm2d(4))), 3, 8, 8)
    right(fusion.fuse_linear_bn_eval(nn.Linear(8, 4).eval(), normed(nn.BatchNorm1d(4))), 8)


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4), y.flatten(2)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_channels_last(format):
    right(Places().to(memory_format=torch.channels_last), 3, 8, 8, format=format)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(2, 8))])
def test_a_module_of_torchscript_is_refused(make):
    inputs = [engine.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))]
    for given in (inputs, [torch.randn(2, 8)]):
        with pytest.raises(CaptureError, match=r"is a module of TorchScript .* use the Python module"):
            engine.compile(make(nn.Linear(8, 4).eval()), given)

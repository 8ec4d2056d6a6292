"""Modes of PyTorch that a caller has turned on, when a model is compiled and when it is called."""

import contextlib

import pytest
import torch
from torch import nn

import engine
from engine.errors import InputError, SettingsError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, i):
        y = self.layer(x).softmax(-1) @ self.layer.weight
        return y + x.mean() * 2.5, i * 0.5 + torch.ones(3), torch.full((2,), 1.5) + i.sum(), i.sin(), (i > 1) * 0.5


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "default dtype": lambda: default_dtype(torch.float64),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad": torch.enable_grad,
    "deterministic": deterministic,
}
WAYS = {
    "engine": {},
    "partly in PyTorch": {"torch_executed_ops": ["aten.linear", "aten.mul", "aten.sin"], "min_block_size": 1},
    "refittable": {"immutable_weights": False, "torch_executed_ops": ["aten.linear"], "min_block_size": 1},
}
ARGS = (torch.randn(2, 4), torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_calls_follow_no_mode(mode, way, tmp_path):
    compiled = engine.compile(Net().eval(), ARGS, runtime="interpreter", **way)
    expected = compiled(*ARGS)
    with mode():
        torch.testing.assert_close(compiled(*ARGS), expected)
        engine.save(compiled, tmp_path / "module.pt2", program=True)
        loaded = engine.load(tmp_path / "module.pt2", runtime="interpreter")
        torch.testing.assert_close(loaded(*ARGS), expected)
    torch.testing.assert_close(loaded(*ARGS), expected)


@pytest.mark.parametrize("mode", [name for name in MODES if "device" not in name])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_compiling_captures_what_the_model_does_in_a_mode(mode, way):
    """What is compiled under autocast, or another default dtype, is the model as it is there; and stays that."""
    model = Net().eval()
    with MODES[mode]():
        expected = [value.detach().clone() for value in model(*ARGS)]
        compiled = engine.compile(model, ARGS, runtime="interpreter", **way)
        inside = compiled(*ARGS)
    half = expected[0].dtype is torch.bfloat16
    for found in (inside, compiled(*ARGS)):
        for value, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(value, wanted, atol=5e-2 if half else 1e-5, rtol=5e-2 if half else 1e-5)
            assert not value.is_inference() or mode == "inference mode"


@pytest.mark.parametrize("mode", ["device", "default device"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_constants_of_ours_are_not_made_on_the_default_device(mode, way):
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Softmax(-1)).eval()
    ranged = engine.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    with MODES[mode]():
        compiled = engine.compile(model, (ranged,), runtime="interpreter", **way)
    with torch.no_grad():
        torch.testing.assert_close(compiled(ARGS[0]), model(ARGS[0]))


def test_refit_and_torch_compile_under_autocast():
    model, other = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = ARGS[0]
    compiled = engine.compile(model, (x,), runtime="interpreter", **WAYS["refittable"])
    with torch.no_grad():
        expected = other(x)
    with MODES["autocast"](), MODES["device"]():
        torch.testing.assert_close(engine.refit(compiled, other)(x), expected)
    fast = torch.compile(model, backend="engine", options={"runtime": "interpreter", "min_block_size": 1})
    with torch.no_grad(), MODES["autocast"]():
        torch.testing.assert_close(fast(x), model(x), atol=2e-2, rtol=2e-2)
        assert fast(x).dtype is torch.bfloat16


KINDS = {
    "sparse": (lambda x: x.to_sparse(), "has the layout torch.sparse_coo: pass a dense tensor"),
    "compressed": (lambda x: x.to_sparse_csr(), "has the layout torch.sparse_csr"),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[1]]), "is a nested tensor: pass a padded one"),
    "jagged": (lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged), "is a nested tensor"),
    "meta": (lambda x: x.to("meta"), "on (device )?meta|meta"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantized tensor|qint8"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "message"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("way", [*WAYS][:2])
def test_tensors_of_other_kinds_are_refused_by_name(make, message, way):
    model, x = nn.Linear(4, 4).eval(), torch.randn(2, 4)
    compiled = engine.compile(model, (x,), runtime="interpreter", **WAYS[way])
    compiled(x)  # shapes that were seen before are looked at less
    for _ in range(2):
        with pytest.raises(InputError, match=rf"'input'.*({message})"):
            compiled(make(x))
    with pytest.raises(engine.EngineError):
        engine.compile(model, (make(x),), runtime="interpreter")
    if way == "engine":
        part = compiled.graph_module.engine_0
        with pytest.raises(InputError, match="'input"):
            part(make(x))
    torch.testing.assert_close(compiled(x), model(x).detach())


@pytest.mark.parametrize("way", [*WAYS][:2])
def test_transforms_of_torch_func_are_refused(way):
    model, x = nn.Linear(4, 4).eval(), torch.randn(2, 4)
    compiled = engine.compile(model, (x,), runtime="interpreter", **WAYS[way])
    compiled(x)
    with pytest.raises(InputError, match=r"'input' is inside torch\.vmap, .*batch dim"):
        torch.vmap(compiled)(torch.randn(3, 2, 4))
    with pytest.raises(InputError, match=r"'input' is inside a transform of torch\.func"):
        torch.func.grad(lambda value: compiled(value).sum())(x)
    with pytest.raises(InputError, match="'input'"):
        torch.func.jvp(compiled, (x,), (x,))
    # What is not transformed may be used inside.
    torch.testing.assert_close(torch.vmap(lambda y: compiled(x) + y)(x), compiled(x) + x[:, None])


def test_a_device_that_is_none():
    with pytest.raises(SettingsError, match="device='nowhere' is not a device"):
        engine.load("no.pt2", device="nowhere")

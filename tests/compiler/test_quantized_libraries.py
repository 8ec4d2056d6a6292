"""Models that libraries quantised (torchao 0.18.0, PyTorch 2.13.0), against the same models in PyTorch."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import engine
from engine.errors import CaptureError
from engine.torch_compile.backend import FallbackWarning

pytestmark = pytest.mark.slow


WIDTH = 256


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return self.second(functional.gelu(self.first(x)))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.second, self.head = nn.Conv2d(64, 128, 3, stride=2), nn.Linear(128, 10)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def _example(rows=32):
    torch.manual_seed(1)
    return torch.randn(rows, WIDTH)


def _whole(model, x, tolerance=1e-5):
    """The report of a model that is one engine, and gives what PyTorch gives."""
    with torch.no_grad():
        compiled = engine.compile(model, (x,), runtime="interpreter", min_block_size=1, require_full_compilation=True)
        torch.testing.assert_close(compiled(x), model(x), rtol=tolerance, atol=tolerance)
    assert compiled.report.coverage == 1.0
    assert len(compiled.report.segments) == 1
    return compiled.report


def _dtypes(report):
    return {product.dtypes for product in report.products}


def _quantized(config):
    torchao = pytest.importorskip("torchao.quantization")
    model = Network().eval()
    torchao.quantize_(model, config(torchao))
    return model


def _int4(torchao, symmetric=True):
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quant_primitives import MappingType

    kind = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
    return torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=kind)


CONFIGS = {
    "int8": (lambda ao: ao.Int8WeightOnlyConfig(), ("float32", "int8")),
    "int4": (_int4, ("float32", "int4")),
    "int4 with zero points": (lambda ao: _int4(ao, symmetric=False), ("float32", "int4")),
    "float8": (lambda ao: ao.Float8WeightOnlyConfig(), ("float32", "float8_e4m3fn")),
    "int8 x int8": (lambda ao: ao.Int8DynamicActivationInt8WeightConfig(), ("int8", "int8")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_torchao(name):
    config, dtypes = CONFIGS[name]
    report = _whole(_quantized(config), _example())
    assert _dtypes(report) == {dtypes}


@pytest.mark.parametrize("name", ["int4", "int8 x int8"])
def test_torchao_in_torch_compile(name):
    model, x = _quantized(CONFIGS[name][0]), _example()
    options = {"runtime": "interpreter", "min_block_size": 1, "pass_through_build_failures": True}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        compiled = torch.compile(model, backend="engine", options=options)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["int4", "int8"])
@pytest.mark.parametrize("axis", [True, False], ids=["rows", "groups"])
def test_embeddings(name, axis):
    torchao = pytest.importorskip("torchao.quantization")
    from torchao.quantization.granularity import PerAxis, PerGroup

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, WIDTH), nn.Linear(WIDTH, 8)).half().eval()
    config = torchao.IntxWeightOnlyConfig(getattr(torch, name), granularity=PerAxis(0) if axis else PerGroup(32))
    torchao.quantize_(model, config, filter_fn=lambda module, _: isinstance(module, nn.Embedding))
    report = _whole(model, torch.randint(0, 64, (2, 5)), tolerance=1e-3)
    assert report.weights.after[name] == 64 * WIDTH // (2 if name == "int4" else 1)


@pytest.mark.parametrize("spelling", ["op", "subclass"])
def test_nf4(spelling):
    nf4 = pytest.importorskip("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            weight = nf4.to_nf4(torch.randn(2 * WIDTH, WIDTH), 64, 256)
            self.weight = nn.Parameter(weight, requires_grad=False)

        def forward(self, x):
            if spelling == "op":
                return nf4.linear_nf4(x, self.weight)
            return functional.linear(x, self.weight.get_original_weight())

    report = _whole(Linear(), _example(), tolerance=1e-6)
    assert _dtypes(report) == {("float32", "int4")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int4_packed_for_cpus(dtype):
    torchao = pytest.importorskip("torchao.quantization")
    workflow = pytest.importorskip("torchao.prototype.quantization.int4.inference_workflow")
    model = Network().eval().to(dtype)
    torchao.quantize_(model, workflow.PrototypeInt4WeightOnlyConfig(group_size=32))
    report = _whole(model, _example().to(dtype), tolerance=1e-5 if dtype == torch.float32 else 2e-2)
    assert _dtypes(report) == {(str(dtype).removeprefix("torch."), "int4")}


def _pt2e(model, x, **how):
    prepared = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    config = quantizers.get_symmetric_quantization_config(**how)
    module = prepared.prepare_pt2e(
        torch.export.export(model, (x,)).module(), quantizers.XNNPACKQuantizer().set_global(config)
    )
    module(x)
    return prepared.convert_pt2e(module)


@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "tensors"])
def test_static_int8(per_channel):
    x = _example(4)
    report = _whole(_pt2e(Network().eval(), x, is_per_channel=per_channel), x)
    assert _dtypes(report) == {("int8", "int8")}
    assert report.weights.after["int8"] == sum(p.numel() for p in Network().parameters() if p.dim() == 2)


def test_dynamic_int8():
    x = _example(4)
    report = _whole(_pt2e(Network().eval(), x, is_dynamic=True, is_per_channel=True), x)
    assert _dtypes(report) == {("int8", "int8")}


def test_kernels_of_convolutions_are_kept():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 16, 16)
    report = _whole(_pt2e(Convolutions().eval(), x, is_per_channel=True), x)
    assert _dtypes(report) == {("float32", "int8"), ("int8", "int8")}
    assert report.weights.after["int8"] > 0.9 * sum(report.weights.after.values())


def test_modules_of_quantisation_aware_training():
    from torch.ao.quantization import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        QConfig,
        disable_observer,
        prepare_qat,
    )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).train()
    model.qconfig = QConfig(
        activation=FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255),
        weight=FakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_qat(model)
    prepared(_example())
    report = _whole(prepared.eval().apply(disable_observer), _example())
    assert report.weights.after["int8"] == 2 * WIDTH * WIDTH
    assert any("observer_enabled" in note for note in report.notes)


def _trained(model, x, backend):
    """A model prepared for quantisation-aware training with fused observers, which are off again."""
    from torch.ao.quantization import disable_observer, get_default_qat_qconfig, prepare_qat

    model.train().qconfig = get_default_qat_qconfig(backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_qat(model)
    prepared(x)
    return prepared.eval().apply(disable_observer)


@pytest.mark.parametrize("backend", ["x86", "qnnpack"])
def test_fused_observers_that_are_off(backend):
    # Rows have scales of their own with x86, and one scale with qnnpack.
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    report = _whole(_trained(torch.ao.quantization.QuantWrapper(inner), _example(), backend), _example(), tolerance=0)
    assert _dtypes(report) == {("int8", "int8")}
    assert report.weights.after["int8"] == 2 * WIDTH * WIDTH


def test_fused_observers_of_convolutions():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 16, 16)
    report = _whole(_trained(Convolutions(), x, "x86"), x, tolerance=1e-6)
    assert report.weights.after["int8"] == 128 * 64 * 9


def test_fused_observers_that_are_on_stay_in_pytorch():
    x = _example()
    model = _trained(nn.Sequential(nn.Linear(WIDTH, WIDTH)), x, "x86").apply(torch.ao.quantization.enable_observer)
    compiled = engine.compile(copy.deepcopy(model), (x,), runtime="interpreter", min_block_size=1)
    for scale in (1, 3):  # what is observed changes the scale of the next call
        torch.testing.assert_close(compiled(scale * x), model(scale * x))
    assert all("expected a constant" in fallback.reason for fallback in compiled.report.fallbacks)


def test_quantisation_aware_training_of_pt2e():
    qat = pytest.importorskip("torchao.quantization.pt2e")
    quantize = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    torch.manual_seed(1)
    x = torch.randn(2, 3, 16, 16)
    config = quantizers.get_symmetric_quantization_config(is_qat=True, is_per_channel=True)
    prepared = quantize.prepare_qat_pt2e(
        torch.export.export(Convolutions().train(), (x,)).module(), quantizers.XNNPACKQuantizer().set_global(config)
    )
    prepared(x)
    converted = quantize.convert_pt2e(qat.move_exported_model_to_eval(prepared))
    report = _whole(converted, x, tolerance=1e-6)
    assert ("float32", "int8") in _dtypes(report)


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_what_torch_ao_converted_is_refused_with_another_way(dynamic):
    from torch.ao import quantization

    model = nn.Sequential(quantization.QuantStub(), nn.Linear(WIDTH, WIDTH), quantization.DeQuantStub()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamic:
            packed = quantization.quantize_dynamic(model, {nn.Linear})
        else:
            packed = quantization.convert(_trained(model, _example(), "x86"))
    with pytest.raises(CaptureError, match=r"LinearPackedParams.*quantized tensors; quantise with torchao"):
        engine.compile(packed, (_example(),), runtime="interpreter")


def test_what_changes_in_a_call_decides_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = nn.Buffer(torch.zeros(1))

        def forward(self, x):
            first = self.calls[0] == 0
            self.calls += 1
            return x * 2 if first else x

    with pytest.raises(CaptureError, match="calls"):
        engine.compile(Counts().eval(), (torch.randn(2, 3),), runtime="interpreter")


@pytest.mark.parametrize("config", ["INT8_DEFAULT_CFG", "INT8_SMOOTHQUANT_CFG", "INT4_AWQ_CFG", "FP8_DEFAULT_CFG"])
@pytest.mark.slow
def test_modelopt(config):
    # nvidia-modelopt 0.47.0 brings much that nothing else here needs, so it is not among the requirements.
    quantization = pytest.importorskip("modelopt.torch.quantization", reason="pip install nvidia-modelopt")
    from modelopt.torch.quantization.utils import export_torch_mode

    x = _example(4)
    how = copy.deepcopy(getattr(quantization, config))
    model = quantization.quantize(Network().eval(), how, lambda module: module(x))
    with export_torch_mode():
        report = _whole(model, x)
    narrow = {"INT4_AWQ_CFG": "int4", "FP8_DEFAULT_CFG": "float8_e4m3fn"}.get(config, "int8")
    assert report.weights.after[narrow] > 0.4 * sum(report.weights.after.values())


class Scaled(nn.Module):
    """float8 by one scale, multiplied by the op that torchao's float8 comes down to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Buffer(torch.randn(64, WIDTH).to(torch.float8_e4m3fn))
        self.scale = nn.Buffer(torch.tensor(0.02))

    def forward(self, x):
        scale = x.abs().amax().float() / 448
        narrow = (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        return torch._scaled_mm(narrow, self.weight.t(), scale, self.scale, out_dtype=torch.bfloat16)


def test_scaled_products_and_gpus_without_float8():
    model, x = Scaled(), _example(16).bfloat16()
    assert _dtypes(_whole(model, x, tolerance=2e-2)) == {("float8_e4m3fn", "float8_e4m3fn")}
    compiled = engine.compile(model, (x,), runtime="interpreter", target_compute_capabilities=["8.6"], min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)
    assert any("needs target.fp8" in fallback.reason for fallback in compiled.report.fallbacks)


class Ints(nn.Module):
    def __init__(self, inner):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Buffer(torch.randint(-127, 128, (32, inner), dtype=torch.int8))

    def forward(self, x):
        codes = (x * 100).round().clamp(-128, 127).to(torch.int8)
        return torch._int_mm(codes, self.weight.t())


@pytest.mark.parametrize("inner", [512, 4096])
def test_products_of_ints_are_exact(inner):
    torch.manual_seed(1)
    _whole(Ints(inner), torch.randn(32, inner), tolerance=0)


def test_a_float8_value_at_a_border_blames_no_other_op():
    class Returned(nn.Module):
        def forward(self, x):
            y = x.sin().exp()
            return y.to(torch.float8_e4m3fn), y.cos()

    compiled = engine.compile(Returned(), (_example(4),), runtime="interpreter", min_block_size=1)
    assert [fallback.op for fallback in compiled.report.fallbacks] == ["aten._to_copy.default"]
    assert "cannot leave an engine" in compiled.report.fallbacks[0].reason


@pytest.mark.parametrize("case", ["scales", "codes"])
def test_what_cannot_be_kept_is_right_as_floats(case):
    import torch.ao.quantization.fx._decomposed

    op = torch.ops.quantized_decomposed.dequantize_per_channel_group

    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.codes = nn.Buffer(torch.randint(-8, 8, (WIDTH, WIDTH)).to(torch.int8))
            self.scales = nn.Buffer(torch.rand(WIDTH, WIDTH // 32))
            self.zeros = nn.Buffer(torch.zeros(WIDTH, WIDTH // 32, dtype=torch.int32))
            if case == "codes":
                self.codes = nn.Buffer(self.codes.to(torch.int16) * 40)  # beyond int8
            if case == "scales":
                self.scales = nn.Buffer(torch.rand(WIDTH, WIDTH))  # one for each element

        def forward(self, x):
            if case == "scales":
                return functional.linear(x, self.codes * self.scales)
            kind = self.codes.dtype
            return functional.linear(x, op(self.codes, self.scales, self.zeros, -8, 7, kind, 32, torch.float32))

    model, x = Grouped(), _example(4)
    compiled = engine.compile(model, (x,), runtime="interpreter", min_block_size=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    assert set(compiled.report.weights.after) == {"float32"}

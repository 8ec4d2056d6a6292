"""Sums in half precision: what the report says of them, and the setting that sums in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from engine.conversion import emit_network
from engine.report import Precision
from engine.tensorrt import capabilities

GPU = pytest.mark.gpu


class Sums(nn.Module):
    """Every kind of layer that may sum in half precision, and some that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.linear = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.depthwise(self.conv(x).relu())
        z = self.linear(y.permute(0, 2, 3, 1)).flatten(1, 2)[:, None]
        z = F.scaled_dot_product_attention(z, z, z, is_causal=True)
        return torch.einsum("bhij,bhkj->bhik", z, z), self.up(y), z.cumsum(-1)


def made(dtype: torch.dtype, device: str = "cpu") -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Sums().eval().to(device, dtype), torch.randn(2, 8, 6, 6).to(device, dtype)


def test_the_report_counts_layers_that_sum_in_half_precision() -> None:
    model, x = made(torch.float16)
    report = engine.coverage(model, (x,))
    assert report.precision.sums_in_half == {"attention": 1, "convolution": 1, "cumulative": 1, "einsum": 1}
    assert report.precision.total == 4
    assert report.as_dict()["precision"]["sums_in_half"]["convolution"] == 1
    assert "4 layer(s) sum in half precision (1 attention, 1 convolution, 1 cumulative, 1 einsum); use_fp32_acc" in str(
        report
    )


@pytest.mark.parametrize(
    ("dtype", "settings", "left"),
    [
        (torch.float16, {"use_fp32_acc": True}, {}),
        (torch.bfloat16, {}, {"cumulative": 1}),
        (torch.bfloat16, {"use_fp32_acc": True}, {}),
        (torch.float32, {}, {}),
    ],
    ids=str,
)
def test_what_is_not_summed_in_half_precision_is_not_counted(dtype: Any, settings: Any, left: dict[str, int]) -> None:
    model, x = made(dtype)
    report = engine.coverage(model, (x,), **settings)
    assert report.coverage == 1.0
    assert report.precision == Precision(left, settings.get("use_fp32_acc", False))
    assert ("precision:" in str(report)) == bool(left)


def test_graphs_inside_ops_are_counted_too() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)

        def forward(self, flag: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(flag, lambda x: self.conv(x), lambda x: self.conv(x) * 2, (x,))

    args = (torch.tensor(True), torch.randn(1, 2, 5, 5).half())
    report = engine.coverage(Chosen().half().eval(), args, min_block_size=1)
    assert report.precision.sums_in_half == {"convolution": 2}, report.fallbacks


def test_a_float32_model_is_the_same_network_with_the_setting(tmp_path: Any) -> None:
    model, x = made(torch.float32)
    kept = {"cache_built_engines": True, "reuse_cached_engines": True, "engine_cache_dir": str(tmp_path)}
    first = engine.compile(model, (x,), **kept)
    second = engine.compile(model, (x,), use_fp32_acc=True, **kept)
    assert [segment.cache.split(",")[0] for report in (first.report, second.report) for segment in report.segments] == [
        "miss",
        "hit",
    ]


def _layers(model: nn.Module, x: torch.Tensor, **settings: Any) -> list[str]:
    from engine.pipeline.compilation import Compilation

    chosen = engine.CompilationSettings.from_kwargs(**settings)
    compilation = Compilation.start(model, (x,), None, None, (), chosen)
    compilation.place()
    (segment,) = compilation.partition.engines
    network = emit_network(
        compilation.mirror, segment.tiles, segment.inputs, segment.outputs, compilation.captured.ranges, chosen
    ).network
    return [str(network.get_layer(index).type) for index in range(network.num_layers)]


def test_without_the_setting_convolutions_are_not_between_casts() -> None:
    model, x = made(torch.float16)
    plain, wide = _layers(model.conv, x, min_block_size=1), _layers(model.conv, x, min_block_size=1, use_fp32_acc=True)
    assert [kind.rpartition(".")[2] for kind in plain] == ["CONVOLUTION"]
    assert sorted(kind.rpartition(".")[2] for kind in wide).count("CAST") == 4  # x, kernel, bias, and back


@torch.no_grad()
def test_torch_compile_takes_the_setting() -> None:
    model, x = made(torch.float16)
    torch.compiler.reset()
    reports: list[Any] = []
    with engine.observe(after_compile=lambda event: reports.append(event.report)):
        compiled = torch.compile(model, backend="engine", options={"use_fp32_acc": True})
        results = compiled(x)
    assert [report.precision for report in reports] == [Precision({}, True)]
    assert reports[0].rules_used["half_sums.conv_of_half[0]"] == 1
    for got, wanted in zip(results, model.float()(x.float()), strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=1e-2, atol=1e-2)


def _error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.double() - exact).abs().max() / exact.abs().max())


CONVOLUTIONS = {
    "3x3": (nn.Conv2d(320, 320, 3, padding=1), (2, 320, 32, 32)),
    "1x1": (nn.Conv2d(1280, 640, 1), (2, 1280, 16, 16)),
    "long": (nn.Conv2d(2560, 320, 3, padding=1), (1, 2560, 8, 8)),
    "groups": (nn.Conv2d(256, 256, 3, groups=4), (2, 256, 16, 16)),
    "depthwise": (nn.Conv2d(192, 192, 7, groups=192), (2, 192, 28, 28)),
    "three_dims": (nn.Conv3d(256, 256, 3, padding=1), (1, 256, 4, 8, 8)),
    "one_dim": (nn.Conv1d(512, 512, 5), (2, 512, 128)),
    "transposed": (nn.ConvTranspose2d(512, 256, 4, 2, 1), (1, 512, 16, 16)),
}


@GPU
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
@torch.no_grad()
def test_sums_in_float32_on_a_gpu(name: str, dynamic: bool) -> None:
    module, shape = CONVOLUTIONS[name]
    torch.manual_seed(1)
    model = module.half().cuda().eval()
    for parameter in model.parameters():
        parameter.uniform_(0, 0.02)  # of one sign, so that nothing cancels
    x = torch.rand(shape, device="cuda").half()
    shapes = ({0: torch.export.Dim("batch", min=1, max=4)},) if dynamic else None
    compiled = engine.compile(model, (x,), dynamic_shapes=shapes, min_block_size=1, use_fp32_acc=True)
    assert compiled.report.coverage == 1.0
    assert compiled.report.precision.total == 0
    got, eager = compiled(x), model(x)
    exact = model.double()(x.double())
    model.half()
    assert _error(got, exact) < 2 * _error(eager, exact) + 1e-4


@GPU
@torch.no_grad()
def test_attention_einsum_and_running_sums_in_float32_on_a_gpu() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 8, 1024, 64, device="cuda").half() * scale for scale in (2.0, 2.0, 1.0))
    v = v.abs()

    class Three(nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            y = F.scaled_dot_product_attention(q, k, v)
            return y, torch.einsum("bhij,bhjk->bhik", q.transpose(2, 3).abs(), v), v.cumsum(2)

    compiled = engine.compile(Three(), (q, k, v), use_fp32_acc=True)
    # Some releases look through the casts around products, and the report says so.
    in_half = {"einsum", "matrix_multiply"} if capabilities().undoes_casts else set()
    assert set(compiled.report.precision.sums_in_half) == in_half
    if in_half:
        return
    exact = Three()(q.double(), k.double(), v.double())
    for got, eager, wanted in zip(compiled(q, k, v), Three()(q, k, v), exact, strict=True):
        assert _error(got, wanted) < 2 * _error(eager, wanted) + 1e-4


@GPU
@torch.no_grad()
def test_half_sums_are_what_the_report_says_on_a_gpu() -> None:
    """Without the setting a long convolution is further from float64 than PyTorch's; where not, nothing is counted."""
    for name, (module, shape) in sorted(CONVOLUTIONS.items()):
        torch.manual_seed(1)
        model = module.half().cuda().eval()
        for parameter in model.parameters():
            parameter.uniform_(0, 0.02)
        x = torch.rand(shape, device="cuda").half()
        compiled = engine.compile(model, (x,), min_block_size=1)
        got, eager = compiled(x), model(x)
        exact = model.double()(x.double())
        model.half()
        half = _error(got, exact) > 2 * _error(eager, exact) + 1e-4
        assert half <= bool(compiled.report.precision.total), name

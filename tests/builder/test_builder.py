"""Settings in the builder configuration, and what a failed build says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import engine
from engine.builder import build, builder_config, compute_capabilities, for_this_gpu
from engine.builder.builder import EngineRefused, layers_at_fault
from engine.errors import SettingsError
from engine.settings import CompilationSettings
from engine.tensorrt import capabilities, describe_tensorrt, load
from engine.tensorrt.logger import capturing_logger
from tests.conversion.segments import emit

rtx_only = pytest.mark.skipif(not capabilities().rtx, reason="TensorRT-RTX only")


def config(**settings: Any) -> Any:
    builder = load().Builder(capturing_logger())
    return builder_config(builder, CompilationSettings(**settings))


def test_settings_arrive() -> None:
    trt = load()
    made = config(optimization_level=2, workspace_size=1 << 20)
    assert made.builder_optimization_level == 2
    assert made.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config().get_flag(trt.BuilderFlag.TF32)
    assert config().profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@rtx_only
def test_tf32_cannot_be_disabled_on_rtx() -> None:
    with pytest.raises(SettingsError, match="disable_tf32=True cannot be honoured"):
        config(disable_tf32=True)


@rtx_only
def test_targets_narrow_an_engine() -> None:
    made = config(target_compute_capabilities=("8.9", "SM80"))
    assert [made.get_compute_capability(i).name for i in range(made.num_compute_capabilities)] == ["SM89", "SM80"]
    assert compute_capabilities(CompilationSettings(target_compute_capabilities=("8.9",))) == ("SM89",)
    assert "SM80" in compute_capabilities(CompilationSettings())


@rtx_only
def test_engines_for_other_gpus_may_be_built_again() -> None:
    mine = for_this_gpu(CompilationSettings(optimization_level=2))
    assert mine == CompilationSettings(optimization_level=2, target_compute_capabilities=("CURRENT",))
    for told in ({"hardware_compatible": True}, {"target_compute_capabilities": ("8.9",)}):
        assert for_this_gpu(CompilationSettings(**told)) is None


@rtx_only
@pytest.mark.gpu
def test_engines_are_for_the_gpu_of_this_machine() -> None:
    """TensorRT-RTX by itself does not build for 9.0: there it does not load a group norm."""
    model, x = torch.nn.GroupNorm(8, 32).cuda().half(), torch.randn(2, 32, 6, 6, device="cuda").half()
    compiled = engine.compile(model, [x], min_block_size=1)
    assert compiled.report.coverage == 1.0
    torch.testing.assert_close(compiled(x), model(x), rtol=5e-3, atol=5e-3)


@rtx_only
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version_compatible": True}, "no lean runtime"),
        ({"target_compute_capabilities": ("5.0",)}, "it knows CURRENT, SM75"),
        ({"hardware_compatible": True, "target_compute_capabilities": ("8.9",)}, "narrows the engine"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config(**settings)


@rtx_only
def test_a_failed_build_quotes_tensorrt_and_names_layers() -> None:
    kernel = torch.randn(4, 6, 3, 3)
    built = emit(
        lambda x, y: F.conv_transpose2d(x, y, stride=2, dilation=2),
        (torch.zeros(2, 4, 9, 9), kernel),
        "trt.deconvolution_dynamic(x, y, stride=[2, 2], dilation=[2, 2])",
    )
    with pytest.raises(EngineRefused, match="Strided & Dilated Deconv"):
        build(built)


def test_the_engine_knows_its_bindings() -> None:
    built = emit(lambda x: x + 1, (torch.zeros(2, 3),), "trt.elementwise(x, full(1.0, x), op=SUM)")
    plan = build(built)
    assert isinstance(plan, bytes | memoryview)
    assert len(plan) > 1000
    assert load().__version__ in describe_tensorrt()
    assert describe_tensorrt().startswith("TensorRT-RTX" if capabilities().rtx else "TensorRT ")


def test_the_same_network_gives_the_same_bytes() -> None:
    def plan() -> bytes:
        return build(emit(lambda x: torch.relu(x), (torch.zeros(2, 3),), "trt.activation(x, type=RELU)"))

    assert plan() == plan()


NAMES = ("convolution.plain/conv/convolution", "resize.nearest/up/resize", "resize.nearest/up/resize#2", "elu/elu/act")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "Error during shape inference of resize.nearest/up/resize_output : f32[1, a] = "
            "resize(convolution.plain/conv/convolution_output), shape=(1, a), mode=nearest",
            ["resize.nearest/up/resize"],
        ),
        (
            "Error during shape inference of output0 : f32[2]{0} = elu(convolution.plain/conv/convolution_output, "
            "elu/elu/act_alpha), name=elu/elu/act_elu",
            ["elu/elu/act"],
        ),
        (
            "resize.nearest/up/resize#2_output : f32[2] = resize(resize.nearest/up/resize_output), "
            "name=resize.nearest/up/resize#2",
            ["resize.nearest/up/resize#2"],
        ),
        (
            "no implementation for node {ForeignNode[convolution.plain/conv/convolution...elu/elu/act]}",
            ["convolution.plain/conv/convolution", "elu/elu/act"],
        ),
        ("CHECK(false) failed", []),
    ],
)
def test_operands_of_what_fails_are_not_at_fault(text: str, named: list[str]) -> None:
    assert list(layers_at_fault(text, NAMES)) == named

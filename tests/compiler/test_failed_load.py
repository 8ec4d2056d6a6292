"""An engine that builds and does not load: the rule that made it gives way, with TensorRT's words."""

import pytest
import torch
from torch import nn

import engine
from tests.comparison import assert_agrees

# TensorRT-RTX 1.6 builds a float32 product with weights in blocks of four-bit integers, and finds no kernel for it
# when it loads the engine on compute capability 9.0 ("No valid engine configs for Matmul_").
FOUR_BITS = """
layer trt.quantize_four(x: f32, scale: f32, *, to_type: DataType) -> tensor
  via add_quantize(x, scale, to_type)

layer trt.dequantize_four(x: tensor, scale: f32, *, to_type: dtype) -> tensor
  gives ([dim(scale, 0), {block} * dim(scale, 1)], to_type)
  via add_dequantize(x, scale, to_type)

convert linear "Weights in blocks of four-bit integers."
  match aten.linear(x: f32[_, K], w: const f32[N, K], none)
  when  K % {block} == 0
  let   scale = filled(0.125, [N, K // {block}], f32)
  let   narrow = trt.quantize_four(w, scale, to_type=INT4)
  emit  trt.matrix_multiply(x, trt.dequantize_four(narrow, scale, to_type=f32), op0=NONE, op1=TRANSPOSE)
  test  x: f32[4, 128], w: const f32[8, 128]
"""
BLOCKS = (64, 16)


class Model(nn.Module):
    """Weights that four bits hold exactly, so that both rules give the same."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(128, 8, bias=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randint(-8, 8, (8, 128), generator=generator) * 0.125)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


@pytest.fixture(params=BLOCKS)
def rules(request, tmp_path):
    path = tmp_path / "four.rules"
    path.write_text(FOUR_BITS.format(block=request.param))
    return path


def test_it_builds_where_it_is_not_loaded(rules):
    model, x = Model().eval(), torch.randn(4, 128)
    compiled = engine.compile(model, [x], rules=[rules], min_block_size=1, runtime="interpreter", trial_load=False)
    assert compiled.report.rules_used == {"activation.relu": 1, "four.linear": 1}
    assert compiled.report.refusals == []
    assert compiled.report.coverage == 1.0
    assert_agrees(compiled, model, x)


@pytest.mark.gpu
def test_it_gives_way_where_it_does_not_load(rules):
    model, x = Model().eval().cuda(), torch.randn(4, 128).cuda()
    compiled = engine.compile(model, [x], rules=[rules], min_block_size=1, runtime="python")
    report = compiled.report
    if "four.linear" in report.rules_used:
        pytest.skip("this GPU loads the engine")
    assert report.coverage == 1.0
    assert report.rules_used["linear.linear"] == 1
    (refusal,) = [found for found in report.refusals if "four.linear" in found.reason]
    assert "TensorRT rejected it" in refusal.reason
    assert "Error Code" in refusal.reason or "engine configs" in refusal.reason
    assert refusal.op == "aten.linear.default"
    assert_agrees(compiled, model, x, tolerance=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["python", "cpp"])
def test_what_was_loaded_when_compiling_is_what_runs(runtime):
    model, x = Model().eval().cuda(), torch.randn(4, 128, device="cuda")
    compiled = engine.compile(model, [x], min_block_size=1, runtime=runtime)
    (loaded,) = compiled.graph_module.engine_0.loaded_engines()
    assert_agrees(compiled, model, x, tolerance=1e-2)
    assert compiled.graph_module.engine_0.loaded_engines() == [loaded]


@pytest.mark.gpu
def test_nothing_is_loaded_where_that_was_not_asked_for():
    model, x = Model().eval().cuda(), torch.randn(4, 128, device="cuda")
    compiled = engine.compile(model, [x], min_block_size=1, runtime="python", trial_load=False)
    assert compiled.graph_module.engine_0.loaded_engines() == []
    assert_agrees(compiled, model, x, tolerance=1e-2)

"""Every op of real models with a dynamic batch, with a dynamic dim inside (slow), and with both."""

import pytest

from tests.dynamic import elementwise, indexing, neural, reduction, shaping
from tests.dynamic.case import MODES
from tests.dynamic.running import faults
from tests.rules.test_core_coverage import MODEL_OPS

FAMILIES = {
    module.__name__.rpartition(".")[2]: module.CASES for module in (elementwise, indexing, neural, reduction, shaping)
}
# Cases in one engine.
TOGETHER = 50

WITHOUT_A_CASE = {
    "_operator.getitem": "which output of an op",
    "_operator.ge": "of sizes: tests/compiler/test_dynamic.py",
    "_operator.le": "of sizes: tests/compiler/test_dynamic.py",
    "_operator.eq": "of sizes: tests/compiler/test_dynamic.py",
    "torch.sym_ite": "of sizes: tests/compiler/test_dynamic.py",
    "sym_size.int": "a size, in every case",
    "item.default": "tests/compiler/test_dynamic.py",
    "_local_scalar_dense.default": "tests/compiler/test_dynamic.py",
    "as_strided.default": "capture lays the operand end to end: as_strided_copy",
    "_assert_tensor_metadata.default": "an assertion, which capture drops",
    "_assert_scalar.default": "an assertion, which capture drops",
    "rand.default": "draws random numbers",
    "randn.default": "draws random numbers",
    "randn.generator": "draws random numbers",
    "randn_like.default": "draws random numbers",
    "linspace.default": "is written with arange where its length is dynamic; such a case has no op to name",
    "hop.cond": "tests/compiler/test_control_flow.py",
    "hop.scan": "tests/compiler/test_control_flow.py",
    "hop.while_loop": "tests/compiler/test_control_flow.py",
    "hop.flex_attention": "runs in PyTorch whatever the sizes",
    "transformers.grouped_mm_fallback.default": "an op of a library",
    "torchvision.nms.default": "an op of a library",
    "quantized_decomposed.quantize_per_tensor.default": "an op of a library",
    "quantized_decomposed.dequantize_per_tensor.default": "an op of a library",
}


def _slices():
    for family, cases in FAMILIES.items():
        names = list(cases)
        for start in range(0, len(names), TOGETHER):
            yield pytest.param({name: cases[name] for name in names[start : start + TOGETHER]}, id=f"{family}{start}")


def test_every_op_has_a_case():
    reached = {op for cases in FAMILIES.values() for case in cases.values() for op in case.ops}
    assert sorted({*MODEL_OPS} - reached - {*WITHOUT_A_CASE}) == []
    assert sorted({*WITHOUT_A_CASE} & reached) == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
# What is dynamic inside is so with a dynamic batch too.
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.slow) if mode == "interior" else mode for mode in MODES]
)
@pytest.mark.parametrize("cases", _slices())
def test_ops_take_any_size(cases, mode, device):
    assert faults(cases, mode, device) == {}

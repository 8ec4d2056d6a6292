"""Every op of the lists, in every dtype and of every rank: in one engine with others, and as eager PyTorch computes it.

Up to four calls of each op in float32 run each time, evenly spaced; of other dtypes the first, of float64, int16, int8
and uint8 that of an eighth of the ops; with ``ENGINE_TEST_FULL=1`` all of them.
``python -m tests.rules.operator_results --write`` writes down what became of them.
"""

import functools
import importlib
import os

import pytest
import torch
from torch import nn
from torch.export import Dim

import engine
from engine.verify.core import core_overloads, standing
from tests.op_db.expected import says
from tests.op_db.scope import listed_ops
from tests.rules.operator_results import FINE, OPS, TOGETHER, in_sample, load, outcomes, parts

FULL = os.environ.get("ENGINE_TEST_FULL") == "1"
SHARES = 20


@functools.cache
def rules():
    return engine.RuleSet.load()


@pytest.mark.parametrize("share", range(SHARES))
def test_calls_agree_with_eager(share):
    some = [part for part in parts(OPS[share::SHARES], whole=FULL) if FULL or in_sample(part.op, part.dtype)]
    results = load()
    wrong = []
    for start in range(0, len(some), TOGETHER):
        now = some[start : start + TOGETHER]
        for part, outcome in zip(now, outcomes(now, rules()), strict=True):
            known = results[part.op].get(part.dtype, "passed")
            if outcome.text not in (*FINE, known):
                wrong.append(f"{part.op} {part.dtype} {part.number}: {outcome.text}, not {known}")
    assert wrong == []


def test_every_op_has_calls():
    listed = [op for op in sorted(listed_ops() | set(core_overloads())) if op.startswith("aten.")]
    taken = [op for op in listed if standing(op, rules()) in ("rule", "decomposition")]
    assert [op for op in taken if op.removeprefix("aten.") not in OPS] == []


def test_every_op_passes_in_some_dtype():
    assert [op for op, by_dtype in load().items() if "passed" not in by_dtype.values()] == []


def test_every_reason_is_explained():
    texts = {text for by_dtype in load().values() for text in by_dtype.values() if text != "passed"}
    assert [text for text in sorted(texts) if text.startswith("failed") or says(text) is None] == []


class Call(nn.Module):
    """One function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *operands):
        return self.function(*operands)


def _grouped(x, w, ends):
    return torch.ops.transformers.grouped_mm_fallback(x, w, ends)


def _whole_as_eager(function, *operands):
    whole = {"min_block_size": 1, "require_full_compilation": True, "runtime": "interpreter"}
    compiled = engine.compile(Call(function), list(operands), **whole)
    torch.testing.assert_close(compiled(*operands), function(*operands), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [3, 9], ids=["few", "many"])
def test_experts_are_whole(dtype, rows):
    pytest.importorskip("transformers.integrations.moe")
    # An empty group, and rows behind the last one, which are zero.
    ends = torch.tensor([1, 1, rows - 1, rows - 1])
    _whole_as_eager(_grouped, torch.randn(rows, 6, dtype=dtype), torch.randn(4, 6, 5, dtype=dtype), ends)


@pytest.mark.parametrize("rows", [3, 9], ids=["few", "many"])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_mm_is_whole(rows, transposed):
    x = torch.randn(rows, 8, dtype=torch.bfloat16)
    w = torch.randn(4, 16, 8, dtype=torch.bfloat16).transpose(1, 2) if transposed else torch.randn(4, 8, 16).bfloat16()
    ends = torch.tensor([1, 1, rows - 1, rows], dtype=torch.int32)
    _whole_as_eager(lambda *operands: torch.nn.functional.grouped_mm(*operands[:2], offs=operands[2]), x, w, ends)


def test_grouped_mm_of_batches_is_whole():
    x, w = torch.randn(3, 8, 8, dtype=torch.bfloat16), torch.randn(3, 8, 16, dtype=torch.bfloat16)
    _whole_as_eager(torch.nn.functional.grouped_mm, x, w)


def _fake_quantised(x, low, high, zero, dtype):
    q = torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.05, zero, low, high, dtype)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(q, 0.05, zero, low, high, dtype)


@pytest.mark.parametrize(
    ("low", "high", "zero", "dtype"),
    [(-128, 127, 0, torch.int8), (-127, 127, 0, torch.int8), (0, 255, 113, torch.uint8), (-128, 127, 5, torch.int8)],
)
def test_quantised_and_back_is_whole(low, high, zero, dtype):
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    x = torch.linspace(-8, 8, 41)
    model = Call(lambda x: _fake_quantised(x, low, high, zero, dtype))
    compiled = engine.compile(model, [x], min_block_size=1, require_full_compilation=True, runtime="interpreter")
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


class Image(nn.Module):
    """Images as they are read from files, and given back as such."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = x[:, 2:-2].flip(-1).permute(0, 3, 1, 2)
        y = self.convolution(y.float() / 255)
        return (y.sigmoid() * 255).to(torch.uint8).permute(0, 2, 3, 1), x + 200, x.amax((1, 2)), (x > 100).sum()


@pytest.mark.parametrize(
    ("runtime", "device"),
    [("interpreter", "cpu"), pytest.param("python", "cuda", marks=pytest.mark.gpu)],
    ids=["interpreter", "python"],
)
def test_images_of_bytes_are_whole(runtime, device):
    def images(batch, height):
        return torch.randint(0, 256, (batch, height, 20, 3), dtype=torch.uint8, device=device)

    model = Image().eval().to(device)
    shapes = ({0: Dim("batch", min=2, max=8), 1: Dim("height", min=16, max=64)},)
    compiled = engine.compile(
        model, [images(2, 20)], dynamic_shapes=shapes, require_full_compilation=True, runtime=runtime
    )
    for batch, height in ((2, 16), (3, 20), (8, 64)):
        x = images(batch, height)
        (picture, *others), (wanted, *rest) = compiled(x), model(x)
        # Numbers on the edge between two bytes may fall on either side.
        torch.testing.assert_close(picture.int(), wanted.int(), rtol=0, atol=1)
        torch.testing.assert_close(others, rest, rtol=0, atol=0)


def test_a_choice_between_sizes_is_made_in_the_engine():
    model = Call(lambda x: x * torch.sym_ite(x.size(0) > 4, x.size(0) - 2, x.size(0)))
    shapes = {"operands": ({0: Dim("rows", min=2, max=9)},)}
    whole = {"min_block_size": 1, "require_full_compilation": True, "runtime": "interpreter"}
    compiled = engine.compile(model, [torch.randn(6, 3)], dynamic_shapes=shapes, **whole)
    for rows in (2, 4, 5, 9):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), model(x))


def test_assertions_do_not_keep_a_model_out():
    def checked(x, y):
        torch._check(x.size(0) == y.size(0))
        torch.ops.aten._assert_tensor_metadata(x, None, None, torch.float32)
        return x + y

    x = torch.randn(2, 3)
    whole = {"min_block_size": 1, "require_full_compilation": True, "runtime": "interpreter"}
    torch.testing.assert_close(engine.compile(Call(checked), [x, x], **whole)(x, x), x + x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.randn_like(x) + x, "it draws random numbers from PyTorch's generator"),
        (lambda x: torch.rand(2, 3) + x, "it draws random numbers from PyTorch's generator"),
        (lambda x: torch.nn.functional.dropout(x, 0.5, True), "it draws random numbers from PyTorch's generator"),
        (lambda x: torch.unique(x), "the size of its result depends on data"),
        (lambda x: torch.nonzero(x), "needs not rtx"),
    ],
    ids=["randn_like", "rand", "dropout", "unique", "nonzero"],
)
def test_what_stays_in_pytorch_says_why(function, reason):
    x = torch.randn(2, 3)
    compiled = engine.compile(Call(function).eval(), [x], min_block_size=1, runtime="interpreter")
    assert any(reason in fallback.reason for fallback in compiled.report.fallbacks), compiled.report.fallbacks
    if reason.startswith("draws"):
        assert not torch.equal(compiled(x), compiled(x)), "random numbers were baked in"

"""Weights that libraries hold in few bits stay that small in the engine, and give what PyTorch gives."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

import engine

ROWS, COLUMNS, GROUP = 512, 1024, 64


def _nibbles():
    return torch.randint(0, 256, (ROWS, COLUMNS // 2), dtype=torch.uint8)


def _scales(*shape, dtype):
    return (torch.rand(shape) * 0.01 + 0.001).to(dtype)


class Packed(nn.Module):
    """Two values of four bits in a byte, one scale for each group of a row, as AWQ and GPTQ unpack them."""

    def __init__(self, dtype, zero):
        super().__init__()
        self.packed = nn.Buffer(_nibbles())
        self.scales = nn.Buffer(_scales(ROWS, COLUMNS // GROUP, 1, dtype=dtype))
        self.zero = zero

    def weight(self):
        codes = torch.stack((self.packed & 15, self.packed >> 4), -1).reshape(ROWS, -1, GROUP)
        return ((codes.to(self.scales.dtype) - self.zero) * self.scales).reshape(ROWS, COLUMNS)

    def forward(self, x):
        return functional.linear(x, self.weight())


class Rows(nn.Module):
    """int8 with one scale for each row, as plain PyTorch writes it."""

    def __init__(self, dtype):
        super().__init__()
        self.codes = nn.Buffer(torch.randint(-127, 128, (ROWS, COLUMNS), dtype=torch.int8))
        self.scales = nn.Buffer(_scales(ROWS, 1, dtype=dtype))

    def forward(self, x):
        return x @ (self.codes.to(self.scales.dtype) * self.scales).t()


class AfterProduct(Rows):
    """The scales come after the product, as in gpt-fast."""

    def forward(self, x):
        return functional.linear(x, self.codes.to(x.dtype)) * self.scales[:, 0]


class Blocks(nn.Module):
    """float8 with one scale for each block, as the checkpoints of DeepSeek have it."""

    def __init__(self, dtype):
        super().__init__()
        self.codes = nn.Buffer(torch.randn(ROWS, COLUMNS).to(torch.float8_e4m3fn))
        self.scales = nn.Buffer(_scales(ROWS // GROUP, 1, COLUMNS // GROUP, 1, dtype=dtype))

    def forward(self, x):
        blocks = self.codes.to(x.dtype).reshape(ROWS // GROUP, GROUP, COLUMNS // GROUP, GROUP) * self.scales
        return functional.linear(x, blocks.reshape(ROWS, COLUMNS))


def _compiled(model, x):
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=0.15 if x.dtype == torch.bfloat16 else 2e-2)
    return compiled


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
OVERHEAD = 192 << 10  # kernels and scales: 170 KiB in the largest of these


@HALVES
@pytest.mark.parametrize("zero", [8, 7])
def test_four_bits_in_groups(dtype, zero):
    # With zero 7 there is an 8, which four bits do not hold.
    compiled = _compiled(Packed(dtype, zero), torch.randn(4, COLUMNS, dtype=dtype))
    assert compiled.report.rules_used["quantization.product_of_codes"] == 1
    assert compiled.report.engine_bytes < ROWS * COLUMNS * (0.5 if zero == 8 else 1) + OVERHEAD


@pytest.mark.parametrize("kind", [Rows, AfterProduct, Blocks])
@HALVES
def test_a_byte_each(kind, dtype):
    compiled = _compiled(kind(dtype), torch.randn(4, COLUMNS, dtype=dtype))
    assert compiled.report.engine_bytes < ROWS * COLUMNS + OVERHEAD


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [functools.partial(Packed, zero=8), functools.partial(Packed, zero=7), Rows, Blocks])
def test_single_rows_are_sums(kind, dtype):
    compiled = _compiled(kind(dtype), torch.randn(1, COLUMNS, dtype=dtype))
    used = compiled.report.rules_used
    assert sum(count for rule, count in used.items() if rule.startswith("single_rows.")) == 1
    assert compiled.report.engine_bytes < 2 * ROWS * COLUMNS  # of which half is kernels for each kind of GPU


def test_single_rows_have_a_bias():
    class Biased(Packed):
        def __init__(self):
            super().__init__(torch.float16, 8)
            self.bias = nn.Parameter(torch.randn(ROWS).half())

        def forward(self, x):
            return functional.linear(x, self.weight(), self.bias)

    compiled = _compiled(Biased().requires_grad_(False), torch.randn(1, 1, COLUMNS).half())
    assert compiled.report.rules_used["single_rows.linear_of_kept_weight"] == 1


def test_float32():
    compiled = _compiled(Packed(torch.float32, 8), torch.randn(4, COLUMNS))
    assert compiled.report.engine_bytes < ROWS * COLUMNS * 0.5 + OVERHEAD


def test_they_are_floats_where_that_is_asked_for():
    model, x = Packed(torch.float16, 8), torch.randn(4, COLUMNS, dtype=torch.float16)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", keep_quantized_weights=False)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)
    assert compiled.report.engine_bytes > 2 * ROWS * COLUMNS


def test_floating_weights_are_not_read():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.direction = nn.Parameter(torch.randint(-3, 4, (ROWS, COLUMNS)).float())
            self.length = nn.Parameter(torch.rand(ROWS, 1))

        def forward(self, x):
            return functional.linear(x, self.direction * self.length)

    compiled = _compiled(Normalised().eval(), torch.randn(4, COLUMNS))
    assert "quantization.product_of_codes" not in compiled.report.rules_used


def test_what_tensorrt_does_not_build_is_held_as_floats():
    class Kernel(Rows):
        def forward(self, x):
            kernel = (self.codes.to(x.dtype) * self.scales).reshape(ROWS, COLUMNS // 4, 2, 2)
            return functional.conv2d(x, kernel)

    compiled = _compiled(Kernel(torch.float32), torch.randn(1, COLUMNS // 4, 5, 5))
    assert compiled.report.coverage == 1.0


class Repeated(Packed):
    """The scale of a group is written out for each of its elements."""

    def weight(self):
        codes = torch.stack((self.packed & 15, self.packed >> 4), -1).reshape(ROWS, COLUMNS)
        scales = self.scales[..., 0].repeat_interleave(GROUP, 1)
        return (codes.to(scales.dtype) - self.zero) * scales


class Shifted(Packed):
    """A zero point for each group, as AWQ has it."""

    def __init__(self, dtype):
        super().__init__(dtype, 0)
        self.zeros = nn.Buffer(torch.randint(0, 16, (ROWS, COLUMNS // GROUP, 1)).to(dtype))

    def weight(self):
        codes = torch.stack((self.packed & 15, self.packed >> 4), -1).reshape(ROWS, -1, GROUP)
        return ((codes.to(self.scales.dtype) - self.zeros) * self.scales).reshape(ROWS, COLUMNS)


def test_scales_that_are_written_out_are_those_of_groups():
    compiled = _compiled(Repeated(torch.float16, 8), torch.randn(4, COLUMNS, dtype=torch.float16))
    assert compiled.report.engine_bytes < ROWS * COLUMNS * 0.5 + OVERHEAD


class FloatZeros(Packed):
    """A zero point that is a float for each group: taken off before the scales (HQQ) or added after them (gpt-fast)."""

    def __init__(self, dtype, form):
        super().__init__(dtype, 8)
        self.zeros = nn.Buffer(torch.rand(ROWS, COLUMNS // GROUP, 1).to(dtype))
        self.form = form

    def weight(self):
        codes = torch.stack((self.packed & 15, self.packed >> 4), -1).reshape(ROWS, -1, GROUP).to(self.scales.dtype)
        if self.form == "before":
            groups = (codes - self.zeros) * self.scales
        elif self.form == "after":
            groups = (codes - 8) * self.scales + self.zeros
        else:
            groups = codes * self.scales - self.zeros
        return groups.reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("form", ["before", "after", "less"])
def test_zero_points_that_are_floats(form):
    # float32 gives the same to the bit, so that the dequantized weight is that of PyTorch.
    model, x = FloatZeros(torch.float32, form), torch.eye(COLUMNS)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", require_full_compilation=True)
    assert torch.equal(compiled(x), model(x))
    assert compiled.report.weights.after["int4"] == ROWS * COLUMNS // 2
    assert compiled.report.engine_bytes < ROWS * COLUMNS * 0.5 + 2 * OVERHEAD


def test_a_byte_with_zero_points_that_are_floats():
    class Bytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.codes = nn.Buffer(torch.randint(0, 256, (ROWS, COLUMNS), dtype=torch.uint8))
            self.scales, self.zeros = (nn.Buffer(_scales(ROWS, 1, dtype=torch.float16)) for _ in range(2))

        def forward(self, x):
            return functional.linear(x, (self.codes.half() - self.zeros * 1000) * self.scales)

    compiled = _compiled(Bytes(), torch.randn(4, COLUMNS, dtype=torch.float16))
    assert compiled.report.weights.after["int8"] == ROWS * COLUMNS


def test_zero_points_for_each_element_are_held_as_floats():
    class Each(FloatZeros):
        def __init__(self):
            super().__init__(torch.float32, "before")
            self.zeros = nn.Buffer(torch.rand(ROWS, COLUMNS // GROUP, GROUP))

    compiled = _compiled(Each(), torch.randn(4, COLUMNS))
    assert set(compiled.report.weights.after) == {"float32"}


class ForCpu(nn.Module):
    """Packed by PyTorch for its kernel for CPUs."""

    def __init__(self, dtype):
        super().__init__()
        codes = torch.randint(0, 16, (ROWS, COLUMNS), dtype=torch.int32)
        self.packed = nn.Buffer(torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))
        self.scales = nn.Buffer(_scales(COLUMNS // GROUP, ROWS, 2, dtype=dtype))

    def forward(self, x):
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_packed_for_cpus(dtype):
    compiled = _compiled(ForCpu(dtype), torch.randn(4, COLUMNS, dtype=dtype))
    assert compiled.report.weights.after["int4"] == ROWS * COLUMNS // 2


def test_packed_weights_whose_groups_do_not_fit_stay_in_pytorch():
    class Misfit(ForCpu):
        def forward(self, x):
            # PyTorch itself does not look whether there are as many scales, and reads past their end.
            return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP // 2, self.scales)

    compiled = engine.compile(Misfit(torch.bfloat16), [torch.randn(4, COLUMNS).bfloat16()], runtime="interpreter")
    assert "`G * g == K` is false" in compiled.report.fallbacks[0].reason


def _packed_for_tensor_cores(codes, inner):
    """As `_convert_weight_to_int4pack` packs them on CUDA, where lane t of 32 has row t // 4 of each 8."""
    rows, columns = codes.shape
    packed = torch.zeros(rows // 8, columns // (16 * inner), 32, inner // 2, dtype=torch.int64)
    for block in range(columns // (16 * inner)):
        for pair in range(inner // 2):
            for lane in range(32):
                first = (block * inner + 2 * pair) * 16 + lane % 4 * 2
                columns_of_lane = [first + part for part in (0, 8, 16, 24, 1, 9, 17, 25)]
                for place, column in enumerate(columns_of_lane):
                    packed[:, block, lane, pair] |= codes[lane // 4 :: 8, column] << (4 * place)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


class ForTensorCores(nn.Module):
    def __init__(self, dtype, inner, rows=64, columns=256):
        super().__init__()
        self.codes = torch.randint(0, 16, (rows, columns))
        self.packed = nn.Buffer(_packed_for_tensor_cores(self.codes, inner))
        self.scales = nn.Buffer(_scales(columns // 32, rows, 2, dtype=dtype))

    def weight(self):
        scales, zeros = (part.t().repeat_interleave(32, 1) for part in self.scales.unbind(2))
        return (self.codes - 8) * scales + zeros

    def forward(self, x):
        return torch.ops.aten._weight_int4pack_mm(x, self.packed, 32, self.scales)


@pytest.mark.parametrize("inner", [2, 4, 8])
def test_weights_packed_for_tensor_cores(inner):
    # PyTorch has no kernel for CPUs to compare with: the weight is written out instead.
    model, x = ForTensorCores(torch.float32, inner), torch.eye(256)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", require_full_compilation=True)
    assert torch.equal(compiled(x), model.weight().t())
    assert compiled.report.weights.after["int4"] == 64 * 256 // 2


class Table(nn.Module):
    """An embedding whose rows are fetched as codes and dequantised then."""

    def __init__(self, how):
        super().__init__()
        kind = torch.uint8 if how in ("uint8", "nibbles") else torch.int8
        self.codes = nn.Buffer(torch.randint(-120, 120, (ROWS, COLUMNS)).to(kind))
        self.scales = nn.Buffer(_scales(ROWS, 1, dtype=torch.float32))
        self.how = how

    def forward(self, index):
        rows, scales = functional.embedding(index, self.codes), functional.embedding(index, self.scales)
        if self.how == "index":
            rows = self.codes[index]
        elif self.how == "uint8":
            rows = rows.float() - 128
        elif self.how == "nibbles":
            rows = torch.stack((rows & 15, rows >> 4), -1).flatten(-2)
        return rows.to(scales.dtype) * scales


@pytest.mark.parametrize("how", ["embedding", "index", "uint8", "nibbles"])
def test_rows_of_tables(how):
    model, index = Table(how), torch.randint(0, ROWS, (2, 3))
    compiled = engine.compile(model, [index], min_block_size=1, runtime="interpreter", require_full_compilation=True)
    assert torch.equal(compiled(index), model(index))
    assert compiled.report.weights.after["int8"] == ROWS * COLUMNS
    assert compiled.report.engine_bytes < ROWS * COLUMNS + OVERHEAD


def test_rows_of_tables_that_are_not_to_be_kept():
    model, index = Table("index"), torch.randint(0, ROWS, (2, 3))
    compiled = engine.compile(model, [index], min_block_size=1, runtime="interpreter", keep_quantized_weights=False)
    assert torch.equal(compiled(index), model(index))
    assert "int8" not in compiled.report.weights.after


class CodeBook(nn.Module):
    """Codes that are positions in a table, as bitsandbytes has NF4 and its dynamic types; float32 inside."""

    def __init__(self, entries=16):
        super().__init__()
        self.codes = nn.Buffer(torch.randint(0, entries, (ROWS * COLUMNS // GROUP, GROUP), dtype=torch.uint8))
        self.table = nn.Buffer(torch.randn(entries).sort().values)
        self.scales = nn.Buffer(_scales(ROWS * COLUMNS // GROUP, dtype=torch.float32))

    def forward(self, x):
        weight = self.table[self.codes.reshape(-1).long()].view(-1, GROUP) * self.scales[:, None]
        return functional.linear(x, weight.reshape(ROWS, COLUMNS).to(x.dtype))


@pytest.mark.parametrize(("entries", "name"), [(16, "int4"), (200, "int8")])
@HALVES
def test_code_books(dtype, entries, name):
    compiled = _compiled(CodeBook(entries), torch.randn(4, COLUMNS, dtype=dtype))
    assert compiled.report.weights.after[name] == ROWS * COLUMNS // (2 if entries == 16 else 1)
    assert compiled.report.products[0].dtypes[1] == name
    assert compiled.report.engine_bytes < ROWS * COLUMNS * (0.5 if entries == 16 else 1) + 2 * OVERHEAD


def test_code_books_give_the_same_to_the_bit():
    model, x = CodeBook(), torch.eye(COLUMNS)
    compiled = engine.compile(model, [x], min_block_size=1, runtime="interpreter", require_full_compilation=True)
    assert torch.equal(compiled(x), model(x))


def test_codes_beyond_the_table_are_looked_up_when_compiling():
    model = CodeBook()
    model.codes = nn.Buffer(model.codes.to(torch.int64) - 16)  # from the end of the table
    model.forward = lambda x: functional.linear(
        x, (model.table[model.codes.reshape(-1)].view(-1, GROUP) * model.scales[:, None]).reshape(ROWS, COLUMNS)
    )
    compiled = _compiled(model, torch.randn(4, COLUMNS))
    assert set(compiled.report.weights.after) == {"float32"}


@pytest.mark.parametrize("join", [torch.cat, torch.stack])
def test_weights_that_are_joined(join):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Packed(torch.float16, 8) for _ in range(3)])

        def forward(self, x):
            return functional.linear(x, join([part.weight() for part in self.parts], 0).reshape(-1, COLUMNS))

    compiled = _compiled(Joined(), torch.randn(4, COLUMNS, dtype=torch.float16))
    assert compiled.report.weights.after["int4"] == 3 * ROWS * COLUMNS // 2
    assert compiled.report.products[0].dtypes == ("float16", "int4")
    assert compiled.report.engine_bytes < 3 * (ROWS * COLUMNS * 0.5 + OVERHEAD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_in_half_precision_are_held_so_where_their_products_are_summed_in_float32(dtype):
    torch.manual_seed(0)
    model = nn.Linear(1024, 1024, bias=False, dtype=dtype).eval()
    compiled = _compiled(model, torch.randn(4, 1024, dtype=dtype))
    name = str(dtype).removeprefix("torch.")
    assert compiled.report.weights.after == compiled.report.weights.before == {name: 2 * 1024 * 1024}
    assert 2 * 1024 * 1024 <= compiled.report.engine_bytes < 3 * 1024 * 1024


def test_weights_joined_with_floats_are_floats():
    class Joined(Packed):
        def __init__(self):
            super().__init__(torch.float32, 8)
            self.more = nn.Parameter(torch.randn(64, COLUMNS))

        def forward(self, x):
            return functional.linear(x, torch.cat([self.weight(), self.more]))

    compiled = _compiled(Joined().eval(), torch.randn(4, COLUMNS))
    assert set(compiled.report.weights.after) == {"float32"}


@pytest.mark.gpu
@pytest.mark.parametrize("inner", [2, 4, 8])
def test_pytorch_packs_for_tensor_cores_like_that(inner):
    model = ForTensorCores(torch.bfloat16, inner)
    codes = model.codes.to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).cuda(), inner)
    assert torch.equal(packed.cpu(), model.packed)
    model, x = model.cuda(), torch.randn(4, 256, dtype=torch.bfloat16, device="cuda")
    compiled = engine.compile(model, [x], min_block_size=1, require_full_compilation=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)


class PackedBytes(Rows):
    def forward(self, x):
        return torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scales[:, 0])


@HALVES
def test_bytes_of_pytorch(dtype):
    compiled = _compiled(PackedBytes(dtype), torch.randn(4, COLUMNS, dtype=dtype))
    assert compiled.report.weights.after["int8"] == ROWS * COLUMNS


@pytest.mark.gpu
@pytest.mark.parametrize(
    "build",
    [
        *(lambda dtype: Packed(dtype, 8), lambda dtype: Packed(dtype, 7), Rows, AfterProduct, Blocks),
        *(lambda dtype: Repeated(dtype, 8), Shifted, lambda dtype: CodeBook()),
        *(lambda dtype: FloatZeros(dtype, "before"), lambda dtype: FloatZeros(dtype, "after")),
    ],
)
@HALVES
def test_on_a_gpu(build, dtype):
    model, x = build(dtype).cuda(), torch.randn(4, COLUMNS, dtype=dtype, device="cuda")
    compiled = engine.compile(model, [x], min_block_size=1, require_full_compilation=True)
    reference = model.float()(x.float())
    error = (compiled(x).float() - reference).abs().max()
    assert error <= 2e-2 * reference.abs().max()

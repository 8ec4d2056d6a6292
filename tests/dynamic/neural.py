"""Products, convolutions, pooling, attention, resampling, recurrence and spectra."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.dynamic.case import case
from tests.dynamic.weights import weight

A = torch.ops.aten
LSTM, GRU = nn.LSTM(4, 5, batch_first=True).eval(), nn.GRU(4, 5, bidirectional=True).eval()
NUMBERS = "PyTorch makes numbers of the size that it is asked for"
# torch.nn's modules are traced with their weights as constants.
for _parameter in (*LSTM.parameters(), *GRU.parameters()):
    _parameter.requires_grad_(False)


def _cell(kind, gates, *states):
    weights = [weight(gates * 5, 4), weight(gates * 5, 5), weight(gates * 5), weight(gates * 5)]
    return lambda x: kind(x, [x.new_zeros(x.shape[0], 5)] * 2 if kind is A.lstm_cell else x.new_zeros(x.shape[0], 5),
                          *weights)  # fmt: skip


def _decoder(q, k, v):
    """Attention under a causal mask that is built from sizes, with more keys than queries."""
    queries, keys = q.shape[2], k.shape[2]
    places = torch.arange(queries) + (keys - queries)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.arange(keys)[None, :] <= places[:, None])


CASES = {
    "linear": case("linear.default", lambda x: F.linear(x, weight(5, 4), weight(5)), "b t 4"),
    "matmul": case("matmul.default", torch.matmul, "b 2 t 3", "b 1 3 t"),
    "matmul_of_a_vector": case("matmul.default", torch.matmul, "b t", "t"),
    "mm": case("mm.default", torch.mm, "b t", "t b"),
    "bmm": case("bmm.default", torch.bmm, "b t 3", "b 3 t"),
    "addmm": case("addmm.default", lambda x: torch.addmm(weight(5), x, weight(4, 5)), "t 4"),
    "baddbmm": case("baddbmm.default", lambda x, y, z: torch.baddbmm(x, y, z, alpha=0.5), "b t t", "b t 3", "b 3 t"),
    "einsum": case("einsum.default", lambda x, y: torch.einsum("bhtd,bhsd->bhts", x, y), "b 2 t 3", "b 2 t 3"),
    "outer": case("outer.default", torch.outer, "b", "t"),
    "cdist": case("cdist.default", torch.cdist, "b t 3", "b 5 3"),
    "cdist_forward": case("_cdist_forward.default", lambda x, y: A._cdist_forward(x, y, 1.0, None), "b t 3", "b 5 3"),
    "attention": case("scaled_dot_product_attention.default", F.scaled_dot_product_attention, *["b 2 t 4"] * 3),
    "attention_causal": case(
        "scaled_dot_product_attention.default",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        *["b 2 t 4"] * 3,
    ),
    "attention_masked": case(
        "scaled_dot_product_attention.default",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=0.3),
        *["b 2 t 4"] * 3,
        "b 1 t t",
    ),
    "attention_across": case(
        "scaled_dot_product_attention.default", F.scaled_dot_product_attention, "b 2 3 4", "b 2 t 4", "b 2 t 4"
    ),
    "attention_of_a_decoder": case("scaled_dot_product_attention.default", _decoder, "b 2 4 4", "b 2 t 4", "b 2 t 4"),
    "conv1d": case("conv1d.default", lambda x: F.conv1d(x, weight(4, 3, 3), weight(4), 2, 1), "b 3 t"),
    "conv2d": case("conv2d.default", lambda x: F.conv2d(x, weight(4, 3, 3, 3), None, 1, 1, 2), "b 3 t 5"),
    "conv2d_same": case("conv2d.padding", lambda x: F.conv2d(x, weight(4, 3, 3, 2), None, 1, "same"), "b 3 t 5"),
    "conv3d": case("conv3d.default", lambda x: F.conv3d(x, weight(4, 3, 2, 2, 2)), "b 3 t 3 3"),
    "convolution": case(
        "convolution.default",
        lambda x: A.convolution(x, weight(6, 1, 3), None, [1], [1], [1], False, [0], 3),
        "b 3 t",
    ),
    "conv_transpose1d": case(
        "conv_transpose1d.default", lambda x: F.conv_transpose1d(x, weight(3, 4, 3), None, 2), "b 3 t"
    ),
    "conv_transpose2d": case(
        "conv_transpose2d.input", lambda x: F.conv_transpose2d(x, weight(3, 4, 3, 3), weight(4), 2, 1, 1), "b 3 t 4"
    ),
    "conv_transpose3d": case(
        "conv_transpose3d.input", lambda x: F.conv_transpose3d(x, weight(3, 4, 2, 2, 2)), "b 3 t 3 2"
    ),
    "max_pool2d": case("max_pool2d.default", lambda x: F.max_pool2d(x, 3, 2, 1), "b 3 t 5"),
    "max_pool2d_up": case("max_pool2d.default", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), "b 3 t 6", loose=True),
    "max_pool2d_indices": case(
        "max_pool2d_with_indices.default", lambda x: A.max_pool2d_with_indices(x, [2, 2], [2, 2]), "b 3 t 4"
    ),
    "max_pool3d": case("max_pool3d.default", lambda x: F.max_pool3d(x, 2), "b 3 t 4 4"),
    "max_pool3d_indices": case(
        "max_pool3d_with_indices.default", lambda x: A.max_pool3d_with_indices(x, [2, 2, 2], [2, 2, 2]), "b 2 t 4 4"
    ),
    "avg_pool1d": case("avg_pool1d.default", lambda x: F.avg_pool1d(x, 2), "b 3 t"),
    "avg_pool2d": case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), "b 3 t 5"),
    "avg_pool3d": case("avg_pool3d.default", lambda x: F.avg_pool3d(x, 2), "b 3 t 4 4"),
    "adaptive_to_one": case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, 1), "b 3 t 5"),
    "adaptive_avg_pool1d": case("adaptive_avg_pool1d.default", lambda x: F.adaptive_avg_pool1d(x, 3), "b 3 t"),
    "adaptive_avg_pool2d": case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, (2, 3)), "b 3 t 5"),
    "adaptive_avg_pool2d_core": case(
        "_adaptive_avg_pool2d.default", lambda x: A._adaptive_avg_pool2d(x, [3, 2]), "b 3 t 4"
    ),
    "adaptive_avg_pool3d": case("adaptive_avg_pool3d.default", lambda x: F.adaptive_avg_pool3d(x, 1), "b 3 t 4 4"),
    "upsample_nearest": case("upsample_nearest2d.vec", lambda x: F.interpolate(x, scale_factor=2), "b 3 t 4"),
    "upsample_nearest_to_a_size": case(
        "upsample_nearest2d.vec", lambda x, y: F.interpolate(x, size=(y.shape[2], 5)), "b 3 4 4", "b 3 t 4"
    ),
    "upsample_bilinear": case(
        "upsample_bilinear2d.vec", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "b 3 t 4"
    ),
    "upsample_bilinear_to_a_size": case(
        "upsample_bilinear2d.vec",
        lambda x, y: F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=True),
        "b 3 4 4",
        "b 3 t 5",
    ),
    "upsample_bicubic": case(
        "upsample_bicubic2d.vec", lambda x: F.interpolate(x, size=(7, 6), mode="bicubic"), "b 3 t 4"
    ),
    "upsample_bicubic_smooth": case(
        "_upsample_bicubic2d_aa.vec",
        lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
        "b 3 t 9",
    ),
    "upsample_bicubic_smooth_core": case(
        "_upsample_bicubic2d_aa.default", lambda x: A._upsample_bicubic2d_aa(x, [3, 4], False), "b 3 t 9"
    ),
    "upsample_linear": case("upsample_linear1d.vec", lambda x: F.interpolate(x, size=9, mode="linear"), "b 3 t"),
    "grid_sampler": case(
        "grid_sampler.default", lambda x, g: F.grid_sample(x, g, align_corners=False), "b 3 t 4", "u:b 2 t 2"
    ),
    "grid_sampler_2d": case(
        "grid_sampler_2d.default", lambda x, g: A.grid_sampler_2d(x, g, 0, 1, True), "b 3 4 t", "u:b t 2 2"
    ),
    "affine_grid": case(
        "affine_grid_generator.default",
        lambda x, m: A.affine_grid_generator(m, [x.shape[0], 1, x.shape[1], 3], False),
        "b t",
        "b 2 3",
        fixed=NUMBERS,
    ),
    "im2col": case("im2col.default", lambda x: F.unfold(x, (2, 3), stride=2, padding=1), "b 3 7 6"),
    "col2im": case("col2im.default", lambda x: F.fold(x, (4, 5), (2, 2)), "b 8 12"),
    "lstm": case("lstm.input", lambda x: LSTM(x)[0], "b t 4"),
    "gru": case("gru.input", lambda x: GRU(x)[0], "t b 4"),
    "lstm_cell": case("lstm_cell.default", _cell(A.lstm_cell, 4), "b 4"),
    "gru_cell": case("gru_cell.default", _cell(A.gru_cell, 3), "b 4"),
    "fft": case("fft_fftn.default", lambda x: torch.fft.fftn(x, dim=(-1, -2)).real, "b 6 8"),
    "rfft2": case("fft_rfft2.default", lambda x: torch.view_as_real(torch.fft.rfft2(x)), "b t 6 8"),
    "irfft2": case("fft_irfft2.default", lambda x: torch.fft.irfft2(torch.view_as_complex(x), s=(6, 8)), "b t 6 5 2"),
    "fft_of_complex": case(
        "_fft_c2c.default", lambda x: A._fft_c2c(torch.view_as_complex(x), [2], 0, True).abs(), "b t 8 2"
    ),
    "fft_of_real": case("_fft_r2c.default", lambda x: A._fft_r2c(x, [2], 0, True).abs(), "b t 8"),
    "fft_to_real": case("_fft_c2r.default", lambda x: A._fft_c2r(torch.view_as_complex(x), [2], 2, 8), "b t 5 2"),
    "stft": case(
        "stft.default",
        lambda x: torch.stft(x, 8, 3, center=False, return_complex=True, window=torch.ones(8)).abs().flatten(1),
        "b 40",
    ),
}

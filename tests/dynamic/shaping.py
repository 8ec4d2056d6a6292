"""Ops that move elements or make tensors of a size."""

import torch
import torch.nn.functional as F

from tests.dynamic.case import case

A = torch.ops.aten


def _causal(x):
    """A causal mask built from sizes, as decoders write it."""
    length = x.shape[1]
    places = torch.arange(length, device=x.device)
    mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
    later = places[None, :] > places[:, None]
    return x.unsqueeze(1) + mask + torch.where(later, -1.0, 0.0)


def _windows(x):
    """Windows of four with padding up to a multiple, as window attention cuts images."""
    length = x.shape[1]
    x = F.pad(x, (0, 0, 0, (4 - length % 4) % 4))
    return x.view(x.shape[0], -1, 4, x.shape[2]).mean(2)


def _slice_scatter(x):
    x = x.clone()
    x[:, 1 : x.shape[1] - 1] = 7
    return x


CASES = {
    "permute": case("permute.default", lambda x: x.permute(2, 0, 1), "b t 4"),
    "transpose": case("transpose.int", lambda x: x.transpose(-1, 1), "b t 4"),
    "t": case("t.default", torch.t, "b t"),
    "view": case("view.default", lambda x: x.view(-1, x.shape[1] * x.shape[2]), "b t 4"),
    "view_to_rows": case("view.default", lambda x: x.view(x.shape[0] * x.shape[1], -1), "b t 4"),
    "view_of_heads": case("view.default", lambda x: x.view(x.shape[0], x.shape[1], 4, -1).transpose(1, 2), "b t 8"),
    "unsafe_view": case("_unsafe_view.default", lambda x: A._unsafe_view(x, [-1, 4]), "b t 4"),
    "reshape_of_a_copy": case("clone.default", lambda x: x.transpose(0, 1).reshape(-1, 4), "b t 4"),
    "unsqueeze": case("unsqueeze.default", lambda x: x.unsqueeze(1), "b t"),
    "squeeze": case("squeeze.dim", lambda x: x.squeeze(1), "b 1 t"),
    "squeeze_two": case("squeeze.dims", lambda x: A.squeeze.dims(x, [1, 3]), "b 1 t 1"),
    "expand": case("expand.default", lambda x, y: x.expand(y.shape[0], -1, y.shape[1]), "1 3 1", "b t"),
    "broadcast": case("broadcast_tensors.default", lambda x, y: A.broadcast_tensors([x, y]), "b 1", "t"),
    "repeat": case("repeat.default", lambda x: x.repeat(2, 1, 3), "b t 2"),
    "repeat_by_a_size": case("repeat.default", lambda x, y: x.repeat(y.shape[0], 1), "3 2", "b t"),
    "tile": case("tile.default", lambda x: x.tile(2), "b t"),
    "repeat_interleave": case("repeat_interleave.self_int", lambda x: x.repeat_interleave(3, 1), "b t 2"),
    "cat": case("cat.default", lambda x, y: torch.cat([x, y, x], 1), "b t 2", "b 3 2"),
    "cat_of_batches": case("cat.default", lambda x, y: torch.cat([x, y]), "b t", "2 t"),
    "concat": case("concat.default", lambda x, y: torch.concat([x, y], -1), "b t", "b t"),
    "stack": case("stack.default", lambda x: torch.stack([x, x + 1], 1), "b t"),
    "split": case("split.Tensor", lambda x: x.split(2, 2), "b t 5"),
    "split_with_sizes": case("split_with_sizes.default", lambda x: x.split([1, 3], 2), "b t 4"),
    "split_at_a_size": case("split_with_sizes.default", lambda x: x.split([2, x.shape[1] - 2], 1), "b t 3"),
    "unbind": case("unbind.int", lambda x: x.unbind(2), "b t 3"),
    "select": case("select.int", lambda x: x[:, -1], "b t 3"),
    "select_by_a_size": case("select.int", lambda x: x[:, x.shape[1] // 2], "b t 3", loose=True),
    "slice": case("slice.Tensor", lambda x: x[:, 1:-1], "b t 3"),
    "slice_to_a_size": case("slice.Tensor", lambda x, y: x[:, : y.shape[0]], "b 12 2", "t 2", loose=True),
    "slice_of_halves": case(
        "slice.Tensor", lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]), "b t 2", loose=True
    ),
    "slice_with_steps": case("slice.Tensor", lambda x: x[:, 1::2], "b t 2"),
    "slice_beyond_the_end": case("slice.Tensor", lambda x: x[:, -20:20], "b t 2"),
    "slice_of_batches": case("slice.Tensor", lambda x: x[1:], "b t 2", loose=True),
    "slice_scatter": case("slice_scatter.default", _slice_scatter, "b t 2"),
    "select_scatter": case("select_scatter.default", lambda x, y: A.select_scatter(x, y, 1, -1), "b t 2", "b 2"),
    "flip": case("flip.default", lambda x: x.flip(0, 1), "b t 2"),
    "roll": case("roll.default", lambda x: x.roll((1, -2), (0, 1)), "b t 2"),
    "roll_by_a_size": case("roll.default", lambda x: x.roll(x.shape[1] // 2, 1), "b t 2"),
    "unfold": case("unfold.default", lambda x: x.unfold(2, 2, 2), "b t 6"),
    "unfold_of_a_dynamic_dim": case("unfold.default", lambda x: x.unfold(1, 3, 2), "b t 2", loose=True),
    "as_strided": case("as_strided_copy.default", lambda x: x.as_strided((x.shape[0], 3), (12, 2)), "b 12"),
    "as_strided_windows": case(
        "as_strided_copy.default", lambda x: (x * 2).as_strided((x.shape[0], 5, 4, 3), (36, 6, 3, 1)), "b 12 3"
    ),
    "as_strided_frames": case(
        "as_strided_copy.default",
        lambda x: (x + 1).as_strided(((x.shape[0] - 2) // 2 + 1, 4), (4, 1)),
        "t 2",
        loose=True,
    ),
    "pad": case("pad.default", lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), "b t 4"),
    "pad_by_reflection": case("pad.default", lambda x: F.pad(x, (2, 1), mode="reflect"), "b 2 t"),
    "pad_by_copies": case("pad.default", lambda x: F.pad(x, (2, 1), mode="replicate"), "b 2 t"),
    "pad_circularly": case("pad.default", lambda x: F.pad(x, (2, 1), mode="circular"), "b 2 t"),
    "pad_to_a_multiple": case("pad.default", _windows, "b t 3", loose=True),
    "constant_pad": case("constant_pad_nd.default", lambda x: A.constant_pad_nd(x, [1, -1], 2.0), "b t"),
    "pixel_shuffle": case("pixel_shuffle.default", lambda x: F.pixel_shuffle(x, 2), "b 8 t 3"),
    "arange": case("arange.default", lambda x: x + torch.arange(x.shape[1]), "b t"),
    "arange_from": case("arange.start", lambda x: torch.arange(x.shape[0], x.shape[0] + x.shape[1]) + x, "b t"),
    "arange_with_steps": case("arange.start_step", lambda x: A.arange.start_step(0, 2 * x.shape[1], 2) + x, "b t"),
    "linspace": case("", lambda x: torch.linspace(-1, 1, x.shape[1]) + x, "b t"),
    "full": case("full.default", lambda x: torch.full((x.shape[0], x.shape[1] + 1), 2.5), "b t"),
    "full_like": case("full_like.default", lambda x: torch.full_like(x, 2) + x, "b t"),
    "ones": case("ones.default", lambda x: torch.ones(x.shape[1], x.shape[0]), "b t"),
    "ones_like": case("ones_like.default", lambda x: torch.ones_like(x) + x, "b t"),
    "new_ones": case("new_ones.default", lambda x: x.new_ones(x.shape[1]) + x, "b t"),
    "zeros": case("zeros.default", lambda x: torch.zeros(x.shape[0], 2 * x.shape[1]), "b t"),
    "zeros_like": case("zeros_like.default", lambda x: torch.zeros_like(x) + x, "b t"),
    "new_zeros": case("new_zeros.default", lambda x: x.new_zeros(x.shape), "b t"),
    "zero": case("zero.default", lambda x: A.zero(x), "b t"),
    "scalar_tensor": case("scalar_tensor.default", lambda x: A.scalar_tensor(x.shape[0] * x.shape[1]) + x, "b t"),
    "empty": case("empty.memory_format", lambda x: torch.empty(x.shape), "b t", unwritten=True),
    "empty_like": case("empty_like.default", lambda x: torch.empty_like(x), "b t", unwritten=True),
    "empty_permuted": case(
        "empty_permuted.default", lambda x: torch.empty_permuted(x.shape, (1, 0)), "b t", unwritten=True
    ),
    "new_empty": case("new_empty.default", lambda x: x.new_empty(x.shape[1]), "b t", unwritten=True),
    "fill": case("fill.Tensor", lambda x, v: A.fill.Tensor(x, v), "b t", ""),
    "eye": case("eye.default", lambda x: torch.eye(x.shape[1]) + x.unsqueeze(-1), "b t"),
    "tril": case("tril.default", lambda x: x.tril(1), "b t t"),
    "triu": case("triu.default", lambda x: x.triu(-1), "b t 5"),
    "tril_indices": case("tril_indices.default", lambda x: torch.tril_indices(3, 3) + x[0, 0].long(), "b t"),
    "meshgrid": case(
        "meshgrid.indexing",
        lambda x: torch.meshgrid(torch.arange(x.shape[0]), torch.arange(x.shape[1]), indexing="xy"),
        "b t",
    ),
    "causal_mask": case("triu.default", _causal, "b t t"),
    "sizes_as_results": case("add.Tensor", lambda x: (x + 1, x.shape[0] * x.shape[1] - 1, x.shape[1] // 2), "b t"),
}

"""Ops that pick, place or order elements."""

import torch
import torch.nn.functional as F

from tests.dynamic.case import case

A = torch.ops.aten
ROWS = torch.tensor([2, 0, 1, 2])

CASES = {
    "embedding": case("embedding.default", F.embedding, "i7:b t", "7 3"),
    "embedding_of_dynamic_rows": case("embedding.default", lambda i, w: F.embedding(i, w), "i4:b 3", "t 5"),
    "index": case("index.Tensor", lambda x, i: x[i], "b t 2", "i1:t"),
    "index_second": case("index.Tensor", lambda x, i: x[:, i], "b t 2", "i4:5"),
    "index_pairs": case("index.Tensor", lambda x, i, j: x[i, j], "b t 2", "i1:t", "i4:t"),
    "index_by_places": case(
        "index.Tensor", lambda x: x[torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1]).flip(0)], "b t 2"
    ),
    "index_masks": case(
        "index.Tensor", lambda m, i: m[torch.arange(m.shape[0])[:, None, None], i], "m:b t", "i4:b 3 t"
    ),
    "index_select": case("index_select.default", lambda x: x.index_select(1, ROWS), "b t 2"),
    "gather": case("gather.default", lambda x, i: x.gather(1, i), "b t 3", "i4:b t 2"),
    "scatter": case("scatter.src", lambda x, i, s: x.scatter(2, i, s), "b t 4", "i1:b t 1", "b t 1"),
    "scatter_value": case("scatter.value", lambda x, i: x.scatter(1, i, 3.0), "b t", "i4:b 1"),
    "index_put": case("index_put.default", lambda x, v: x.index_put((ROWS[:3],), v), "4 t", "3 t"),
    "index_put_by_mask": case("index_put.default", lambda x, m: A.index_put(x, [m], torch.tensor(2.0)), "b t", "m:b t"),
    "index_put_by_mask_of_rows": case(
        "index_put.default", lambda x, m: A.index_put(x, [None, m], torch.tensor(2.0)), "b t 4", "m:t"
    ),
    "index_add": case("index_add.default", lambda x, s: x.index_add(1, ROWS, s), "b t 2", "b 4 2"),
    "index_copy": case("index_copy.default", lambda x, s: x.index_copy(1, ROWS[:3], s), "b t 2", "b 3 2"),
    "masked_scatter": case("masked_scatter.default", lambda x, m, s: x.masked_scatter(m, s), "b t", "m:b t", "b t"),
    "sort": case("sort.default", lambda x: torch.sort(x, -1), "d:b t"),
    "sort_of_batches": case("sort.stable", lambda x: torch.sort(x, dim=0, descending=True, stable=True), "i3:b t"),
    "argsort": case("argsort.default", lambda x: torch.argsort(x, 1, descending=True), "d:b t 2"),
    "argsort_stable": case("argsort.stable", lambda x: torch.argsort(x, dim=1, stable=True), "i3:b t"),
    "topk": case("topk.default", lambda x: torch.topk(x, 3, 1), "d:b t 2"),
    "topk_of_a_size": case("topk.default", lambda x: torch.topk(x, x.shape[1] - 3), "d:b t", loose=True),
    "argmax": case("argmax.default", lambda x: x.argmax(1), "d:b t 2"),
    "argmax_of_all": case("argmax.default", lambda x: x.argmax(), "d:b t"),
    "argmin": case("argmin.default", lambda x: x.argmin(-1, keepdim=True), "d:b t"),
    "searchsorted": case("searchsorted.Tensor", lambda s, x: torch.searchsorted(s.sort().values, x), "t", "b 5"),
    "histc": case("histc.default", lambda x: torch.histc(x, 5, -2, 2), "b t"),
    "embedding_bag": case(
        "embedding_bag.padding_idx", lambda i, w: F.embedding_bag(i, w, mode="mean", padding_idx=1), "i7:b t", "7 3"
    ),
    "embedding_bag_forward": case(
        "_embedding_bag_forward_only.default",
        lambda w, i, o: A._embedding_bag_forward_only(w, i, o, False, 0)[0],
        "7 t",
        "i7:9",
        "i1:b",
    ),
    "nonzero": case("nonzero.default", lambda x: (x > 0).nonzero(), "b t", outside="needs not rtx"),
    "unique": case("_unique2.default", lambda x: torch.unique(x), "i5:b t", outside="no rule converts"),
}

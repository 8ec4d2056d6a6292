"""Ops that sum up, normalise and scan."""

import torch
import torch.nn.functional as F

from tests.dynamic.case import case
from tests.dynamic.weights import weight

A = torch.ops.aten
OF_A_DYNAMIC_SHAPE = "torch.export wants the normalised shape to be numbers"

CASES = {
    "mean": case("mean.dim", lambda x: x.mean(1), "b t 3"),
    "mean_of_batches": case("mean.dim", lambda x: x.mean((0, -1), keepdim=True), "b t 3"),
    "sum": case("sum.dim_IntList", lambda x: x.sum(1), "b t 3"),
    "sum_of_bools": case("sum.dim_IntList", lambda x: x.sum(-1), "m:b t"),
    "sum_of_all": case("sum.default", torch.sum, "b t"),
    "amax": case("amax.default", lambda x: x.amax((0, 1)), "b t 3"),
    "max": case("max.default", torch.max, "b t"),
    "min": case("min.default", torch.min, "b t"),
    "max_of_a_dim": case("max.dim", lambda x: x.max(1), "d:b t 2"),
    "all": case("all.default", torch.all, "m:b t"),
    "all_of_a_dim": case("all.dim", lambda x: x.all(1), "m:b t"),
    "any_of_a_dim": case("any.dim", lambda x: x.any(1), "m:b t 2"),
    "any_of_dims": case("any.dims", lambda x: A.any.dims(x, [0, 1]), "m:b t 2"),
    "std": case("std.dim", lambda x: A.std.dim(x, [1]), "b t 2"),
    "var": case("var.correction", lambda x: torch.var(x, (1,), correction=1), "b t 2"),
    "vector_norm": case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, dim=1), "b t 2"),
    "norm": case("linalg_norm.default", lambda x: torch.linalg.norm(x, dim=-1), "b t"),
    "cumsum": case("cumsum.default", lambda x: x.cumsum(1), "b t 2"),
    "cumsum_of_masks": case("cumsum.default", lambda x: x.cumsum(-1) * x, "m:b t"),
    "cumprod": case("cumprod.default", lambda x: x.cumprod(1), "p:b t 2"),
    "diff": case("diff.default", lambda x: x.diff(dim=1), "b t 2"),
    "softmax": case("softmax.int", lambda x: x.softmax(1), "b t 2"),
    "softmax_core": case("_softmax.default", lambda x: A._softmax(x, 2, False), "b 2 t"),
    "log_softmax": case("log_softmax.int", lambda x: x.log_softmax(-1), "b t"),
    "log_softmax_core": case("_log_softmax.default", lambda x: A._log_softmax(x, 0, False), "b t"),
    "layer_norm": case("layer_norm.default", lambda x: F.layer_norm(x, (6,), weight(6), weight(6)), "b t 6"),
    "native_layer_norm": case(
        "native_layer_norm.default", lambda x: A.native_layer_norm(x, [6], weight(6), weight(6), 1e-5), "b t 6"
    ),
    "layer_norm_of_a_size": case("layer_norm.default", lambda x: F.layer_norm(x, x.shape[1:]), "b t 3"),
    "rms_norm": case("rms_norm.default", lambda x: F.rms_norm(x, (6,), weight(6)), "b t 6"),
    "group_norm": case("group_norm.default", lambda x: F.group_norm(x, 2, weight(6), weight(6)), "b 6 t"),
    "native_group_norm": case(
        "native_group_norm.default",
        lambda x: A.native_group_norm(x, weight(6), weight(6), x.shape[0], 6, x.shape[2], 3, 1e-5)[0],
        "b 6 t",
    ),
    "instance_norm": case("instance_norm.default", lambda x: F.instance_norm(x), "b 3 t 2"),
    "batch_norm": case(
        "_native_batch_norm_legit_no_training.default",
        lambda x: A._native_batch_norm_legit_no_training(
            x, weight(3), weight(3), weight(3), weight(3).abs() + 0.5, 0.1, 1e-5
        )[0],
        "b 3 t",
    ),
    "batch_norm_without_statistics": case(
        "_native_batch_norm_legit.no_stats",
        lambda x: A._native_batch_norm_legit.no_stats(x, weight(3), weight(3), True, 0.1, 1e-5)[0],
        "b 3 t",
    ),
    "weight_norm": case("_weight_norm.default", lambda v, g: A._weight_norm(v, g, 0), "b t 2", "p:b 1 1"),
    "is_all_true": case("_is_all_true.default", lambda x: A._is_all_true(x), "m:b t"),
}

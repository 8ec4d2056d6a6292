"""Which arguments of an op number the dims of a tensor, so that -1 means the last one.

A schema says only that they are ints.  What ATen calls ``dim`` is known; an op of somebody else may give any meaning
to an argument of that name, so those are left as they were written.  Imports nothing of PyTorch.
"""

from __future__ import annotations

# Namespaces whose arguments follow ATen's names.
_LIKE_ATEN = frozenset({"aten", "prims", "prim", "quantized_decomposed"})

_NAMES = frozenset(
    {"dim", "dims", "dim0", "dim1", "dim2", "axis", "axes", "axis0", "axis1", "dimension", "start_dim", "end_dim"}
    | {"dims_self", "dims_other"}
)
_MOVES = frozenset({"movedim", "moveaxis"})
_OF_MOVES = frozenset({"source", "destination"})

# Ops whose argument is called like a dim and is none: ``tile`` repeats; in weight normalisation -1 means
# "over everything"; functorch's batch dims and sparse or nested layouts number something else.
_NOT_DIMS = frozenset(
    {
        "tile",
        "_weight_norm",
        "_weight_norm_interface",
        "norm_except_dim",
        "_add_batch_dim",
        "_remove_batch_dim",
        "_sobol_engine_draw",
        "sparse_resize_and_clear",
    }
)


def like_aten(op: str) -> bool:
    """Whether the names of an op and of its arguments mean what they mean in ATen; ``op`` as in ``aten::add``."""
    return op.partition("::")[0] in _LIKE_ATEN


def numbers_dims(op: str, argument: str) -> bool:
    """Whether an int, or a list of ints, numbers dims; ``op`` is the name of a schema, as in ``aten::cumsum``."""
    name = op.rpartition("::")[2]
    named = argument in _NAMES or (name in _MOVES and argument in _OF_MOVES)
    return named and like_aten(op) and name not in _NOT_DIMS


def lists_dims(argument: str) -> bool:
    """Whether a list of one element in this argument is complete as it is, whatever length its type names."""
    return argument in _NAMES


__all__ = ["like_aten", "lists_dims", "numbers_dims"]

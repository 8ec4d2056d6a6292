"""The functions of the language: what each takes and gives."""

from __future__ import annotations

from collections.abc import Mapping

from engine.reference.entry import Entry

# Name -> (how it is called, what it gives). `engine.evaluator.builtins` has what they do.
_FUNCTIONS: Mapping[str, tuple[str, str]] = {
    "rank": ("rank(x) -> int", "The number of dims of a tensor."),
    "shape": ("shape(x) -> [int]", "The sizes of a tensor; dynamic ones are symbolic."),
    "dim": ("dim(x, i) -> int", "The size of dim i of a tensor; i may be negative, and counts from the end then."),
    "dtype": ("dtype(x) -> dtype", "The dtype of a tensor, as `f32`. Classes hold dtypes: `dtype(x) in floating`."),
    "numel": ("numel(x) -> int", "The number of elements of a tensor."),
    "multiplied": (
        "multiplied(x) -> dtype",
        "The dtype in which the installed TensorRT multiplies a tensor: TensorRT-RTX 1.4 looks through casts.",
    ),
    "is_const": ("is_const(x) -> bool", "Whether a tensor is known when compiling."),
    "is_fixed": (
        "is_fixed(x) -> bool",
        "Whether a tensor is the same in each call: a constant, or what layers make of constants.",
    ),
    "is_code": (
        "is_code(x, low, high) -> bool",
        "Whether the elements of a tensor are certain to be whole numbers from low to high, as codes of quantized "
        "weights are: of a constant made of ints alone they are read, of everything else the ops count.",
    ),
    "is_kept": (
        "is_kept(x) -> bool",
        "Whether the engine makes a constant out of smaller ones instead of holding it.",
    ),
    "block_shape": (
        "block_shape(s, shape) -> [int]",
        "The sizes of the largest blocks of a shape in which a constant that broadcasts to it has one number.",
    ),
    "converted": ("converted(x, dtype) -> tensor", "A constant as one of another dtype."),
    "is_full": ("is_full(x, v) -> bool", "Whether every element of a tensor is known to be the number v."),
    "is_between": (
        "is_between(x, low, high) -> bool",
        "Whether every element of a tensor is known to lie from low to high; false of what is no constant.",
    ),
    "has_full_row": (
        "has_full_row(x, v) -> bool",
        "Whether some row of a tensor, along its last dim, holds nothing but v; true of what is no constant.",
    ),
    "is_known": ("is_known(v) -> bool", "Whether a size is known when compiling."),
    "is_tensor": ("is_tensor(v) -> bool", "Whether a value is a tensor, and no number, list or `none`."),
    "values": (
        "values(x) -> list",
        "The elements of a constant of up to 65,536 elements, as a flat list. The rule does not apply to others.",
    ),
    "item": ("item(x) -> number", "The one element of a constant. The rule does not apply if there are more."),
    "is_shared": ("is_shared(x) -> bool", "Whether several nodes of the graph read a tensor."),
    "unused": (
        "unused(x) -> bool",
        "Whether nothing reads an output of the matched op, named by `-> (y, indices)`. Then it need not be computed.",
    ),
    "overwritten": (
        "overwritten(x) -> bool",
        "Whether x is an input of the graph that the matched node alone reads, and that gets the node's result as its "
        "new value: a cache that is written where it lies.",
    ),
    "len": ("len(xs) -> int", "The number of elements of a list."),
    "range": ("range(n), range(a, b), range(a, b, step) -> [int]", "Whole numbers, as in Python."),
    "zip": ("zip(xs, ys, ..) -> [(x, y, ..)]", "Elements side by side, as many as the shortest list has."),
    "enumerate": ("enumerate(xs) -> [(int, x)]", "Each element behind its position, which counts from 0."),
    "reversed": ("reversed(xs) -> list", "The list from its end."),
    "sorted": ("sorted(xs) -> list", "Known numbers in rising order."),
    "present": ("present(xs) -> [(int, x)]", "The elements that are not `none`, each behind its position."),
    "all": (
        "all(xs) -> bool",
        "Whether all are true. `all(v > 0 for v in xs)` needs no brackets. Relations of sizes may stay undecided.",
    ),
    "any": ("any(xs) -> bool", "Whether one is true; as `all`."),
    "sum": ("sum(xs) -> number", "The sum of a list of numbers or sizes; 0 of none."),
    "prod": ("prod(xs) -> int", "The product of a list of sizes; 1 of none."),
    "min": ("min(xs), min(a, b, ..) -> number", "The least of a list, or of several numbers or sizes."),
    "max": ("max(xs), max(a, b, ..) -> number", "The greatest of a list, or of several numbers or sizes."),
    "abs": ("abs(v) -> number", "The size of a number without its sign."),
    "clamp": ("clamp(v, low, high) -> number", "v, but no less than low and no more than high."),
    "prefix_sums": ("prefix_sums(xs) -> [int]", "For each element the sum of those before it: where parts begin."),
    "broadcast": (
        "broadcast([s, t, ..]) -> [int]",
        "The shape to which shapes broadcast, as in PyTorch. The rule does not apply if they do not.",
    ),
    "full": ("full(v, x) -> tensor", "The number v in the dtype of x and with as many dims, all of size 1."),
    "scalar": ("scalar(v, d) -> tensor", "The number v as a tensor of dtype d without dims."),
    "tensor": ("tensor(xs, d) -> tensor", "A list of numbers or sizes as a tensor of one dim and dtype d."),
    "filled": ("filled(v, shape, d) -> tensor", "A tensor of a shape and dtype d whose elements are all v."),
    "promote": (
        "promote(a, b, ..) -> dtype",
        "PyTorch's type promotion over tensors (with dims and without), dtypes and numbers.",
    ),
    "sqrt": ("sqrt(v) -> float", "The square root of a known number."),
    "exp": ("exp(v) -> float", "e to the power of a known number."),
    "log": ("log(v) -> float", "The natural logarithm of a known number."),
    "sin": ("sin(v) -> float", "The sine of a known number, in radians."),
    "cos": ("cos(v) -> float", "The cosine of a known number, in radians."),
    "floor": ("floor(v) -> int", "The greatest whole number that is not above v."),
    "ceil": ("ceil(v) -> int", "The least whole number that is not below v."),
    "round": ("round(v) -> int", "The nearest whole number; of two the even one."),
    "rounded": ("rounded(v, d) -> number", "A known number as a tensor of dtype d would hold it."),
    "ldexp": ("ldexp(v, n) -> float", "v * 2 ** n, exactly."),
    "exponent": ("exponent(v) -> int", "The n for which v = m * 2 ** n with 0.5 <= |m| < 1."),
    "int": ("int(v) -> int", "A known number without its fraction."),
    "float": ("float(v) -> float", "A known number as a float; also `float(\"inf\")`."),
    "bool": ("bool(v) -> bool", "Whether a known number is not zero."),
    "epsilon": ("epsilon(d) -> float", "The distance from 1 to the next number of a floating dtype."),
    "smallest": ("smallest(d) -> number", "The least finite number of a dtype."),
    "largest": ("largest(d) -> number", "The greatest finite number of a dtype."),
    "run": (
        "run(g, [x, ..]) -> [tensor]",
        "The outputs of a graph, which the pattern bound by `g: graph`. `convert` rules only.",
    ),
    "conditional": (
        "conditional([p, ..], [g, .., otherwise], [x, ..]) -> [tensor]",
        "The first graph whose condition holds, or else the last one, on the same operands: if-conditionals of "
        "TensorRT, each on the other side of the one before. Conditions that are settled when compiling have none. "
        "`convert` rules only.",
    ),
    "loop": (
        "loop(macro, trips, states, elements, given=[], axis=0, reverse=false) -> ([tensor], [tensor])",
        "A loop of TensorRT: the macro says what one trip does with (states, elements, given) and returns the next "
        "states and what is stacked. Gives the last states and the stacks. `convert` rules only.",
    ),
}  # fmt: skip


def functions() -> dict[str, Entry]:
    """Every function by name."""
    return {name: Entry("function", name, call, doc) for name, (call, doc) in _FUNCTIONS.items()}


__all__ = ["functions"]

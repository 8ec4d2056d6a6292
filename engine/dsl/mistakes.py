"""Syntax mistakes that people make, each with the advice it deserves.

An error is compared with these examples by the state of the parser and the token it stumbled on.
"""

from __future__ import annotations

MISTAKES: dict[str, list[str]] = {
    "a rule is `simplify|lower|convert name`, then clauses: match, when, let, emit, test": [
        "rule relu match aten.relu(x)",
        "rewrite relu",
        "relu: aten.relu(x)",
        "(",
        "match aten.relu(x) emit x",
    ],
    "give the rule a name: `convert relu match aten.relu(x) ..`": [
        'convert "doc"',
        "convert aten.relu(x)",
        "lower match aten.relu(x) emit x",
        "simplify (",
    ],
    "comparisons do not chain: write `0 <= a and a < n`": [
        "lower r match aten.relu(x) when 0 <= a < n",
        "lower r match aten.relu(x) emit a == b == c",
    ],
    "`==` compares, `=` binds in `let`, `:=` binds in `when`": [
        "lower r match aten.relu(x) when a = 1",
        "lower r match aten.relu(x) when rank(x) = 1",
        "lower r match aten.relu(x) emit a = 1",
    ],
    "write `let name = value`": [
        "lower r match aten.relu(x) let y := 1",
        "lower r match aten.relu(x) let y == 1",
        "lower r match aten.relu(x) let y",
        "lower r match aten.relu(x) let 3 = 1",
    ],
    "`a if test else b` always has an `else`": [
        "lower r match aten.relu(x) emit a if b emit c",
        "lower r match aten.relu(x) emit a if b, c",
        "lower r match aten.relu(x) emit (a if b)",
        "lower r match aten.relu(x) emit f(a if b, c)",
    ],
    "the rules language has `and`, `or` and `not`": [
        "lower r match aten.relu(x) when a && b",
        "lower r match aten.relu(x) when a & b",
        "lower r match aten.relu(x) when a || b",
        "lower r match aten.relu(x) when !a",
    ],
    "powers are written with a product, or with an op": [
        "lower r match aten.relu(x) emit a ** b",
        "lower r match aten.relu(x) when a ^ 2",
    ],
    "an op pattern names its op in full: `aten.relu(x)`": [
        "lower r match relu(x)",
        "lower r match aten.add.Tensor(relu(x), y)",
    ],
    "a `{..}` pattern follows the op's name: `aten.mul.Tensor{x, 0.5}`": [
        "lower r match {x, 0.5}",
    ],
    "in a test line a tensor is `x: f32[2, 3]` and any other value `k = 3`": [
        "lower r match aten.relu(x) emit x test x",
        "lower r match aten.relu(x) emit x test x: 3",
        "lower r match aten.relu(x) emit x test x: f32",
        "lower r match aten.relu(x) emit x test x: f32, y: f32[2]",
        "lower r match aten.relu(x) emit x test x f32[2]",
        "lower r match aten.relu(x) emit x test f32[2]",
    ],
    "a layer is `layer trt.name(inputs, *, attributes) -> tensor via add_name(input, ..)`": [
        "layer trt.relu(x: tensor) -> tensor via add_relu since 10.1",
        "layer trt.relu(x: tensor) -> tensor via add_relu layer",
        "layer trt.relu(x: tensor) -> tensor via add_relu",
        "layer trt.relu(x: tensor) via add_relu(x)",
        "layer trt.relu(x: tensor) -> tensor since 10.1",
        "layer relu(x: tensor) -> tensor via add_relu(x)",
        "layer trt.relu(x) -> tensor via add_relu(x)",
    ],
    "a macro is `def name(a, b) = expression`": [
        "def f(x): x",
        "def f(x) -> x",
        "def f(x) x",
        "def f = x",
        "def f(x) { x }",
    ],
    "a host function is declared `extern host.name(a: int) -> [int]?`": [
        "extern name(a: int) -> int",
        "extern host.name(a: int)",
        "extern host.name(a: int) = a",
    ],
    "a list in brackets is a list pattern: `[a, b, ..rest]`": [
        "lower r match aten.cat([a, b",
        "lower r match aten.cat([a b], d)",
    ],
    "the brackets do not close": [
        "lower r match aten.relu(x",
        "lower r match aten.relu(x emit y",
        "lower r match aten.relu(x) emit f(a emit",
        "lower r match aten.relu(x) emit f(a",
        "lower r match aten.relu(x) emit [a",
        "lower r match aten.relu(x) emit f(a, b",
        "lower r match aten.relu(x: f32[2)",
        "lower r match aten.relu(x) emit x test x: f32[2",
    ],
    "there is one bracket too many": [
        "lower r match aten.relu(x))",
        "lower r match aten.relu(x) emit f(a))",
        "lower r match aten.relu(x) emit [a]]",
        "lower r match aten.relu(x) emit x test x: f32[2]]",
    ],
    "put a comma between arguments": [
        "lower r match aten.relu(x y)",
        "lower r match aten.relu(x) emit f(a b)",
        "lower r match aten.relu(x) emit [a b]",
        "lower r match aten.relu(x) emit x test x: f32[2] y: f32[2]",
        "lower r match aten.relu(x) emit x test x: f32[2 3]",
    ],
    "strings are written in double quotes": [
        "lower r match aten.gelu(x, 'tanh')",
        "lower r match aten.gelu(x) emit f('tanh')",
    ],
    "clauses have no colon: `match aten.relu(x)`": [
        "lower r match: aten.relu(x)",
        "lower r match aten.relu(x) emit: x",
        "lower r match aten.relu(x) when: x",
        "lower r: match aten.relu(x)",
    ],
    "`True`, `False` and `None` are `true`, `false` and `none`": [
        "lower r match aten.relu(x, True)",
        "lower r match aten.relu(x, None)",
        "lower r match aten.relu(x) emit f(False)",
    ],
    "say which TensorRT: `needs trt >= 10.14, not rtx, cap.attention`": [
        "lower r match aten.relu(x) needs 10.14",
        "lower r match aten.relu(x) needs trt >= rtx",
    ],
    "name the rule that loses: `over other_rule`": [
        "lower r match aten.relu(x) over 3",
        "lower r match aten.relu(x) over emit",
    ],
}

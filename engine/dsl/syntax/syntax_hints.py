"""Syntax mistakes that people make, each with the advice it deserves.

Advice is taught by example: an error is like an example if the parser stumbles in the same state on the same kind
of token.
"""

from __future__ import annotations

# Looked up by the state of the parser and the kind of token it stumbles on.
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
    "`==` compares, `=` binds in `let`, `:=` binds in `when`": [
        "lower r match aten.relu(x) when a = 1",
        "lower r match aten.relu(x) when rank(x) = 1",
        "lower r match aten.relu(x) when x[0] = 1",
        "lower r match aten.relu(x) when x + 1 = 1",
        "lower r match aten.relu(x) when x.0 = 1",
        "lower r match aten.relu(x) when 1 = 1",
        "lower r match aten.relu(x) when a, b = 1",
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
    "several outputs are a tuple: `emit (values, indices)`": [
        "lower r match aten.relu(x) emit x, y",
        "lower r match aten.relu(x) emit f(x), y",
        "lower r match aten.relu(x) emit x.0, y",
        "lower r match aten.relu(x) emit x[0], y",
        "lower r match aten.relu(x) emit x + 1, y",
        "lower r match aten.relu(x) emit a if b else c, y",
    ],
    "what `..` stands for in a shape has no name: write `x: floating[..]`, and ask for `shape(x)`": [
        "lower r match aten.relu(x: f32[..S])",
        "lower r match aten.relu(x: f32[..s])",
        "lower r match aten.relu(x: f32[A, ..s])",
        "lower r match aten.relu(x: f32[A, ..S])",
    ],
    "`const` stands before a dtype or a class: `w: const floating[O, K]`, `w: const tensor`": [
        "lower r match aten.relu(x: const)",
        "lower r match aten.add.Tensor(x: const, y)",
        "lower r match aten.relu(x: const[A])",
        "lower r match aten.relu(const x)",
    ],
    "an op pattern names its op in full: `aten.relu(x)`": [
        "lower r match relu{x}",
        "lower r match aten.add.Tensor(relu?(x), y)",
        "lower r match aten.add.Tensor(&relu(x), y)",
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
        "lower r match aten.relu(x) emit x test x: const f32",
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
    "a named pattern is `pattern name(a, b) = aten.op(a, b)`": [
        "pattern p = aten.relu(x)",
        "pattern p(x): aten.relu(x)",
        "pattern p(x) aten.relu(x)",
        "pattern p(x) -> aten.relu(x)",
        "pattern p(x: tensor) = aten.relu(x)",
    ],
    "an alternative that ends in a type without a shape comes last, or stands in ( )": [
        "lower r match aten.add.Tensor((x: f32 | aten.relu(x)), y)",
        "lower r match aten.add.Tensor((x: f32 | 2.0), y)",
        "lower r match aten.add.Tensor((x: f32 as wide | y), z)",
    ],
    "a host function is declared `extern host.name(a: int) -> [int]?`": [
        "extern name(a: int) -> int",
        "extern host.name(a: int)",
        "extern host.name(a: int) = a",
    ],
    "put a comma between arguments": [
        "lower r match aten.relu(x y)",
        "lower r match aten.relu(x) emit f(a b)",
        "lower r match aten.relu(x) emit [a b]",
        "lower r match aten.relu(x) emit x test x: f32[2] y: f32[2]",
        "lower r match aten.relu(x) emit x test x: f32[2 3]",
    ],
    "clauses have no colon: `match aten.relu(x)`": [
        "lower r match: aten.relu(x)",
        "lower r match aten.relu(x) emit: x",
        "lower r match aten.relu(x) when: x",
        "lower r: match aten.relu(x)",
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

# Letters and words of other languages.
WORDS: dict[str, str] = {
    "True": "it is written `true`",
    "False": "it is written `false`",
    "None": "it is written `none`",
    "elif": "write `a if test else b if other else c`",
    "lambda": "there are comprehensions: `[f(x) for x in xs]`",
    "'": "strings are written in double quotes",
    "!": "write `not x`; `!=` compares",
    "&": "write `a and b`; `&` marks an op in a pattern that others may also read",
    "|": "write `a or b`; `|` stands between types, and between alternatives in ( ) in a pattern",
    "^": "write a power as a product, or as an op",
    ";": "clauses need no end mark",
    "@": "`@` stands in layer declarations: `shape: [int] @1`",
    "\\": "lines need no continuation mark",
    "$": "names are letters, digits and `_`",
    "`": "names are letters, digits and `_`",
}

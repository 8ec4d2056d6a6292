"""A Pygments lexer for rules files, found by its entry point: ```` ```rules ```` in documentation is coloured."""

from __future__ import annotations

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text

ITEMS = ("simplify", "lower", "convert", "def", "pattern", "extern", "layer")
CLAUSES = ("match", "when", "let", "emit", "needs", "over", "decreases", "relax", "test", "reject")
OF_LAYERS = ("gives", "unless", "apart", "after", "accumulates", "via", "since", "until", "as")
OPERATORS = ("if", "else", "for", "in", "and", "or", "not", "is")
CONSTANTS = ("true", "false", "none", "inf", "pi", "nan")
MODIFIERS = ("const", "static", "parameter", "expanded", "written")
TYPES = (
    "f64", "f32", "f16", "bf16", "f8", "i64", "i32", "i16", "i8", "i4", "u8", "bool", "c32", "c64", "c128", "floating",
    "integral", "complex", "tensor", "int", "float", "str", "dtype", "scalar", "weights", "axes", "graph",
)  # fmt: skip
_NOT_A_NAME = r"(?![ \t]*[=,)\]:.])"


class EngineRulesLexer(RegexLexer):
    """Rules of ``engine``."""

    name = "engine rules"
    aliases = ["engine-rules", "rules"]  # noqa: RUF012  Pygments reads a list
    filenames = ["*.rules"]  # noqa: RUF012
    version_added = ""

    tokens = {  # noqa: RUF012
        "root": [
            (r"\s+", Text.Whitespace),
            (r"#[^\n]*", Comment.Single),
            (r'"[^"\n]*"', String.Double),
            # An item, and its name; a clause begins a line or follows another one.
            (r"\b(simplify|lower|convert)(\s+)([a-z_]\w*)", bygroups(Keyword.Declaration, Text.Whitespace, Name.Class)),
            (r"\b(def|pattern)(\s+)([a-z_]\w*)", bygroups(Keyword.Declaration, Text.Whitespace, Name.Function)),
            (r"\b(extern|layer)(\s+)((?:host|trt)(?:\.\w+)+)",
             bygroups(Keyword.Declaration, Text.Whitespace, Name.Function)),
            (words(CLAUSES, prefix=r"(?<![\w.])", suffix=rf"\b{_NOT_A_NAME}"), Keyword),
            (words(OF_LAYERS, prefix=r"(?<![\w.])", suffix=rf"\b{_NOT_A_NAME}"), Keyword),
            (words(OPERATORS, prefix=r"(?<![\w.])", suffix=r"\b(?![ \t]*=[^=])"), Operator.Word),
            (words(CONSTANTS, prefix=r"(?<![\w.])", suffix=r"\b"), Keyword.Constant),
            (words(MODIFIERS, prefix=r"(?<![\w.])", suffix=r"\b(?=\s+[\w\[])"), Keyword.Pseudo),
            (r"\b(trt|host|cap|setting)(\.)([A-Za-z_][\w.]*)", bygroups(Name.Namespace, Punctuation, Name.Builtin)),
            (r"\b([a-z_]\w*)(\.)([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)",
             bygroups(Name.Namespace, Punctuation, Name.Function)),
            (words(TYPES, prefix=r"(?<![\w.])", suffix=r"\b(?!\s*\()"), Keyword.Type),
            (r"[a-z_]\w*(?=\s*\()", Name.Function),
            (r"[a-z_]\w*(?=\s*=[^=])", Name.Attribute),
            (r"[A-Z][A-Z0-9_]*(?![a-z])\b", Name.Constant),
            (r"[A-Z][A-Za-z0-9]*", Name.Class),
            (r"[A-Za-z_]\w*", Name),
            (r"~?\d+\.\d+(?:[eE][+-]?\d+)?|~?\d+[eE][+-]?\d+", Number.Float),
            (r"~?\d+", Number.Integer),
            (r":=|->|\+\+|//|==|!=|<=|>=|\.\.|[-+*/%<>=&?|~@]", Operator),
            (r"[()\[\]{},.:]", Punctuation),
        ]
    }  # fmt: skip


__all__ = ["EngineRulesLexer"]

"""How each part of a rules file is laid out: from lark's parse tree, with every word kept, to documents.

Words stay as they are and in their order, but for a comma before a closing bracket, which is left out, and the cuts
between the strings of a doc. So the tree of what is printed is the tree that was read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lark import Token

from engine.dsl.formatting.comments import Around
from engine.dsl.formatting.document import (
    WIDTH,
    Break,
    Comment,
    Document,
    Fill,
    Fresh,
    Group,
    Joined,
    Nest,
    join,
    width_of,
)

Branch = Any  # a lark Tree or Token: lark's own annotations do not narrow

_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
# From loose to tight, as `engine.dsl.syntax.operator_precedence` reads them; `not` and minus are part of an operand.
_LOOSE = (("OR",), ("AND",), ("RELATION", "IN", "NOT_IN", "IS", "IS_NOT"), ("ADD",), ("MULTIPLY",))


class Layout:
    """The documents of one file.

    Args:
        around: comments by the position of the word they belong to.
    """

    def __init__(self, around: Mapping[int, Around]) -> None:
        self.around = around

    def of(self, branch: Branch) -> Document:
        """A document for a branch, without a choice of its own where it begins."""
        if isinstance(branch, Token):
            return self.word(branch)
        method = _LAYOUTS.get(branch.data)
        return self.plain(branch) if method is None else method(self, branch)

    def word(self, token: Token, text: str | None = None) -> Document:
        """A word, with its comments."""
        written: Document = " ".join(token.split()) if text is None else text
        around = self.around.get(token.start_pos or 0)
        if around is None:
            return written
        before = [part for comment in around.before for part in (Comment(comment.rstrip(), False),)]
        if before:
            written = join(Fresh(), *before, written)
        if around.behind is not None:
            written = join(written, Comment(around.behind.rstrip(), True), Fresh())
        return written

    def commented(self, token: Token) -> bool:
        """Whether a word has comments."""
        return (token.start_pos or 0) in self.around

    # ------------------------------------------------------------------------------------ words in a row

    def plain(self, branch: Branch) -> Document:
        """Words without spaces, but lists behind commas: `x.1`, `..xs`, `-2`, `f32|f16[2, 3]`."""
        return self.row(children(branch))

    def row(self, parts: Iterable[Branch]) -> Document:
        """Parts side by side; what stands in brackets is a list."""
        given = list(parts)
        documents: list[Document] = []
        while given:
            part = given.pop(0)
            if isinstance(part, Token) and part in _OPEN:
                end = next(
                    i for i in range(len(given) - 1, -1, -1) if isinstance(given[i], Token) and given[i] in _CLOSE
                )
                documents.append(self.bracket(part, given[:end], given[end]))
                given = given[end + 1 :]
            elif isinstance(part, Token) and part.type == "COMMA":
                documents += [self.word(part), " "]
            else:
                documents.append(self.of(part))
        return join(*documents) if documents else ""

    def spaced(self, branch: Branch) -> Document:
        """Words with spaces between them."""
        return self.with_spaces(children(branch))

    def with_spaces(self, parts: Iterable[Branch]) -> Document:
        """Parts with spaces between them."""
        documents: list[Document] = []
        for part in parts:
            documents += [" ", self.of(part)] if documents else [self.of(part)]
        return join(*documents) if documents else ""

    # ------------------------------------------------------------------------------------ lists

    def items(self, parts: Sequence[Branch]) -> list[Document]:
        """The items of a list, each with the comma behind it; one behind the last item is left out."""
        items: list[list[Document]] = [[]]
        for number, part in enumerate(parts):
            if isinstance(part, Token) and part.type == "COMMA":
                if number == len(parts) - 1:
                    if self.commented(part):
                        items[-1].append(self.word(part, ""))
                    continue
                items[-1].append(self.word(part))
                items.append([])
            else:
                items[-1].append(self.of(part))
        return [join(*item) for item in items if item]

    def bracket(self, opening: Token, parts: Sequence[Branch], closing: Token) -> Document:
        """A list in brackets: on one line, or filled on lines below the opening bracket."""
        if not parts:
            return join(self.word(opening), self.word(closing))
        items = self.items(parts)
        inner: Document = items[0] if len(items) == 1 else Fill(items)
        if len(items) == 1 and not self.commented(opening) and _begins_with_bracket(parts[0]):
            return Group(join(self.word(opening), inner, self.word(closing)))
        return Group(join(self.word(opening), Nest(join(Break(""), inner)), self.word(closing)))

    def alternatives(self, branch: Branch) -> Document:
        """`(a | b | c)`: on one line, or each on its own."""
        opening, *parts, closing = children(branch)
        documents: list[Document] = []
        for part in parts:
            if isinstance(part, Token):
                documents += [Break(), self.word(part), " "]
            else:
                documents.append(self.of(part))
        return Group(join(self.word(opening), Nest(join(Break(""), *documents)), self.word(closing)))

    # ------------------------------------------------------------------------------------ expressions

    def operations(self, branch: Branch) -> Document:
        """Operators with what they join, broken at those that bind least."""
        return self._operations(children(branch), 0)

    def _operations(self, parts: Sequence[Branch], level: int) -> Document:
        if level == len(_LOOSE):
            return self._operand(parts)
        types = _LOOSE[level]
        runs: list[list[Branch]] = [[]]
        for part in parts:
            # A sign and a `not` belong to what follows them, whatever operators that has.
            if isinstance(part, Token) and part.type in types and runs[-1]:
                runs.append([part])
            else:
                runs[-1].append(part)
        if len(runs) == 1:
            return self._operations(parts, level + 1)
        documents = [self._operations(runs[0], level + 1)]
        documents += [join(self.of(run[0]), " ", self._operations(run[1:], level + 1)) for run in runs[1:]]
        return Group(Fill(documents))

    def _operand(self, parts: Sequence[Branch]) -> Document:
        documents: list[Document] = []
        for part in parts:
            documents.append(self.of(part))
            if isinstance(part, Token) and part.type == "NOT":
                documents.append(" ")
        return join(*documents)

    def conditional(self, branch: Branch) -> Document:
        """`a if t else b`: broken before each `else`, and before `if` where that is not enough."""
        sides: list[Document] = []
        prefix: Document | None = None
        while True:
            then, if_, test, else_, otherwise = children(branch)
            side = Group(Fill([self.of(then), join(self.word(if_), " ", self.of(test))]))
            sides.append(side if prefix is None else join(prefix, " ", side))
            prefix = self.word(else_)
            if isinstance(otherwise, Token) or otherwise.data != "conditional":
                break
            branch = otherwise
        sides.append(join(prefix, " ", self.of(otherwise)))
        return Group(Joined(part for side in sides for part in ((Break(), side) if side is not sides[0] else (side,))))

    def comprehended(self, branch: Branch) -> Document:
        """`value for x in xs if test`, in brackets or not."""
        given = children(branch)
        if isinstance(given[0], Token) and given[0] in _OPEN:
            opening, *parts, closing = given
            return Group(
                join(self.word(opening), Nest(join(Break(""), self._comprehension(parts))), self.word(closing))
            )
        return Group(self._comprehension(given))

    def _comprehension(self, parts: Sequence[Branch]) -> Document:
        value, clause = parts
        loop = children(clause)
        position = next((i for i, part in enumerate(loop) if isinstance(part, Token) and part.type == "IF"), len(loop))
        documents = [self.of(value), self.with_spaces(loop[:position])]
        if position < len(loop):
            documents.append(self.with_spaces(loop[position:]))
        return Fill(documents)

    def slice(self, branch: Branch) -> Document:
        """`x[a:b]`."""
        value, opening, *parts, closing = children(branch)
        return join(self.of(value), self.word(opening), *(self.of(part) for part in parts), self.word(closing))

    def binding(self, branch: Branch) -> Document:
        """`x: f32[2]`, `k = 3`, and what a layer's parameter says: `name: type = default as property @1|-1`."""
        documents: list[Document] = []
        spaced = True
        for part in children(branch):
            if isinstance(part, Token) and part.type == "COLON":
                documents.append(self.word(part))
            elif isinstance(part, Token) and part.type in ("INT", "WILDCARD"):
                documents.append(self.word(part, "|-1" if part.type == "WILDCARD" else None))
            else:
                documents += [" ", self.of(part)] if documents and spaced else [self.of(part)]
        return join(*documents)

    def typed(self, branch: Branch) -> Document:
        """`const f32|f16[2, 3]?`, `parameter f32[8] < 10`."""
        documents: list[Document] = []
        for part in children(branch):
            kind = part.type if isinstance(part, Token) else ""
            if kind in ("MODIFIER", "FORM"):
                documents += [self.word(part), " "]
            elif kind in ("LESSTHAN", "RELATION"):
                documents += [" ", self.word(part), " "]
            else:
                documents.append(self.of(part))
        return join(*documents)

    def op(self, branch: Branch) -> Document:
        """`&aten.add.Tensor?(x, y).1 -> (a, b)`."""
        documents: list[Document] = []
        for part in children(branch):
            if not isinstance(part, Token) and part.data == "outputs":
                documents.append(" ")
            documents.append(self.of(part))
        return join(*documents)

    def outputs(self, branch: Branch) -> Document:
        """`-> (a, b)`."""
        arrow, *rest = children(branch)
        return join(self.word(arrow), " ", self.row(rest))

    # ------------------------------------------------------------------------------------ clauses

    def clause(self, branch: Branch) -> Document:
        """A clause of a rule: its word, as wide as `match`, and what it says."""
        word, *parts = children(branch)
        head = join(self.word(word), " " * max(1, 6 - len(word)))
        if branch.data in _LISTS:
            return join(head, Nest(Fill(self.items(parts)), None))
        if branch.data == "let":
            target, equals, value = parts
            head = join(head, self.of(target), " ", self.word(equals), " ")
        else:
            (value,) = parts
        # What goes on behind a bracket is indented by the bracket; anything else by the clause.
        loose = not isinstance(value, Token) and value.data in ("conditional", "operations")
        return join(head, Nest(self.of(value)) if loose else self.of(value))

    def opening(self, branch: Branch) -> Document:
        """What a rule begins with: its kind, name, family and doc."""
        head = children(branch)
        documents: list[Document] = [self.word(head[0]), " ", self.word(head[1])]
        doc = None
        for part in head[2:]:
            if part.data == "family":
                documents += [" ", Nest(self.of(part), 4)]
            else:
                doc = part
        if doc is not None:
            beside = len(documents) == 3
            documents.append(self._doc(doc, sum(map(width_of, documents)) if beside else WIDTH))
        return join(*documents)

    def family(self, branch: Branch) -> Document:
        """`for (A, B) in (1, 2), (3, 4)`."""
        given = children(branch)
        position = next(i for i, part in enumerate(given) if isinstance(part, Token) and part.type == "IN")
        items = self.items(given[position + 1 :])
        first = join(self.with_spaces(given[: position + 1]), " ", items[0])
        return Fill([first, *items[1:]])

    def _doc(self, branch: Branch, before: float) -> Document:
        strings = children(branch)
        if any(map(self.commented, strings)):
            return Nest(Joined(part for string in strings for part in (Fresh(), self.word(string, str(string)))))
        lines = [" ".join(str(string)[1:-1].split()) for string in strings]
        if len(lines) == 1 and before + 3 + len(lines[0]) <= WIDTH:
            return f' "{lines[0]}"'
        if any(len(line) + 4 > WIDTH for line in lines):
            lines = textwrap.wrap(" ".join(lines), WIDTH - 4, break_long_words=False, break_on_hyphens=False)
        return Nest(Joined(part for line in lines for part in (Fresh(), f'"{line}"')))

    # ------------------------------------------------------------------------------------ items

    def macro(self, branch: Branch) -> Document:
        """`def name(a, b) = body`, `pattern name(a, b) = body`."""
        given = children(branch)
        position = next(i for i, part in enumerate(given) if isinstance(part, Token) and part == ")")
        word, name, *parameters = given[:position]
        equals, body = given[position + 1 :]
        head = join(self.word(word), " ", self.word(name), self.bracket(parameters[0], parameters[1:], given[position]))
        return join(head, " ", self.word(equals), Group(Nest(join(Break(), self.of(body)))))

    def extern(self, branch: Branch) -> Document:
        """`extern host.name(a: int) -> int`."""
        word, name, *rest = children(branch)
        *parameters, arrow, result = rest
        brackets = self.bracket(parameters[0], parameters[1:-1], parameters[-1])
        return join(self.word(word), " ", self.word(name), brackets, " ", self.word(arrow), " ", self.of(result))

    def layer(self, branch: Branch) -> Document:
        """A layer, with a line for each of its clauses."""
        word, name, *rest = children(branch)
        end = next(i for i, part in enumerate(rest) if isinstance(part, Token) and part == ")")
        arrow, outputs, *clauses = rest[end + 1 :]
        head = join(
            self.word(word), " ", self.word(name), Nest(self.bracket(rest[0], rest[1:end], rest[end])), " ",
            self.word(arrow), " ", self.of(outputs),
        )  # fmt: skip
        via: list[Branch] = []
        groups: list[list[Branch]] = []
        for part in clauses:
            if isinstance(part, Token) and part.type == "VIA":
                via = [part]
                groups.append(via)
            elif via:
                via.append(part)
            else:
                groups.append([part])
        lines = [Break() if i % 2 == 0 else self.with_spaces(groups[i // 2]) for i in range(2 * len(groups))]
        return join(head, Nest(join(*lines)))

    def apart(self, branch: Branch) -> Document:
        """`apart x as instead when condition after layers`, broken before `when` and `after`."""
        groups: list[list[Branch]] = [[]]
        for part in children(branch):
            if isinstance(part, Token) and part.type in ("WHEN", "AFTER"):
                groups.append([])
            groups[-1].append(part)
        instead, condition, (after, *layers) = groups
        following = join(self.word(after), " ", Fill(self.items(layers)))
        return Nest(Fill([self.with_spaces(instead), self.with_spaces(condition), following]))

    def listed(self, branch: Branch) -> Document:
        """A list of the clauses of a layer: `gives (..), none`, or the outputs."""
        given = children(branch)
        if isinstance(given[0], Token) and given[0].type == "GIVES":
            items = self.items(given[1:])
            return join(self.word(given[0]), " ", items[0] if len(items) == 1 else Nest(Fill(items)))
        return Fill(self.items(given))


def children(branch: Branch) -> list[Branch]:
    """The parts of a branch that are there."""
    return [part for part in branch.children if part is not None]


def _begins_with_bracket(branch: Branch) -> bool:
    """Whether all of a branch stands in one pair of brackets."""
    if isinstance(branch, Token):
        return False
    given = children(branch)
    return (
        branch.data in ("alternatives", "list", "list_pattern", "list_comprehension", "tuple", "tuple_pattern")
        and isinstance(given[0], Token)
        and given[0] in _OPEN
    )


CLAUSES = frozenset({"match", "when", "let", "emit", "needs", "over", "decreases", "relax", "test", "reject"})
_LISTS = frozenset({"when", "needs", "over", "relax", "test", "reject"})
_SPACED = (
    "need", "need_all", "need_not", "need_negation", "need_version", "guard", "unless", "accumulates", "since",
    "until", "alternative", "prefixed",
)  # fmt: skip
_LAYOUTS: dict[str, Callable[[Layout, Branch], Document]] = {
    **dict.fromkeys(_SPACED, Layout.spaced),
    **dict.fromkeys(CLAUSES, Layout.clause),
    **dict.fromkeys(("macro_parameter", "layer_parameter", "bind", "bind_value"), Layout.binding),
    **dict.fromkeys(("type", "closed_type", "tensor_spec"), Layout.typed),
    **dict.fromkeys(("generator", "list_comprehension"), Layout.comprehended),
    **dict.fromkeys(("macro", "pattern_item"), Layout.macro),
    **dict.fromkeys(("gives", "layer_outputs"), Layout.listed),
    "capture": Layout.binding,
    "closed_capture": Layout.binding,
    "alternatives": Layout.alternatives,
    "apart": Layout.apart,
    "operations": Layout.operations,
    "conditional": Layout.conditional,
    "slice": Layout.slice,
    "op": Layout.op,
    "outputs": Layout.outputs,
    "family": Layout.family,
    "extern": Layout.extern,
    "layer": Layout.layer,
}

__all__ = ["CLAUSES", "Layout", "children"]

"""Named patterns: checked where they are defined, and written out where a rule uses them.

What a parameter stands for is a name, an op, or a whole pattern.  Names that a definition binds besides its
parameters are sizes of its own (``D`` in ``x: floating[.., D]``): each use has others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.dsl import tree
from engine.dsl.checked import Joined
from engine.dsl.diagnostics import Problems
from engine.dsl.forms import shown
from engine.dsl.vocabulary import constants, nearest

if TYPE_CHECKING:
    import networkx

# Limits of one pattern with all named patterns written out: ops, lists, alternatives and what they hold.
MAX_PARTS = 400
MAX_DEPTH = 64
# Counting ends here: squares of squares have more digits than a computer holds.
_MANY = 10**9

_Given: TypeAlias = Mapping[str, Any]  # what stands for each parameter, and the names of a use's own sizes


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much a pattern stands for.

    Attributes:
        inner: ops, lists and alternatives.
        depth: of those, one in another.
        uses: name -> how often it stands in the pattern, and how deep.
    """

    inner: int
    depth: int
    uses: Mapping[str, tuple[int, int]]

    @property
    def parts(self) -> int:
        """Everything that would be written out."""
        return self.inner + sum(count for count, _ in self.uses.values())

    def inside(self) -> _Extent:
        """The extent of something that holds what this is of."""
        uses = {name: (count, depth + 1) for name, (count, depth) in self.uses.items()}
        return _Extent(self.inner + 1, self.depth + 1, uses)


class NamedPatterns:
    """The named patterns of a set of files.

    Attributes:
        items: by name.
    """

    def __init__(
        self,
        items: Mapping[str, tree.PatternItem],
        problems: Problems,
        known: Mapping[str, tree.PatternItem] | None = None,
    ) -> None:
        """Check definitions.

        Args:
            known: those that were checked before.
        """
        self.items: Mapping[str, tree.PatternItem] = Joined(known or {}, items)
        self.problems = problems
        self._wrong: set[str] = set()
        self._extents: dict[str, _Extent] = {}
        for item in items.values():
            self._check(item)
        self._measure(items)

    def written_out(self, pattern: tree.Pattern, rule: str) -> tree.Pattern | None:
        """A pattern without named ones; None if that cannot be, which is reported.

        Args:
            rule: id of the rule that the pattern is of, for the report.
        """
        named = [node for node in tree.walk(pattern) if isinstance(node, tree.Named)]
        if not named:
            return pattern
        # All uses are checked, so that one mistake hides no other.
        if False in [self._is_right(use) for use in named]:
            return None
        extent = self._extent(pattern)
        if extent.parts > MAX_PARTS or extent.depth > MAX_DEPTH:
            much = f"{shown(extent.parts)} parts, at most {MAX_PARTS}"
            if extent.parts <= MAX_PARTS:
                much = f"ops in ops, {extent.depth} deep, at most {MAX_DEPTH}"
            self.problems.report(
                f"with its named patterns expanded the pattern of {rule} has {much} are allowed",
                named[0].span,
                "use named patterns fewer times, or split the rule",
            )
            return None
        before = len(self.problems)
        written: tree.Pattern = _Writer(self.items, self.problems).pattern(pattern, {})
        return written if len(self.problems) == before else None

    # ------------------------------------------------------------------------------------ definitions

    def _check(self, item: tree.PatternItem) -> None:
        before = len(self.problems)
        parameters = [parameter.name for parameter in item.parameters]
        for index, parameter in enumerate(item.parameters):
            if parameter.name in parameters[:index]:
                self.problems.report(f"`{item.name}` has two parameters `{parameter.name}`", parameter.span)
            if parameter.name in constants() or parameter.name == "result":
                self.problems.report(f"`{parameter.name}` is a word of the language", parameter.span)
        if isinstance(item.body, tree.TuplePattern):
            self.problems.report(
                "a named pattern matches one value, not several roots", item.body.span, "name each of the roots"
            )
        read = {name for node in tree.walk(item.body) for name, _ in _names(node)}
        for parameter in item.parameters:
            if parameter.name not in read:
                self.problems.report(f"`{item.name}` does not use its parameter `{parameter.name}`", parameter.span)
        for node in tree.walk(item.body):
            for name, is_size in _names(node):
                if name in parameters or is_size:
                    continue
                if isinstance(node, tree.OpPattern) and name == node.op:
                    hint = f"make it a parameter: `pattern {item.name}({', '.join([*parameters, name])})`"
                    self.problems.report(f"`{name}` is not an op", node.span, hint)
                else:
                    self.problems.report(
                        f"`{name}` is not a parameter of the pattern `{item.name}`",
                        node.span,
                        "rules see only its parameters: make it one, or write `_`",
                    )
        for node in tree.walk(item.body):
            if isinstance(node, tree.Named):
                self._is_right(node)
        if len(self.problems) > before:
            self._wrong.add(item.name)

    def _is_right(self, use: tree.Named) -> bool:
        """Whether a use names a pattern and gives it what it takes; reports what is wrong."""
        item = self.items.get(use.name)
        if item is None:
            near = nearest(use.name, self.items)
            hint = f"did you mean `{near}`?" if near else "an op pattern names its op in full: `aten.relu(x)`"
            self.problems.report(f"there is no pattern `{use.name}`", use.span, hint)
            return False
        wanted, given = len(item.parameters), len(use.arguments)
        if wanted != given:
            takes = f"{item.name}({', '.join(parameter.name for parameter in item.parameters)})"
            self.problems.report(
                f"`{use.name}` takes {wanted} argument{'' if wanted == 1 else 's'}, got {given}",
                use.span,
                takes,
                (item.span, "defined here"),
            )
            return False
        return use.name not in self._wrong

    def _measure(self, items: Mapping[str, tree.PatternItem]) -> None:
        """Find patterns that use themselves, and how much the others stand for; nothing is written out."""
        uses = {
            name: [n.name for n in tree.walk(item.body) if isinstance(n, tree.Named) and n.name in items]
            for name, item in items.items()
        }
        try:
            order = list(TopologicalSorter(uses).static_order())
        except CycleError:
            order = self._without_circles(uses)
        for name in order:
            # What uses a pattern that is wrong is wrong as well, without a report of its own.
            if name in self._wrong or any(used in self._wrong for used in uses[name]):
                self._wrong.add(name)
            else:
                self._extents[name] = self._extent(self.items[name].body)

    def _without_circles(self, uses: Mapping[str, list[str]]) -> list[str]:
        """Report patterns that use themselves; the others in order, those that are used first."""
        import networkx  # loaded only to tell what is wrong

        graph = networkx.DiGraph()
        graph.add_nodes_from(uses)
        graph.add_edges_from((name, used) for name, others in uses.items() for used in others)
        for members in networkx.strongly_connected_components(graph):
            start = min(members)
            if len(members) > 1 or graph.has_edge(start, start):
                inside = graph.subgraph(members)
                after = min(inside.successors(start), key=lambda name: (_distance(inside, name, start), name))
                circle = [start, *networkx.shortest_path(inside, after, start)]
                self.problems.report(
                    f"pattern `{start}` uses itself: {' > '.join(circle)}",
                    self.items[start].span,
                    "named patterns are expanded where they are used, and cannot recur",
                )
                self._wrong |= members
        right = graph.subgraph(name for name in graph if name not in self._wrong)
        return list(reversed(list(networkx.topological_sort(right))))

    def _extent(self, pattern: Any) -> _Extent:
        """How much a pattern stands for; the patterns that it uses have been measured."""
        match pattern:
            case tree.Named():
                own = self._extent_of(pattern.name)
                inner, depth = own.inner, own.depth
                uses: dict[str, tuple[int, int]] = {}
                parameters = self.items[pattern.name].parameters
                for parameter, argument in zip(parameters, pattern.arguments, strict=True):
                    count, below = own.uses.get(parameter.name, (0, 0))
                    given = self._extent(argument)
                    inner += count * given.inner
                    depth = max(depth, below + given.depth)
                    _merge(uses, given.uses, count, below)
                return _Extent(min(inner, _MANY), min(depth, _MANY), uses)
            case tree.OpPattern():
                return self._extents_of(pattern.arguments).inside()
            case tree.ListPattern() | tree.Alternatives():
                return self._extents_of(pattern.items).inside()
            case tree.TuplePattern():
                return self._extents_of(pattern.roots)
            case tree.Alternative():
                return self._extent(pattern.pattern)
            case tree.Keyword():
                return self._extent(pattern.value)
            case tree.Capture() | tree.Upper():
                return _Extent(0, 0, {pattern.name: (1, 0)})
        return _Extent(0, 0, {})

    def _extent_of(self, name: str) -> _Extent:
        """The extent of a named pattern; of one that was checked before, once it is used."""
        if name not in self._extents:
            self._extents[name] = self._extent(self.items[name].body)
        return self._extents[name]

    def _extents_of(self, patterns: tuple[Any, ...]) -> _Extent:
        inner, depth = 0, 0
        uses: dict[str, tuple[int, int]] = {}
        for pattern in patterns:
            extent = self._extent(pattern)
            inner, depth = inner + extent.inner, max(depth, extent.depth)
            _merge(uses, extent.uses)
        return _Extent(inner, depth, uses)


def _merge(
    into: dict[str, tuple[int, int]], uses: Mapping[str, tuple[int, int]], times: int = 1, below: int = 0
) -> None:
    for name, (count, depth) in uses.items():
        known, deepest = into.get(name, (0, 0))
        into[name] = min(known + count * times, _MANY), min(max(deepest, below + depth), _MANY)


def _distance(graph: networkx.DiGraph, start: str, goal: str) -> int:
    import networkx

    length: int = networkx.shortest_path_length(graph, start, goal)
    return length


def _names(node: tree.Node) -> Iterator[tuple[str, bool]]:
    """The names that one node of a pattern mentions, each with whether it may be a size that is not a parameter."""
    match node:
        case tree.Capture():
            yield node.name, False
        case tree.Upper():
            yield node.name, True
        case tree.OpPattern():
            if "." not in node.op:
                yield node.op, False
            yield from ((name, False) for name in node.outputs or () if name is not None)
        case tree.Rest(name=str(name)) | tree.Alternative(name=str(name)):
            yield name, False
        case tree.Dim(name=str(name)):
            yield name, True


class _Writer:
    """Writes a pattern out, with what stands for each name."""

    def __init__(self, items: Mapping[str, tree.PatternItem], problems: Problems) -> None:
        self.items = items
        self.problems = problems
        self._numbers = itertools.count(1)

    def pattern(self, pattern: Any, given: _Given) -> Any:
        """A pattern, or an argument of one, without named patterns and parameters."""
        match pattern:
            case tree.Named():
                return self._named(pattern, given)
            case tree.Capture():
                return self._capture(pattern, given)
            case tree.Upper():
                return given.get(pattern.name, pattern)
            case tree.OpPattern():
                return self._op(pattern, given)
            case tree.Keyword():
                return replace(pattern, value=self.pattern(pattern.value, given))
            case tree.Rest():
                return replace(pattern, name=self._name(pattern.name, given, pattern))
            case tree.ListPattern():
                return replace(pattern, items=tuple(self.pattern(item, given) for item in pattern.items))
            case tree.TuplePattern():
                return replace(pattern, roots=tuple(self.pattern(root, given) for root in pattern.roots))
            case tree.Alternatives():
                return replace(pattern, items=tuple(self.pattern(item, given) for item in pattern.items))
            case tree.Alternative():
                name = self._name(pattern.name, given, pattern)
                return replace(pattern, pattern=self.pattern(pattern.pattern, given), name=name)
        return pattern

    def _named(self, use: tree.Named, given: _Given) -> Any:
        item = self.items[use.name]
        number = next(self._numbers)
        parameters = {parameter.name for parameter in item.parameters}
        own: dict[str, Any] = {
            name: tree.Upper(use.span, f"{item.name}.{number}.{name}")
            for node in tree.walk(item.body)
            for name, is_size in _names(node)
            if is_size and name not in parameters
        }
        for parameter, argument in zip(item.parameters, use.arguments, strict=True):
            own[parameter.name] = self.pattern(argument, given)
        return self.pattern(item.body, own)

    def _capture(self, pattern: tree.Capture, given: _Given) -> Any:
        type_ = None if pattern.type is None else self._type(pattern.type, given)
        stands = given.get(pattern.name)
        if stands is None or type_ is None:
            return replace(pattern, type=type_) if stands is None else stands
        if isinstance(stands, tree.Capture) and (stands.type is None or tree.same(stands.type, type_)):
            return replace(stands, type=type_)
        self.problems.report(
            f"the argument for `{pattern.name}` must be a name, because the pattern says its type",
            stands.span,
            None,
            (pattern.span, "said here"),
        )
        return stands

    def _type(self, kind: tree.Type, given: _Given) -> tree.Type:
        dims = None if kind.dims is None else tuple(self._dim(dim, given) for dim in kind.dims)
        return replace(kind, dims=dims)

    def _dim(self, dim: tree.Dim, given: _Given) -> tree.Dim:
        stands = given.get(dim.name) if dim.name is not None else None
        if stands is None:
            return dim
        match stands:
            case tree.Upper() | tree.Capture(type=None):
                return replace(dim, name=stands.name)
            case tree.Literal(value=int(size)) if not isinstance(size, bool) and dim.range is None:
                return replace(dim, name=None, size=size)
            case tree.Wildcard() if dim.range is None:
                return replace(dim, name=None)
        self.problems.report(
            f"the argument for the size `{dim.name}` must be a name, a number or `_`",
            stands.span,
            None,
            (dim.span, "used as a size here"),
        )
        return dim

    def _op(self, pattern: tree.OpPattern, given: _Given) -> tree.OpPattern:
        name = pattern.op
        stands = given.get(name)
        if isinstance(stands, tree.Qualified | tree.Upper):
            name = stands.name
        elif stands is not None:
            self.problems.report(
                f"the argument for `{name}` must be an op", stands.span, "e.g. `aten.cos`", (pattern.span, "used here")
            )
        return replace(
            pattern,
            op=name,
            arguments=tuple(self.pattern(argument, given) for argument in pattern.arguments),
            outputs=pattern.outputs and tuple(self._name(output, given, pattern) for output in pattern.outputs),
        )

    def _name(self, name: str | None, given: _Given, place: tree.Node) -> str | None:
        """The argument for a name that binds an output, a rest or whether an alternative fits."""
        stands = None if name is None else given.get(name)
        if name is None or stands is None:
            return name
        match stands:
            case tree.Capture(type=None):
                return str(stands.name)
            case tree.Wildcard():
                return None
        self.problems.report(
            f"the argument for `{name}` must be a name or `_`", stands.span, None, (place.span, "bound here")
        )
        return name

"""How a captured model is called: its arguments become flat graph inputs, its outputs the user's structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.utils import _pytree as pytree

from engine.capture.inputs import Range
from engine.errors import InputError
from engine.graph.tensor_kinds import is_transforming, unfit
from engine.sizes import Int

if TYPE_CHECKING:
    from engine.capture.sizes.guards import Guard

# Distinct shape signatures remembered as checked; a server with more than that pays for checks again.
_REMEMBERED = 4096


@dataclass(frozen=True)
class Argument:
    """One leaf of the captured call.

    A tensor has ``shape`` (sizes and expressions), ``dtype`` and ``device``; a symbolic int has
    ``symbol``; anything else is the constant ``value``, which the graph has built in.
    """

    name: str
    placeholder: str | None = None
    shape: tuple[Int, ...] | None = None
    dtype: torch.dtype | None = None
    device: str | None = None
    symbol: Int | None = None
    value: Any = None

    @property
    def is_constant(self) -> bool:
        """Whether the graph has the value built in instead of taking it."""
        return self.placeholder is None

    @property
    def symbols(self) -> frozenset[sympy.Symbol]:
        """The symbols of its sizes."""
        sizes = (*(self.shape or ()), self.symbol)
        return frozenset().union(*(size.free_symbols for size in sizes if isinstance(size, sympy.Expr)))

    def __str__(self) -> str:
        return f"input {self.name!r}"


@dataclass
class Signature:
    """Maps calls to graph inputs, and graph outputs to results.

    ``arguments`` are the leaves of ``in_spec`` in order.  ``parameters`` names the positional
    parameters of ``forward``, so that an argument may be passed by position or by keyword however it
    was passed at capture.  ``defaults`` are those of ``forward``: what a call means that leaves a parameter out.
    ``guards`` must hold of the sizes of a call.
    """

    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    arguments: tuple[Argument, ...]
    ranges: Mapping[sympy.Symbol, Range]
    parameters: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    guards: tuple[Guard, ...] = ()

    def __post_init__(self) -> None:
        positional, keyword = _children(self.in_spec)
        self._positional: int = len(_children(positional))
        self._keywords: tuple[str, ...] = tuple(keyword.context or ())
        self._flat = all(_is_leaf(c) for c in (*_children(positional), *_children(keyword)))
        self._constants = [(i, a) for i, a in enumerate(self.arguments) if a.is_constant]
        self._live = [i for i, a in enumerate(self.arguments) if not a.is_constant]
        self._tensors = [i for i in self._live if self.arguments[i].shape is not None]
        self._scalars = [i for i in self._live if self.arguments[i].shape is None]
        self._all_live = not self._constants
        self._only_tensors = len(self._tensors) == len(self.arguments)
        self._accepted: set[tuple[Any, ...]] = set()
        self._exact = (self._positional, self._keywords)
        self._returns = _shortcut(self.out_spec)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The inputs of the graph, in placeholder order; raises ``InputError``.

        A call whose shapes were seen before costs a few microseconds.
        """
        if self._flat and len(args) == self._positional and tuple(kwargs) == self._keywords:
            return self._checked((*args, *kwargs.values()) if kwargs else args)
        arranged, omitted = self._arrange(tuple(args), dict(kwargs))
        try:
            return self._checked(self._flatten(arranged))
        except InputError as error:
            if not omitted:
                raise
            text = ", ".join(f"{name}={_shown(self.defaults[name])}" for name in omitted)
            raise InputError(f"{error}. The call leaves out {text}, which is the model's default") from None

    def _checked(self, leaves: Sequence[Any]) -> list[Any]:
        """The inputs of the graph among the leaves of a call."""
        try:
            tensors = leaves if self._only_tensors else [leaves[i] for i in self._tensors]
            key: Any = tuple([(x.shape, x.dtype, x.device, x.layout) for x in tensors])
            if self._scalars:
                key = (key, tuple([(type(leaves[i]), leaves[i]) for i in self._scalars]))
            accepted = key in self._accepted and is_transforming() is None
        except (AttributeError, TypeError, RuntimeError):  # nested tensors have no shape
            key, accepted = None, False
        if self._constants:
            self._check_constants(leaves)
        if not accepted:
            self._check(leaves)
            if len(self._accepted) >= _REMEMBERED:
                self._accepted.clear()
            if key is not None:
                self._accepted.add(key)
        return list(leaves) if self._all_live else [leaves[i] for i in self._live]

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The outputs of the graph in the structure that the model returns."""
        return self._returns(outputs) if self._returns else pytree.tree_unflatten(outputs, self.out_spec)

    def _flatten(self, call: tuple[Any, dict[str, Any]]) -> list[Any]:
        leaves, spec = pytree.tree_flatten(call)
        if spec != self.in_spec:
            raise InputError(
                "the inputs are nested in another way than the ones the model was captured with:\n"
                f"  captured: {_spec_text(self.in_spec)}\n  now:      {_spec_text(spec)}"
            )
        return leaves

    def _arrange(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, dict[str, Any]], list[str]]:
        """Arguments where they were at capture, by position or by keyword, and the names of those left out."""
        omitted: list[str] = []
        if (len(args), tuple(kwargs)) == self._exact:
            return (args, kwargs), omitted
        given = dict(kwargs)
        names = self.parameters
        if len(args) > max(len(names), self._positional):
            raise InputError(self._count_text(f"{len(args)} positional inputs were given"))
        extra: list[Any] = []
        for position, value in enumerate(args):
            if position >= len(names):
                extra.append(value)
            elif names[position] in given:
                raise InputError(f"input {names[position]!r} is given both by position and by keyword")
            else:
                given[names[position]] = value
        positional = [
            self._take(given, names[p] if p < len(names) else None, p, extra, omitted) for p in range(self._positional)
        ]
        keyword = {name: self._take(given, name, None, extra, omitted) for name in self._keywords}
        for name, value in given.items():
            if name not in self.defaults or not _equal_constant(value, self.defaults[name]):
                raise InputError(
                    f"input {name!r} was not given when the model was captured; capture it again with this input"
                )
        if extra:
            raise InputError(self._count_text(f"{len(args)} positional inputs were given"))
        return (tuple(positional), keyword), omitted

    def _take(
        self, given: dict[str, Any], name: str | None, position: int | None, extra: list[Any], omitted: list[str]
    ) -> Any:
        if name is not None and name in given:
            return given.pop(name)
        if name is None and extra:
            return extra.pop(0)
        if name is not None and name in self.defaults:
            omitted.append(name)
            return self.defaults[name]
        text = f"{name!r} is missing" if name else f"number {position} is missing"
        for argument in self.arguments:
            if argument.is_constant and argument.name == name:
                text += (
                    f": no default of the model is known for it; it was {_shown(argument.value)} when the model was "
                    f"captured, so pass {name}={_shown(argument.value)}"
                )
        raise InputError(self._count_text(text))

    def _count_text(self, problem: str) -> str:
        names = ", ".join(dict.fromkeys(a.name for a in self.arguments))
        return f"the model takes {len(self.arguments)} inputs ({names}); {problem}"

    def _check_constants(self, leaves: Sequence[Any]) -> None:
        for index, argument in self._constants:
            value = leaves[index]
            if value is not argument.value and not _equal_constant(value, argument.value):
                raise InputError(
                    f"{argument} was {argument.value!r} when the model was captured and is part of the "
                    f"compiled graph; now it is {_shown(value)}. Compile the model again with this value"
                )

    def _check(self, leaves: Sequence[Any]) -> None:
        sizes: dict[sympy.Symbol, tuple[int, str]] = {}
        later: list[tuple[str, sympy.Expr, int]] = []
        for argument, value in zip(self.arguments, leaves, strict=True):
            if argument.shape is not None:
                self._check_tensor(argument, value)
                for dim, (expected, size) in enumerate(zip(argument.shape, value.shape, strict=True)):
                    self._check_size(f"dim {dim} of {argument}", expected, size, sizes, later)
            elif argument.symbol is not None:
                if not isinstance(value, int | torch.SymInt) or isinstance(value, bool):
                    raise InputError(f"{argument} is a whole number, not {_kind(value)}")
                self._check_size(str(argument), argument.symbol, value, sizes, later)
        for where, expression, size in later:
            self._check_expression(where, expression, size, sizes)
        if self.guards:
            self._check_guards({symbol: size for symbol, (size, _) in sizes.items()}, leaves)

    def _check_guards(self, sizes: Mapping[sympy.Symbol, int], leaves: Sequence[Any]) -> None:
        for guard in self.guards:
            if all(symbol in sizes for symbol in guard.symbols) and not guard.holds(sizes):
                shapes = ", ".join(
                    f"{argument.name} {list(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf}"
                    for argument, leaf in zip(self.arguments, leaves, strict=True)
                    if any(symbol in guard.symbols for symbol in argument.symbols)
                )
                at = f" (at {guard.source})" if guard.source else ""
                raise InputError(
                    f"the model was compiled for sizes with {guard.text(self.arguments)}, by which {guard.who} decides"
                    f"{at}; that does not hold for {shapes}. Compile it once more with example inputs of these sizes, "
                    "or give its dims ranges that keep to one side"
                )

    def _check_tensor(self, argument: Argument, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{argument} is a tensor, not {_kind(value)}")
        if problem := unfit(value):
            raise InputError(f"{argument} {problem}")
        if value.dtype != argument.dtype:
            raise InputError(f"{argument} has dtype {value.dtype}; the model was captured with {argument.dtype}")
        if argument.device is not None and value.device.type != argument.device:
            raise InputError(f"{argument} is on device {value.device}; the compiled module is on {argument.device!r}")
        assert argument.shape is not None
        if value.dim() != len(argument.shape):
            raise InputError(
                f"{argument} has rank {value.dim()} (shape {tuple(value.shape)}); "
                f"the model was captured with rank {len(argument.shape)} ({self.describe(argument)})"
            )

    def _check_size(
        self,
        where: str,
        expected: Int,
        size: int | torch.SymInt,
        sizes: dict[sympy.Symbol, tuple[int, str]],
        later: list[tuple[str, sympy.Expr, int]],
    ) -> None:
        if isinstance(size, torch.SymInt):
            # A compiled module that is traced again: its guards take care of sizes.
            return
        if isinstance(expected, int):
            if size != expected:
                raise InputError(
                    f"{where} has size {size}; it is static and was captured with {expected}. "
                    "Give it a range (dynamic_shapes, or Input with min_shape and max_shape) to change it"
                )
        elif isinstance(expected, sympy.Symbol):
            allowed = self.ranges.get(expected)
            if allowed is not None and not allowed.min <= size <= allowed.max:
                raise InputError(f"{where} has size {size}; its range is {allowed}")
            known, other = sizes.setdefault(expected, (size, where))
            if known != size:
                raise InputError(f"{where} has size {size}; it must equal {other}, which has size {known}")
        else:
            later.append((where, expected, size))

    def _check_expression(
        self, where: str, expression: sympy.Expr, size: int, sizes: dict[sympy.Symbol, tuple[int, str]]
    ) -> None:
        unknown = [s for s in expression.free_symbols if s not in sizes]
        if not unknown:
            expected = int(expression.subs({s: known for s, (known, _) in sizes.items()}))
            if expected != size:
                by = " and ".join(sizes[s][1] for s in sorted(expression.free_symbols, key=str))
                raise InputError(f"{where} has size {size}; with the size of {by} it must be {expected}")
        elif len(unknown) == 1:
            symbol = unknown[0]
            known = {s: n for s, (n, _) in sizes.items()}
            roots = [r for r in sympy.solve(expression.subs(known) - size, symbol) if r.is_Integer]
            allowed = self.ranges.get(symbol)
            if not roots:
                raise InputError(f"{where} has size {size}; it must be of the form {expression}")
            if allowed is not None and not allowed.min <= int(roots[0]) <= allowed.max:
                ends = sorted(int(expression.subs({**known, symbol: end})) for end in (allowed.min, allowed.max))
                raise InputError(f"{where} has size {size}; its range is {ends[0]}..{ends[1]}")
            sizes[symbol] = (int(roots[0]), where)

    def describe(self, argument: Argument) -> str:
        """The shape of a tensor argument as text: ``[1..8, 3, 224, 224]``."""
        sizes = (
            str(self.ranges[size]) if isinstance(size, sympy.Symbol) and size in self.ranges else str(size)
            for size in argument.shape or ()
        )
        return f"[{', '.join(sizes)}]"


def _is_leaf(spec: pytree.TreeSpec) -> bool:
    leaf = spec.is_leaf
    return bool(leaf() if callable(leaf) else leaf)


def _children(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    # ``children_specs`` became a method in torch 2.10 with ``children`` beside it.
    children: Any = getattr(spec, "children", None) or getattr(spec, "children_specs", None)
    return list(children() if isinstance(children, Callable) else children or ())  # type: ignore[arg-type]


def _shortcut(spec: pytree.TreeSpec) -> Callable[[Sequence[Any]], Any] | None:
    """What puts the outputs of most models in their structure: one tensor, or a flat tuple or list of tensors."""
    if _is_leaf(spec):
        return lambda outputs: outputs[0]
    if spec.type in (tuple, list) and all(map(_is_leaf, _children(spec))):
        return spec.type
    return None


def _equal_constant(value: Any, expected: Any) -> bool:
    """Whether a model that has ``expected`` built in may be called with ``value``."""
    if type(value) is not type(expected) or isinstance(value, torch.Tensor):
        return False
    if isinstance(value, float):
        return (value != value and expected != expected) or (
            value == expected and math.copysign(1.0, value) == math.copysign(1.0, expected)
        )
    if isinstance(value, complex):
        return _equal_constant(value.real, expected.real) and _equal_constant(value.imag, expected.imag)
    leaf = pytree.tree_structure(0)
    if (spec := pytree.tree_structure(value)) != leaf:
        leaves = zip(pytree.tree_leaves(value), pytree.tree_leaves(expected), strict=False)
        return spec == pytree.tree_structure(expected) and all(a is b or _equal_constant(a, b) for a, b in leaves)
    try:
        return bool(value == expected)
    except Exception:  # of a class that compares otherwise, such as arrays
        return False


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def _spec_text(spec: pytree.TreeSpec) -> str:
    return " ".join(str(spec).split())

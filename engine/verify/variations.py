"""Variations of a test line: the same call with other sizes, ranks, dtypes and numbers, drawn by Hypothesis.

A test line says what one instance of a pattern looks like.  A variation changes a few things about it at a time,
so that most variations are still calls that PyTorch accepts; what PyTorch or a guard refuses is drawn again.
Draws shrink towards the line itself and towards small sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from engine.dsl import tree
from engine.dsl.forms import ops_in
from engine.dsl.rule import Rule
from engine.verify.stages import Stage

_CHANGES = ("sizes", "one size", "dtype", "numbers", "rank", "absent")
_SIZES = (1, 2, 3, 4, 5, 7, 8)
_FLOATS = (0.0, 0.5, 1.0, 2.0, -1.0)
_FLOATING = ("f32", "f16", "bf16")
_INTEGRAL = ("i64", "i32")
_MOST_DIMS = 8  # of a tensor of TensorRT
# PyTorch 2.13: kernels for CPUs that read an expanded operand as if it were contiguous, past its end.
_READ_AS_CONTIGUOUS = frozenset(
    {
        "aten.native_group_norm.default",
        "aten._int_mm.default",
        "aten._weight_int4pack_mm_for_cpu.default",
        "aten._weight_int8pack_mm.default",
        "aten._embedding_bag.default",
        "aten._embedding_bag_forward_only.default",
    }
)
_WIDEST = 3  # how far a symbolic size ranges where the line does not say


@dataclass(frozen=True, slots=True)
class Variation:
    """A test line, and which of the plain forms of the pattern (:func:`expand`) it fills in."""

    line: tree.Test
    form: int


def variations(
    lines: Sequence[tree.Test], stage: Stage, *, forms: int = 1, optional: Sequence[str] = ()
) -> st.SearchStrategy[Variation]:
    """Test lines like the given ones.

    Args:
        forms: how many plain forms the pattern has.
        optional: names of operands that the ops of the pattern can do without.
    """
    line = st.sampled_from(lines).flatmap(lambda line: _varied(line, stage, optional))
    return st.builds(Variation, line, st.integers(0, forms - 1))


@st.composite
def _varied(draw: st.DrawFn, line: tree.Test, stage: Stage, optional: Sequence[str]) -> tree.Test:
    changes = draw(st.sets(st.sampled_from(_CHANGES), max_size=2))
    change = _Change(draw, line)
    if "dtype" in changes:
        change.dtype()
    if "sizes" in changes:
        change.sizes()
    if "one size" in changes:
        change.one_size()
    if "rank" in changes:
        change.rank()
    if "numbers" in changes:
        change.number()
    if "absent" in changes:
        change.absent(optional)
    change.set_stage(stage)
    return change.line


class _Change:
    """A test line being changed; every method draws what it does."""

    def __init__(self, draw: st.DrawFn, line: tree.Test) -> None:
        self.draw = draw
        self.line = line

    def sizes(self) -> None:
        """One size becomes another wherever it stands: in shapes, among numbers, and as the bound of indices."""
        old = self.draw(st.sampled_from(sorted({dim.size for _, dim in self._dims() if dim.size is not None}) or [1]))
        new = self.draw(st.sampled_from(_SIZES))

        def changed(item: Any) -> Any:
            if isinstance(item, tree.Dim) and item.size == old:
                return dataclasses.replace(item, size=new)
            # Below one there is zero alone, which the op then wants: offsets that may not go down, say.
            if isinstance(item, tree.TensorSpec) and item.below == old != 1:
                return dataclasses.replace(item, below=new)
            if isinstance(item, tree.Literal) and type(item.value) is int and item.value == old:
                return dataclasses.replace(item, value=new)
            return item

        self.line = _map(self.line, changed)

    def one_size(self) -> None:
        """One dim of one tensor gets another size."""
        # What indices point into does not shrink: not every kernel of PyTorch looks where they point.
        bounds = {item.below for item in tree.walk(self.line) if isinstance(item, tree.TensorSpec)}
        dims = [dim for _, dim in self._dims() if dim.size is not None and dim.size not in bounds]
        if dims:
            chosen, new = self.draw(st.sampled_from(dims)), self.draw(st.sampled_from(_SIZES))
            self.line = _map(self.line, lambda item: dataclasses.replace(item, size=new) if item is chosen else item)

    def rank(self) -> None:
        """Tensors that are no constants and no scalars get one more dim in front."""
        size = self.draw(st.sampled_from((1, 2, 3)))

        def widened(item: Any) -> Any:
            if not isinstance(item, tree.TensorSpec) or item.const or not 0 < len(item.dims) < _MOST_DIMS:
                return item
            return dataclasses.replace(item, dims=(tree.Dim(item.span, size=size), *item.dims))

        self.line = _map(self.line, widened)

    def dtype(self) -> None:
        """One dtype becomes another of its class, in all tensors."""
        found = sorted({item.dtype for item in tree.walk(self.line) if isinstance(item, tree.TensorSpec)})
        old = self.draw(st.sampled_from(found or ["f32"]))
        family = _FLOATING if old in _FLOATING else _INTEGRAL if old in _INTEGRAL else (old,)
        new = self.draw(st.sampled_from(family))

        def changed(item: Any) -> Any:
            if isinstance(item, tree.TensorSpec) and item.dtype == old:
                return dataclasses.replace(item, dtype=new)
            return item

        self.line = _map(self.line, changed)

    def number(self) -> None:
        """One number or flag of the call gets another value."""
        values = [item for item in tree.walk(self.line) if isinstance(item, tree.Literal)]
        if not values:
            return
        chosen = self.draw(st.sampled_from(values))
        value: Any = chosen.value
        choices: list[Any] = [value]
        if isinstance(value, bool):
            choices.append(not value)
        elif isinstance(value, int):
            choices += [1, 2, value + 1, 0, -1]
        elif isinstance(value, float):
            choices += _FLOATS
        new = self.draw(st.sampled_from(choices))
        self.line = _map(self.line, lambda item: dataclasses.replace(item, value=new) if item is chosen else item)

    def absent(self, optional: Sequence[str]) -> None:
        """One optional operand is not given."""
        tensors = [item for item in self.line.bindings if item.name in optional]
        if tensors:
            chosen = self.draw(st.sampled_from(tensors))
            none = dataclasses.replace(chosen, value=tree.Literal(chosen.span, None))
            bindings = tuple(none if item is chosen else item for item in self.line.bindings)
            self.line = dataclasses.replace(self.line, bindings=bindings)

    def set_stage(self, stage: Stage) -> None:
        """Make the sizes of that stage symbolic, and no others."""
        if stage == "known":
            ranges = {dim.name: dim.range for _, dim in self._dims() if dim.name is not None and dim.range is not None}
            sizes = {name: self.draw(st.integers(*ends)) for name, ends in sorted(ranges.items())}

            def known(item: Any) -> Any:
                if isinstance(item, tree.Dim) and item.name in sizes:
                    return tree.Dim(item.span, size=sizes[item.name])
                if isinstance(item, tree.Name | tree.Upper) and item.name in sizes:
                    return tree.Literal(item.span, sizes[item.name])
                return item

            self.line = _map(self.line, known)
        elif stage == "all":
            fixed = {dim.size for spec, dim in self._dims() if spec.const}
            fixed |= {item.value for item in tree.walk(self.line) if isinstance(item, tree.Literal)}  # type: ignore[misc]
            fixed |= {item.below for item in tree.walk(self.line) if isinstance(item, tree.TensorSpec)}

            free = sorted({dim.size for _, dim in self._dims() if (dim.size or 0) > 1} - fixed)  # type: ignore[type-var]
            # Often not all at once: an op that wants channels to be known says so before anything else is seen.
            marked = any(dim.range is not None for _, dim in self._dims())
            chosen = self.draw(st.sets(st.sampled_from(free), min_size=0 if marked else 1)) if free else set()

            def symbolic(item: Any) -> Any:
                if not isinstance(item, tree.Dim) or item.size not in chosen:
                    return item
                assert item.size is not None
                return tree.Dim(item.span, name=f"N{item.size}", range=(item.size, item.size + _WIDEST))

            self.line = _map(self.line, symbolic)

    def _dims(self) -> Iterator[tuple[tree.TensorSpec, tree.Dim]]:
        for item in tree.walk(self.line):
            if isinstance(item, tree.TensorSpec):
                yield from ((item, dim) for dim in item.dims)


def reads_strides(rule: Rule) -> bool:
    """Whether PyTorch's kernels of the ops in a rule read expanded operands rightly."""
    return not any(op.op in _READ_AS_CONTIGUOUS for root in rule.roots for op in ops_in(root))


def operand_forms(line: tree.Test, *, expanded: bool = True) -> Iterator[tree.Test]:
    """The line with each operand in turn as a constant, as a parameter, expanded, and the same as one before it.

    Operands of symbolic sizes stay as they are, but for being the same as others.

    Args:
        expanded: whether operands may be expanded.
    """
    for binding in line.bindings:
        spec = binding.value
        if not isinstance(spec, tree.TensorSpec):
            continue
        forms: list[Any] = []
        if all(dim.name is None for dim in spec.dims):
            forms = [
                _formed(spec, const, parameter, form)
                for const, parameter in ((False, False), (True, False), (True, True))
                for form in ((False, True) if expanded and any(dim.size != 1 for dim in spec.dims) else (False,))
            ]
        for other in line.bindings[: line.bindings.index(binding)]:
            # A dim that gets its range here is a name in both.
            if isinstance(other.value, tree.TensorSpec) and _same_sort(other.value, spec):
                forms.append(tree.Name(spec.span, other.name))
        for form in forms:
            if form != spec:
                changed = dataclasses.replace(binding, value=form)
                yield dataclasses.replace(
                    line, bindings=tuple(changed if item is binding else item for item in line.bindings)
                )


def _formed(spec: tree.TensorSpec, const: bool, parameter: bool, expanded: bool) -> tree.TensorSpec:
    if parameter or expanded:
        return tree.OperandSpec(spec.span, spec.dtype, spec.dims, const, spec.below, parameter, expanded)
    return tree.TensorSpec(spec.span, spec.dtype, spec.dims, const, spec.below)


def _same_sort(one: tree.TensorSpec, other: tree.TensorSpec) -> bool:
    def dims(spec: tree.TensorSpec) -> list[tuple[str | None, int | None]]:
        return [(dim.name, dim.size) for dim in spec.dims]

    return one.dtype == other.dtype and dims(one) == dims(other)


def _map(item: Any, function: Any) -> Any:
    """A syntax tree with a function applied to its nodes, innermost first; what stays the same is not copied."""
    if isinstance(item, tuple):
        parts = tuple(_map(part, function) for part in item)
        return item if all(a is b for a, b in zip(parts, item, strict=True)) else parts
    # Elements that a line writes out, `tensor([0, 2], i64)`, are what it is about.
    if not isinstance(item, tree.Node) or isinstance(item, tree.Call):
        return item
    now = {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name != "span"}
    new = {name: _map(value, function) for name, value in now.items()}
    changed = {name: value for name, value in new.items() if value is not now[name]}
    if changed:
        # The node that a caller looks for by identity is never one whose parts changed: a call changes one kind.
        return function(dataclasses.replace(item, **changed))
    return function(item)


__all__ = ["Variation", "operand_forms", "reads_strides", "variations"]

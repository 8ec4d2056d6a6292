"""Applying a plan: its ATen calls become nodes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from engine.dsl.rule import Rule
from engine.errors import EngineError
from engine.evaluator import Failure
from engine.evaluator.plan import (
    AbstractTensor,
    CallOutput,
    Captured,
    ConstantTensor,
    OpCall,
    Plan,
    map_tensors,
    tensors,
)
from engine.graph.mirror import Mirror, Value
from engine.graph.provenance import Provenance, describe
from engine.rewriter.change import Change, computed, counts, disagreement, has_unbacked, replace, text
from engine.sizes import Int, is_known

# Larger constants stay an op, which a rule can turn into something that needs no memory in the engine.
LARGEST_CONSTANT = 1 << 16


@dataclass(frozen=True, slots=True)
class Replacement:
    """A plan together with the match it is for.

    Attributes:
        roots: the root nodes of the match.
        nodes: all matched nodes.
        targets: the values to be replaced, with what replaces them.
    """

    rule: Rule
    roots: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    plan: Plan
    targets: tuple[tuple[Value, AbstractTensor], ...]


def prepare(
    mirror: Mirror, rule: Rule, roots: Sequence[fx.Node], nodes: Sequence[fx.Node], plan: Plan
) -> Replacement | Failure:
    """Pair the outputs of a plan with the values they replace.

    Returns:
        A failure if an output that is used gets no replacement, or if nothing would change.
    """
    values = (
        [Value(root, pattern.output) for root, pattern in zip(roots, rule.roots, strict=True)]
        if len(roots) > 1
        else list(mirror.outputs(roots[0]))
    )
    targets: list[tuple[Value, AbstractTensor]] = []
    projects = len(roots) == 1 and rule.roots[0].outputs is None
    for value, output in zip(values, plan.outputs, strict=True):
        if mirror.unused(value):
            continue
        if output is not None:
            targets.append((value, output))
        elif not (projects and rule.roots[0].output != value.index):
            return Failure(f"output {value.index} of {value.node.name} is used, and the rule emits none for it")
    if not targets:
        others = [value.index for value in values if not mirror.unused(value)]
        if others:
            given = [index for index, output in enumerate(plan.outputs) if output is not None]
            return Failure(f"it gives output {given[0]}, and output {others[0]} is used; give a tuple of all outputs")
        return Failure("nothing uses the matched values")
    return Replacement(rule, tuple(roots), tuple(sorted(nodes)), plan, tuple(targets))


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """What a replacement saves.

    Constants are folded, so they cost nothing at run time, and how many nodes compute there comes first. Among
    replacements that leave that as it is, those shrink the graph that leave fewer constant nodes: a scale that a
    rule takes out of a constant operand, say.

    Attributes:
        live: computing nodes removed, less those emitted.
        constant: constant nodes removed, less those emitted.
        survives: a matched node stays for other users.
        folds: a matched node is constant, so that what it saves is saved without the rule.
    """

    live: int
    constant: int
    survives: bool
    folds: bool

    def __bool__(self) -> bool:
        return (self.live, self.constant) > (0, 0)


def shrinkage(mirror: Mirror, replacement: Replacement) -> Shrinkage:
    """How many nodes a replacement saves."""
    kept = {operand.value.node for operand in _captured(replacement)}
    replaced = {old for old, _ in replacement.targets}
    dead: set[fx.Node] = set()
    stack = [root for root in replacement.roots if all(v in replaced or mirror.unused(v) for v in mirror.outputs(root))]
    while stack:
        node = stack.pop()
        if node in dead or node in kept or node.op != "call_function":
            continue
        if node not in replacement.roots and any(user not in dead for user in mirror.each_user(node)):
            continue
        dead.add(node)
        stack.extend(value.node for value in mirror.inputs(node))
    matched = [node for node in replacement.nodes if computed(mirror, node)]
    removed = [node for node in dead if computed(mirror, node)]
    live = sum(counts(mirror, node) for node in removed)
    emitted = _emitted(mirror, replacement.plan)
    return Shrinkage(
        live - emitted,
        len(removed) - live - (len(replacement.plan.calls) - emitted),
        survives=any(node not in dead and node not in kept for node in matched),
        folds=not all(counts(mirror, node) for node in matched),
    )


def disagreements(mirror: Mirror, replacement: Replacement, *, certain: bool) -> str | None:
    """How the outputs of a replacement differ from those that it replaces, None if they do not.

    Args:
        certain: demand that dims are equal for all sizes; otherwise only refuse dims that certainly differ.
    """
    inherited = _inherited(mirror, replacement)
    for old, output in replacement.targets:
        before = mirror.fake(old)
        if isinstance(output, CallOutput) and id(output.call) in inherited:
            continue
        reason = disagreement(mirror.sizes, before, output, certain=certain)
        if reason is not None:
            by = "a constant"
            if isinstance(output, CallOutput):
                by = mirror.graph._target_to_str(_call(output.call).op).replace(".", "_")
            elif isinstance(output, Captured):
                by = output.value.node.name
            before_after = f"which is {text(before)}, by {by}, which is {text(output)}: {reason}"
            return (
                f"{replacement.rule.id} replaces {describe(old.node)}, {before_after}.  "
                "The two sides of a rule must agree; cast, reshape or expand on the right side, or add a `when` guard"
            )
    return None


def _captured(replacement: Replacement) -> list[Captured]:
    found = [operand for call in replacement.plan.calls for operand in tensors(_call(call).arguments)]
    found += [output for _, output in replacement.targets]
    return [operand for operand in found if isinstance(operand, Captured)]


def _emitted(mirror: Mirror, plan: Plan) -> int:
    """The number of calls of a plan that are not constant."""
    constant: dict[int, bool] = {}

    def is_const(operand: AbstractTensor) -> bool:
        if isinstance(operand, Captured):
            return mirror.is_const(operand.value)
        if isinstance(operand, CallOutput):
            return constant[id(operand.call)]
        assert isinstance(operand, ConstantTensor)
        return _is_known(operand)

    for call in plan.calls:
        arguments = _call(call).arguments
        constant[id(call)] = all(map(is_const, tensors(arguments))) and is_known(
            map_tensors(arguments, lambda operand: None)
        )
    return sum(not value for value in constant.values())


def _is_known(constant: ConstantTensor) -> bool:
    return is_known((constant.shape or (), constant.number, constant.numbers or ()))


def _call(call: Any) -> OpCall:
    if not isinstance(call, OpCall):
        raise EngineError(f"{call.span}: {call.layer.name} is a layer, which only `convert` rules may emit")
    return call


class Committer:
    """Writes plans into the graph of a mirror."""

    def __init__(self, mirror: Mirror, *, check: bool) -> None:
        self._mirror = mirror
        self._check = check
        self._literals: dict[Any, fx.Node] = {}

    def commit(self, replacement: Replacement) -> Change:
        """Insert the calls, replace the roots and erase what is no longer used.

        Raises:
            Exception: an operand depends on a root, or PyTorch rejects a call or a constant. The graph then
                computes what it did before.
        """
        mirror, rule = self._mirror, replacement.rule
        origin = (*replacement.roots, *(node for node in replacement.nodes if node not in replacement.roots))
        step = Provenance(rule.id, rule.where, tuple(node.name for node in replacement.nodes))
        before = mirror.insert_point(
            replacement.roots,
            [operand.value for operand in _captured(replacement)],
            [node for node in replacement.nodes if node not in replacement.roots],
        )
        inherited = _inherited(mirror, replacement)
        made: dict[int, fx.Node] = {}
        new: list[fx.Node] = []

        def value(operand: AbstractTensor) -> Value:
            if isinstance(operand, Captured):
                return operand.value
            if isinstance(operand, CallOutput):
                return Value(made[id(operand.call)], operand.index)
            assert isinstance(operand, ConstantTensor)
            return self._literal(operand, before, origin, step, new)

        try:
            for call in map(_call, replacement.plan.calls):
                arguments = map_tensors(call.arguments, value)
                fake = inherited.get(id(call), call.fake)
                node = mirror.insert(call.op, arguments, before, origin=origin, rule=step, fake=fake)
                made[id(call)] = node
                new.append(node)
                if self._check and not (fake is call.fake and self._as_planned(call.arguments, mirror.arguments(node))):
                    self._recheck(rule, node)
            targets = [(old, value(output)) for old, output in replacement.targets]
        except Exception:
            mirror.erase_dead(new)
            raise
        expanded = dict.fromkeys(op for node in origin for op in node.meta.get("decomposed", ()))
        if expanded:  # what a decomposition made must not be decomposed again after a rule put it together
            for node in new:
                node.meta["decomposed"] = tuple(expanded)
        return replace(mirror, targets, new)

    def _literal(
        self,
        constant: ConstantTensor,
        before: fx.Node,
        origin: Sequence[fx.Node],
        step: Provenance,
        new: list[fx.Node],
    ) -> Value:
        """A tensor written out by a rule: a constant at the top of the graph, or ops when a size is symbolic."""
        mirror = self._mirror
        shape, dtype = tuple(constant.shape or ()), constant.dtype
        device = mirror.fake(Value(origin[0], 0)).device
        elements = 1
        for size in shape:
            elements = elements * size if isinstance(size, int) else LARGEST_CONSTANT + 1
        if _is_known(constant) and elements <= LARGEST_CONSTANT:
            return Value(self._shared_literal(constant, shape, device), 0)

        def insert(op: Any, arguments: Sequence[Any]) -> Value:
            node = mirror.insert(op, arguments, before, origin=origin, rule=step)
            new.append(node)
            return Value(node, 0)

        aten = torch.ops.aten
        if constant.numbers is None:
            return insert(aten.full.default, (shape, constant.number, dtype, None, device, None))
        parts = tuple(insert(aten.full.default, ((1,), item, dtype, None, device, None)) for item in constant.numbers)
        return insert(aten.cat.default, (parts, 0))

    def _shared_literal(self, constant: ConstantTensor, shape: tuple[Int, ...], device: torch.device) -> fx.Node:
        key = (shape, constant.dtype, device, repr(constant.number), repr(constant.numbers))
        node = self._literals.get(key)
        if node is None or node._erased:
            with unset_fake_temporarily():
                if constant.numbers is None:
                    number: Any = constant.number
                    tensor = torch.full(shape, number, dtype=constant.dtype, device=_real(device))
                else:
                    tensor = torch.tensor(list(constant.numbers), dtype=constant.dtype, device=_real(device))
            node = self._mirror.constant_node(tensor, "_literal", _top(self._mirror))
            node.meta["literal"] = True
            self._literals[key] = node
        return node

    def _as_planned(self, planned: Any, written: Any) -> bool:
        """Whether arguments of a node are what its outputs were inferred from, so that inferring again says the same.

        Tensors must be the same objects of static shapes, numbers equal. What symbolic sizes give depends on what is
        known of them, and that changes.
        """
        if isinstance(planned, AbstractTensor):
            if not isinstance(written, Value) or isinstance(planned, ConstantTensor):
                return False
            before = self._mirror.fake(planned.value) if isinstance(planned, Captured) else _fake(planned)
            now = self._mirror.fake(written)
            return now is before and all(isinstance(size, int) for size in now.shape)
        if isinstance(planned, list | tuple):
            return (
                isinstance(written, list | tuple)
                and not isinstance(written, Value)
                and len(planned) == len(written)
                and all(map(self._as_planned, planned, written))
            )
        return type(planned) is type(written) and not isinstance(planned, sympy.Basic) and bool(planned == written)

    def _recheck(self, rule: Rule, node: fx.Node) -> None:
        """Infer a new node again, from its arguments as they stand in the graph."""
        mirror = self._mirror
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        again = mirror.infer(target, mirror.raw_arguments(node))
        for index, (kept, fresh) in enumerate(zip(_each(node.meta["val"]), _each(again), strict=True)):
            if isinstance(kept, torch.Tensor) and isinstance(fresh, torch.Tensor):
                reason = disagreement(mirror.sizes, kept, fresh, certain=True)
                if reason is not None:
                    raise EngineError(
                        f"{rule.where}: {rule.id} emitted {target} as {node.name}, whose output {index} was planned as "
                        f"{text(kept)}, but PyTorch infers {text(fresh)}: {reason}"
                    )


def _inherited(mirror: Mirror, replacement: Replacement) -> dict[int, Any]:
    """Fake values that calls take over from the roots: those whose dims carry the symbols of data."""
    found: dict[int, Any] = {}
    for old, output in replacement.targets:
        fake = mirror.fake(old)
        if not any(map(has_unbacked, fake.shape)) or not isinstance(output, CallOutput):
            continue
        made = _call(output.call).fake
        if isinstance(made, torch.Tensor) and made.dtype == fake.dtype and made.dim() == fake.dim():
            found[id(output.call)] = fake
    return found


def _fake(output: AbstractTensor) -> Any:
    """What a call was inferred to give there."""
    assert isinstance(output, CallOutput)
    return _each(_call(output.call).fake)[output.index]


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def _real(device: torch.device) -> torch.device:
    """Where a constant can be made: a graph for a GPU may be compiled on a machine that has none."""
    return device if device.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")


def _top(mirror: Mirror) -> fx.Node:
    """The first node behind the inputs: constants that several rewrites share must come before all of them."""
    return mirror.placeholders[-1].next if mirror.placeholders else next(iter(mirror.graph.nodes))

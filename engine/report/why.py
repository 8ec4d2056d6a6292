"""Why a node runs where it does: what each rule of its op says, in the order in which a node meets them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Tried(NamedTuple):
    """One rule at one node.

    Attributes:
        rule, where: its id, and ``file:line``.
        outcome: ``"applies"``, ``"chosen"``, ``"does not apply"`` or ``"inactive"``.
        reason: the first test that failed, with what was expected and found; empty where it applies.
    """

    rule: str
    where: str
    outcome: str
    reason: str


class Step(NamedTuple):
    """One step that a node goes through.

    Attributes:
        name: ``simplify``, ``lower``, ``decomposition`` or ``convert``.
        tried: the rules of the node's op, those that got furthest first.
        note: what else there is to say.
    """

    name: str
    tried: tuple[Tried, ...]
    note: str = ""


class Why(NamedTuple):
    """The whole answer for one node; ``str()`` gives it as text.

    Attributes:
        node, op: name and op; the op that was called where PyTorch wrapped it.
        call: the op with the dtypes and shapes of its operands, and of what it gives.
        color, segment, rule, reason: see :class:`engine.report.decisions.Placement`.
        module, source: path of the module, and ``file:line`` of the user's model.
        history: the rewrites that led to the node, oldest first; or to what stands in its place now.
        now: names of the nodes that a rewrite put in its place; empty for a node that is there.
        steps: see :class:`Step`.
        skeleton: a rule to begin with, where no rule has the op as its root.
    """

    node: str
    op: str
    call: str = ""
    color: str = ""
    segment: str = ""
    rule: str = ""
    reason: str = ""
    module: str = ""
    source: str = ""
    history: tuple[str, ...] = ()
    now: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    skeleton: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON-able data."""
        data = self._asdict()
        data["steps"] = [
            {"name": step.name, "tried": [tried._asdict() for tried in step.tried], "note": step.note}
            for step in self.steps
        ]
        return data

    def __str__(self) -> str:
        lines = [self.call or f"{self.node}: {self.op}"]
        place = " at ".join(filter(None, (self.module and f"in {self.module}", self.source)))
        lines += [f"  {place}"] if place else []
        if self.color:
            where = "PyTorch" if self.color == "torch" else "TensorRT"
            by = f", by {self.rule}" if self.rule else ""
            lines.append(f"  runs in {where}" + (f", in {self.segment}" if self.segment else "") + by)
        lines += [f"  {line}" for line in self.reason.splitlines()]
        if self.now:
            lines.append(f"  was rewritten; in its place there is now {', '.join(self.now)}")
        lines += [f"  rewritten by {step}" for step in self.history]
        for step in self.steps:
            lines.append(step.name + (f": {step.note}" if step.note else ""))
            for tried in step.tried:
                lines.append(f"  {tried.rule} ({tried.where}) {tried.outcome}" + (":" if tried.reason else ""))
                lines += [f"      {line}" for line in tried.reason.splitlines()]
        if self.skeleton:
            lines += ["a rule to begin with", *(f"  {line}" for line in self.skeleton.splitlines())]
        return "\n".join(lines) + "\n"


class Costly(NamedTuple):
    """A fallback with what it costs at the boundary.

    Attributes:
        node, op, reason, module, source: as in the report.
        elements: elements that it reads and gives, at the example's sizes.
    """

    node: str
    op: str
    reason: str
    module: str
    source: str
    elements: int


class Gain(NamedTuple):
    """What one change would be worth.

    Attributes:
        what: ``rule for OP``, or a setting with its value.
        nodes: further nodes that would run in engines.
        coverage: nodes in engines / nodes that compute, with it.
        segments: segments with it, those of PyTorch included.
        merged: how many segments fewer that is.
    """

    what: str
    nodes: int
    coverage: float
    segments: int
    merged: int


__all__ = ["Costly", "Gain", "Step", "Tried", "Why"]

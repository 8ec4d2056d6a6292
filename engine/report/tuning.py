"""What ``tune`` decided: each question with its ways and their times, and the whole module against the untuned one."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.errors import EngineError
from engine.report import checked_json as checked
from engine.storage.whole_file import write_whole

UNTUNED, TUNED, IN_PYTORCH = "untuned", "tuned", "pytorch"
_FORMS = (UNTUNED, TUNED, IN_PYTORCH)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute some nodes.

    Attributes:
        name: what differs from the untuned compilation; ``"as rules decide"`` is that itself.
        left_out, used: pairs of a rule and a structure, see :class:`engine.matcher.choices.Site`.
        rules: the ``convert`` rules that take the nodes this way, and ops that stay in PyTorch.
        ms: median milliseconds of a call; None where it was not measured.
        error: largest error against float32, relative to the largest value; None where that is not known.
        why_not: why it was not taken although it is faster; empty otherwise.
    """

    name: str
    left_out: tuple[tuple[str, str], ...] = ()
    used: tuple[tuple[str, str], ...] = ()
    rules: tuple[str, ...] = ()
    ms: float | None = None
    error: float | None = None
    why_not: str = ""

    @classmethod
    def of(cls, data: Any) -> Way:
        """A way from its JSON; raises KeyError, TypeError or ValueError where that is damaged."""
        return cls(
            checked.text(data["name"]), checked.pairs(data["left_out"]), checked.pairs(data["used"]),
            tuple(map(checked.text, checked.items(data["rules"]))), checked.optional(data["ms"]),
            checked.optional(data["error"]), checked.text(data["why_not"]),
        )  # fmt: skip

    def __str__(self) -> str:
        time = "not measured" if self.ms is None else f"{self.ms:.4f} ms"
        error = "" if self.error is None else f", error {self.error:.1e}"
        return f"{self.name}: {time}{error}" + (f" ({self.why_not})" if self.why_not else "")


@dataclass(frozen=True, slots=True)
class Decision:
    """One question, and the way that was taken at all places of its structure.

    Attributes:
        rule, structure: what is asked: whether this rule is used at places of this structure.
        what: the ops and what they read, in a line.
        places: how many there are in the model.
        ways: the first is that of the untuned compilation.
        taken: index of the way that was taken.
        eager_error: error of eager PyTorch in the same dtype; None where that is not known.
        source: ``"measured"``, ``"cache"`` (measured before on this machine) or ``"file"``.
    """

    rule: str
    structure: str
    what: str
    places: int
    ways: tuple[Way, ...]
    taken: int
    eager_error: float | None = None
    source: str = "measured"

    @classmethod
    def of(cls, data: Any) -> Decision:
        """A decision from its JSON, with the source ``"file"``; raises as :meth:`Way.of`."""
        ways = tuple(map(Way.of, checked.items(data["ways"])))
        taken = checked.count(data["taken"])
        if taken >= len(ways):
            raise ValueError(f"way {taken} of {len(ways)} is taken")
        return cls(
            checked.text(data["rule"]), checked.text(data["structure"]), checked.text(data["what"]),
            checked.count(data["places"], 1), ways, taken, checked.optional(data["eager_error"]), "file",
        )  # fmt: skip

    @property
    def way(self) -> Way:
        """The way that was taken."""
        return self.ways[self.taken]

    @property
    def site(self) -> tuple[str, str]:
        """The rule and the structure."""
        return self.rule, self.structure

    @property
    def gain(self) -> float:
        """Milliseconds that the way saves over all places, by itself."""
        first, taken = self.ways[0].ms, self.way.ms
        return 0.0 if first is None or taken is None else (first - taken) * self.places

    def __str__(self) -> str:
        times = f" x {self.places}" if self.places > 1 else ""
        others = "; ".join(f"{'-> ' if way is self.way else ''}{way}" for way in self.ways)
        return f"{self.what}{times}: {others}"


@dataclass(slots=True)
class Tuning:
    """What tuning decided about a model.

    Attributes:
        machine: GPU and TensorRT that the times are of.
        decisions: in the order in which they were asked: those that may save most first.
        kept: ``"tuned"``, ``"untuned"`` or ``"pytorch"``: what the module is; never one that is slower than untuned.
        ms: median milliseconds of a call of each of them, where it was measured.
        errors: error of each against float32, and of ``"eager"``, relative to the largest value.
        why: why ``kept`` was kept.
        unasked: questions that the budget had no time for.
        notes: what else there is to know, a sentence each.
        file: the text of a file of decisions, which :meth:`save` writes.
    """

    machine: str
    decisions: tuple[Decision, ...] = ()
    kept: str = UNTUNED
    ms: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    why: str = ""
    unasked: int = 0
    notes: tuple[str, ...] = ()
    file: str = field(default="", repr=False)

    @classmethod
    def of(cls, data: Any) -> Tuning:
        """What :meth:`as_dict` gave; raises as :meth:`Way.of`."""
        decisions = [
            replace(Decision.of(each), source=checked.text(each["source"])) for each in checked.items(data["decisions"])
        ]
        return cls(
            checked.text(data["machine"]), tuple(decisions), checked.text(data["kept"]), checked.numbers(data["ms"]),
            checked.numbers(data["errors"]), checked.text(data["why"]), checked.count(data["unasked"]),
            tuple(map(checked.text, checked.items(data["notes"]))),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        data = asdict(self)
        del data["file"]
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the decisions to a file, which ``engine.compile(..., tune=path)`` replays.

        Raises:
            FileError: it cannot be written.
            EngineError: the module was loaded from a file, which keeps the report and not what others could replay.
        """
        if not self.file:
            raise EngineError("a loaded module does not keep its decisions: save those of the module that was compiled")
        write_whole(path, self.file)

    def __str__(self) -> str:
        changed = [decision for decision in self.decisions if decision.taken]
        lines = [f"tuned on {self.machine}: {len(self.decisions)} questions, {len(changed)} decided for another way"]
        if self.unasked:
            lines[0] += f", {self.unasked} not asked for want of time"
        times = ", ".join(f"{name} {self.ms[name]:.4f} ms" for name in _FORMS if name in self.ms)
        why = f" ({self.why})" if self.why else ""
        lines.append(f"the {self.kept} module is kept{': ' if times else ''}{times}{why}")
        lines += self.notes
        lines += [f"  {decision}" for decision in self.decisions]
        return "\n".join(lines)


__all__ = ["IN_PYTORCH", "TUNED", "UNTUNED", "Decision", "Tuning", "Way"]

"""Files of decisions: JSON that another machine can replay, and that the cache on disk is made of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import FileError
from engine.matcher.choices import Choices, Site
from engine.report import checked_json as checked
from engine.report.tuning import IN_PYTORCH, TUNED, UNTUNED, Decision
from engine.storage import strict_json
from engine.storage.regular_file import read_regular
from engine.tuning.machine import Machine

SCHEMA = 1
"""Version of the fields of a file of decisions."""
_FORMAT = "engine tuning"
_KEPT = (TUNED, UNTUNED, IN_PYTORCH)


@dataclass(frozen=True)
class Whole:
    """A whole model, compared in all the forms that it was built in.

    Attributes:
        model: digest of its captured graph.
        kept: ``"tuned"``, ``"untuned"`` or ``"pytorch"``.
        ms, errors, why: as in :class:`engine.report.tuning.Tuning`.
        sites: the decisions that are in force in a tuned one.
    """

    model: str
    kept: str
    ms: dict[str, float]
    errors: dict[str, float]
    why: str
    sites: tuple[tuple[str, str], ...] = ()


@dataclass
class Decisions:
    """What a file holds.

    Attributes:
        machine: where it was measured.
        conditions: digest of the settings, rules and ranges, see :func:`engine.tuning.machine.conditions`.
        rules: hash of the rule set.
        decisions: by the rule and the structure that was asked about.
        wholes: by the digest of the model.
    """

    machine: Machine
    conditions: str
    rules: str
    decisions: dict[tuple[str, str], Decision] = field(default_factory=dict)
    wholes: dict[str, Whole] = field(default_factory=dict)

    def choices(self, model: str) -> Choices:
        """What they say about a model of some digest."""
        whole = self.wholes.get(model)
        if whole is not None and whole.kept != TUNED:
            return Choices(in_pytorch=whole.kept == IN_PYTORCH)
        return choices_of(self.decisions.values())

    def text(self) -> str:
        """The text of a file, the same for the same decisions."""
        data = {
            "format": _FORMAT,
            "schema": SCHEMA,
            "machine": self.machine._asdict(),
            "conditions": self.conditions,
            "rules": self.rules,
            "decisions": [_told(decision) for decision in self.decisions.values()],
            "models": [asdict(whole) for whole in self.wholes.values()],
        }
        return json.dumps(data, indent=1) + "\n"


def choices_of(decisions: Iterable[Decision]) -> Choices:
    """The choices that decisions make."""
    ways = [decision.way for decision in decisions]
    return Choices(
        [Site(*pair) for way in ways for pair in way.left_out], [Site(*pair) for way in ways for pair in way.used]
    )


def _told(decision: Decision) -> dict[str, Any]:
    told = asdict(decision)
    del told["source"]
    return told


def read(path: str | os.PathLike[str]) -> Decisions:
    """The decisions in a file.

    Raises:
        FileError: there is none, or it is not what was written; the message says what and what to do.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise FileError(
            f"there is no file {os.fspath(path)}: `engine tune MODEL.pt2 -o {os.fspath(path)}` writes one on a GPU"
        ) from None
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None
    try:
        return _parsed(strict_json.parse(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"{error}" if not isinstance(error, KeyError) else f"it has no {error}"
        raise FileError(
            f"{os.fspath(path)} is no file of decisions, or damaged: {said}; write it anew with `engine tune`"
        ) from None


def _parsed(data: Any) -> Decisions:
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ValueError("it does not say that it holds decisions")
    if data["schema"] != SCHEMA:
        raise ValueError(f"it has schema {data['schema']!r}, and this version reads {SCHEMA}")
    machine = Machine(**{name: checked.text(value) for name, value in data["machine"].items()})
    found = Decisions(machine, checked.text(data["conditions"]), checked.text(data["rules"]))
    for entry in checked.items(data["decisions"]):
        decision = Decision.of(entry)
        found.decisions[decision.site] = decision
    for entry in checked.items(data["models"]):
        whole = Whole(
            checked.text(entry["model"]), checked.text(entry["kept"]), checked.numbers(entry["ms"]),
            checked.numbers(entry["errors"]), checked.text(entry["why"]), checked.pairs(entry["sites"]),
        )  # fmt: skip
        if whole.kept not in _KEPT:
            raise ValueError(f"a model is {whole.kept!r}, and is one of {', '.join(_KEPT)}")
        found.wholes[whole.model] = whole
    return found


__all__ = ["SCHEMA", "Decisions", "Whole", "choices_of", "read"]

"""Files of decisions: JSON that another machine can replay, and that the cache on disk is made of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import FileError
from engine.matcher.choices import Choices, Site
from engine.report.tuning import IN_PYTORCH, TUNED, UNTUNED, Decision, Way
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
    machine = Machine(**{name: _text(value) for name, value in data["machine"].items()})
    found = Decisions(machine, _text(data["conditions"]), _text(data["rules"]))
    for entry in _list(data["decisions"]):
        decision = _decision(entry)
        found.decisions[decision.site] = decision
    for entry in _list(data["models"]):
        whole = Whole(
            _text(entry["model"]), _text(entry["kept"]), _numbers(entry["ms"]), _numbers(entry["errors"]),
            _text(entry["why"]), _pairs(entry["sites"]),
        )  # fmt: skip
        if whole.kept not in _KEPT:
            raise ValueError(f"a model is {whole.kept!r}, and is one of {', '.join(_KEPT)}")
        found.wholes[whole.model] = whole
    return found


def _decision(entry: Mapping[str, Any]) -> Decision:
    ways = tuple(_way(way) for way in _list(entry["ways"]))
    taken, places = entry["taken"], entry["places"]
    if type(taken) is not int or not 0 <= taken < len(ways):
        raise ValueError(f"a decision takes way {taken!r} of {len(ways)}")
    if type(places) is not int or places < 1:
        raise ValueError(f"a decision is about {places!r} places")
    return Decision(
        _text(entry["rule"]), _text(entry["structure"]), _text(entry["what"]), places, ways, taken,
        _optional(entry["eager_error"]), "file",
    )  # fmt: skip


def _way(entry: Mapping[str, Any]) -> Way:
    return Way(
        _text(entry["name"]), _pairs(entry["left_out"]), _pairs(entry["used"]),
        tuple(map(_text, _list(entry["rules"]))), _optional(entry["ms"]), _optional(entry["error"]),
        _text(entry["why_not"]),
    )  # fmt: skip


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return value


def _optional(value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{value!r:.40} is no number")
    return None if value is None else float(value)


def _numbers(value: Any) -> dict[str, float]:
    found = {_text(name): _optional(number) for name, number in value.items()}
    if None in found.values():
        raise TypeError("a time or an error is null")
    return found  # type: ignore[return-value]


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(map(_text, _list(pair))) for pair in _list(value)]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a rule and a structure are two")
    return tuple(pairs)  # type: ignore[arg-type]


__all__ = ["SCHEMA", "Decisions", "Whole", "choices_of", "read"]

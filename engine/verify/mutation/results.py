"""What became of mutants, as a file: a search that was stopped goes on from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import tensorrt
from engine.errors import FileError
from engine.storage import installed_pytorch
from engine.storage.regular_file import read_regular
from engine.storage.whole_file import write_whole
from engine.verify.branches import base
from engine.verify.mutation.judging import Judged
from engine.verify.mutation.mutants import mutants

if TYPE_CHECKING:
    from engine.dsl.rule import Rule
    from engine.dsl.ruleset import RuleSet

# Part of the file, and of what results are known by: change it with either.
SCHEMA = 2
# Seconds between two writes of a search that goes on: so much of it may be lost.
_BETWEEN = 5.0
_SPAN = re.compile(r"span=Span\([^()]*\)")


class Results:
    """The mutants that were judged, by rule; written to a file while a search goes on.

    Args:
        path: where; None for results that are only looked at.
        examples, seed: what the mutants that no line notices were tried on.
    """

    def __init__(self, rules: RuleSet, examples: int, seed: int, path: Path | None = None) -> None:
        self.rules = rules
        self.path = path
        self.drawn = {"examples": examples, "seed": seed}
        self._digests: dict[str, str] = {}
        self._found: dict[str, list[Judged]] = {}
        self._written = time.monotonic()
        code = sorted(Path(__file__).parent.glob("*.py"))
        around = [
            json.dumps([SCHEMA, self.drawn, tensorrt.describe_tensorrt(), installed_pytorch.version()]),
            *(file.read_text(encoding="utf-8") for file in code),
            *(_SPAN.sub("", repr(sorted(items.items()))) for items in (rules.macros, rules.layers)),
        ]
        self._around = _digest(around)

    @property
    def found(self) -> list[Judged]:
        """All mutants that were judged."""
        return [item for items in self._found.values() for item in items]

    def add(self, members: Sequence[Rule], found: Sequence[Judged]) -> None:
        """Note what became of the mutants of a rule."""
        name = _name(members)
        self._found[name] = list(found)
        self._digests[name] = self._digest_of(members)
        if time.monotonic() - self._written > _BETWEEN:
            self.write(complete=False)

    def take_over(self, families: Sequence[Sequence[Rule]]) -> list[Sequence[Rule]]:
        """Read what the file holds of these rules, as far as it still holds; returns the rules that are left to try.

        Raises:
            FileError: it is no file of results.
        """
        kept = self._read()
        # What it holds of other rules stays in it.
        names = {_name(members) for members in families}
        for family in self._families(kept):
            if _name(family) not in names:
                self._found[_name(family)] = kept[_name(family)]
                self._digests[_name(family)] = self._digest_of(family)
        left: list[Sequence[Rule]] = []
        for members in families:
            name = _name(members)
            found = kept.get(name)
            every = None if found is None else list(mutants(members, self.rules.layers))
            if found is None or every is None or [m.what for m in every] != [item.what for item in found]:
                left.append(members)
                continue
            # Lines above may have moved it.
            places = (f"{mutant.span.file}:{mutant.span.line}" for mutant in every)
            self._found[name] = [
                dataclasses.replace(item, where=where) for item, where in zip(found, places, strict=True)
            ]
            self._digests[name] = self._digest_of(members)
        return left

    def in_order(self, families: Sequence[Sequence[Rule]]) -> list[Judged]:
        """What became of the mutants of these rules, in their order."""
        return [item for members in families for item in self._found.get(_name(members), ())]

    def write(self, *, complete: bool) -> None:
        """Write the file, whole or not at all."""
        self._written = time.monotonic()
        if self.path is None:
            return
        found = self.found
        data = {
            "schema": SCHEMA,
            **self.drawn,
            "rules_hash": self.rules.hash,
            "complete": complete,
            "noticed": share(found),
            "digests": self._digests,
            "mutants": [item.as_dict() for item in found],
        }
        write_whole(self.path.resolve(), json.dumps(data, indent=1) + "\n")

    def _read(self) -> Mapping[str, list[Judged]]:
        """What the file holds of rules that are as they were then."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            data = json.loads(read_regular(self.path))
            if data["schema"] != SCHEMA:
                return {}
            found: dict[str, list[Judged]] = {name: [] for name in data["digests"]}
            for item in data["mutants"]:
                judged = Judged(**item)
                found[f"{judged.kind} {judged.rule}"].append(judged)
            digests: Mapping[str, str] = data["digests"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"{self.path} holds no results of `engine rules mutate`, and is left as it is: name another file"
            ) from error
        now = {_name(members): self._digest_of(members) for members in self._families(found)}
        return {name: items for name, items in found.items() if now.get(name) == digests[name]}

    def _families(self, names: Mapping[str, Any]) -> list[list[Rule]]:
        families: dict[str, list[Rule]] = {}
        for rule in self.rules.rules:
            families.setdefault(_name([rule]), []).append(rule)
        return [members for name, members in families.items() if name in names]

    def _digest_of(self, members: Sequence[Rule]) -> str:
        """A rule with everything that its mutants are judged by."""
        return _digest([self._around, *(f"{rule.id} {rule.text}" for rule in members)])


def share(found: Sequence[Judged]) -> float:
    """The share of mutants that a line notices, of those that mean something else."""
    noticed, survived = (sum(item.outcome == what for item in found) for what in ("noticed", "survived"))
    return noticed / (noticed + survived) if noticed + survived else 1.0


def _name(members: Sequence[Rule]) -> str:
    return f"{members[0].kind} {base(members[0])}"


def _digest(parts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


__all__ = ["SCHEMA", "Results", "share"]

"""Arranging steps: data-dependency order, loops and conditionals as regions, values freed after use.

Layers of a network are stored in the order they were added, which need not be an order they can run in.
Loops and if-conditionals are only marked by boundary layers; the layers between are found here: what is
reachable from a loop's recurrences and iterators, or from a conditional's input layers, without passing
the region's own output layers.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import InterpreterError
from engine.interpreter.network import Reading
from engine.interpreter.step import Block, Region, Step

_SOURCES = frozenset({"RECURRENCE", "ITERATOR", "CONDITIONAL_INPUT"})
_SINKS = frozenset({"LOOP_OUTPUT", "CONDITIONAL_OUTPUT"})


def arrange(reading: Reading, known: Iterable[int]) -> Block:
    """The block that computes the outputs of the network and checks its assertions.

    ``known`` are the values that exist beforehand: inputs and constants.

    Raises:
        InterpreterError: the layers depend on each other in a circle that no loop closes.
    """
    return _Arranger(reading, frozenset(known)).arrange()


@dataclass
class _Group:
    """A loop or conditional: the positions of its boundary layers and of the layers inside."""

    kind: str
    name: str
    boundary: list[int]
    body: set[int]


class _Arranger:
    def __init__(self, reading: Reading, known: frozenset[int]) -> None:
        self._reading = reading
        self._steps = reading.steps
        self._known = known
        self._producer = {value: index for index, step in enumerate(self._steps) for value in step.outputs}
        self._users: dict[int, list[int]] = defaultdict(list)
        for index, step in enumerate(self._steps):
            for value in step.inputs:
                if value is not None:
                    self._users[value].append(index)
        self._groups = [_Group(kind, name, [], set()) for kind, name in reading.owners]
        for index, owner in reading.groups.items():
            self._groups[owner].boundary.append(index)
        for number, group in enumerate(self._groups):
            group.body = self._reach(number)

    def arrange(self) -> Block:
        wanted = tuple(value for value, _ in self._reading.outputs)
        return self._block(self._live(), wanted)

    def _live(self) -> set[int]:
        """Steps that an output or an assertion depends on; a region lives or dies as a whole."""
        pending = [self._producer[value] for value, _ in self._reading.outputs if value in self._producer]
        pending += [index for index, step in enumerate(self._steps) if step.type == "ASSERTION"]
        live: set[int] = set()
        while pending:
            index = pending.pop()
            if index in live:
                continue
            live.add(index)
            if index in self._reading.groups:
                pending += self._groups[self._reading.groups[index]].boundary
            pending += [self._producer[value] for value in self._steps[index].inputs if value in self._producer]
        return {index for index in live if self._steps[index].type != "CONSTANT"}

    def _reach(self, number: int) -> set[int]:
        """The steps inside group ``number``, boundaries and bodies of nested groups included."""
        own = set(self._groups[number].boundary)
        pending = [index for index in own if self._steps[index].type in _SOURCES]
        reached: set[int] = set()
        while pending:
            index = pending.pop()
            for value in self._steps[index].outputs:
                for user in self._users[value]:
                    if user in reached or user in own:
                        continue
                    nested = self._reading.groups.get(user)
                    # A loop or conditional that reads a value of this one runs inside it, all of it.
                    found = [user] if nested is None else self._groups[nested].boundary
                    reached.update(found)
                    pending += found
        return reached

    def _block(self, members: set[int], wanted: Sequence[int]) -> Block:
        present = {
            number for number, group in enumerate(self._groups) if group.boundary and group.boundary[0] in members
        }
        outer = {
            number
            for number in present
            if not any(
                self._groups[number].boundary[0] in self._groups[other].body for other in present if other != number
            )
        }
        units: list[Step | Region] = []
        inside: set[int] = set()
        for number in sorted(outer):
            group = self._groups[number]
            inside |= group.body
            inside.update(group.boundary)
            units.append(self._region(group, group.body & members))
        units += [self._steps[index] for index in sorted(members - inside)]
        return self._finish(self._sort(units), wanted)

    def _region(self, group: _Group, body: set[int]) -> Region:
        boundary = tuple(self._steps[index] for index in sorted(group.boundary))
        wanted = [value for step in boundary for value in step.inputs if value is not None]
        block = self._block(body, wanted)
        defined = {value for index in body for value in self._steps[index].outputs}
        defined |= {value for step in boundary for value in step.outputs}
        read = {value for node in block.nodes for value in _inputs(node)} | set(wanted)
        return Region(
            kind=group.kind,
            name=group.name,
            boundary=boundary,
            body=block,
            inputs=tuple(sorted(read - defined - self._known)),
            outputs=tuple(value for step in boundary if step.type in _SINKS for value in step.outputs),
        )

    def _sort(self, units: list[Step | Region]) -> list[Step | Region]:
        """Kahn's algorithm; among the ready, the layer added to the network first goes first."""
        position = {value: index for index, step in enumerate(self._steps) for value in step.outputs}
        producer = {value: number for number, unit in enumerate(units) for value in unit.outputs}
        waits: list[set[int]] = []
        users: dict[int, list[int]] = defaultdict(list)
        for number, unit in enumerate(units):
            needs = {producer[value] for value in _inputs(unit) if value in producer} - {number}
            waits.append(needs)
            for other in needs:
                users[other].append(number)
        keys = [min((position[value] for value in unit.outputs), default=0) for unit in units]
        ready = [(keys[number], number) for number in range(len(units)) if not waits[number]]
        heapq.heapify(ready)
        ordered = []
        while ready:
            _, number = heapq.heappop(ready)
            ordered.append(units[number])
            for user in users[number]:
                waits[user].discard(number)
                if not waits[user]:
                    heapq.heappush(ready, (keys[user], user))
        if len(ordered) != len(units):
            stuck = ", ".join(repr(unit.name) for number, unit in enumerate(units) if waits[number])
            raise InterpreterError(f"layers depend on each other in a circle outside any loop: {stuck}")
        return ordered

    def _finish(self, nodes: list[Step | Region], wanted: Sequence[int]) -> Block:
        defined = {value for node in nodes for value in node.outputs}
        keep = set(wanted) | self._known
        last: dict[int, int] = {}
        for index, node in enumerate(nodes):
            for value in (*node.outputs, *_inputs(node)):
                if value in defined and value not in keep:
                    last[value] = index
        releases: list[list[int]] = [[] for _ in nodes]
        for value, index in last.items():
            releases[index].append(value)
        return Block(tuple(nodes), tuple(map(tuple, releases)))


def _inputs(node: Step | Region) -> tuple[int, ...]:
    return tuple(value for value in node.inputs if value is not None)

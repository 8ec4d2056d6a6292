"""One decision on every rank: what a module's ranks have compiled is compared before they call a collective together.

Ranks meet at the key-value store of PyTorch's process group, where each writes what it decided, or why it failed, and
reads what the others of its groups wrote.  Nobody calls a collective for that, so nobody waits longer than for the
time-out: a rank that has compiled something else, that failed or that is gone makes the others fail, with its reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from torch import distributed

from engine.distributed.shards import sharded_tensors
from engine.errors import DistributedError

_PREFIX = "engine/agreement"
# Seconds of one wait for the store, so that an interrupt is seen.
_SLICE = 5.0
# Of a value that differs.
_MOST_LETTERS = 300
_ROUNDS: Counter[tuple[int, ...]] = Counter()
_LOCK = threading.Lock()


class Fact(NamedTuple):
    """Something that has to be the same on every rank: what it is, and what this rank has."""

    name: str
    value: str


class Agreement:
    """What a rank compiles together with others.

    Args:
        timeout: seconds to wait for another rank, from when this one is done.
        groups: names of process groups; more are added by :meth:`join`.
    """

    def __init__(self, timeout: float, groups: Iterable[str] = ()) -> None:
        self._timeout = timeout
        self._groups: dict[tuple[int, ...], str] = {}
        self._settled = False
        self.join(groups)

    def join(self, groups: Iterable[str]) -> None:
        """Compile together with the ranks of some process groups.

        Raises:
            DistributedError: there is no such process group.
        """
        for name in groups:
            ranks = ranks_of(name)
            if len(ranks) > 1:
                self._groups.setdefault(ranks, name)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the process groups of other ranks."""
        return tuple(self._groups.values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that compile together, this one among them; empty where it is alone."""
        return tuple(sorted({rank for group in self._groups for rank in group}))

    def settle(self, facts: Sequence[Fact], graph: str = "", decisions: Sequence[Fact] = ()) -> None:
        """Wait until the other ranks are done, and see whether they decided the same.

        Args:
            facts: what is the same on every rank.
            graph: digest of the whole graph, which may have numbers and shapes of this rank.
            decisions: what is the same on ranks that have the same graph.

        Raises:
            DistributedError: a rank decided otherwise, failed, or is not done in time; on every rank.
        """
        found = {"graph": graph}
        for kind, held in (("facts", facts), ("decisions", decisions)):
            found |= {kind: _packed(held), f"{kind} digest": _digest(held)}
        for group, said in self._exchanged(found):
            first = said[group[0]]
            for rank in group[1:]:
                one, other = first, said[rank]
                for kind in ("facts", "decisions") if one["graph"] == other["graph"] else ("facts",):
                    if one[f"{kind} digest"] != other[f"{kind} digest"]:
                        raise DistributedError(_difference(group[0], one[kind], rank, other[kind]))

    def gather(self, text: str) -> dict[int, str]:
        """What each rank gives, when all of them have done so.

        Raises:
            DistributedError: a rank failed, or is not there in time.
        """
        found = {distributed.get_rank(): text}
        for _, said in self._exchanged({"text": text}):
            found.update({rank: each["text"] for rank, each in said.items()})
        return found

    def _exchanged(self, found: dict[str, str]) -> Iterator[tuple[tuple[int, ...], dict[int, dict[str, str]]]]:
        self._settled = True
        for group, mine in self._posted(found):
            yield group, {rank: self._read(group, mine, rank) for rank in group}
            _forget(group, mine.number - 1)

    def fail(self, error: BaseException) -> None:
        """Let the other ranks know that this one will not be done."""
        if self._settled:
            return
        self._settled = True
        text = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            # What is raised here already says more than that others cannot be told.
            self._posted({"failed": text})

    def _posted(self, found: dict[str, str]) -> list[tuple[tuple[int, ...], _Round]]:
        rounds = []
        for group in self._groups:
            if _is_fake(group):
                continue
            with _LOCK:
                _ROUNDS[group] += 1
                number = _ROUNDS[group]
            mine = _Round(_place(group), number, time.monotonic() + self._timeout)
            _store().set(mine.key(distributed.get_rank()), json.dumps(found))
            rounds.append((group, mine))
        return rounds

    def _read(self, group: tuple[int, ...], mine: _Round, rank: int) -> dict[str, str]:
        """What a rank wrote."""
        me = distributed.get_rank()
        try:
            text = _waited(mine.key(rank), mine.deadline)
        except TimeoutError:
            missing = [other for other in group if not _is_there(mine.key(other))] or [rank]
            names = " and ".join(f"rank {other}" for other in missing)
            told = (
                f"{names} of the group of ranks {_listed(group)} has not compiled the module that rank {me} compiled "
                f"as number {mine.number} of this group, {self._timeout:g} s (distributed_timeout) after it. It is "
                "lost or hangs, needs longer than that, failed before it knew that others take part, or compiles other "
                "modules or in another order"
            )
            with contextlib.suppress(Exception):
                # Who comes later is not to wait in a collective.
                _store().set(mine.key(me), json.dumps({"failed": f"rank {me} waited for {names} in vain"}))
            raise DistributedError(told) from None
        except Exception as error:
            raise DistributedError(
                f"rank {me} lost the store of the process group while it waited for rank {rank}, which holds it or is "
                f"gone: {type(error).__name__}: {error}"
            ) from error
        found: dict[str, str] = json.loads(text)
        if "failed" in found:
            raise DistributedError(f"rank {rank} could not do its part of the module: {found['failed']}")
        return found


class _Round(NamedTuple):
    place: str
    number: int
    deadline: float

    def key(self, rank: int) -> str:
        return f"{_PREFIX}/{self.place}/{self.number}/{rank}"


@contextmanager
def together(model: Any, timeout: float) -> Iterator[Agreement]:
    """Compile a model; where the body fails, the ranks that hold the other shards of its parameters are told."""
    agreement = Agreement(timeout, groups_of_shards(model))
    with told_if_failed(agreement):
        yield agreement


@contextmanager
def told_if_failed(agreement: Agreement) -> Iterator[None]:
    """Tell the other ranks of an agreement where the body fails before it is settled."""
    try:
        yield
    except Exception as error:
        agreement.fail(error)
        raise


def groups_of_shards(model: Any) -> list[str]:
    """The names of the process groups over which the DTensors of a model are sharded."""
    return groups_of_meshes(sharded_tensors(model).values())


def groups_of_meshes(tensors: Iterable[Any]) -> list[str]:
    """The names of the process groups of the device meshes of DTensors.

    Raises:
        DistributedError: they are no more.
    """
    meshes = dict.fromkeys(tensor.device_mesh for tensor in tensors)
    try:
        found = [mesh.get_group(dim).group_name for mesh in meshes for dim in range(mesh.ndim)]
    except Exception as error:
        raise _gone("of the model's device mesh", error) from error
    return list(dict.fromkeys(found))


def ranks_of(group: str) -> tuple[int, ...]:
    """The ranks of a process group, in its order, by its name.

    Raises:
        DistributedError: there is none, or no more.
    """
    try:
        c10d: Any = distributed.distributed_c10d
        found = c10d._resolve_process_group(group)
        return tuple(distributed.get_process_group_ranks(found))
    except Exception as error:
        raise _gone(repr(group), error) from error


def _gone(group: str, error: Exception) -> DistributedError:
    return DistributedError(
        f"the process group {group} is not there: it was destroyed, or belongs to a device mesh that this process has "
        "not made. Compile while the process group of the model's device mesh is alive "
        f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    )


def _is_fake(group: tuple[int, ...]) -> bool:
    """Whether there are no other processes, as in a process group of PyTorch's for tests."""
    return str(distributed.get_backend()) == "fake"


def _place(group: tuple[int, ...]) -> str:
    return hashlib.blake2b(json.dumps(group).encode(), digest_size=8).hexdigest()


def _store() -> Any:
    return distributed.distributed_c10d._get_default_store()


def _is_there(key: str) -> bool:
    try:
        return bool(_store().check([key]))
    except Exception:
        return False


def _waited(key: str, deadline: float) -> str:
    store = _store()
    while True:
        left = deadline - time.monotonic()
        try:
            store.wait([key], timedelta(seconds=max(0.05, min(left, _SLICE))))
            break
        except Exception as error:
            lost = isinstance(error, getattr(distributed, "DistNetworkError", ()))
            if lost or not isinstance(error, RuntimeError):
                raise
            if time.monotonic() >= deadline:
                raise TimeoutError(key) from None
    return bytes(store.get(key)).decode()


def _forget(group: tuple[int, ...], number: int) -> None:
    """Take out what this rank wrote in a round that every rank has left."""
    with contextlib.suppress(Exception):
        _store().delete_key(_Round(_place(group), number, 0.0).key(distributed.get_rank()))


def _digest(facts: Sequence[Fact]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _packed(facts: Sequence[Fact]) -> str:
    return zlib.compress(json.dumps(facts).encode()).hex()


def _unpacked(text: str) -> list[Fact]:
    return [Fact(*fact) for fact in json.loads(zlib.decompress(bytes.fromhex(text)))]


def _difference(one: int, ours: str, other: int, theirs: str) -> str:
    mine, its = _unpacked(ours), _unpacked(theirs)
    more, fewer = (one, other) if len(mine) > len(its) else (other, one)
    where = f"rank {more} has more to compute than rank {fewer}"
    for a, b in zip(mine, its, strict=False):
        if a.name != b.name:
            where = f"rank {one} has {_short(a.name)} ({_short(a.value)}) where rank {other} has {_short(b.name)}"
            where += f" ({_short(b.value)})"
            break
        if a.value != b.value:
            where = f"{_short(a.name)}: {_short(a.value)} on rank {one}, {_short(b.value)} on rank {other}"
            break
    return (
        f"ranks {one} and {other} did not compile the same. {where}. Ranks that share a process group compile the same "
        "model with the same rules, settings, sizes and TensorRT (shards of unequal sizes can make other graphs: let "
        "the number of ranks divide what is sharded)"
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."


def _listed(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


__all__ = ["Agreement", "Fact", "groups_of_meshes", "groups_of_shards", "ranks_of", "together", "told_if_failed"]

"""Records of PyTorch's ops and dtypes on disk: made in a process that has imported it, for those that do not."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.dsl import cache, operators
from engine.dsl.operators import OWN, Argument, Operator
from engine.dsl.recorded.standing_in import Dtype, PyTorchNeeded, Records, standing_in
from engine.storage import installed_pytorch

# Part of the name of what is kept: change it with the form.
_FORMAT = 2
# Ops of these are there once something asks for them; which ones there are is not known before.
_PARTLY = OWN - {"aten", "prims"}

Made = TypeVar("Made")


def without_pytorch(check: Callable[[], Made], alone: Callable[[], bool]) -> Made:
    """The outcome of a check of rules, made without importing PyTorch where the cache has what it needs.

    Args:
        check: may be called a second time, with PyTorch.
        alone: whether nothing but PyTorch and this package can have registered an op, so that records may be kept.
    """
    if "torch" not in sys.modules and (kept := load()) is not None:
        try:
            with standing_in(kept):
                return check()
        except PyTorchNeeded:
            pass
    made = check()
    if alone():
        keep()
    return made


def load() -> Records | None:
    """The records of the installed PyTorch; None where there are none that can be trusted."""
    name = _name()
    text = None if name is None else cache.load_tables(name)
    if text is None:
        return None
    try:
        head, _, lines = text.partition("\n")
        dtypes, classes = json.loads(head)
        made = {name: Dtype(own) for name, own in dtypes.items()}
        members = {name: tuple(made[member] for member in names) for name, names in classes.items()}
        return Records(_Ops(lines), _PARTLY, made, members)
    except Exception:  # whatever somebody wrote there: it is made again
        return None


def keep() -> None:
    """Keep records of the imported PyTorch, where there are none, or none of an op that was asked for since."""
    from engine.dtypes import CLASSES, DTYPE_NAMES, DTYPES

    name = _name()
    if name is None:
        return
    kept = cache.load_tables(name)
    known = set() if kept is None else {line.partition("\t")[0] for line in kept.split("\n")[1:]}
    late = {op.name: op for op in operators.asked() if op.name.partition(".")[0] in _PARTLY}
    if kept is not None and late.keys() <= known:
        return
    head = [
        {name: str(dtype) for name, dtype in DTYPES.items()},
        {name: [DTYPE_NAMES[dtype] for dtype in members] for name, members in CLASSES.items()},
    ]
    found = {op.name: op for op in operators.registered()} | late
    lines = [f"{op}\t{_written(found[op])}" for op in sorted(found)]
    cache.store_tables(name, "\n".join([json.dumps(head), *lines]))


def _name() -> str | None:
    """The name of the records of the installed PyTorch: everything that they depend on; None where that is unknown."""
    build = installed_pytorch.build()
    if build is None:
        return None
    own = [Path(operators.__file__), Path(__file__), Path(__file__).parents[2] / "dtypes.py"]
    code = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in own]
    conditions = json.dumps([_FORMAT, sys.version, build, code])
    return f"pytorch-{hashlib.blake2b(conditions.encode(), digest_size=20).hexdigest()}"


class _Ops(Mapping[str, "Operator | None"]):
    """Ops by name, read when they are first asked for; None for those that could not be written down."""

    def __init__(self, text: str) -> None:
        self._texts = dict(line.split("\t", 1) for line in text.split("\n"))
        self._found: dict[str, Operator | None] = {}

    def __getitem__(self, name: str) -> Operator | None:
        if name not in self._found:
            self._found[name] = _read(name, self._texts[name])
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _written(op: Operator) -> str:
    arguments = []
    for argument in op.arguments:
        default = [] if argument.default is ... else [argument.default]
        if not all(_plain(value) for value in default):
            return "null"
        arguments.append(
            [argument.name, argument.kind, argument.optional, argument.keyword_only, default, argument.is_dim]
        )
    return json.dumps([arguments, op.returns, op.schema], separators=(",", ":"))


def _plain(value: Any) -> bool:
    """Whether JSON gives a default back as it is, but for tuples."""
    if type(value) is tuple:
        return all(type(item) in (bool, int, float, str) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def _read(name: str, text: str) -> Operator | None:
    content = json.loads(text)
    if content is None:
        return None
    arguments = []
    for own, kind, optional, keyword_only, default, is_dim in content[0]:
        value = ... if not default else tuple(default[0]) if isinstance(default[0], list) else default[0]
        arguments.append(Argument(own, kind, optional, keyword_only, value, is_dim))
    positions = {argument.name: index for index, argument in enumerate(arguments)}
    return Operator(name, tuple(arguments), tuple(content[1]), content[2], positions)


__all__ = ["keep", "load", "without_pytorch"]

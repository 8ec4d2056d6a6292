"""Search: files that somebody changed on purpose, with right checksums, and what loading them does.

A case takes a good ``.pt2`` file, a plan with its sidecar, or an entry of a cache, and changes a few places of it as
somebody would who knows the format.  It must end in a result, or in an error of this package that names the file;
and besides that nothing may happen: no file is written, no module imported, no container registered, the process goes
on, and it takes neither ten seconds nor a gigabyte.  What is loaded holds nothing but listed ops, tensors and engines.
"""

from __future__ import annotations

import functools
import hashlib
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

import engine
from engine.compiled.module import CompiledModule
from engine.errors import EngineError
from engine.files import graphs
from engine.runtime import TorchTensorRTModule
from engine.weights import known_ops
from tests.fuzz import files_cases

NAME = "files"
CASES = 2000
FIXED = 120

_SECONDS, _KIBIBYTES = 10.0, 1 << 20


def run(count: int, seed: int) -> list[str]:
    """One line for each case that did more, or failed otherwise, than it may."""
    faults = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            place = Path(folder) / str(number)
            place.mkdir()
            case = files_cases.make(random.Random(f"{seed} {number}"), place, _good())
            faults += [f"case {seed}:{number}, {case.what}: {fault}" for fault in _judge(case, place)]
    return faults


@functools.cache
def _good() -> files_cases.Good:
    folder = Path(tempfile.mkdtemp())
    good = files_cases.good_files(folder)
    # Once as a case does it, so that what PyTorch imports for a first call is there before.
    for path, (args, kwargs) in zip((folder / "mixed.pt2", folder / "small.pt2"), good.inputs, strict=False):
        engine.load(path, runtime="interpreter")(*args, **kwargs)
        engine.files.inspect(path)
    return good


def _judge(case: files_cases.Case, folder: Path) -> list[str]:
    before = _state(folder)
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    faults = _outcome(case)
    seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    for what, was, now in zip(("files", "modules", "containers", "op namespaces"), before, _state(folder), strict=True):
        if was != now:
            faults.append(f"{what} changed: {sorted(was ^ now)[:5]}")
    if seconds > _SECONDS:
        faults.append(f"took {seconds:.0f} s")
    if used > _KIBIBYTES:
        faults.append(f"took {used >> 10} MiB")
    return faults


def _state(folder: Path) -> tuple[set[str], set[str], set[str], set[str]]:
    files = {f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in folder.rglob("*") if path.is_file()}
    files |= {f"{path} {path.lstat().st_mtime_ns}" for path in Path.cwd().iterdir()}
    containers = {f"{cls.__module__}.{cls.__qualname__}" for cls in pytree.SUPPORTED_NODES}
    return files, set(sys.modules), containers, set(vars(torch.ops))


def _outcome(case: files_cases.Case) -> list[str]:
    try:
        result = case.read()
        if case.inputs is not None and isinstance(result, CompiledModule):
            _call(result, case)
    except EngineError as error:
        return [] if str(case.path) in str(error) else [f"the error does not name the file: {error}"]
    except BaseException as error:
        return [f"{type(error).__name__}: {str(error)[:300]}"]
    graph = getattr(result, "graph_module", None)
    return [] if graph is None else _strangers(graph)


def _call(module: CompiledModule, case: files_cases.Case) -> None:
    """Call what was loaded: it may fail, or take for ever, and may do nothing else."""
    args, kwargs = case.inputs
    previous = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        module(*args, **kwargs)
    except Exception:  # of PyTorch, say: what a graph computes is up to the file
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _stop(*_: Any) -> None:
    raise TimeoutError


def _strangers(module: fx.GraphModule) -> list[str]:
    """What a loaded graph holds that no file may bring."""
    found = []
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target not in graphs._NAMES and not known_ops.is_listed(node.target):
            found.append(f"the graph calls {node.target}")
        if node.op in ("get_attr", "call_module"):
            held = getattr(module, str(node.target))
            if isinstance(held, fx.GraphModule):
                found += _strangers(held)
            elif not isinstance(held, torch.Tensor | TorchTensorRTModule):
                found.append(f"the graph holds a {type(held).__name__} as {node.target}")
    return found

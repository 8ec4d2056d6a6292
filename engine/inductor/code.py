"""The code that Inductor makes of a segment: an AOTInductor package, or functions of this process."""

from __future__ import annotations

import copy
import io
import logging
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

from engine.capture.tracing.tracing_lock import tracing_lock
from engine.errors import EngineError
from engine.inductor.sizes import FakeInputs, Sizes
from engine.process.pytorch_modes import apart

_LOG = logging.getLogger("engine.inductor")

# Random numbers are those that PyTorch draws.
_OPTIONS = {"fallback_random": True}
# Kind of device -> why packages cannot be made on this machine (a compiler or headers are missing).
_NO_PACKAGES: dict[str, str] = {}


class NotCompiled(EngineError):
    """Inductor does not take a segment."""


@dataclass(frozen=True)
class Code:
    """Compiled code, and what must hold of the sizes of a call to be run by it.

    Attributes:
        run: takes the inputs and returns the outputs, flat.
        how: ``"aot_inductor"`` for a package, ``"inductor"`` for code of this process.
        guards: relations over the symbols of the sizes, which Inductor took for granted.
        package: the bytes of the package; None for code of this process.
        made_for: the PyTorch and the machine that the package runs on.
        why: why it is not a package.
    """

    run: Callable[[list[Any]], Sequence[Any]]
    how: str
    guards: tuple[sympy.Basic, ...] = ()
    package: bytes | None = None
    made_for: dict[str, str] = field(default_factory=dict)
    why: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Code:
        return self


def compiled(graph: fx.GraphModule, sizes: Sizes) -> Code:
    """Compile a graph of ops that takes flat inputs and returns a tuple of tensors.

    A package is made where that works, and runs at once; else code that belongs to this process.

    Raises:
        NotCompiled: Inductor takes it neither way.
    """
    kind = sizes.kind
    if kind == "cuda" and not torch.cuda.is_available():
        raise NotCompiled("there is no GPU to compile for")
    why = _NO_PACKAGES.get(kind, "")
    if not all(hasattr(item, "shape") for item in sizes.inputs):
        why = "AOTInductor takes no sizes as inputs"
    if not why:
        try:
            return _packaged(graph, sizes, kind)
        except Exception as error:
            why = _said(error)
            if _is_about_machine(error):
                _NO_PACKAGES[kind] = why
            _LOG.info("no AOTInductor package: %s", why)
    try:
        return _in_process(graph, sizes, why)
    except Exception as error:
        raise NotCompiled(_said(error)) from error


def _packaged(graph: fx.GraphModule, sizes: Sizes, kind: str) -> Code:
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    fakes = sizes.fake()
    with _quiet():
        files = aot_compile(
            _prepared(graph, fakes), tuple(fakes.values), options={**_OPTIONS, "aot_inductor.package": True}
        )
        buffer = io.BytesIO()
        package_aoti(buffer, files)  # type: ignore[arg-type]
    package = buffer.getvalue()
    return Code(loaded(package, kind), "aot_inductor", _guards(fakes), package, made_for(kind))


def loaded(package: bytes, kind: str) -> Callable[[list[Any]], Sequence[Any]]:
    """The function of a package, which is machine code: it runs with all rights of this process.

    Args:
        kind: of the device that it runs on, ``"cpu"`` or ``"cuda"``.
    """
    from torch._inductor.package.package import load_package

    if kind == "cpu":
        run = load_package(io.BytesIO(package), "model").loader.run
        return lambda inputs: run(inputs)  # type: ignore[no-any-return]
    # What PyTorch's own runner does to let several threads in asks the GPU, which no CUDA graph can record.
    run = load_package(io.BytesIO(package), "model", run_single_threaded=True).loader.run
    lock = threading.Lock()

    def one_by_one(inputs: list[Any]) -> Sequence[Any]:
        with lock:
            return run(inputs)  # type: ignore[no-any-return]

    return one_by_one


def made_for(kind: str) -> dict[str, str]:
    """What a package that is made here needs where it runs: code is compiled for the machine's instructions."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    found = {
        "device": kind,
        "torch": torch.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "instructions": str(pick_vec_isa()),
    }
    if kind == "cuda":
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return found


def _in_process(graph: fx.GraphModule, sizes: Sizes, why: str) -> Code:
    from torch._guards import TracingContext, tracing
    from torch._inductor import standalone_compile

    fakes = sizes.fake()
    with _quiet(), tracing(TracingContext(fakes.mode)):
        artifact: Any = standalone_compile(
            _prepared(graph, fakes),
            fakes.values,
            dynamic_shapes="from_tracing_context",
            options={"config_patches": dict(_OPTIONS)},
        )
    return Code(lambda inputs: artifact(*inputs), "inductor", _guards(fakes), why=why)


def _prepared(graph: fx.GraphModule, fakes: FakeInputs) -> fx.GraphModule:
    """A copy, which Inductor may change, whose inputs have the fake values."""
    made = copy.deepcopy(graph)
    placeholders = [node for node in made.graph.nodes if node.op == "placeholder"]
    for node in made.graph.nodes:
        node.meta = {}
    for node, value in zip(placeholders, fakes.values, strict=True):
        node.meta["val"] = value
    return made


def _guards(fakes: FakeInputs) -> tuple[sympy.Basic, ...]:
    """What was taken for granted of the sizes while they were compiled for, over the symbols of the model."""
    back = {own: symbol for symbol, own in fakes.symbols.items()}
    found = dict.fromkeys(guard.expr.xreplace(back) for guard in fakes.env.guards)
    return tuple(guard for guard in found if guard is not sympy.true)


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch traces one graph at a time; what it says of its own code is no concern of the user."""
    with tracing_lock(), apart(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_about_machine(error: BaseException) -> bool:
    """Whether a package failed for want of a compiler or its headers, as every other one would."""
    names = {type(error).__name__, type(error.__cause__).__name__}
    return not names.isdisjoint({"CppCompileError", "InvalidCxxCompiler", "CalledProcessError", "FileNotFoundError"})


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:300] or 'it gave no reason'}"


__all__ = ["Code", "NotCompiled", "compiled", "loaded", "made_for"]

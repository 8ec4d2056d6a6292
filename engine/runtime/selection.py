"""Which of the ways to run an engine a module takes, and why."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import torch

from engine.errors import RuntimeUnavailable, SettingsError, TensorRTNotFound
from engine.tensorrt import load

RUNTIMES = ("auto", "cpp", "python", "interpreter")


@dataclass(frozen=True)
class Selection:
    """A way to run engines.

    Attributes:
        runtime: ``"cpp"``, ``"python"``, ``"interpreter"``, or ``"unavailable"``.
        reason: why this one; of ``"unavailable"``, what is missing and what to do.
        usable: whether it can run here.
    """

    runtime: str
    reason: str
    usable: bool = True


def select_runtime(wanted: str, *, has_program: bool) -> Selection:
    """Choose how to run an engine on this machine.

    Args:
        wanted: one of ``RUNTIMES``.
        has_program: whether the engine's network is there in a form that the interpreter runs.

    Returns:
        A selection.  A GPU that is missing makes it unusable and is no error yet: engines are also
        built on one machine to run on another.

    Raises:
        RuntimeUnavailable: ``wanted`` cannot run with what is installed, with or without a GPU.
        SettingsError: ``wanted`` is not one of ``RUNTIMES``.
    """
    if wanted not in RUNTIMES:
        raise SettingsError(f"runtime={wanted!r} is not one of {', '.join(RUNTIMES)}")
    if wanted == "interpreter":
        if not has_program:
            raise RuntimeUnavailable(
                'runtime="interpreter" runs a network, and this module was made from a serialized engine alone, '
                "which cannot be read back into one: compile the model with "
                'engine.compile(..., runtime="interpreter"), or pass program='
            )
        return Selection("interpreter", 'runtime="interpreter" was asked for')
    missing = _missing_for_gpu()
    problem = _problem_of_cpp() if wanted == "cpp" or (wanted == "auto" and missing is None) else ""
    if wanted == "cpp" and problem:
        raise RuntimeUnavailable(f'runtime="cpp" cannot be used: {problem}')
    if wanted in ("cpp", "python"):
        asked = f'runtime="{wanted}" was asked for'
        if missing is None:
            return Selection(wanted, asked)
        return Selection(wanted, f"{asked} and cannot run here: {missing}{_REMEDY}", usable=False)
    if missing is None:
        if not problem:
            return Selection("cpp", "a CUDA device, TensorRT and the C++ library are there")
        return Selection("python", f"a CUDA device and TensorRT are there; not C++, because {problem}")
    if has_program:
        return Selection("interpreter", missing)
    return Selection("unavailable", missing + _REMEDY, usable=False)


_REMEDY = '; pass runtime="interpreter" to engine.compile to run on the CPU'


def _missing_for_gpu() -> str | None:
    try:
        trt = load()
    except TensorRTNotFound as error:
        return str(error)
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        why = f"this PyTorch ({torch.__version__}) is built without CUDA"
    else:
        why = "PyTorch finds no CUDA device"
    return f"{trt.__name__} {trt.__version__} is installed but no GPU can be used: {why}"


@functools.cache
def _problem_of_cpp() -> str:
    # Imported here: the C++ path imports most of this package.
    from engine.runtime.engines.cpp_engine import cpp_problem, library_is_built

    problem = cpp_problem()
    if problem and library_is_built():
        # Built, and yet of no use, as beside a newer PyTorch: worth one warning. Not being built is a choice.
        warnings.warn(f"engines run through Python: {problem}", stacklevel=4)
    return problem

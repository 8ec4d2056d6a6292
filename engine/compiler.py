"""Compiling a model, and the report of it without building anything.

Only what is needed to check the arguments is imported with this module: the pipeline, and what PyTorch loads to export
a model, are loaded in the first call, whose report says how long that took.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack

from torch import nn

from engine import tensorrt
from engine.errors import SettingsError
from engine.observers import CompileEvent, observed
from engine.process.pytorch_modes import apart
from engine.report import Report, model_name
from engine.settings import CompilationSettings, Settings

if TYPE_CHECKING:
    from engine.compiled.module import CompiledModule, DeferredModule
    from engine.pipeline.compilation import Choose

RUNTIMES = ("auto", "python", "cpp", "interpreter")
_PIPELINE = "engine.pipeline.compilation"


def compile(
    model: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    rules: Any = (),
    runtime: str = "auto",
    **settings: Unpack[Settings],
) -> CompiledModule | DeferredModule:
    """Compile a model to TensorRT.

    Args:
        model: an ``nn.Module``, an ``ExportedProgram``, or a ``GraphModule`` of ATen ops.  It is not changed.
        args, kwargs: example inputs; a tensor, or an :class:`engine.Input` with a range of shapes.  Without them
            shapes are taken from the first call (an ``ExportedProgram`` and a graph of ATen ops know their own).
        dynamic_shapes: as ``torch.export.export`` takes them.
        rules: a path of a ``.rules`` file or of a directory, several in a list, or one :class:`engine.RuleSet`.
        runtime: ``"python"`` runs engines on a GPU, ``"interpreter"`` runs their networks on the CPU, ``"auto"``
            takes the first that can run here.
        settings: fields of :class:`engine.CompilationSettings`.  With ``tune=True`` several forms of the model are
            built and measured, and the fastest is returned.

    Returns:
        A module that takes and returns what the model does, with ``.report`` and ``.graph``.

    Raises:
        CaptureError: ``torch.export`` could not take the model.
        FileError: the file of decisions that ``tune`` names is not there, or damaged.
        InputError: an input has the wrong count, dtype, device or shape.
        RuleError: a rules file is wrong.
        CoverageError: ``require_full_compilation`` was asked for and a node has no rule.
        BuildError: TensorRT could not build an engine.
        SettingsError: a setting has a value that cannot be honoured.
        TensorRTNotFound: no usable TensorRT is installed.
        DistributedError: another rank of ``torch.distributed`` that runs the model together with this one compiled
            something else, failed, or was not done within ``distributed_timeout`` seconds.
    """
    if runtime not in RUNTIMES:
        raise SettingsError(f"runtime={runtime!r} is not one of {', '.join(RUNTIMES)}")
    started = perf_counter()
    options = CompilationSettings.from_kwargs(**settings)
    tensorrt.load()  # before minutes of work, not after
    if args is None and kwargs is None and _needs_inputs(model):
        from engine.compiled.module import DeferredModule

        return DeferredModule(model, compile, rules=rules, runtime=runtime, dynamic_shapes=dynamic_shapes, **settings)
    with observed("compile", CompileEvent, model_name(model)) as event:
        report = _begun(model)
        from engine.distributed.agreement import together
        from engine.pipeline.compilation import Compilation
        from engine.runtime.options import RunOptions

        if runtime != "interpreter":
            RunOptions.of(options).check()
        if options.tune is True:
            from engine.tuning.tuner import tune

            tuned = tune(model, args, kwargs, dynamic_shapes, rules, runtime, options, report)
            if event is not None:
                event.report = tuned.compilation.report
            tuned.compilation.print_rule_times()
            tuned.compilation.report.timings.fill(perf_counter() - started)
            return tuned.module
        choose = _replayed(options, runtime)
        with together(model, options.distributed_timeout) as agreement:
            compilation = Compilation.start(
                model, args, kwargs, dynamic_shapes, rules, options, values=True, report=report, choose=choose
            )
            compilation.join(agreement)
            if event is not None:
                event.report = compilation.report
            with apart():
                compilation.place()
                compiled = compilation.build(runtime)
            compilation.settle(agreement)
        compilation.print_rule_times()
        compilation.report.timings.fill(perf_counter() - started)
        return compiled


def coverage(
    model: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    rules: Any = (),
    networks: bool = True,
    **settings: Unpack[Settings],
) -> Report:
    """The report of :func:`compile` without building anything: what would run where, and why.

    Takes the same arguments as :func:`compile`.  What only TensorRT's builder can refuse is not in it.  A host function
    of a rule in ``rules`` that raises, which a compile notes and goes on without the rule, is an error here.

    Args:
        networks: write the TensorRT networks, so that what TensorRT refuses then is known; without, or where TensorRT
            or the values of the model are missing, the report only says what rules would take.
    """
    started = perf_counter()
    options = CompilationSettings.from_kwargs(**settings)
    with observed("compile", CompileEvent, model_name(model)) as event:
        report = _begun(model)
        from engine.pipeline.compilation import Compilation

        choose = _replayed(options, "auto")
        compilation = Compilation.start(
            model, args, kwargs, dynamic_shapes, rules, options, strict_hosts=True, report=report, choose=choose
        )
        if event is not None:
            event.report = compilation.report
        with apart():
            compilation.place()
            compilation.write_networks() if networks else compilation.leave_networks("networks=False")
        if options.tune is True:
            report.notes += ("nothing was measured, so nothing is tuned: engine.compile measures",)
        compilation.print_rule_times()
        compilation.report.timings.fill(perf_counter() - started)
        return compilation.report


def _begun(model: Any) -> Report:
    """A report, in which what the first call of a process loads is timed."""
    report = Report(model=model_name(model))
    if _PIPELINE not in sys.modules:
        # What modules make when they are loaded follows no mode of the caller.
        with apart():
            for phase, module in (("export", "torch.export._trace"), ("start", _PIPELINE)):
                with report.timings.phase(phase):
                    importlib.import_module(module)
    return report


def _replayed(settings: CompilationSettings, runtime: str) -> Choose | None:
    """What finds the choices in the file that the setting ``tune`` names; None where it names none."""
    if not isinstance(settings.tune, str):
        return None
    from engine.tuning.replay import replayed_by

    return replayed_by(settings, runtime)


def _needs_inputs(model: Any) -> bool:
    """Whether a model says nothing of its inputs: programs and graphs with fake values know theirs."""
    if not isinstance(model, nn.Module):
        return False
    from engine.capture.tracing.graph_modules import knows_its_inputs

    return not knows_its_inputs(model)


__all__ = ["RUNTIMES", "compile", "coverage"]

"""What tests of rules and models ask: texts to compare with snapshots, and coverage to insist on.

The texts are plain strings without times, folders, line numbers or numbers of symbols, the same from run to run.  They
compare with the fixture of syrupy (``== snapshot``), with ``inline_snapshot.snapshot(...)``, or with a string.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Unpack

from torch import nn
from torch.export import ExportedProgram

from engine.compiler import coverage
from engine.errors import SettingsError
from engine.pipeline.compilation import Compilation
from engine.report import Report
from engine.settings import CompilationSettings, Settings
from engine.testing.graphs import fallback_lines, graph_text, partition_text
from engine.testing.networks import networks_text


class Function(nn.Module):
    """A function of tensors as a module, whose inputs have the names of the function's parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        try:
            inspect.signature(function)
        except (TypeError, ValueError):  # built into PyTorch, as `torch.relu`
            self.forward = lambda *args, **kwargs: function(*args, **kwargs)
        else:
            self.forward = _named_forward(function)


def _named_forward(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function called ``forward``: torch.export keeps the lines of no others, and reports name them."""
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace(co_name="forward")
    named = FunctionType(code, function.__globals__, "forward", function.__defaults__, function.__closure__)
    named.__kwdefaults__ = function.__kwdefaults__
    return named


def as_module(function: Callable[..., Any]) -> nn.Module:
    """A function of tensors as a module, whose inputs have the names of the function's parameters."""
    return Function(function).eval()


def rewrites(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Any = (),
    dynamic_shapes: Any = None,
    **settings: Unpack[Settings],
) -> str:
    """What ``simplify`` and ``lower`` rules make of a model: a line for each node, with the rules that made it.

    Args:
        model: what :func:`engine.compile` takes, or a function of tensors.
        args, kwargs, rules, dynamic_shapes, settings: as :func:`engine.compile` takes them.

    Raises:
        CaptureError, InputError, RuleError, SettingsError: as in :func:`engine.compile`.
    """
    return graph_text(start(model, args, kwargs, rules=rules, dynamic_shapes=dynamic_shapes, **settings).mirror)


def converts(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Any = (),
    dynamic_shapes: Any = None,
    **settings: Unpack[Settings],
) -> str:
    """The TensorRT networks that a model becomes: every layer with its rule, node, dtypes, shapes and attributes.

    What stays in PyTorch follows, with the reason.  Nothing is built.  ``min_block_size`` is 1 here, so that the layers
    of one op are shown.

    Args:
        model, args, kwargs, rules, dynamic_shapes, settings: as for :func:`rewrites`.

    Raises:
        ConversionError: TensorRT refuses a layer; other errors as in :func:`engine.compile`.
    """
    settings.setdefault("min_block_size", 1)
    compilation = start(model, args, kwargs, rules=rules, dynamic_shapes=dynamic_shapes, **settings)
    return "\n".join(filter(None, [networks_text(compilation), *fallback_lines(compilation.report)]))


def partition(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Any = (),
    dynamic_shapes: Any = None,
    **settings: Unpack[Settings],
) -> str:
    """What of a model is in which engine, by which rule, and why the rest is in PyTorch; nothing is built.

    Args:
        model, args, kwargs, rules, dynamic_shapes, settings: as for :func:`rewrites`.

    Raises:
        CaptureError, InputError, RuleError, SettingsError: as in :func:`engine.compile`.
    """
    model = _model(model)
    return partition_text(coverage(model, args, kwargs, rules=rules, dynamic_shapes=dynamic_shapes, **settings))


def assert_covered(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    at_least: float = 1.0,
    rules: Any = (),
    dynamic_shapes: Any = None,
    **settings: Unpack[Settings],
) -> Report:
    """Insist that a share of a model's nodes is in engines; the report for further questions.

    Args:
        at_least: nodes in engines / nodes that compute, 0 to 1.
        model, args, kwargs, rules, dynamic_shapes, settings: as for :func:`rewrites`.

    Raises:
        AssertionError: less is; it names every node in PyTorch, with the reason.
        CaptureError, InputError, RuleError, SettingsError: as in :func:`engine.compile`.
    """
    __tracebackhide__ = True
    if not isinstance(at_least, int | float) or not 0 <= at_least <= 1:
        raise SettingsError(f"at_least={at_least!r} is a share from 0 to 1: 95% is at_least=0.95")
    report = coverage(_model(model), args, kwargs, rules=rules, dynamic_shapes=dynamic_shapes, **settings)
    if report.coverage < at_least:
        inside = round(report.coverage * report.nodes)
        found = f"{inside} of {report.nodes} nodes of {report.model} are in engines"
        missing = f"{found} ({report.coverage:.1%}), at least {at_least:.1%} are asked for"
        raise AssertionError("\n".join([missing, *fallback_lines(report)]))
    return report


def start(
    model: Any,
    args: Sequence[Any] | None = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Any = (),
    dynamic_shapes: Any = None,
    **settings: Unpack[Settings],
) -> Compilation:
    """A compilation up to its partition, with everything inside it in reach."""
    options = CompilationSettings.from_kwargs(**settings)
    compilation = Compilation.start(_model(model), args, kwargs, dynamic_shapes, rules, options)
    compilation.place()
    return compilation


def _model(model: Any) -> Any:
    if isinstance(model, nn.Module | ExportedProgram | type) or not callable(model):
        return model
    return as_module(model)


__all__ = ["as_module", "assert_covered", "converts", "partition", "rewrites", "start"]

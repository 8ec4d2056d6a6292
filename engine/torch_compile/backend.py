"""The backend of ``torch.compile(model, backend="engine")``.

Dynamo hands over one graph at a time.  What cannot be compiled runs in PyTorch, with a warning that says what
failed; mistakes in the options are errors.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends import registry
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from engine import tensorrt
from engine.capture.diagnosis import essence, user_line
from engine.compiler import RUNTIMES
from engine.distributed.agreement import Agreement, groups_of_meshes, told_if_failed
from engine.distributed.collectives import groups_of
from engine.distributed.shards import is_sharded
from engine.dsl.ruleset import RuleSet
from engine.errors import EngineError, RuleError, RuntimeUnavailable, SettingsError, TensorRTNotFound, user_frame
from engine.lowering.rank_decisions import in_pytorch
from engine.observers import raised_by_observer
from engine.pipeline.compilation import Choose, load_rules
from engine.settings import CompilationSettings
from engine.torch_compile.compiled_graph import CompiledGraph
from engine.torch_compile.functional_graph import functional_graph, source_of
from engine.torch_compile.growing_sizes import trace_with_symbols
from engine.tuning.replay import replayed_by

_LOG = logging.getLogger("engine.torch_compile.backend")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_GRADIENT = (
    'torch.compile(backend="engine") runs the forward pass only; there is no gradient through {name}. Call the model '
    "under torch.no_grad(), or train the model that was not compiled"
)
_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter, torch.nn.Buffer})
# Not failures of one graph: no graph can be compiled until they are corrected.
_FATAL = (SettingsError, RuleError, RuntimeUnavailable, TensorRTNotFound)


class FallbackWarning(UserWarning):
    """A graph of ``torch.compile`` runs in PyTorch, or without its gradient."""


@dataclass(frozen=True)
class Options:
    """The ``options`` of ``torch.compile``: fields of ``CompilationSettings`` and the arguments of ``engine.compile``.

    Attributes:
        rules, runtime: as :func:`engine.compile` takes them.
        pass_through_build_failures: raise where a graph cannot be compiled, instead of running it in PyTorch.
        choose: finds what was measured to be the fastest way, where `tune` names a file of decisions.
    """

    settings: CompilationSettings
    rules: RuleSet
    runtime: str = "auto"
    pass_through_build_failures: bool = False
    choose: Choose | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Options:
        """Check options.

        Raises:
            SettingsError: an unknown option, or a value that cannot be.
            FileError: there is no such file of decisions, or it is damaged.
            RuleError: the rules are wrong.
        """
        given = dict(options or {})
        rules, runtime = given.pop("rules", ()), given.pop("runtime", "auto")
        raising = given.pop("pass_through_build_failures", False)
        if runtime not in RUNTIMES:
            raise SettingsError(f"runtime={runtime!r} is not one of {', '.join(RUNTIMES)}")
        if not isinstance(raising, bool):
            raise SettingsError(f"pass_through_build_failures is True or False, not {raising!r}")
        settings = CompilationSettings.from_kwargs(**given)
        if settings.tune is True:
            raise SettingsError(
                'torch.compile(backend="engine") measures nothing: tune the model with engine.compile(..., tune=True) '
                'or `engine tune`, and pass the file of its decisions as options={"tune": "decisions.json"}'
            )
        choose = replayed_by(settings, runtime) if settings.tune else None
        return cls(settings, load_rules(rules), runtime, raising or settings.require_full_compilation, choose)


def engine(module: fx.GraphModule, inputs: Sequence[Any], **given: Any) -> Callable[..., Any]:
    """Compile one graph of Dynamo; ``torch.compile`` calls it.

    Args:
        module, inputs: the graph and its example inputs.
        given: ``options``, see :class:`Options`.

    Returns:
        A function of the graph's inputs.

    Raises:
        SettingsError, RuleError, RuntimeUnavailable, TensorRTNotFound: nothing can be compiled with these options.
        EngineError: the graph cannot be compiled, and ``pass_through_build_failures`` or
            ``require_full_compilation`` is set.
    """
    unknown = sorted(given.keys() - {"options"})
    if unknown:
        raise SettingsError(
            f'torch.compile(backend="engine") does not take {", ".join(unknown)}: pass settings as options={{...}}'
        )
    options = Options.of(given.get("options"))
    tensorrt.load()
    name = _name(module)
    try:
        return _compiled(module, inputs, name, options)
    except _FATAL:
        raise
    except Exception as error:
        if options.pass_through_build_failures or raised_by_observer(error) or _is_dynamo(error):
            raise
        _fall_back(name, _told(error))
        _LOG.info("%s could not be compiled", name, exc_info=True)
        return module.forward


def _compiled(module: fx.GraphModule, inputs: Sequence[Any], name: str, options: Options) -> Callable[..., Any]:
    if not any(node.op.startswith("call_") for node in module.graph.nodes):
        return module.forward
    groups = groups_of_meshes(filter(is_sharded, inputs))
    agreement = Agreement(options.settings.distributed_timeout, groups)
    with told_if_failed(agreement):
        return _compiled_together(module, inputs, name, options, agreement)


def _compiled_together(
    module: fx.GraphModule, inputs: Sequence[Any], name: str, options: Options, agreement: Agreement
) -> Callable[..., Any]:
    unfit = _unfit(module, inputs, options)
    if unfit:
        if options.pass_through_build_failures:
            raise EngineError(f"{name}: {unfit}")
        agreement.settle(in_pytorch(name, unfit))
        _fall_back(name, unfit)
        return module.forward
    trace_with_symbols(module, {node: source_of(node) for node in _placeholders(module)})
    graph = functional_graph(module, inputs)
    agreement.join(groups_of([graph.module.graph]))
    wants_gradients = _wants_gradients(module)
    if any(wants_gradients) and graph.is_training:
        reason = "it is in training mode (random numbers or statistics of batches), and an engine only does inference"
        if options.pass_through_build_failures:
            raise EngineError(f"{name}: {reason}")
        agreement.settle(in_pytorch(name, reason))
        _fall_back(name, f"{reason}; call model.eval(), and the model under torch.no_grad()")
        return module.forward
    compiled = CompiledGraph(
        graph,
        name=name,
        settings=options.settings,
        rules=options.rules,
        runtime=options.runtime,
        fallback=_fall_back,
        agreement=agreement,
        choose=options.choose,
    )
    report = compiled.report
    engines = sum(segment.backend == "tensorrt" for segment in report.segments)
    _LOG.info("%s: %.0f%% of %d nodes in %d engines", name, 100 * report.coverage, report.nodes, engines)
    if not engines:
        if report.nodes >= options.settings.min_block_size:
            first = next((f for f in report.fallbacks if "min_block_size" not in f.reason), report.fallbacks[0])
            at = f", from {first.source}" if first.source else ""
            _fall_back(name, f"no segment of it became an engine; {first.node} ({first.op}{at}): {first.reason}")
        return module.forward
    graph.run = compiled
    if not any(wants_gradients):
        return graph.entry
    warnings.warn(_GRADIENT.format(name=name), FallbackWarning, stacklevel=user_frame())
    return _without_gradient(graph.entry, wants_gradients, name)


def _unfit(module: fx.GraphModule, inputs: Sequence[Any], options: Options) -> str:
    """Why a graph is left to PyTorch without a try; empty where it is not."""
    asking = [
        node.name
        for node, value in zip(_placeholders(module), inputs, strict=True)
        if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
        if value.requires_grad and value.is_leaf
    ]
    if asking and any(_wants_gradients(module)):
        return f"gradients are wanted for its input {asking[0]!r}, and an engine has none"
    for node, value in zip(_placeholders(module), inputs, strict=True):
        if isinstance(value, torch.Tensor) and type(value) not in _TENSORS and not is_traceable_wrapper_subclass(value):
            kind = type(value).__name__
            return f"its input {node.name!r} is a {kind}; plain tensors are compiled (x.as_subclass(torch.Tensor))"
    if options.runtime in ("auto", "python", "cpp") and torch.cuda.is_available():
        devices = {value.device.type for value in inputs if isinstance(value, torch.Tensor) and value.dim()}
        if devices == {"cpu"}:
            return 'its tensors are on the CPU: move the model and its inputs to "cuda" (or runtime="interpreter")'
    return ""


def _wants_gradients(module: fx.GraphModule) -> list[bool]:
    """Which outputs of a graph of Dynamo have a gradient in PyTorch."""
    output = module.graph.output_node()
    results = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    made = [isinstance(result, fx.Node) and result.op != "placeholder" for result in results]
    values = [result.meta.get("example_value") if new else None for result, new in zip(results, made, strict=True)]
    return [isinstance(value, torch.Tensor) and value.requires_grad for value in values]


def _without_gradient(entry: Callable[..., Any], wants: Sequence[bool], name: str) -> Callable[..., Any]:
    """The function, with outputs that say why there is no gradient when one is asked for."""
    message = _GRADIENT.format(name=name)
    positions = [index for index, wanted in enumerate(wants) if wanted]

    def run(*arguments: Any) -> Any:
        outputs = list(entry(*arguments))
        for index in positions:
            if not outputs[index].requires_grad:
                refusing = torch._C._functions.DelayedError(message, 1)  # type: ignore[attr-defined]
                outputs[index] = refusing(outputs[index].detach().requires_grad_())
        return tuple(outputs)

    return torch._dynamo.disable(run)


def _placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _name(module: fx.GraphModule) -> str:
    """A graph's name for messages, with the line of the model where it begins: ``graph 1/0 (forward, net.py:12)``."""
    context = torch._guards.CompileContext.try_get()
    number = f"graph {context.compile_id}" if context is not None and context.compile_id is not None else "graph"
    for node in module.graph.nodes:
        found = _FRAME.search(node.meta.get("stack_trace") or "")
        if found and node.op != "placeholder":
            return f"{number} ({found[3]}, {Path(found[1]).name}:{found[2]})"
    return number


def _told(error: Exception) -> str:
    """What failed, where: our own errors say it; others are shortened."""
    if isinstance(error, EngineError):
        return f"{type(error).__name__}: {error}"
    where = user_line(error)
    return f"{type(error).__name__}: {essence(str(error))}" + (f"\n  at {where}" if where else "")


def _fall_back(name: str, reason: str) -> None:
    warnings.warn(
        f'torch.compile(backend="engine"): {name} runs in PyTorch: {reason}', FallbackWarning, stacklevel=user_frame()
    )


def _is_dynamo(error: Exception) -> bool:
    """Whether Dynamo steers by an error (it starts again with another plan)."""
    return isinstance(error, torch._dynamo.exc.TorchDynamoException)


def register() -> None:
    """Let ``torch.compile`` find the backend by name where engine is imported and not installed.

    An installed engine is found by its entry point, without being imported.
    """
    entry_point = EntryPoint("engine", "engine.torch_compile.backend:engine", "torch_dynamo_backends")
    registry._BACKENDS.setdefault("engine", entry_point)


register()

__all__ = ["FallbackWarning", "Options", "engine", "register"]

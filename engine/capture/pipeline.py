"""Capture: from a model to a canonical ATen graph, through torch.export."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from engine.capture.captured import Captured
from engine.capture.examples import Examples, Wish, asks_for_sizes, prepare
from engine.capture.importer import Imported, import_graph_module, import_program
from engine.capture.inputs import Range
from engine.capture.keywords import named_keywords
from engine.capture.pytrees import plain, register_inputs
from engine.capture.signature import Argument
from engine.capture.sizes.asked_sizes import program_ranges
from engine.capture.sizes.branches import small_sizes
from engine.capture.sizes.guards import Found, Guard, Settled, Sizes, find_guards, replaced, settle, written_guards
from engine.capture.sizes.ranges import (
    asked_from_zero,
    find_profiles,
    find_ranges,
    find_symbols,
    narrow_ranges,
    refuse_what_holds_nowhere,
)
from engine.capture.sizes.small_size_check import Difference, difference
from engine.capture.sizes.waived import believe_only, real_guards
from engine.capture.substitution import substitute, substitutes
from engine.capture.tracing.graph_modules import knows_its_inputs, program_of
from engine.capture.tracing.torch_export import Program, Seen, export, functional
from engine.capture.tracing.torchscript import refuse_scripted
from engine.capture.values import check_values
from engine.distributed.shards import as_shards
from engine.errors import CaptureError
from engine.graph.symbolic.implied import implied_equalities
from engine.graph.symbolic.proofs import Proofs, prove_for_calls
from engine.process.collector import collector_held_back
from engine.process.pytorch_modes import apart
from engine.report import Timings
from engine.settings import CompilationSettings
from engine.sizes import normal

# Conditions on sizes that are spelled out in the report.
_MOST_NOTES = 4


def capture(
    model: nn.Module | ExportedProgram | fx.GraphModule,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    settings: CompilationSettings | None = None,
    timings: Timings | None = None,
    guarded: bool = False,
    values: bool = False,
    written: Sequence[str] = (),
    room: Mapping[sympy.Symbol, int] = MappingProxyType({}),
) -> Captured:
    """Capture a model as a canonical graph of ATen ops, composites whole.

    Args:
        model: a module (exported here, unchanged by it), an ``ExportedProgram`` (any decomposition), or a graph module
            of ATen ops with fake values, of any opset and with writes in place (taken for a program; exported anew
            where sizes are asked for, or nodes have no fake values).
        args, kwargs: example arguments; tensors may be given as ``Input``.  A program and a graph know their own; of a
            program, ``Input``s choose among the sizes that it has.
        dynamic_shapes: as for ``torch.export.export``; dims with neither bound get one from the example.
        settings: of the compilation; ``truncate_double`` and ``widen_int16`` are applied here.
        guarded: the model is a functional graph module, which is taken as it is, and the guards of its ``ShapeEnv`` are
            somebody else's, who holds calls against them all.
        timings: what torch.export takes is added as ``export``, runs of the model in PyTorch as ``trial``, the
            rest as ``import``.
        values: insist that parameters, buffers and inputs have values.
        written: placeholders of a graph module that is ``guarded``; its last outputs are what is to be written to
            these inputs, in this order.
        room: symbol of a graph module that is ``guarded`` -> the least largest size to prepare for, where it has none.

    Modes of PyTorch that are active (autocast, a default device) are part of what the model does, and of what is
    captured; they change nothing of what is done with that.

    Raises:
        CaptureError: torch.export cannot take the model, or the model keeps state, or has no values.
        InputError: the example arguments do not describe a call.
    """
    model = _materialisable(model, values)
    with as_shards(model):
        captured = _capture(model, args, kwargs, dynamic_shapes, timings or Timings(), guarded, written, room)
    if values:
        check_values(captured)
    dtypes = substitutes(settings) if settings is not None else {}
    if dtypes:
        with apart():
            substitute(captured.graph, captured.constants, captured.fake_mode, dtypes)
    return captured


def _materialisable(model: Any, values: bool) -> Any:
    """The model, or a copy where tracing would materialise its lazy modules.

    Raises ``CaptureError`` where values are wanted: the model has none yet, and its first call would draw others.
    """
    if not isinstance(model, nn.Module):
        return model
    name = next((name for name, tensor in _tensors(model) if is_lazy(tensor)), None)
    if name is None:
        return model
    if values:
        raise CaptureError(
            f"{name!r} of {type(model).__name__} is not initialised yet: call the model once, which gives its lazy "
            "modules their shapes and values, or load them; then compile it"
        )
    # PyTorch does not copy buffers that are not initialised; tensors that are need no copy.
    memo: dict[int, Any] = {}
    for _, tensor in _tensors(model):
        kind: Any = type(tensor)
        memo[id(tensor)] = kind(device=tensor.device, dtype=tensor.dtype) if is_lazy(tensor) else tensor
    return copy.deepcopy(model, memo)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _capture(
    model: Any,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    timings: Timings,
    guarded: bool,
    written: Sequence[str],
    room: Mapping[sympy.Symbol, int],
) -> Captured:
    if guarded:
        with timings.phase("import"), collector_held_back():
            return _captured_graph(model, tuple(written), room)
    if isinstance(model, ExportedProgram):
        examples = prepare(None, args, kwargs) if args is not None or kwargs else None
        return _captured_brought(model, _class_name(model), timings, examples)
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"cannot capture a {type(model).__name__}: pass an nn.Module, an ExportedProgram or an fx.GraphModule "
            "(a function can be wrapped in an nn.Module)"
        )
    if isinstance(model, torch.jit.ScriptModule):
        refuse_scripted(model)
    if knows_its_inputs(model) and not asks_for_sizes(args, kwargs, dynamic_shapes):
        return _captured_brought(program_of(model), _class_name(model), timings)
    with named_keywords(model, kwargs, dynamic_shapes) as shapes:
        with timings.phase("import"), collector_held_back(), apart():
            register_inputs((args, kwargs))
            examples = prepare(model, args, kwargs, shapes)
        with timings.phase("export"):
            program, seen = export(model, examples)
        with timings.phase("import"), collector_held_back():
            return _captured_program(program, examples, type(model).__name__, timings, seen, model)


# ------------------------------------------------------------------------------------ results


def _captured_brought(
    original: ExportedProgram, name: str, timings: Timings, examples: Examples | None = None
) -> Captured:
    """A program that is not made here."""
    seen = Seen(Proofs(program_ranges(original)))
    with timings.phase("export"):
        program = functional(original, seen)
    with timings.phase("import"), collector_held_back():
        return _captured_program(program, examples, name, timings, seen, original=original)


def _captured_program(
    program: Program,
    examples: Examples | None,
    name: str,
    timings: Timings,
    seen: Seen,
    model: nn.Module | None = None,
    original: ExportedProgram | None = None,
) -> Captured:
    with apart():
        imported = import_program(program)
    _equate_what_has_to_be(imported)
    notes = list(seen.notes)
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    parameters, defaults = _parameters(program, model)
    names = _leaf_names(in_spec, imported, parameters)
    arguments = _arguments(imported, names)
    _, shape_env = imported.environment()
    leaves, wishes = _leaves(examples, program, in_spec), examples.wishes if examples else {}
    symbols = find_symbols(arguments)
    found = find_guards(shape_env, [*seen.branches, *small_sizes(imported.graph)], symbols)
    if original is not None:
        # A file keeps guards as text, and the ShapeEnv that reading it makes knows nothing of them.
        found.guards.extend(written_guards(original, arguments, symbols, notes))
    but_for_empty = [replaced(relation, shape_env) for relation in seen.proofs.unless_empty]
    found.guards.extend(Guard(relation, unless_empty=True) for relation in but_for_empty)
    ranges = find_ranges(
        arguments, leaves, wishes, program.range_constraints, shape_env, found.guards, notes, found.waived
    )
    kept = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in program.state_dict.items()}
    captured = _of_imported(imported, in_spec, out_spec, arguments, ranges, name, parameters, defaults, kept)
    _settle_guards(captured, found, model, leaves, wishes, notes, timings)
    _believe_only_what_is_checked(captured, seen.proofs.proven)
    captured.profiles = find_profiles(arguments, leaves, wishes, captured.ranges)
    captured.notes = tuple(notes)
    return captured


def _of_imported(
    imported: Imported,
    in_spec: pytree.TreeSpec,
    out_spec: pytree.TreeSpec,
    arguments: tuple[Argument, ...],
    ranges: dict[sympy.Symbol, Range],
    name: str,
    parameters: tuple[str, ...],
    defaults: Mapping[str, Any],
    state_dict: dict[str, tuple[tuple[int, ...], torch.dtype]],
) -> Captured:
    """What was captured, but for its guards, profiles and notes."""
    mode, shape_env = imported.environment()
    return Captured(
        graph=imported.graph,
        constants=imported.constants,
        in_spec=in_spec,
        out_spec=out_spec,
        arguments=arguments,
        ranges=ranges,
        fake_mode=mode,
        shape_env=shape_env,
        model_class=name,
        parameters=parameters,
        defaults=defaults,
        tied=imported.tied,
        state_dict=state_dict,
        submodules=imported.submodules,
        states=tuple(imported.states),
        written=tuple(imported.written),
    )


def _equate_what_has_to_be(imported: Imported) -> None:
    """Note the equalities that composite operators need: the ``ShapeEnv`` writes sizes by them from then on.

    They are guards of it, which calls are held against.
    """
    _, shape_env = imported.environment()
    for relation, _ in implied_equalities(imported.graph, shape_env):
        relation = replaced(relation, shape_env)
        if relation.free_symbols:
            shape_env.evaluate_expr(relation, True)


def _settle_guards(
    captured: Captured,
    found: Found,
    model: nn.Module | None,
    leaves: list[Any] | None,
    wishes: Mapping[tuple[int, int], Wish],
    notes: list[str],
    timings: Timings,
) -> None:
    """Keep the guards that calls are to be held against, and narrow ranges to where the others hold.

    Raises ``CaptureError`` where the user gave a range in which they do not hold.
    """
    usual = {symbol: allowed.opt for symbol, allowed in captured.ranges.items()}
    tried: dict[tuple[tuple[sympy.Symbol, int], ...], Difference | None] = {}

    def trial(sizes: Sizes) -> Difference | None:
        assert model is not None
        assert leaves is not None
        key = tuple(sizes.items())
        if key not in tried:
            with timings.phase("trial"):
                tried[key] = difference(model, captured, leaves, sizes)
        found = tried[key]
        # Results that differ from the graph's at the example's own sizes too (a counter) cannot be compared.
        if found is None or found.refused or sizes == usual or trial(usual) is None:
            return found
        return None

    can_try = model is not None and leaves is not None
    real = real_guards(found.waived, found.guards, captured.ranges, trial) if can_try else []
    settled = settle([*found.guards, *real], captured.ranges, trial if can_try else None)
    if can_try:
        _try_empty(captured, settled, wishes, leaves, trial)
    narrow_ranges(captured.ranges, settled.narrowed, captured.arguments, leaves, wishes, notes)
    refuse_what_holds_nowhere(settled.missed, captured.ranges, captured.arguments, leaves, wishes)
    # What the model itself decides comes first, and says most.
    missed = sorted(settled.missed, key=lambda guard: not guard.asked)
    for guard in missed[:_MOST_NOTES]:
        at = f" ({guard.source})" if guard.source else ""
        notes.append(f"calls must have sizes with {guard.text(captured.arguments)}{at}; others are errors")
    if len(missed) > _MOST_NOTES:
        notes.append(f"{len(missed) - _MOST_NOTES} more conditions on the sizes of calls are checked")
    captured.guards = tuple(settled.guards)


def _try_empty(
    captured: Captured,
    settled: Settled,
    wishes: Mapping[tuple[int, int], Wish],
    leaves: list[Any] | None,
    trial: Callable[[Sizes], Difference | None],
) -> None:
    """Leave out sizes of 0 where the graph is not the model: to PyTorch the symbol of a size is a positive number.

    A named ``Dim`` begins at 0 without anybody asking for that; where the model takes no empty input it begins at 1.
    """
    asked = asked_from_zero(captured.arguments, leaves, wishes)
    for symbol, allowed in captured.ranges.items():
        if allowed.min > 0 or allowed.max < 1 or settled.narrowed.get(symbol, (0,))[0] > 0:
            continue
        found = trial({symbol: 0})
        if found is not None and not found.refused:
            guard = Guard(sympy.Gt(symbol, 0, evaluate=False), asked=True, found=found.text)
            settled.narrow(symbol, 1, allowed.max, guard)
        elif found is not None and symbol not in asked:
            captured.ranges[symbol] = allowed._replace(min=1, opt=max(allowed.opt, 1))


def _believe_only_what_is_checked(captured: Captured, proven: Iterable[sympy.Basic] = ()) -> None:
    kept = {guard.relation for guard in captured.guards}
    symbols = find_symbols(captured.arguments)
    captured.facts = believe_only(captured.shape_env, kept, symbols, captured.ranges, proven)
    spans = {symbol: (allowed.min, allowed.max) for symbol, allowed in captured.ranges.items()}
    prove_for_calls(captured.shape_env, spans)


def _captured_graph(module: fx.GraphModule, written: tuple[str, ...], room: Mapping[sympy.Symbol, int]) -> Captured:
    """A functional graph as it is, whose guards somebody else holds calls against."""
    with apart():
        imported = import_graph_module(module)
    # Of a graph that is compiled again Dynamo has read the guards already; what has to be equal was noted then.
    if not imported.environment()[1].frozen:
        _equate_what_has_to_be(imported)
    names = [entry.name for entry in imported.inputs]
    _, in_spec = pytree.tree_flatten((tuple(names), {}))
    result: Any = module.graph.output_node().args[0]
    result = result[: len(result) - len(written)] if written else result
    out_spec = pytree.tree_structure(pytree.tree_map_only(fx.Node, lambda _: 0, plain(result)))
    _, shape_env = imported.environment()
    arguments = _arguments(imported, names)
    notes: list[str] = []
    found = find_guards(shape_env, small_sizes(imported.graph), find_symbols(arguments))
    ranges = find_ranges(arguments, None, {}, shape_env.var_to_range, shape_env, found.guards, notes, room=room)
    kept = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in imported.constants.items()}
    imported.written = list(written)
    captured = _of_imported(imported, in_spec, out_spec, arguments, ranges, _class_name(module), tuple(names), {}, kept)
    _settle_guards(captured, found, None, None, {}, notes, Timings())
    captured.notes = tuple(notes)
    return captured


def _class_name(model: Any) -> str:
    module = getattr(model, "graph_module", model)
    return str(getattr(module, "_model_name", None) or type(model).__name__)


def _parameters(program: Program, model: nn.Module | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The positional parameters of ``forward``, those of ``*args`` left out, and the defaults of all parameters."""
    entry = program.module_call_graph[0].signature if program.module_call_graph else None
    names = tuple(getattr(entry, "forward_arg_names", None) or ())
    if model is None:
        return names, {}
    signature = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in signature if p.default is not p.empty}
    if isinstance(model, fx.GraphModule):
        return names, defaults
    return tuple(p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)), defaults


def _leaf_names(in_spec: pytree.TreeSpec, imported: Imported, parameters: tuple[str, ...]) -> list[str]:
    """The leaves of a call as the user writes them: ``x``, ``batch['image']``, ``states[0]``."""
    fallback = [entry.name for entry in imported.inputs]
    try:
        call = pytree.tree_unflatten(list(range(len(fallback))), in_spec)
        paths, _ = pytree.tree_flatten_with_path(call)
    except Exception:
        # A container that does not take placeholders for its tensors has no paths to show.
        return fallback
    names = list(fallback)
    for path, index in paths:
        if not isinstance(index, int) or not 0 <= index < len(names) or len(path) < 2:
            continue
        top = path[1]
        if isinstance(top, pytree.SequenceKey):
            name = parameters[top.idx] if top.idx < len(parameters) else None
        else:
            name = str(getattr(top, "key", "")) or None
        if len(path) == 2:
            names[index] = name or fallback[index]
        elif name:
            names[index] = name + pytree.keystr(path[2:])
    return names


def _arguments(imported: Imported, names: list[str]) -> tuple[Argument, ...]:
    arguments: list[Argument] = []
    for entry, name in zip(imported.inputs, names, strict=True):
        if isinstance(entry, ConstantArgument):
            arguments.append(Argument(name, value=entry.value))
            continue
        value = entry.meta["val"]
        if isinstance(value, torch.Tensor):
            shape = tuple(map(normal, value.shape))
            arguments.append(Argument(name, entry.name, shape, value.dtype, value.device.type))
        elif isinstance(value, torch.SymInt | int):
            arguments.append(Argument(name, entry.name, symbol=normal(value)))
        else:
            raise CaptureError(f"input {name!r} is a {type(value).__name__}, which cannot change from call to call")
    return tuple(arguments)


def _leaves(examples: Examples | None, program: Program, in_spec: pytree.TreeSpec) -> list[Any] | None:
    """The example leaves in the order of the graph's inputs, None where there are none."""
    if examples is not None:
        args, kwargs = examples.args, examples.kwargs
    elif program.example_inputs is not None:
        args, kwargs = program.example_inputs
    else:
        return None
    _, keyword = in_spec.children() if callable(getattr(in_spec, "children", None)) else in_spec.children_specs
    order = keyword.context or []
    leaves, spec = pytree.tree_flatten((tuple(args), {key: kwargs[key] for key in order if key in kwargs}))
    return leaves if spec.num_leaves == in_spec.num_leaves else None

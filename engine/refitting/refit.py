"""Refit: other weights for a compiled model, without compiling again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from engine.compiled.module import CompiledModule, DeferredModule
from engine.distributed.shards import local
from engine.errors import BuildError, RefitError
from engine.process.pytorch_modes import apart, put_back
from engine.refitting.weight_map import Spec, WeightPlan
from engine.weights.frozen_constants import digest
from engine.weights.recipe import Recipe
from engine.weights.recipe_encoding import decode, dtype_name

_IMMUTABLE = "was compiled with weights that never change: compile it with immutable_weights=False to refit it"
_MOST_NAMES = 20
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
# Largest difference from eager, in parts of the largest magnitude: other weights differ by more, roundings by less.
_TOLERANCES = {torch.float16: 5e-2, torch.bfloat16: 1e-1}
_TOLERANCE = 2e-2


@apart()
def refit(
    compiled: CompiledModule | DeferredModule,
    weights: Mapping[str, torch.Tensor] | nn.Module | ExportedProgram,
    *,
    strict: bool = True,
    in_place: bool = False,
    verify_output: bool = False,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> CompiledModule:
    """Give a compiled model other weights.

    What compiling derived from weights (a batch normalisation folded into a convolution, a transposed or cast
    weight) is computed again.  Nothing changes unless everything fits: every name, shape and dtype is checked
    first, and a refit that fails leaves ``compiled`` as it was.

    Args:
        compiled: made by ``engine.compile(..., immutable_weights=False)``.
        weights: a state dict, another instance of the model, or an exported program of it.
        strict: as for ``load_state_dict``: every parameter that the compiled model uses must be given, and no
            other.  Without it, what is not given keeps its value.
        in_place: change ``compiled`` instead of a copy of it.  Calls that run meanwhile may see old and new
            engines; stop them first.
        verify_output: run the model and the refitted one on ``args`` and ``kwargs``, and fail where they differ;
            ``weights`` must be a model or a program.

    Returns:
        A compiled module with the new weights: ``compiled`` itself with ``in_place``.

    Raises:
        RefitError: the weights do not fit, the compiled model cannot be refitted, or its outputs are not the
            model's.
    """
    if isinstance(compiled, DeferredModule):
        if compiled.compiled is None:
            raise RefitError("the model is compiled at its first call: call it once before refitting it")
        compiled = compiled.compiled
    if not isinstance(compiled, CompiledModule):
        raise RefitError(f"a {type(compiled).__name__} cannot be refitted: pass what engine.compile returned")
    if verify_output and not isinstance(weights, nn.Module | ExportedProgram):
        raise RefitError("verify_output runs the model: pass the model, or its exported program, as the weights")
    plan = compiled.weight_plan
    if plan is None:
        raise RefitError(f"the model {compiled.report.model} {_IMMUTABLE}")
    given, unexpected = _named(weights, plan, compiled.states)
    sources = _Sources(plan, given, unexpected, strict, compiled)
    fresh = _refitted(compiled, plan, sources)
    if verify_output:
        _verify(fresh, weights, tuple(args), dict(kwargs or {}))
    if not in_place:
        return fresh
    _move(fresh, compiled)
    return compiled


# ------------------------------------------------------------------------------------ the new weights


def _named(
    weights: Any, plan: WeightPlan, states: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The given tensors by name, and the names that the model does not have."""
    if isinstance(weights, nn.Module):
        given: dict[str, Any] = dict(weights.named_parameters(remove_duplicate=False))
        given.update(weights.named_buffers(remove_duplicate=False))
        for name in plan.sources:
            if name not in given and isinstance(found := _attribute(weights, name), torch.Tensor):
                given[name] = found
        state = list(weights.state_dict(keep_vars=True))
    elif isinstance(weights, ExportedProgram):
        given = {**weights.state_dict}
        given.update((name, value) for name, value in weights.constants.items() if isinstance(value, torch.Tensor))
        state = list(weights.state_dict)
    elif isinstance(weights, Mapping):
        given, state = dict(weights), list(weights)
    else:
        raise RefitError(f"weights are a state dict, a model or an exported program, not a {type(weights).__name__}")
    known = {*plan.state, *plan.sources, *plan.tied, *states}
    # Of a DTensor the module has the shard of this rank.
    return {name: local(given[name]) for name in given if name in known}, [name for name in state if name not in known]


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


class _Sources:
    """The constants of the model after the refit, checked; those that are not given and not kept are missing."""

    def __init__(
        self,
        plan: WeightPlan,
        given: dict[str, torch.Tensor],
        unexpected: list[str],
        strict: bool,
        compiled: CompiledModule,
    ) -> None:
        self._model = model = compiled.report.model
        self._plan = plan
        self._states = {name: Spec(tuple(state.shape), state.dtype) for name, state in compiled.states.items()}
        self._aliases: dict[str, list[str]] = {}
        for alias, name in plan.tied.items():
            self._aliases.setdefault(name, []).append(alias)
        missing = [name for name in plan.sources if name in plan.state and not self._given(name, given)]
        missing += [name for name in compiled.states if name in plan.state and name not in given]
        problems = _listed("missing keys", missing) + _listed("unexpected keys", unexpected) if strict else []
        if missing and unexpected and strict:
            problems += _prefix(missing, unexpected)
        for name, tensor in given.items():
            problems += self._misfit(name, tensor)
        for name in plan.sources if not problems else ():
            problems += self._untied(name, given)
        if problems:
            raise RefitError(f"the weights do not fit the compiled {model}:" + "".join(f"\n  {p}" for p in problems))
        self.states = {name: given[name].detach() for name in self._states if name in given}
        self.values = {name: found[0] for name in plan.sources if (found := self._given(name, given))}
        self.given = frozenset(self.values)
        device = next((tensor.device for tensor in self.values.values()), torch.device("cpu"))
        for name, kept in plan.kept.items():
            self.values.setdefault(name, kept)
        for name, tensor in self.values.items():
            self.values[name] = tensor.detach().to(device, plan.sources[name].dtype)

    def _given(self, name: str, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        return [given[known] for known in (name, *self._aliases.get(name, ())) if known in given]

    def _misfit(self, name: str, tensor: Any) -> list[str]:
        if not isinstance(tensor, torch.Tensor):
            return [f"{name} is a {type(tensor).__name__}, not a tensor"]
        if tensor.is_meta:
            return [f"{name} is on the meta device and has no values"]
        if tensor.layout is not torch.strided:
            return [f"{name} has the layout {tensor.layout}: pass a dense tensor (tensor.to_dense())"]
        found = Spec(tuple(tensor.shape), tensor.dtype)
        wanted = (
            self._states.get(name)
            or self._plan.state.get(name)
            or self._plan.sources.get(self._plan.tied.get(name, name))
        )
        if wanted is None or found == wanted:
            return []
        if name not in self._plan.state and found == (wanted.shape, _WIDE.get(wanted.dtype)):
            return []
        advice = f"; convert it with .to(torch.{dtype_name(wanted.dtype)})" if found.shape == wanted.shape else ""
        return [f"{name} is {found}, the compiled model has {wanted}{advice}"]

    def _untied(self, name: str, given: Mapping[str, torch.Tensor]) -> list[str]:
        first, *others = self._given(name, given) or [torch.empty(0)]
        names = [known for known in (name, *self._aliases.get(name, ())) if known in given]
        for other_name, other in zip(names[1:], others, strict=False):
            same = other is first or (other.data_ptr() == first.data_ptr() and other.stride() == first.stride())
            if not same and not torch.equal(first.cpu(), other.cpu()):
                return [f"{names[0]} and {other_name} are one tensor in the compiled model, and differ here"]
        return []

    def touch(self, how: Recipe) -> bool:
        """Whether new weights hold a source of a recipe, so that its value changes."""
        return not self.given.isdisjoint(how.sources)

    def compute(self, how: Recipe, what: str, wanted: Spec | None, done: dict[str, torch.Tensor]) -> torch.Tensor:
        """The value of a recipe with the new weights.

        Raises:
            RefitError: a source is neither given nor kept, or its value has another shape or dtype than before.
        """
        missing = [name for name in how.sources if name not in self.values]
        if missing:
            raise RefitError(
                f"{self._model}: {what} is computed from {', '.join(how.sources)}, of which these are missing: "
                f"{', '.join(missing)}"
            )
        if how.key not in done:
            try:
                done[how.key] = how.evaluate(self.values)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise RefitError(f"{self._model}: {what} cannot be computed from these weights: {error}") from error
        result = done[how.key]
        found = Spec(tuple(result.shape), result.dtype)
        if wanted is not None and found != wanted:
            raise RefitError(f"{self._model}: {what} is {found} with these weights, and was {wanted}")
        return result


def _listed(what: str, names: list[str]) -> list[str]:
    more = f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    return [f"{what}: {', '.join(names[:_MOST_NAMES])}{more}"] if names else []


def _prefix(missing: list[str], unexpected: list[str]) -> list[str]:
    """A hint where the keys differ by a prefix."""
    first = missing[0]
    for prefix in sorted({key.removesuffix(first) for key in unexpected if key.endswith("." + first)}):
        if all(prefix + name in unexpected for name in missing):
            return [f"take the prefix {prefix!r} off the keys of the state dict"]
    for prefix in sorted({first.removesuffix(key) for key in unexpected if first.endswith("." + key)}):
        if all(name.removeprefix(prefix) in unexpected for name in missing):
            return [f"put the prefix {prefix!r} before the keys of the state dict"]
    return []


# ------------------------------------------------------------------------------------ the new module


def _refitted(compiled: CompiledModule, plan: WeightPlan, sources: _Sources) -> CompiledModule:
    from engine.runtime import TorchTensorRTModule

    done: dict[str, torch.Tensor] = {}
    for frozen in plan.frozen:
        if (
            sources.touch(frozen.recipe)
            and digest(sources.compute(frozen.recipe, "a constant", None, done)) != frozen.digest
        ):
            raise RefitError(
                f"{compiled.report.model}: {', '.join(frozen.recipe.sources)} decided how the model was compiled, and "
                "differs in these weights: compile the model again"
            )
    graph_module = compiled.graph_module
    engines = {n: m for n, m in graph_module.named_children() if isinstance(m, TorchTensorRTModule)}
    weights = {name: _engine_weights(module, sources, done) for name, module in engines.items()}
    buffers: dict[str, torch.Tensor] = {}
    for name, how in plan.constants.items():
        held = graph_module.get_buffer(name)
        if sources.touch(how):
            now = sources.compute(how, f"the constant {name}", Spec(tuple(held.shape), held.dtype), done)
            buffers[name] = now.detach().to(held.device, copy=True)
    fresh = copy.deepcopy(compiled)
    for name, module in engines.items():
        if weights[name]:
            fresh.graph_module.add_module(name, _refitted_engine(module, weights[name]))
    for name, value in buffers.items():
        setattr(fresh.graph_module, name, value)
    for name, value in sources.states.items():
        fresh.states[name].copy_(value)
    return fresh


def _engine_weights(module: Any, sources: _Sources, done: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an engine, contiguous and on the CPU: those that change, and all where it is built again."""
    if module.weight_name_map is None:
        raise RefitError(f"engine {module.name!r} {_IMMUTABLE}")
    recipes = {name: decode(entry["recipe"]) for name, entry in module.weight_name_map.items()}
    touched = {name for name, how in recipes.items() if sources.touch(how)}
    found: dict[str, torch.Tensor] = {}
    for name in recipes if touched and module.blueprint is not None else touched:
        entry = module.weight_name_map[name]
        wanted = Spec(tuple(entry["shape"]), getattr(torch, entry["dtype"]))
        now = sources.compute(recipes[name], f"the weight {name} of {module.name}", wanted, done)
        found[name] = now.resolve_conj().resolve_neg().cpu().contiguous()
    return found


def _refitted_engine(module: Any, weights: dict[str, torch.Tensor]) -> nn.Module:
    """An engine with other weights, loaded where that is how engines are checked.

    Raises:
        RefitError: TensorRT rejected the weights.
    """
    from engine.builder.refitter import refit_engine

    if module.blueprint is None:
        plan = refit_engine(module.serialized_engine, weights, name=module.name)
    else:
        try:
            plan = module.blueprint.build(weights, module.settings)
        except BuildError as error:
            raise RefitError(f"engine {module.name!r} cannot be built with these weights: {error}") from error
    program = module.program
    if program is not None:
        program = program.refit({name: tensor.clone() for name, tensor in weights.items()})
    fresh = module.replaced(plan, program)
    if module.runtime != "interpreter" and torch.cuda.is_available() and module.settings.trial_load is not False:
        try:
            fresh.load()
        except BuildError as error:
            raise RefitError(f"engine {module.name!r} does not load with these weights: {error}") from error
    return fresh


def _move(fresh: CompiledModule, old: CompiledModule) -> None:
    for name, module in fresh.graph_module.named_children():
        old.graph_module.add_module(name, module)
    for name, value in fresh.states.items():
        old.states[name].copy_(value)
    states = set(old.states.buffers.values())
    for name, value in fresh.graph_module.named_buffers(recurse=False):
        if name not in states:
            setattr(old.graph_module, name, value)
    if old.cuda_graphs is not None:
        # Those that were recorded run the engines of before.
        old.set_cuda_graphs(True, old.cuda_graphs.size)


# ------------------------------------------------------------------------------------ verification


def _verify(fresh: CompiledModule, weights: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    model: Any = weights.module() if isinstance(weights, ExportedProgram) else weights
    if isinstance(weights, nn.Module) and weights.training:
        raise RefitError("verify_output runs the model, which is in training mode: call model.eval() first")
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) and device is not None else value

    def again() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))  # type: ignore[no-any-return]

    # What the two write to their arguments and states in this call is not to stay.
    with torch.no_grad(), put_back([*model.buffers(), *fresh.states.values()]):
        given, named = again()
        wanted = pytree.tree_leaves(model(*pytree.tree_map(moved, given), **pytree.tree_map(moved, named)))
        wanted = pytree.tree_map_only(torch.Tensor, torch.clone, wanted)
        given, named = again()
        got = pytree.tree_leaves(fresh(*given, **named))
    problems = [f"output {index}: {_difference(*pair)}" for index, pair in enumerate(zip(wanted, got, strict=True))]
    problems = [problem for problem in problems if not problem.endswith(": ")]
    if problems:
        raise RefitError(
            f"the refitted {fresh.report.model} does not return what the model returns:"
            + "".join(f"\n  {problem}" for problem in problems)
        )


def _difference(want: Any, have: Any) -> str:
    """How two outputs differ by more than roundings; empty where they do not."""
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        return "" if want == have else f"{have!r}, not {want!r}"
    want, have = want.detach().cpu(), have.detach().cpu()
    if want.shape != have.shape or want.dtype != have.dtype:
        return f"{Spec(tuple(have.shape), have.dtype)}, not {Spec(tuple(want.shape), want.dtype)}"
    if not want.is_floating_point():
        return "" if torch.equal(want, have) else f"{int((want != have).sum())} of {want.numel()} elements differ"
    same = (want == have) | (want.isnan() & have.isnan())
    largest = float((want.double() - have.double()).abs().masked_fill(same, 0.0).max()) if want.numel() else 0.0
    finite = want[want.isfinite()].double().abs()
    scale = max(float(finite.max()) if finite.numel() else 0.0, 1e-6)
    if largest <= _TOLERANCES.get(want.dtype, _TOLERANCE) * scale:
        return ""
    return f"differs by {largest:.3g} where the largest value is {scale:.3g}"


__all__ = ["refit"]

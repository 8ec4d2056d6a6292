"""The weight plan: how everything that a compiled model holds follows from the parameters of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import fx

from engine.dtypes import dtype_named
from engine.errors import FileError
from engine.graph.mirror import Mirror, Value
from engine.weights.frozen_constants import FrozenConstant
from engine.weights.recipe import Recipe, recipe
from engine.weights.recipe_encoding import decode, decode_tensor, dtype_name, encode, encode_tensor

if TYPE_CHECKING:
    from engine.capture import Captured
    from engine.conversion import BuiltNetwork


class Spec(NamedTuple):
    """Shape and dtype of a parameter or buffer."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}{list(self.shape)}"


@dataclass(frozen=True)
class WeightPlan:
    """What a refit of a compiled model needs; what it needs of one engine is the engine's ``weight_name_map``.

    Attributes:
        state: parameters and persistent buffers of the model, used or not.
        sources: constants of the model that something follows from, as the compiled model uses them; besides
            those in ``state`` these are other buffers and tensors that the model holds.
        tied: other names of sources that share their tensor -> the name of the source.
        kept: values of sources that no state dict has.
        frozen: constants that must stay as they are.
        constants: buffer of the graph module -> how it follows.
    """

    state: Mapping[str, Spec] = field(default_factory=dict)
    sources: Mapping[str, Spec] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    frozen: tuple[FrozenConstant, ...] = ()
    constants: Mapping[str, Recipe] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, for files."""
        return {
            "state": {name: [list(spec.shape), dtype_name(spec.dtype)] for name, spec in self.state.items()},
            "sources": {name: [list(spec.shape), dtype_name(spec.dtype)] for name, spec in self.sources.items()},
            "tied": dict(self.tied),
            "kept": {name: encode_tensor(tensor) for name, tensor in self.kept.items()},
            "pins": [[encode(constant.recipe), constant.digest] for constant in self.frozen],
            "constants": {name: encode(how) for name, how in self.constants.items()},
        }

    @classmethod
    def from_json(cls, data: Any, allowed: frozenset[str] = frozenset()) -> WeightPlan:
        """The plan that :meth:`to_json` wrote.

        Args:
            allowed: ops that the user allows besides those that any file may call.

        Raises:
            FileError: it is no such thing.
        """
        try:
            return cls(
                state={name: _spec(spec) for name, spec in data["state"].items()},
                sources={name: _spec(spec) for name, spec in data["sources"].items()},
                tied={str(name): str(other) for name, other in data["tied"].items()},
                kept={name: decode_tensor(tensor) for name, tensor in data["kept"].items()},
                frozen=tuple(FrozenConstant(decode(how, allowed), str(digest)) for how, digest in data["pins"]),
                constants={name: decode(how, allowed) for name, how in data["constants"].items()},
            )
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"the weight plan is damaged: {type(error).__name__}: {error}") from error


def _spec(data: Any) -> Spec:
    shape, dtype = data
    found = dtype_named(dtype)
    if found is None:
        raise ValueError(f"{dtype!r} is not a dtype")
    return Spec(tuple(int(size) for size in shape), found)


def weight_plan(
    captured: Captured, mirrors: Sequence[Mirror], networks: Iterable[BuiltNetwork], graph_module: fx.GraphModule
) -> WeightPlan:
    """The plan of a compiled model, while the constants of its graph are still there.

    Args:
        mirrors: of the graph, then of the graphs inside its ops.
    """
    mirror = mirrors[0]
    frozen = [constant for one in mirrors for constant in one.read_constants.values() if constant is not None]
    recipes: list[Recipe] = []
    for network in networks:
        frozen += network.frozen
        recipes += [weight.recipe for weight in network.weights.named.values()]
    constants: dict[str, Recipe] = {}
    targets = {str(node.target): node for node in mirror.graph.nodes if node.op == "get_attr"}
    for node in graph_module.graph.nodes:
        target = node.meta.get("constant") if node.op == "get_attr" else None
        if target in targets and str(target) in mirror.constants:
            how = recipe(mirror, Value(targets[target], 0))
            if how.sources:
                constants[str(node.target)] = how
    frozen = list({constant.recipe.key: constant for constant in frozen}.values())
    recipes += [*constants.values(), *(constant.recipe for constant in frozen)]
    used = dict.fromkeys(name for how in recipes for name in how.sources)
    state = {name: Spec(*spec) for name, spec in captured.state_dict.items()}
    return WeightPlan(
        state=state,
        sources={name: Spec(tuple(mirror.constants[name].shape), mirror.constants[name].dtype) for name in used},
        tied={name: other for name, other in captured.tied.items() if other in used},
        kept={name: mirror.constants[name].detach().cpu().clone() for name in used if name not in state},
        frozen=tuple(frozen),
        constants=constants,
    )


__all__ = ["Spec", "WeightPlan", "weight_plan"]

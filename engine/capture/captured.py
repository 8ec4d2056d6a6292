"""What capture yields: a canonical ATen graph and everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from engine.capture.inputs import Profile, Range
from engine.capture.signature import Argument, Signature
from engine.capture.sizes.guards import Guard
from engine.capture.state import State
from engine.sizes import Sizes


@dataclass
class Captured:
    """A captured model.

    Attributes:
        graph: the canonical graph: placeholders are the user's tensors and symbolic ints, constants are
            ``get_attr`` nodes, calls are in canonical form, the output is one flat tuple.
        constants: target of a ``get_attr`` node -> parameter, buffer or constant; the model's own storage.
        states: what the model keeps from call to call; their placeholders come after those of the arguments.
        written: placeholders (of arguments and states) that the model writes to; their new values are the last
            results of the graph, in this order.
        tied: other names of constants that share their tensor -> the name in ``constants``.
        state_dict: name of a parameter or persistent buffer of the model -> its shape and dtype, whether used or not.
        submodules: target of a ``get_attr`` node -> graph that a higher-order op runs.
        in_spec, out_spec: pytrees of ``(args, kwargs)`` and of the result.
        arguments: the leaves of a call; constants and None among them have no placeholder.
        ranges: symbol of the input shapes -> the sizes it may take.
        profiles: the same for each of several optimization profiles, where the user asked for several.
        guards: what must hold of the sizes of a call beyond their ranges; the graph is not the model elsewhere.
        facts: relations that hold of the sizes of all calls; None where somebody else holds calls against everything
            that the ``ShapeEnv`` believes.
        fake_mode, shape_env: of every ``meta["val"]`` of the graph.
        model_class: name of the model's class.
        notes: what was decided for the user, one sentence each.
    """

    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    arguments: tuple[Argument, ...]
    ranges: dict[sympy.Symbol, Range]
    fake_mode: FakeTensorMode
    shape_env: ShapeEnv
    model_class: str
    parameters: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    state_dict: dict[str, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)
    states: tuple[State, ...] = ()
    written: tuple[str, ...] = ()
    submodules: dict[str, fx.GraphModule] = field(default_factory=dict)
    profiles: tuple[dict[sympy.Symbol, Range], ...] = ()
    guards: tuple[Guard, ...] = ()
    facts: tuple[sympy.Basic, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs of the graph, in order, as the user writes them: ``input_ids``, ``batch['image']``."""
        return tuple(argument.name for argument in self.arguments if not argument.is_constant)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names of the placeholder nodes of the arguments, in order."""
        return tuple(a.placeholder for a in self.arguments if a.placeholder is not None)

    @cached_property
    def profile(self) -> Profile:
        """The ranges of every graph input, by placeholder name."""
        shapes = {a.placeholder: a.shape for a in self.arguments if a.placeholder and a.shape is not None}
        return Profile.of(shapes, self.ranges)

    @cached_property
    def _signature(self) -> Signature:
        return Signature(
            self.in_spec,
            self.out_spec,
            self.arguments,
            dict(self.ranges),
            self.parameters,
            dict(self.defaults),
            self.guards,
        )

    def sizes(self) -> Sizes:
        """What is known about the sizes of calls."""
        if self.facts is None:
            return Sizes(self.shape_env)
        bounds = {symbol: (allowed.min, allowed.max) for symbol, allowed in self.ranges.items()}
        return Sizes(self.shape_env, bounds, self.facts)

    def signature(self) -> Signature:
        """How the model is called; holds neither the graph nor the constants."""
        return self._signature

    def bind(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """The graph's inputs for a call, in placeholder order; raises ``InputError``."""
        return self._signature.bind(args, kwargs or {})

    def tensors(self) -> Iterator[torch.Tensor]:
        """The model's own tensors, those of graphs inside ops too."""
        yield from self.constants.values()
        yield from (state.tensor for state in self.states)
        for submodule in self.submodules.values():
            yield from submodule.parameters()
            yield from submodule.buffers()

    def module(self) -> fx.GraphModule:
        """The graph as a module of flat inputs and a flat tuple of outputs, to run it in PyTorch.

        It takes the values of the states after the inputs, and gives what is written after the results.
        """
        root: dict[str, Any] = {**self.constants, **self.submodules}
        return fx.GraphModule(root, self.graph, class_name=self.model_class)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """The results of the graph for flat inputs, in PyTorch; the model's states stay as they are."""
        outputs = self.module()(*inputs, *(state.tensor for state in self.states))
        return list(outputs)[: len(outputs) - len(self.written)]

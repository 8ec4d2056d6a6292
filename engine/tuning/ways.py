"""The ways to compute a part: what the pipeline makes of it with and without a rule, and whether they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from engine.compiled.module import CompiledModule
from engine.dsl.ruleset import RuleSet
from engine.evaluator.plan import AbstractTensor, CallOutput, Captured, ConstantTensor
from engine.graph.mirror import Value
from engine.matcher.choices import Choices
from engine.pipeline.compilation import Compilation
from engine.report import Report
from engine.runtime.whole_graphs import graphs_of_module
from engine.settings import CompilationSettings
from engine.tuning.parts import Part, copied


@dataclass
class Compiler:
    """The ordinary pipeline for parts: with the rules and the settings of the model.

    Attributes:
        settings: of the model, but that a part may be small and stay in PyTorch, and that nothing of how the model is
            run in the end is asked of it.
    """

    rules: RuleSet
    settings: CompilationSettings
    runtime: str

    @classmethod
    def of(cls, rules: RuleSet, settings: CompilationSettings, runtime: str) -> Compiler:
        """For parts of a model that is compiled with these settings."""
        eager = settings.dynamic_shapes_kernel_specialization_strategy
        own = settings.replace(
            min_block_size=1,
            require_full_compilation=False,
            immutable_weights=True,
            use_cuda_graphs=False,
            use_pre_allocated_outputs=False,
            dynamic_shapes_kernel_specialization_strategy="eager" if eager == "lazy" else eager,
        )
        return cls(rules, own, runtime)

    def lowered(self, part: Part, choices: Choices) -> Compilation:
        """A part up to its partition; nothing is built."""
        compilation = Compilation.lowered(
            copied(part.captured), self.rules, self.settings, Report(model="a part"), choices=choices
        )
        compilation.place()
        return compilation

    def built(self, compilation: Compilation) -> CompiledModule:
        """A part as a module, built as a model is."""
        return compilation.build(self.runtime)


def rules_of(compilation: Compilation) -> tuple[str, ...]:
    """The rules that take the nodes of a part, and the ops that stay in PyTorch, in order."""
    found = dict.fromkeys(tile.rule.id for tile in compilation.graph.tiles)
    mirror = compilation.mirror
    found.update(dict.fromkeys(f"{mirror.op(node)} in PyTorch" for node in compilation.partition.reasons))
    return tuple(found)


def form(compilation: Compilation) -> tuple[Any, ...]:
    """What would be built of a part: equal where two ways come to the same layers."""
    mirror, lines = compilation.mirror, []
    numbers: dict[Any, str] = {}
    for tile in compilation.graph.tiles:
        for call in tile.plan.calls:
            name = getattr(getattr(call, "layer", None), "name", type(call).__name__)
            values = getattr(call, "values", {})
            shown = {key: _shown(value, numbers, compilation) for key, value in values.items()}
            for output in getattr(call, "outputs", ()):
                numbers[id(output)] = f"#{len(numbers)}"
            lines.append((name, tuple(sorted(shown.items()))))
        for index, output in enumerate(tile.plan.outputs):
            if output is not None:
                numbers[Value(tile.node, index)] = _shown(output, numbers, compilation)
    outside = tuple(mirror.op(node) for node in compilation.partition.reasons)
    return (*lines, outside)


def _shown(value: Any, numbers: dict[Any, str], compilation: Compilation) -> str:
    if isinstance(value, Captured):
        mirror = compilation.mirror
        if value.value in numbers:
            return numbers[value.value]
        if mirror.is_const(value.value):
            return f"const {mirror.dtype(value.value)}{list(mirror.shape(value.value))}"
        return value.value.node.name
    if isinstance(value, CallOutput):
        return numbers.get(id(value), "?")
    if isinstance(value, ConstantTensor):
        return f"{value.number} {value.numbers} {value.shape} {value.dtype}"
    if isinstance(value, AbstractTensor):
        return "tensor"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item, numbers, compilation) for item in value) + "]"
    return str(value)


def run(module: CompiledModule, inputs: list[Any]) -> list[Any]:
    """The flat outputs of a module for flat inputs."""
    with torch.no_grad():
        return list(module.graph_module(*inputs))


def caller(module: CompiledModule, inputs: list[Any], *, on_gpu: bool) -> Callable[[], Any]:
    """A call of a module for flat inputs, to be timed: on a GPU the replay of a CUDA graph of the whole module.

    What cannot be recorded runs without one.
    """
    graphs = graphs_of_module(module.graph_module, list, 1) if on_gpu else None
    if graphs is None:
        return lambda: run(module, inputs)
    graphs.static_outputs = True  # copies of results are not what is compared
    return lambda: graphs(inputs)


__all__ = ["Compiler", "caller", "form", "rules_of", "run"]

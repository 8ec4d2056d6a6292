"""From a graph of Dynamo to a functional graph of ATen ops whose weights are constants.

AOTAutograd does the translation and stays around the result: it applies what the graph does to its inputs and
restores outputs that are views of them, so what is compiled is free of effects.  Composite ops are kept whole, as
``torch.export`` keeps them, because rules understand them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from engine.capture.tracing.decomposition_cache import remembered_composites
from engine.capture.tracing.tracing_lock import tracing_lock
from engine.distributed.shards import whole_composites
from engine.errors import CaptureError


@dataclass
class FunctionalGraph:
    """A graph of Dynamo as functional ATen ops.

    Attributes:
        module: takes what is left of the graph's arguments without the weights, returns a flat tuple: the results, then
            the new values of the arguments that are written to.
        views: returns the results that are views of inputs, None for the others; None where there is no such result.
            They are computed by PyTorch, because a view that an engine makes is a copy.
        arguments: positions of the arguments that ``module`` and ``views`` take.
        names: of these arguments, as the model has them: ``x``, ``dim 0 of x``.
        written: positions among these arguments of those that are written to.
        weights: position -> parameter or buffer that is a constant of ``module``.
        wholes: the subclasses of tensors that hold some of the weights; PyTorch counts what is written to them by
            themselves, and not by what they hold.
        entry: the function that Dynamo is to call; it calls ``run`` of this object with the list of arguments.
        run: what computes the graph; to be set.
        with_inputs: gives a graph for the same function whose weights at some positions are arguments of ``module``.
        is_training: the graph draws random numbers or writes to the model's own buffers.
    """

    module: fx.GraphModule
    views: fx.GraphModule | None
    arguments: tuple[int, ...]
    names: tuple[str, ...]
    written: tuple[int, ...]
    weights: dict[int, torch.Tensor]
    wholes: tuple[torch.Tensor, ...]
    is_training: bool
    entry: Callable[..., Any]
    run: Callable[[list[Any]], Sequence[Any]] | None = None
    with_inputs: Callable[[Iterable[int]], FunctionalGraph] | None = None

    @cached_property
    def inputs_of(self) -> Callable[[list[Any]], Sequence[Any]]:
        """Takes the arguments of ``module`` from all arguments."""
        return _taker(self.arguments)

    @cached_property
    def weights_of(self) -> Callable[[list[Any]], Sequence[torch.Tensor]]:
        """Takes the weights from all arguments."""
        return _taker(tuple(self.weights))


def _taker(positions: tuple[int, ...]) -> Callable[[list[Any]], Sequence[Any]]:
    if len(positions) > 1:
        return operator.itemgetter(*positions)
    return lambda arguments: tuple(arguments[position] for position in positions)


def functional_graph(module: fx.GraphModule, inputs: Sequence[Any]) -> FunctionalGraph:
    """Translate a graph of Dynamo, for inference.

    Args:
        module: as Dynamo hands it to a backend; it is not changed.
        inputs: its example inputs; parameters and buffers are among them.

    Raises:
        CaptureError: the graph asks for gradients inside, has control flow, changes the shape of an input in place,
            or writes to inputs that share their memory.
    """
    traced: list[tuple[fx.GraphModule, Any]] = []
    made: list[FunctionalGraph] = []
    parameters = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    given = [
        *((name, value, True) for name, value in parameters.items()),
        *(
            (_source(node), value, _is_weight(module, index, value))
            for index, (node, value) in enumerate(zip(placeholders, inputs, strict=True))
        ),
    ]
    # AOTAutograd takes subclasses of tensors apart into those that they hold, before and in each call.
    parts = [(*part, is_own) for name, value, is_own in given for part in _parts(name, value)]
    names, flat = [name for name, _, _ in parts], [value for _, value, _ in parts]
    wholes: tuple[Any, ...] = tuple(
        value for _, value, is_own in given if is_own and is_traceable_wrapper_subclass(value)
    )
    own = {index for index, (_, value, is_own) in enumerate(parts) if is_own and isinstance(value, torch.Tensor)}

    def take(graph: fx.GraphModule, _: Sequence[Any]) -> Callable[[list[Any]], Any]:
        context = TracingContext.try_get()
        traced.append((graph, context.fw_metadata if context is not None else None))

        def run(arguments: list[Any]) -> Sequence[Any]:
            return made[0].run(arguments)  # type: ignore[misc]

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def refuse(*_: Any) -> Any:
        raise CaptureError("the graph turns gradients on, and an engine has none")

    # Grad mode decides whether AOTAutograd traces a backward graph.
    with tracing_lock(), torch.no_grad(), remembered_composites(), whole_composites():
        entry = aot_autograd(fw_compiler=refuse, bw_compiler=refuse, inference_compiler=take)(module, list(inputs))

    # Not inside AOTAutograd, whose modes would turn weights into fake ones.
    def make(inputs: Iterable[int] = ()) -> FunctionalGraph:
        own.difference_update(inputs)
        made[:] = [replace(_functional(*traced[0], flat, own, names, entry), wholes=wholes, with_inputs=make)]
        return made[0]

    return make()


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The plain tensors that an argument is made of, as AOTAutograd orders them; an argument of another kind itself."""
    if not is_traceable_wrapper_subclass(value):
        yield name, value
        return
    for attribute in value.__tensor_flatten__()[0]:
        yield from _parts(f"{name}.{attribute}", getattr(value, attribute))


def _is_weight(module: fx.GraphModule, index: int, value: Any) -> bool:
    """Whether an input of a graph is a parameter or a buffer of the model."""
    if isinstance(value, torch.nn.Parameter):
        return True
    if not isinstance(value, torch.Tensor):
        return False
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    source = getattr(placeholders[index].meta.get("grapharg"), "source", None)
    kind = getattr(source, "guard_source", None)
    kind = kind() if callable(kind) else kind
    # A tensor that is neither parameter nor buffer but an attribute, such as a cache, is replaced rather than kept.
    return "NN_MODULE" in getattr(kind, "name", "") and "_buffers" in _source(placeholders[index])


def source_of(node: fx.Node) -> str:
    """Where an input of a graph comes from, as Dynamo writes it; empty if unknown."""
    name = getattr(getattr(node.meta.get("grapharg"), "source", None), "name", "")
    return str(name() if callable(name) else name)


def _source(node: fx.Node) -> str:
    """Where an input of a graph comes from, in terms of the function that is compiled."""
    text = re.sub(r"^L\['(\w+)'\]", r"\1", source_of(node))
    return re.sub(r"^(.*)\.size\(\)\[(\d+)\]$", r"dim \2 of \1", text) or node.name


def _functional(
    graph: fx.GraphModule,
    metadata: Any,
    flat: Sequence[Any],
    own: set[int],
    names: Sequence[str],
    entry: Callable[..., Any],
) -> FunctionalGraph:
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if metadata is None or len(placeholders) != len(flat) or len(metadata.input_info) != len(flat):
        raise CaptureError(
            f"AOTAutograd made {len(placeholders)} inputs out of {len(flat)}: inputs that share their memory and are "
            "written to are not supported"
        )
    if any(info.mutates_metadata for info in metadata.input_info):
        raise CaptureError("the graph changes the shape or the strides of an input in place")
    written = {index for index, info in enumerate(metadata.input_info) if info.mutates_data}
    weights = {index: flat[index] for index in sorted(own - written)}
    training = bool(own & written) or any(map(_is_random, graph.graph.nodes))
    places = list(metadata.mutated_inp_runtime_indices)
    kinds = {index: info.output_type.name for index, info in enumerate(metadata.output_info)}
    aliases = {index for index, kind in kinds.items() if kind not in ("non_alias", "is_input")}
    outputs = list(graph.graph.output_node().args[0])  # type: ignore[arg-type]
    values, results = outputs[: len(places)], outputs[len(places) :]
    # What is a view of something that the graph makes comes with that something as one more output.
    aliases |= set(range(len(kinds), len(results))) if aliases else set()
    # AOTAutograd returns inputs themselves.
    absent = aliases | {index for index, kind in kinds.items() if kind == "is_input"}
    # A device mesh that a DTensor holds is an argument too, and nothing reads it.
    arguments = tuple(
        index
        for index, (node, value) in enumerate(zip(placeholders, flat, strict=True))
        if index not in weights and (node.users or isinstance(value, torch.Tensor | int | float))
    )
    views = None
    if aliases:
        viewed = [result if index in aliases else None for index, result in enumerate(results)]
        views = _part(graph, viewed, weights, arguments)
    computed = [None if index in absent else result for index, result in enumerate(results)]
    module = _part(graph, [*computed, *values], weights, arguments)
    return FunctionalGraph(
        module=module,
        views=views,
        arguments=arguments,
        names=tuple(names[index] for index in arguments),
        written=tuple(map(arguments.index, places)),
        weights=weights,
        wholes=(),
        is_training=training,
        entry=entry,
    )


def weight_name(position: int) -> str:
    """The attribute of a functional graph that is the weight at a position of the arguments."""
    return f"weight_{position}"


def _part(
    graph: fx.GraphModule, results: Sequence[Any], weights: Mapping[int, torch.Tensor], arguments: Sequence[int]
) -> fx.GraphModule:
    """The part of a graph that some of its outputs need: it takes the arguments, and has weights as attributes."""
    needed: set[fx.Node] = set()
    stack = [result for result in results if isinstance(result, fx.Node)]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    root: dict[str, Any] = {}
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    position = -1
    for node in graph.graph.nodes:
        position += node.op == "placeholder"
        if node.op == "placeholder" and position in weights:
            if node in needed:
                name = weight_name(position)
                root[name] = weights[position].detach()
                copies[node] = part.create_node("get_attr", name, name=name)
                copies[node].meta = dict(node.meta)
        elif position in arguments if node.op == "placeholder" else node in needed:
            if node.op == "get_attr":
                root[str(node.target)] = operator.attrgetter(str(node.target))(graph)
            copies[node] = part.node_copy(node, lambda operand: copies[operand])
    part.output(tuple(fx.node.map_arg(result, lambda node: copies[node]) for result in results))
    return fx.GraphModule(root, part)


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


__all__ = ["FunctionalGraph", "functional_graph", "source_of", "weight_name"]

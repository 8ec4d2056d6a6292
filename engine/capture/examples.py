"""The arguments to trace a model with, and what the user asked of their dims."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.export.dynamic_shapes import ShapesCollection
from torch.utils import _pytree as pytree

from engine.capture.inputs import Input, Range
from engine.distributed.shards import is_sharded
from engine.errors import InputError
from engine.graph.tensor_kinds import unfit

# The largest size that a dynamic dim is traced for, where the user asked for less.
_ROOM = 4


@dataclass(frozen=True)
class Wish:
    """What the user said of one dim: its bounds, where they were given, and the size to optimise for.

    A named ``Dim`` without a lower bound begins at 0, which nobody may have asked for. Dims of one name are equal.
    """

    opt: int
    min: int | None = None
    max: int | None = None
    dynamic: bool = True  # False: torch.export may decide
    profiles: tuple[Range, ...] = ()
    from_zero: bool = False
    name: str = ""


@dataclass
class Examples:
    """Example arguments without ``Input``s and without size-1 dynamic dims, ready for torch.export.

    ``wishes`` maps ``(id of a tensor leaf, dim)`` to what was asked; ``args`` keeps the tensors alive.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any
    wishes: dict[tuple[int, int], Wish] = field(default_factory=dict)


def prepare(
    model: nn.Module | None, args: Any, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any = None
) -> Examples:
    """Example arguments for tracing; raises ``InputError`` where ``Input``s and ``dynamic_shapes`` do not go together.

    Three things that torch.export cannot take are replaced here: an ``Input`` becomes a tensor and a
    ``Dim.DYNAMIC``; one tensor passed twice becomes two (their sizes would be taken for one); a dynamic
    dim of size 1 becomes 2 (torch.export takes a size of 1 for a constant).
    """
    positional, keywords = _arguments(args, kwargs)
    positional, keywords = _by_name(model, positional, keywords)
    described = any(isinstance(leaf, Input) for leaf in pytree.tree_leaves((positional, keywords)))
    if described and dynamic_shapes is not None:
        raise InputError("give dynamic dims either by Input or by dynamic_shapes, not both")
    device = _device(model, (positional, keywords))
    wishes: dict[tuple[int, int], Wish] = {}
    seen: set[int] = set()

    def concrete(leaf: Any) -> Any:
        if isinstance(leaf, Input):
            tensor = leaf.example(device)
            for dim, (low, opt, high) in leaf.dynamic_dims.items():
                each = tuple(Range(*(shape[dim] for shape in profile)) for profile in leaf.profiles)
                wishes[id(tensor), dim] = Wish(opt, low, high, profiles=each)
            seen.add(id(tensor))
            return tensor
        if is_sharded(leaf):
            raise InputError(
                f"an example input is a DTensor ({', '.join(map(str, leaf.placements))}), and a compiled module takes "
                "plain tensors. Pass x.to_local(), what this rank holds of it, or x.full_tensor(), and let the model "
                "make a DTensor of that (DTensor.from_local, or input_layouts of the styles of parallelize_module)"
            )
        if isinstance(leaf, torch.Tensor):
            if problem := unfit(leaf):
                raise InputError(f"an example input {problem}")
            if id(leaf) in seen:
                leaf = leaf.detach().clone()
            seen.add(id(leaf))
        return leaf

    positional, keywords = pytree.tree_map(concrete, (positional, keywords))
    if isinstance(dynamic_shapes, ShapesCollection):
        dynamic_shapes = dynamic_shapes.dynamic_shapes(model, positional, keywords)
    examples = Examples(positional, keywords, dynamic_shapes, wishes)
    if described:
        examples.dynamic_shapes = _spec(model, positional, keywords, wishes)
    elif dynamic_shapes is not None and model is not None:
        _widen(model, examples)
    return examples


def asks_for_sizes(args: Any, kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> bool:
    """Whether a user says which sizes a model is to take, rather than gives an example."""
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    return dynamic_shapes is not None or any(isinstance(leaf, Input) and leaf.dynamic_dims for leaf in leaves)


def combined(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the parameters of ``forward``, the form ``dynamic_shapes`` follows."""
    try:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"{type(model).__name__}.forward does not take these inputs: {error}") from None


def _arguments(args: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args is None:
        args = ()
    elif isinstance(args, torch.Tensor | Input) or not isinstance(args, Sequence):
        args = (args,)
    return tuple(args), dict(kwargs or {})


def _by_name(
    model: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move named ``Input``s that are out of place to the keyword arguments."""
    if model is None or not any(isinstance(arg, Input) and arg.name for arg in args):
        return args, kwargs
    names = list(inspect.signature(model.forward).parameters)
    for position, arg in enumerate(args):
        name = arg.name if isinstance(arg, Input) else None
        if name in names and names.index(name) != position:
            rest = args[position:]
            unnamed = [a for a in rest if not (isinstance(a, Input) and a.name in names)]
            if unnamed:
                raise InputError(f"Input {name!r} is out of place and followed by inputs without a name")
            return args[:position], {**kwargs, **{a.name: a for a in rest}}
    return args, kwargs


def _device(model: nn.Module | None, values: Any) -> torch.device:
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, torch.Tensor):
            return leaf.device
    if model is not None:
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def _spec(
    model: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wishes: Mapping[tuple[int, int], Wish],
) -> Any:
    """``dynamic_shapes`` for the dims of ``Input``s.

    ``Dim.DYNAMIC`` lets torch.export find out which of them must be equal, which named dims do not.
    """
    if model is None:
        return None

    def dims(leaf: Any) -> Any:
        found = {dim: _hint(wish) for (tensor, dim), wish in wishes.items() if tensor == id(leaf)}
        return found or None

    def subtree(value: Any) -> Any:
        kind = pytree._get_node_type(value)
        if kind in pytree.BUILTIN_TYPES:
            return pytree.tree_map(subtree, value, is_leaf=lambda item: item is not value)
        # torch.export wants the parts of other classes in a list.
        node = pytree.SUPPORTED_NODES.get(kind)
        return dims(value) if node is None else list(map(subtree, node.flatten_fn(value)[0]))

    return {name: subtree(value) for name, value in combined(model, args, kwargs).items()}


def _widen(model: nn.Module, examples: Examples) -> None:
    """Note what ``dynamic_shapes`` asks, and replace dynamic dims of size 1 in the examples."""
    found: list[tuple[torch.Tensor, int, Any]] = []
    by_name = combined(model, examples.args, examples.kwargs)
    spec = examples.dynamic_shapes
    if isinstance(spec, list | tuple):
        spec = dict(zip(by_name, spec, strict=False))
    _walk(by_name, spec, found)
    # All dims of one root move together, or they would stop fitting one another.
    small = {_root(d) for t, i, d in found if _is_named(d) and t.shape[i] in (_value(d, 0), _value(d, 1))}
    shapes: dict[int, list[int]] = {}
    wishes: dict[int, dict[int, Wish]] = {}
    for tensor, dim, wanted in found:
        size = tensor.shape[dim]
        shape = shapes.setdefault(id(tensor), list(tensor.shape))
        if _is_named(wanted):
            name = "" if hasattr(wanted, "root") else wanted.__name__
            wish = Wish(size, _bound(wanted, "min"), _bound(wanted, "max"), from_zero=wanted.min == 0, name=name)
            if _root(wanted) in small and size in (_value(wanted, 0), _value(wanted, 1)):
                shape[dim] = _value(wanted, 2)
        else:
            wish = Wish(size, wanted.min, wanted.max, dynamic=wanted.type.name == "DYNAMIC")
            if size < 2 and wish.dynamic:
                shape[dim] = max(2, wish.min or 0)
        wishes.setdefault(id(tensor), {})[dim] = wish

    def resized(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or id(leaf) not in wishes:
            return leaf
        tensor = leaf if shapes[id(leaf)] == list(leaf.shape) else stretched(leaf, shapes[id(leaf)])
        for dim, wish in wishes[id(leaf)].items():
            examples.wishes[id(tensor), dim] = wish
        return tensor

    examples.args, examples.kwargs = pytree.tree_map(resized, (examples.args, examples.kwargs))
    examples.dynamic_shapes = _with_room(spec)


def _hint(wish: Wish) -> Any:
    return Dim.DYNAMIC(min=wish.min, max=None if wish.max is None else max(wish.max, _ROOM))


def _with_room(spec: Any) -> Any:
    """Dims that may have few sizes with room for more: tracing takes those up to 2 for one size."""
    roots: dict[str, Any] = {}

    def roomy(leaf: Any) -> Any:
        if _is_hint(leaf) and leaf.type.name == "DYNAMIC" and leaf.max is not None and leaf.max < _ROOM:
            return Dim.DYNAMIC(min=leaf.min, max=_ROOM)
        if not _is_named(leaf) or getattr(leaf, "root", leaf).max >= _ROOM:
            return leaf
        root = getattr(leaf, "root", leaf)
        wide = roots.setdefault(root.__name__, Dim(root.__name__, min=root.min, max=_ROOM))
        return wide._derive(leaf.fn) if hasattr(leaf, "root") else wide

    return pytree.tree_map(roomy, spec)


def _walk(value: Any, spec: Any, found: list[tuple[torch.Tensor, int, Any]]) -> None:
    """Collect ``(tensor, dim, Dim or hint)``; where the structures differ torch.export says so itself."""
    if spec is None or isinstance(value, int | float | str):
        return
    if isinstance(value, torch.Tensor):
        dims = spec.items() if isinstance(spec, Mapping) else enumerate(spec if isinstance(spec, Sequence) else ())
        for dim, wanted in dims:
            if isinstance(dim, int) and dim < value.dim() and (_is_named(wanted) or _is_hint(wanted)):
                found.append((value, dim, wanted))
        return
    node = pytree.SUPPORTED_NODES.get(type(value))
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        for key in value:
            _walk(value[key], spec.get(key), found)
    elif isinstance(value, Sequence) or node is not None:
        children = list(value) if isinstance(value, Sequence) else node.flatten_fn(value)[0]  # type: ignore[union-attr]
        specs = list(spec.values()) if isinstance(spec, Mapping) else spec
        if isinstance(specs, Sequence) and len(specs) == len(children):
            for child, of_child in zip(children, specs, strict=True):
                _walk(child, of_child, found)


def _is_named(wanted: Any) -> bool:
    return isinstance(wanted, Dim) and hasattr(wanted, "__name__")


def _is_hint(wanted: Any) -> bool:
    return not isinstance(wanted, int) and getattr(getattr(wanted, "type", None), "name", "") in ("AUTO", "DYNAMIC")


def _root(wanted: Any) -> str:
    return str(getattr(wanted, "root", wanted).__name__)


def _value(wanted: Any, root: int) -> int:
    """The size of a dim when its root dim has size ``root``."""
    return int(wanted.fn(root)) if hasattr(wanted, "root") else root


def _bound(wanted: Any, end: str) -> int | None:
    value = getattr(wanted, end)
    # Dim's own defaults are 0 and infinity (an int beyond any size, or sympy's infinity).
    if end == "min":
        return int(value) if value > 0 else None
    return int(value) if value < 1 << 31 else None


def stretched(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A tensor like ``tensor`` of another shape: its elements along each dim, cut or repeated."""
    result = tensor.detach()
    for dim, size in enumerate(shape):
        have = result.shape[dim]
        if not have and size:
            # There is nothing to repeat; ones are valid indices of nearly everything.
            result = result.new_ones([*result.shape[:dim], size, *result.shape[dim + 1 :]])
        elif have < size:
            result = torch.cat([result] * -(-size // have), dim)
        result = result.narrow(dim, 0, size) if result.shape[dim] > size else result
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return result.contiguous(
        memory_format=torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
    )

"""The settings of one compilation: names, defaults, and what each value may be."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

import torch
from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from engine.errors import SettingsError


class NamedOps(Protocol):
    """A graph whose ops have the names that rules use."""

    def op(self, node: fx.Node) -> str:
        """The name of a node's op."""


# Settings of Torch-TensorRT that have another form here, and which.
_ELSEWHERE = {
    "enabled_precisions": "networks are strongly typed: convert the model (`model.half()`) instead",
    "use_explicit_typing": "networks are always strongly typed",
    "use_python_runtime": 'use runtime="python" or runtime="cpp"',
    "arg_inputs": "pass the inputs as `args`",
    "kwarg_inputs": "pass the inputs as `kwargs`",
    "inputs": "pass the inputs as `args`",
    "ir": "there is one front end, torch.export",
    "assume_dynamic_shape_support": "every rule takes dynamic shapes or says why not",
    "enable_experimental_decompositions": "decompositions are rules",
    "pass_through_build_failures": 'it is an option of torch.compile(backend="engine"); engine.compile always reports',
    "make_refittable": "use immutable_weights=False",
    "refit_identical_engine_weights": "use immutable_weights=False, which takes any weights",
    "strip_engine_weights": "engines keep their weights; use immutable_weights=False to replace them",
}


Op: TypeAlias = str | OpOverload | OpOverloadPacket | Callable[..., Any]
"""An op or a node: by name, or the op itself."""


class Settings(TypedDict, total=False):
    """The settings as keyword arguments of :func:`engine.compile`, as editors and type checkers know them.

    :class:`CompilationSettings` says what each means, and what its default is.
    """

    min_block_size: int
    torch_executed_ops: Op | Iterable[Op]
    torch_segments: Literal["eager", "inductor"]
    require_full_compilation: bool
    optimization_level: int | None
    opt_shape_profile: bool
    workspace_size: int
    truncate_double: bool
    widen_int16: bool
    use_fp32_acc: bool
    keep_quantized_weights: bool
    disable_tf32: bool
    hardware_compatible: bool
    version_compatible: bool
    target_compute_capabilities: str | Iterable[str]
    trial_load: bool | None
    use_cuda_graphs: bool
    cuda_graph_scope: Literal["module", "engine"]
    cuda_graph_cache_size: int
    cuda_graph_strategy: Literal["disabled", "whole_graph_capture"]
    dynamic_shapes_kernel_specialization_strategy: Literal["lazy", "eager", "none"]
    runtime_cache_path: str | os.PathLike[str]
    use_pre_allocated_outputs: bool
    share_device_memory: bool
    enable_weight_streaming: bool
    weight_streaming_budget: int | None
    immutable_weights: bool
    cache_built_engines: bool
    reuse_cached_engines: bool
    engine_cache_dir: str | os.PathLike[str]
    engine_cache_size: int
    distributed_timeout: int
    tune: bool | str | os.PathLike[str]
    tune_budget: float
    tune_tolerance: float
    debug: bool


@dataclass(frozen=True)
class CompilationSettings:
    """The settings of a compilation.  Names are Torch-TensorRT's where the meaning is the same.

    Every value is checked when the object is made; a value that cannot be honoured raises
    ``SettingsError``.  Objects are immutable and hashable.
    """

    min_block_size: int = 5
    """Fewest operations that make a TensorRT segment worth it; smaller ones run in PyTorch."""

    torch_executed_ops: frozenset[str] = frozenset()
    """What must run in PyTorch: ops (``"torch.ops.aten.add"`` and ``"aten.add"`` mean every overload,
    ``"aten.add.Tensor"`` one; op objects are taken too) or names of nodes of the captured graph."""

    torch_segments: str = "eager"
    """How what stays in PyTorch runs: ``"eager"``, op by op, or ``"inductor"``, compiled by Inductor."""

    require_full_compilation: bool = False
    """Raise ``CoverageError`` where a node would have to run in PyTorch."""

    optimization_level: int | None = None
    """TensorRT's builder optimization level, 0 (fastest build) to 5; ``None``: TensorRT's default."""

    opt_shape_profile: bool = False
    """Build kernels for exactly the optimal shapes as well, in an optimization profile of its own: TensorRT-RTX uses
    more general ones within a range."""

    workspace_size: int = 0
    """Most bytes of scratch memory that one engine may use; 0: as much as the device has."""

    truncate_double: bool = False
    """Compute in float32 what the model computes in float64 (inputs and outputs keep their dtype); without it
    float64 stays in PyTorch, because TensorRT has none."""

    widen_int16: bool = False
    """Compute in int32 what the model computes in int16 (inputs and outputs keep their dtype); without it int16 stays
    in PyTorch, because TensorRT has none.  Sums and products that leave int16 wrap around when they are returned, and
    not before they are compared, divided or converted."""

    use_fp32_acc: bool = False
    """Sum float16 in float32 in convolutions, attention, einsum and running sums, as PyTorch does, where TensorRT sums
    it in float16.  Matrix products are always summed in float32."""

    keep_quantized_weights: bool = True
    """Keep weights that the model holds as codes and scales (int8, four bits in groups, float8 in blocks) that small in
    engines, which dequantize them in each call; without it they are held as floats, which is faster where memory does
    not matter."""

    disable_tf32: bool = False
    """Forbid TensorFloat-32 for float32 matrix products and convolutions."""

    hardware_compatible: bool = False
    """Build engines that run on GPUs of compute capability 8.0 and later, not only on this one."""

    version_compatible: bool = False
    """Build engines that later versions of TensorRT can load."""

    target_compute_capabilities: tuple[str, ...] = ()
    """Compute capabilities to build for (TensorRT-RTX): ``"8.9"`` or ``"SM89"``, or ``"CURRENT"`` for
    the GPU of this machine.  Empty: TensorRT's default, or ``"CURRENT"`` where an engine for those does not load
    here."""

    trial_load: bool | None = None
    """Load each engine after it is built, so that one that builds and cannot run is found now;
    ``None``: where a GPU is present."""

    use_cuda_graphs: bool = False
    """Record each call as a CUDA graph, one for each shape, and replay it; calls that cannot be recorded run as
    usual, with a warning."""

    cuda_graph_scope: str = "module"
    """What one CUDA graph holds: ``"module"``, the whole compiled model, what PyTorch runs of it included;
    ``"engine"``, one engine."""

    cuda_graph_cache_size: int = 16
    """Most CUDA graphs to keep, for each module or engine; the one used least recently is dropped."""

    cuda_graph_strategy: str = "disabled"
    """``"whole_graph_capture"``: TensorRT-RTX records CUDA graphs of its own inside each engine."""

    dynamic_shapes_kernel_specialization_strategy: str = "lazy"
    """When TensorRT-RTX compiles kernels for the very shapes of a call: ``"lazy"`` (in the background),
    ``"eager"`` (before the call runs), or ``"none"``."""

    runtime_cache_path: str = ""
    """Folder in which TensorRT-RTX keeps the kernels that it compiles when an engine is loaded and first run;
    later processes start faster.  Empty: they are not kept."""

    use_pre_allocated_outputs: bool = False
    """Results lie in memory that is kept for each shape: no allocation and no copy, but the next call
    overwrites them."""

    share_device_memory: bool = False
    """Engines that run on one stream take turns with one workspace."""

    enable_weight_streaming: bool = False
    """Build engines whose weights may stay in host memory and be copied while they run."""

    weight_streaming_budget: int | None = None
    """Most bytes of weights to keep on the GPU, per engine, with ``enable_weight_streaming``; ``None``: all."""

    immutable_weights: bool = True
    """The weights of the engines never change.  ``False``: ``engine.refit`` can replace them; engines of
    TensorRT-RTX stay as fast, those of TensorRT may be slower."""

    cache_built_engines: bool = False
    """Keep engines on disk once they are built."""

    reuse_cached_engines: bool = False
    """Take engines from disk where the same network was built before, with the same TensorRT for the same target."""

    engine_cache_dir: str = ""
    """Folder of the kept engines.  Empty: ``engines`` in ``ENGINE_CACHE_DIR``, or in the user's cache folder."""

    engine_cache_size: int = 5 << 30
    """Most bytes that the kept engines may take; those used least recently are removed."""

    distributed_timeout: int = 600
    """Seconds that a rank of ``torch.distributed`` which has compiled its part of a module waits for the others."""

    tune: bool | str = False
    """``True``: where several rules, or a rule and PyTorch, can take the same nodes, measure which is faster on this
    GPU.  A path: replay the decisions of such a run, which ``engine tune`` wrote; nothing is measured."""

    tune_budget: float = 300.0
    """Seconds to spend on measurements; what was measured before is taken from disk and costs nothing."""

    tune_tolerance: float = 4.0
    """The largest error of a way that is taken, in errors of eager PyTorch in the same dtype, against float32 (of
    float32, against float64); what is no further from it than the untuned module is taken too."""

    debug: bool = False
    """Let TensorRT log verbosely, and check every rewrite against the shapes it should have."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _CHECKS[field.name](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.weight_streaming_budget is not None and not self.enable_weight_streaming:
            raise SettingsError("weight_streaming_budget needs engines built with enable_weight_streaming=True")
        if self.use_cuda_graphs and self.cuda_graph_strategy != "disabled":
            raise SettingsError("use_cuda_graphs and cuda_graph_strategy both record CUDA graphs: choose one")

    @classmethod
    def from_kwargs(cls, **settings: Any) -> CompilationSettings:
        """Settings by name; an unknown name raises ``SettingsError`` with the nearest known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise SettingsError(_unknown(name, known))
        return cls(**settings)

    def replace(self, **settings: Any) -> CompilationSettings:
        """A copy with other values; unknown names raise as in ``from_kwargs``."""
        now = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return self.from_kwargs(**{**now, **settings})

    def exclusion(self, mirror: NamedOps) -> Callable[[fx.Node], str | None]:
        """Why a node must run in PyTorch though a rule may take it; None where it need not."""
        executed = self.torch_executed_ops

        def excluded(node: fx.Node) -> str | None:
            op = mirror.op(node)
            for name in (op, op.rpartition(".")[0], node.name):
                if name in executed:
                    return f"torch_executed_ops names {name}"
            return None

        return excluded if executed else lambda node: None

    @property
    def compute_capabilities(self) -> frozenset[tuple[int, int]]:
        """Compute capabilities that engines are built for: those that are named, else that of the GPU of this machine.

        Empty where none is known: TensorRT-RTX compiles kernels where the engine is loaded.
        """
        named = [name.removeprefix("SM") for name in self.target_compute_capabilities if name != "CURRENT"]
        if named:
            return frozenset((int(name[:-1]), int(name[-1])) for name in named)
        return frozenset({torch.cuda.get_device_capability()}) if torch.cuda.is_available() else frozenset()

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; ``CompilationSettings.from_kwargs(**d)`` takes them back."""
        values = dataclasses.asdict(self)
        values["torch_executed_ops"] = sorted(self.torch_executed_ops)
        values["target_compute_capabilities"] = list(self.target_compute_capabilities)
        return values


def _unknown(name: str, known: list[str]) -> str:
    if name in _ELSEWHERE:
        return f"{name!r} is not a setting: {_ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known settings: {', '.join(known)}"
    return f"there is no setting {name!r}; {hint}"


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name} is True or False, not {value!r}")
    return value


def _optional_flag(name: str, value: Any) -> bool | None:
    return None if value is None else _flag(name, value)


def _count(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most and value > most):
        raise SettingsError(f"{name} is a whole number, {bounds}, not {value!r}")
    return value


def _choice(name: str, value: Any, *choices: str) -> str:
    if value not in choices:
        raise SettingsError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)


def _folder(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise SettingsError(f"{name} is the path of a folder, not {value!r}")
    path = os.fspath(value)
    if os.path.isfile(path):
        raise SettingsError(f"{name}={path!r} is a file: give a folder")
    return str(path)


def _tune(name: str, value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingsError(f"{name} is True, False or the path of a file with decisions, not {value!r}")
    return str(os.fspath(value))


def _number(name: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise SettingsError(f"{name} is a number, {least:g} or more, not {value!r}")
    return float(value)


def _level(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value, 0, 5)


def _capabilities(name: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        raise SettingsError(f'{name} is a list of names such as "8.9" or "CURRENT", not {value!r}')
    found: list[str] = []
    for text in names:
        match = isinstance(text, str) and re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip(), re.IGNORECASE)
        if isinstance(text, str) and text.upper() == "CURRENT":
            found.append("CURRENT")
        elif match:
            found.append(f"SM{match[1]}{match[2]}")
        else:
            raise SettingsError(f'{name}: {text!r} is not a compute capability; write "8.9" or "CURRENT"')
    if "CURRENT" in found and len(set(found)) > 1:
        raise SettingsError(f'{name}: "CURRENT" cannot be combined with others')
    return tuple(dict.fromkeys(found))


def _executed_ops(name: str, value: Any) -> frozenset[str]:
    if isinstance(value, str | OpOverload | OpOverloadPacket) or not isinstance(value, Iterable):
        value = [value]
    return frozenset(_op_name(name, op) for op in value)


def _op_name(name: str, op: Any) -> str:
    if isinstance(op, OpOverload):
        return str(op)
    if isinstance(op, OpOverloadPacket):
        return op._qualified_op_name.replace("::", ".")
    if callable(op) and hasattr(op, "__module__") and not isinstance(op, type):
        return f"{op.__module__.lstrip('_')}.{op.__name__}"
    if not isinstance(op, str) or not op.strip():
        raise SettingsError(f"{name} takes op names, op objects and node names, not {op!r}")
    text = op.strip().replace("::", ".").removeprefix("torch.ops.")
    if "." in text and (text != op.strip() or text.startswith("aten.")):
        _require_op(name, text)
    return text


def _require_op(name: str, text: str) -> None:
    namespace, packet_name, *overload = text.split(".")
    operators = getattr(torch.ops, namespace)
    try:
        packet = getattr(operators, packet_name)
        if overload:
            getattr(packet, overload[0])
    except AttributeError:
        known = {n.replace("::", ".") for n in torch._C._dispatch_get_all_op_names()}
        known |= {n.rpartition(".")[0] for n in known if n.count(".") > 1}
        near = difflib.get_close_matches(text, known, n=3, cutoff=0.7)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise SettingsError(f"{name}: PyTorch has no op {text!r}{hint}") from None


_CHECKS = {
    "min_block_size": lambda name, value: _count(name, value, 1),
    "torch_executed_ops": _executed_ops,
    "torch_segments": lambda name, value: _choice(name, value, "eager", "inductor"),
    "require_full_compilation": _flag,
    "optimization_level": _level,
    "opt_shape_profile": _flag,
    "workspace_size": _count,
    "truncate_double": _flag,
    "widen_int16": _flag,
    "use_fp32_acc": _flag,
    "keep_quantized_weights": _flag,
    "disable_tf32": _flag,
    "hardware_compatible": _flag,
    "version_compatible": _flag,
    "target_compute_capabilities": _capabilities,
    "trial_load": _optional_flag,
    "use_cuda_graphs": _flag,
    "cuda_graph_scope": lambda name, value: _choice(name, value, "module", "engine"),
    "cuda_graph_cache_size": lambda name, value: _count(name, value, 1),
    "cuda_graph_strategy": lambda name, value: _choice(name, value, "disabled", "whole_graph_capture"),
    "dynamic_shapes_kernel_specialization_strategy": lambda name, value: _choice(name, value, "lazy", "eager", "none"),
    "runtime_cache_path": _folder,
    "use_pre_allocated_outputs": _flag,
    "share_device_memory": _flag,
    "enable_weight_streaming": _flag,
    "weight_streaming_budget": lambda name, value: None if value is None else _count(name, value),
    "immutable_weights": _flag,
    "cache_built_engines": _flag,
    "reuse_cached_engines": _flag,
    "engine_cache_dir": _folder,
    "engine_cache_size": lambda name, value: _count(name, value, 1),
    "distributed_timeout": lambda name, value: _count(name, value, 1),
    "tune": _tune,
    "tune_budget": lambda name, value: _number(name, value, 0.0),
    "tune_tolerance": lambda name, value: _number(name, value, 0.0),
    "debug": _flag,
}

"""What ``engine.compile`` returns: a module that is called like the model it was made from."""

from __future__ import annotations

import copy
import dataclasses
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx
import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator, OpOverload

from engine.compiled.placement import placed
from engine.compiled.states import States
from engine.compiled.written_inputs import check_written
from engine.errors import EngineError
from engine.graph.marks import WRITE
from engine.inductor.segment import TorchSegment
from engine.process.pytorch_modes import autocast_is_on, without_autocast
from engine.report import Report
from engine.runtime.call_path import has_hooks, is_plain
from engine.runtime.whole_graphs import copied_inputs, engines_of, follow_settings, graphs_of_module

if TYPE_CHECKING:
    from engine.capture.signature import Signature
    from engine.refitting.weight_map import WeightPlan
    from engine.runtime.cuda_graphs.cache import GraphCache


class CompiledModule(nn.Module):
    """A compiled model.

    Attributes:
        graph_module: the partitioned graph; its engines are submodules ``engine_0``, ``engine_1``, ...
        report: what is in an engine, what is not, and why.
        weight_plan: how its weights follow from those of the model; None where they cannot be replaced.
        states: what it keeps from call to call, by the names that the model has for it; to be read, and written to,
            between calls.  In its state dict they have these names too.
    """

    weight_plan: WeightPlan | None = None
    # The tensors that `offload` moved to host memory, with their devices.
    _moved: Mapping[str, torch.device] | None = None
    _graphs: GraphCache | None = None
    # Whether the arguments of a call are the inputs of the graph, one by one.
    _direct: bool = False

    def __init__(
        self,
        graph_module: fx.GraphModule,
        signature: Signature,
        report: Report,
        states: Mapping[str, str] | None = None,
    ) -> None:
        """A module from its parts.

        Args:
            states: name of a state in the model -> buffer of the graph module.
        """
        super().__init__()
        self.graph_module = graph_module
        self.report = report
        self._signature = signature
        self._runs_ops = _runs_ops(graph_module)
        self._keep(States(graph_module, states or {}))
        follow_settings(self)

    def _keep(self, states: States) -> None:
        self.states = states
        self._stateful = bool(states)
        self._written = copied_inputs(self.graph_module)
        if states:
            self.register_state_dict_post_hook(_named_as_in_model)
            self.register_load_state_dict_pre_hook(_named_as_here)

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The lowered graph with what was decided: ``report.graph``.

        Raises:
            EngineError: the module was loaded from a file, which does not keep it.
        """
        return self.report.graph

    @property
    def inner_graphs(self) -> dict[str, networkx.MultiDiGraph]:
        """The lowered graphs inside ops of the model (the sides of ``torch.cond``, ..), as rules ran them, by name.

        Raises:
            EngineError: the module was loaded from a file, which does not keep them.
        """
        if self.report.decisions is None:
            raise EngineError("files do not keep the lowered graphs")
        return self.report.decisions.inner_graphs()

    def place(self, device: torch.device) -> None:
        """Take inputs on another device from now on: what a model did on the device of its inputs is done there.

        A GPU without an index is the one that the model is on, or else the current one.
        `to` does the same, and moves as well what the model keeps on a device of its own.
        """
        self._take_inputs_on(device, tensors=True)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CompiledModule:
        self.bring_constants_back()
        super()._apply(fn, recurse)
        # Which device `to` means shows on a tensor of our own; other functions leave it on the CPU, where no engine is.
        device = fn(torch.empty(0)).device
        if device.type == "cuda":
            self._take_inputs_on(device, tensors=False)
        return self

    def _take_inputs_on(self, device: torch.device, *, tensors: bool) -> None:
        arguments = placed(self.graph_module, self._signature.arguments, device, tensors=tensors)
        self._signature = dataclasses.replace(self._signature, arguments=arguments)
        if self._graphs is not None:
            self.set_cuda_graphs(True, self._graphs.size)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        """A module with its own graph module; the report and the graph, which never change, are shared."""
        clone = CompiledModule.__new__(CompiledModule)
        memo[id(self)] = clone
        nn.Module.__init__(clone)
        clone.graph_module = copy.deepcopy(self.graph_module, memo)
        # Not kept by fx.GraphModule.
        clone.graph_module._non_persistent_buffers_set.update(self.graph_module._non_persistent_buffers_set)
        clone.report = self.report
        clone._signature = self._signature
        clone._runs_ops = self._runs_ops
        clone.weight_plan = self.weight_plan
        clone.training = self.training
        clone._moved = self._moved
        clone._keep(States(clone.graph_module, self.states.buffers, self.states.specs))
        if self._graphs is not None:
            clone.set_cuda_graphs(True, self._graphs.size)
        return clone

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refused: engines are not tied to the classes of this process."""
        raise EngineError(
            "compiled modules cannot be pickled (torch.save, multiprocessing): engine.save(module, path) writes a "
            "file, and engine.load(path) reads it, in any process"
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model: same arguments, same structure of results, same dtypes, under autocast too."""
        if self._moved:
            self.onload()
        if self._runs_ops and not torch.compiler.is_compiling() and autocast_is_on():
            with without_autocast():
                return self.forward(*args, **kwargs)
        inputs = self._signature.bind(args, kwargs)
        plain = is_plain(inputs)
        if plain and (self._stateful or self._written):
            self._check_written(inputs)
        if self._graphs is not None and plain:
            self._direct = not kwargs and len(args) == len(inputs) and all(map(operator.is_, args, inputs))
            return self._graphs(inputs)
        return self._signature.unflatten(self.graph_module(*inputs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model: `forward`, with hooks where there are any; a CUDA graph that fits is replayed at once."""
        if self._direct and not kwargs and not has_hooks(self) and not (self._stateful and self._replaced_states()):
            result = self._graphs.replay_last(args)  # type: ignore[union-attr]
            if result is not None:
                return result
        return super().__call__(*args, **kwargs)

    def _check_written(self, inputs: Sequence[Any]) -> None:
        """Whether what a call writes to can be written to.

        Raises:
            StateError: a state cannot be used.
            InputError: an input that the model writes to shares its memory with another one.
        """
        if self._stateful:
            self._replaced_states()
        if self._written:
            names = [argument.name for argument in self._signature.arguments if not argument.is_constant]
            check_written(inputs, names, self._written)

    def _replaced_states(self) -> bool:
        """Check the states; whether one is another tensor than in the call before, so that graphs of it are dropped."""
        replaced = self.states.ready(self._input_device)
        if replaced and self._graphs is not None:
            self._graphs.clear()
        return replaced

    def _input_device(self) -> str | None:
        """The kind of device that the inputs are on, where it is one."""
        kinds = {argument.device for argument in self._signature.arguments if argument.device is not None}
        return kinds.pop() if len(kinds) == 1 else None

    def offload(self) -> None:
        """Give back the device memory of weights, workspaces, kernels and CUDA graphs, so that another model has it.

        What the model keeps from call to call (`states`, caches) stays where it is, with its values.  The next call
        brings everything back, and so does `onload`; engines are loaded again from their plans, which stay in host
        memory, and compile their kernels again where they have no ``runtime_cache_path``.  Constants that ops between
        engines read are moved to host memory meanwhile; those inside code that Inductor compiled stay.
        Waits for the GPU; no other thread may be in a call.  Does nothing where engines are interpreted.

        Raises:
            RuntimeUnavailable: a CUDA graph that the caller captured holds an engine.
        """
        if self._graphs is not None:
            self.set_cuda_graphs(True, self._graphs.size)
        for part in engines_of(self.graph_module):
            part.offload()
        states = set(self.states.buffers.values())
        held = {
            name: tensor
            for name, tensor in self.graph_module.named_buffers(recurse=False, remove_duplicate=False)
            if tensor.is_cuda and name not in states
        }
        if held:
            self._moved = {**(self._moved or {}), **{name: tensor.device for name, tensor in held.items()}}
            self._hold({name: torch.device("cpu") for name in held})
            del held
            torch.cuda.empty_cache()

    def onload(self) -> None:
        """Bring back what `offload` gave back, now instead of at the next call.

        Raises:
            EngineLoadError: TensorRT does not load an engine, for want of memory for example.
            RuntimeUnavailable: there is no GPU.
        """
        for part in engines_of(self.graph_module):
            part.onload()
        self.bring_constants_back()

    def bring_constants_back(self) -> None:
        """Put constants that `offload` moved to host memory where they were; engines stay as they are."""
        moved = self._moved
        if moved:
            self._hold(moved)
            self._moved = None

    def _hold(self, places: Mapping[str, torch.device]) -> None:
        """Move tensors of the graph module; two names of one tensor stay one tensor."""
        moved: dict[int, torch.Tensor] = {}
        buffers = self.graph_module._buffers
        for name, device in places.items():
            before = buffers[name]
            assert before is not None
            if id(before) not in moved:
                moved[id(before)] = before.to(device)
            buffers[name] = moved[id(before)]

    @property
    def cuda_graphs(self) -> GraphCache | None:
        """The CUDA graphs of whole calls; None where calls are not recorded."""
        return self._graphs

    def set_cuda_graphs(self, enabled: bool, size: int | None = None) -> None:
        """Record whole calls as CUDA graphs and replay them; or stop that, and drop the graphs.

        Args:
            size: most graphs to keep; by default what the setting ``cuda_graph_cache_size`` says.
        """
        self._direct = False
        self._graphs = graphs_of_module(self.graph_module, self._signature.unflatten, size) if enabled else None


def _runs_ops(graph_module: fx.GraphModule) -> bool:
    """Whether PyTorch computes something on tensors between the engines; copies compute nothing."""
    return any(isinstance(child, TorchSegment) for child in graph_module.children()) or any(
        isinstance(node.target, OpOverload | HigherOrderOperator) and node.target is not WRITE
        for node in graph_module.graph.nodes
    )


def _named_as_in_model(module: CompiledModule, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for name, buffer in module.states.buffers.items():
        if (held := f"{prefix}graph_module.{buffer}") in state_dict:
            state_dict[prefix + name] = state_dict.pop(held)


def _named_as_here(
    module: CompiledModule,
    state_dict: dict[str, Any],
    prefix: str,
    _metadata: Any,
    _strict: bool,
    missing: list[str],
    _unexpected: list[str],
    errors: list[str],
) -> None:
    """Rename states for the graph module, which would say of its own names what is wrong with them."""
    hidden = module.graph_module._non_persistent_buffers_set
    for name, buffer in module.states.buffers.items():
        now, wanted = module.states[name], module.states.specs[name][0]
        value = state_dict.pop(prefix + name, None)
        if value is None:
            if buffer in hidden:
                continue
            missing.append(prefix + name)
        elif isinstance(value, torch.Tensor) and value.shape != wanted:
            errors.append(
                f"state {prefix + name!r} has the shape {list(value.shape)}; the module was compiled with "
                f"{list(wanted)}"
            )
            value = None
        state_dict[f"{prefix}graph_module.{buffer}"] = now if value is None else value


class DeferredModule(nn.Module):
    """A model that is compiled for the inputs of its first call."""

    def __init__(self, model: nn.Module, compile: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        # Not a submodule: parameters of the original model are not parameters of the compiled one.
        object.__setattr__(self, "_pending", (model, compile, options))
        self._lock = threading.Lock()
        self.compiled: CompiledModule | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compile on the first call, then run."""
        if self.compiled is None:
            with self._lock:
                if self.compiled is None:
                    model, compile_, options = object.__getattribute__(self, "_pending")
                    self.compiled = compile_(model, args, kwargs, **options)
                    object.__setattr__(self, "_pending", None)
        return self.compiled(*args, **kwargs)

    def _done(self, what: str) -> CompiledModule:
        if self.compiled is None:
            raise RuntimeError(f"{what} is there after the first call, which decides the shapes to compile for")
        return self.compiled

    def offload(self) -> None:
        """`CompiledModule.offload`; does nothing before the first call."""
        if self.compiled is not None:
            self.compiled.offload()

    def onload(self) -> None:
        """`CompiledModule.onload`; does nothing before the first call."""
        if self.compiled is not None:
            self.compiled.onload()

    @property
    def report(self) -> Report:
        """The report of the compilation; available after the first call."""
        return self._done("report").report

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The lowered graph; available after the first call."""
        return self._done("graph").graph

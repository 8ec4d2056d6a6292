"""``TorchTensorRTModule``: a TensorRT engine as a PyTorch module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.utils._python_dispatch import _disable_current_modes

from engine import observers
from engine.errors import EngineError, RuntimeUnavailable
from engine.graph.tensor_spec import TensorSpec
from engine.runtime import operator
from engine.runtime.boundary import Boundary, Size, check_count, check_kinds
from engine.runtime.call_path import has_hooks, is_plain
from engine.runtime.cuda_graphs.side_stream import run_beside
from engine.runtime.engine_controls import EngineControls
from engine.runtime.engines.interpreted_engine import InterpretedEngine, Program
from engine.runtime.loaded_engines import LoadedEngines
from engine.runtime.options import RunOptions
from engine.runtime.selection import Selection, select_runtime
from engine.sizes import Int, normal

if TYPE_CHECKING:
    from engine.builder.blueprint import Blueprint
    from engine.runtime.records.record import Device
    from engine.settings import CompilationSettings


class TorchTensorRTModule(EngineControls):
    """Runs a serialized TensorRT engine.

    Inputs come in the order of ``input_binding_names``.  The result is the output tensor itself
    where there is one output binding, and else a tuple in the order of ``output_binding_names``,
    as Torch-TensorRT has it.  The engine runs on the device of its inputs, on PyTorch's current
    stream; it is loaded at the first call (or by `load`), once per device.  Calls may come from
    several threads.  There is no gradient through it.

    Inputs on the GPU are used where they lie; one that is not contiguous is copied.  An input that
    TensorRT reads on the host (to compute shapes) is a CPU tensor or a number; a CUDA tensor in its
    place is copied, which waits for the GPU.

    A call can be captured into a CUDA graph after a call with inputs of the same shapes; the graph
    uses the module's memory, so the module must outlive it.  With ``use_cuda_graphs`` among the
    settings (or inside `engine.runtime.enable_cudagraphs`) the module does that by itself.

    The serialized engine is kept after loading: for further devices, and for copies of the module.

    Args:
        serialized_engine: the plan, from whatever built it.
        input_binding_names: names of the engine's inputs, in calling order.
        output_binding_names: names of the engine's outputs, in the order of the results.
        name: the engine's name in messages.
        settings: the settings it was compiled with; None means the defaults.
        weight_name_map: the name that each of the engine's weights has in the model.
        requires_output_allocator: some output's size is known only while the engine runs.
        runtime: ``"python"`` (TensorRT on a GPU), ``"interpreter"`` (``program`` on the CPU), or
            ``"auto"``: Python where TensorRT and a GPU are there, else the interpreter where there is
            a program.
        program: the engine's network, as the interpreter runs it (`engine.interpreter.Program`).
        output_specs: per output its shape and dtype, with symbolic ints over the symbols of ``input_specs``;
            they make the module traceable on any machine and with symbolic shapes.
        input_specs: per input its shape and dtype; a symbolic int for an input that is a size.
        engines: the same engine where it is loaded already, by the same ``runtime``.

    Raises:
        RuntimeUnavailable: the runtime asked for can run on no machine.
    """

    built_on: Device | None = None
    """The GPU of the machine that built the engine, of a module from a file."""

    blueprint: Blueprint | None = None
    """What a refit builds the engine from, where TensorRT does not refit engines."""

    def __init__(
        self,
        serialized_engine: bytes | memoryview,
        input_binding_names: Sequence[str],
        output_binding_names: Sequence[str],
        *,
        name: str = "",
        settings: CompilationSettings | None = None,
        weight_name_map: Mapping[str, Any] | None = None,
        requires_output_allocator: bool = False,
        runtime: str = "auto",
        program: Program | None = None,
        output_specs: Sequence[Any] | None = None,
        input_specs: Sequence[Any] | None = None,
        engines: LoadedEngines | None = None,
    ) -> None:
        super().__init__()
        if settings is None:
            from engine.settings import CompilationSettings

            settings = CompilationSettings()
        self.name = name
        self.plan = _plan(serialized_engine)
        self.input_binding_names = list(input_binding_names)
        self.output_binding_names = list(output_binding_names)
        self.settings = settings
        self.weight_name_map = weight_name_map
        self.requires_output_allocator = requires_output_allocator
        self.device: torch.device | None = None
        self.input_specs = None if input_specs is None else tuple(map(_input_spec, input_specs))
        self.output_specs = None if output_specs is None else tuple(map(_spec, output_specs))
        self._boundary = None if self.output_specs is None else Boundary(self.input_specs, self.output_specs)
        self._program = program
        selection = select_runtime(runtime, has_program=program is not None)
        self._single = len(self.output_binding_names) == 1
        options = RunOptions.of(settings)
        if options != RunOptions() and selection.runtime != "interpreter":
            options.check()
        interpreted = self._interpreter(program) if selection.runtime == "interpreter" else None
        self._set_engines(self._unloaded(selection, options) if engines is None else engines, interpreted)
        self._handle = operator.register(self)
        if settings.use_cuda_graphs and settings.cuda_graph_scope == "engine":
            self.set_cuda_graphs(True)

    @property
    def serialized_engine(self) -> bytes:
        """The plan as bytes: a copy where it is in a file or in TensorRT's own memory (`plan` is not one)."""
        return self.plan if isinstance(self.plan, bytes) else bytes(self.plan)

    def _unloaded(self, selection: Selection, options: RunOptions) -> LoadedEngines:
        return LoadedEngines(
            self.plan,
            self.input_binding_names,
            self.output_binding_names,
            name=self.name,
            requires_output_allocator=self.requires_output_allocator,
            selection=selection,
            options=options,
        )

    def _interpreter(self, program: Program | None) -> InterpretedEngine | None:
        if program is None:
            return None
        return InterpretedEngine(program, self.input_binding_names, self.output_binding_names, self._boundary)

    @property
    def runtime(self) -> str:
        """How the engine is run: ``"python"``, ``"interpreter"``, or ``"unavailable"``."""
        return self._engines.selection.runtime

    @property
    def runtime_reason(self) -> str:
        """Why it is run that way; where it cannot run here, what is missing and what to do."""
        return self._engines.selection.reason

    def _result(self, results: Sequence[Any]) -> Any:
        return results[0] if self._single else tuple(results)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the engine once: `forward`, with hooks where there are any.

        Most calls need nothing of what ``nn.Module`` does around ``forward``, which takes as long as the rest.
        """
        if not kwargs and not has_hooks(self) and not observers.engine_calls:
            result = self._path.fast(inputs)
            if result is not None:
                return result
        return super().__call__(*inputs, **kwargs)

    def forward(self, *inputs: Any) -> Any:
        """Run the engine once; waits neither for the GPU nor for another call.

        Returns:
            The output, or a tuple of several.

        Raises:
            InputError: inputs of the wrong number, dtype, device or shape.
            RuntimeUnavailable: the engine cannot run on this machine.
            EngineLoadError: TensorRT does not load the engine (first call).
        """
        if is_plain(inputs):
            return self._path.run(inputs)
        return self._result(operator.execute(inputs, self.input_binding_names, self._handle))

    def run_engine(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """Run the engine on real tensors, without regard to tracing; always a list of outputs."""
        try:
            if observers.engine_calls:
                return observers.observe_call(self, inputs, self._run_engine)
            return self._run_engine(inputs)
        except RuntimeError:
            # What PyTorch raises for such a tensor names neither the input nor what to do.
            check_kinds(inputs, self.input_binding_names)
            raise

    def _run_engine(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        if self._interpreted is not None:
            return self._interpreted(inputs)
        for value in inputs:
            if isinstance(value, torch.Tensor) and (index := value.get_device()) >= 0:
                break
        else:
            index = -1
        engine = self._engines.get(index) or self._load(index)
        return run_beside(engine, inputs) if self.options.records_graphs else engine(inputs)

    def load(self, device: torch.device | str | int | None = None) -> None:
        """Load the engine now, and prepare it to run; does nothing where it is interpreted.

        Args:
            device: CUDA device; by default the one that `to` was told, or the current one.

        Raises:
            EngineLoadError: TensorRT does not load the engine; ``failed_layers`` names layers where it says which.
            RuntimeUnavailable: the engine cannot run on this machine.
        """
        if self._interpreted is None:
            if isinstance(device, int):
                device = torch.device("cuda", device)
            self._load(-1 if device is None else _index(torch.device(device)))

    def _load(self, index: int) -> Any:
        selection = self._engines.selection
        if not selection.usable:
            raise RuntimeUnavailable(f"engine {self.name!r} cannot run: {selection.reason}")
        engine = self._engines.load(index if index >= 0 else _index(self.device))
        self._choose_path()
        return engine

    def fake_outputs(self, inputs: Sequence[Any], unknown: Callable[[], Size]) -> list[torch.Tensor]:
        """Empty tensors of the shapes that a run would give, made under the active fake mode.

        Shapes come from the recorded specs; without them from the engine itself, which takes a GPU
        and known input shapes.

        Args:
            inputs: fake tensors and ints, in binding order.
            unknown: makes a size that the input sizes do not determine.
        """
        check_count(inputs, self.input_binding_names)
        device = next((x.device for x in inputs if isinstance(x, torch.Tensor) and (x.ndim or x.is_cuda)), None)
        if device is None:
            device = torch.device("cpu") if self._interpreted is not None else torch.device("cuda", _index(self.device))
        if self._boundary is not None:
            shapes: Sequence[Any] = self._boundary.output_shapes(inputs, unknown)
            dtypes = [output.dtype for output in self._boundary.outputs]
        else:
            shapes, dtypes = self._engine_outputs(inputs, device)
        return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in zip(shapes, dtypes, strict=True)]

    def _engine_outputs(
        self, inputs: Sequence[Any], device: torch.device
    ) -> tuple[list[tuple[int, ...]], list[torch.dtype]]:
        sizes = [size for value in inputs for size in (value.shape if isinstance(value, torch.Tensor) else (value,))]
        if self._interpreted is not None or any(isinstance(size, torch.SymInt) for size in sizes):
            raise RuntimeUnavailable(
                f"engine {self.name!r} cannot be traced: it was made without output_specs, and an engine tells output "
                "shapes only on a GPU and for known input shapes"
            )
        with _disable_current_modes():
            engine = self._load(_index(device))
            shapes = engine.output_shapes([tuple(value.shape) for value in inputs])
        found = [shape for shape in shapes if shape is not None]
        if len(found) < len(shapes):
            raise RuntimeUnavailable(f"engine {self.name!r} cannot be traced: its output sizes depend on values")
        return found, [binding.dtype for binding in engine.outputs]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> TorchTensorRTModule:
        # An engine has no tensors to move.  Which device `to` means shows on a tensor of our own.
        super()._apply(fn, recurse)
        moved = fn(torch.empty(0)).device
        if moved.type == "cuda":
            self.device = moved
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchTensorRTModule:
        """A module with the same plan (shared) and program, and execution contexts of its own."""
        clone = TorchTensorRTModule(
            self.plan,
            self.input_binding_names,
            self.output_binding_names,
            name=self.name,
            settings=self.settings,
            weight_name_map=copy.deepcopy(self.weight_name_map, memo),
            requires_output_allocator=self.requires_output_allocator,
            program=self._program,
            output_specs=self.output_specs,
            input_specs=self.input_specs,
        )
        clone._set_engines(clone._unloaded(self._engines.selection, self.options), self._interpreted)
        clone.device = self.device
        clone.built_on = self.built_on
        clone.blueprint = self.blueprint
        clone.set_cuda_graphs(self._graphs is not None, self._graphs.size if self._graphs is not None else None)
        clone.training = self.training
        memo[id(self)] = clone
        return clone

    @property
    def program(self) -> Program | None:
        """The engine's network as the interpreter runs it, where it was kept."""
        return self._program

    def replaced(self, serialized_engine: bytes | memoryview, program: Program | None) -> TorchTensorRTModule:
        """A module like this one with another plan and program of the same network: the result of a refit."""
        clone = copy.deepcopy(self)
        graphs = clone.cuda_graphs
        clone.plan = _plan(serialized_engine)
        clone._program = program
        interpreted = clone._interpreter(program) if clone._interpreted is not None else None
        clone._set_engines(clone._unloaded(self._engines.selection, self.options), interpreted or clone._interpreted)
        clone.set_cuda_graphs(graphs is not None, graphs.size if graphs is not None else None)
        return clone

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Always an error: a pickle would tie the plan to this process's classes, and run code when read."""
        raise EngineError(
            "compiled modules cannot be pickled (torch.save, multiprocessing): engine.save(module, path) writes a "
            'file, and engine.load(path) reads it, in any process; for one engine alone, use format="plan"'
        )

    def extra_repr(self) -> str:
        """The text that ``print(module)`` shows."""
        size = f"{len(self.plan) / 2**20:.1f} MiB"
        return (
            f"{self.name!r}, inputs={self.input_binding_names}, outputs={self.output_binding_names}, "
            f"engine={size}, runtime={self.runtime!r}"
        )


def _plan(serialized: Any) -> bytes | memoryview:
    """A plan that nobody writes to, without a copy of one that TensorRT's builder returned (an ``IHostMemory``)."""
    if isinstance(serialized, bytes) or (isinstance(serialized, memoryview) and serialized.readonly):
        return serialized
    view = memoryview(serialized)
    if isinstance(view.obj, bytearray):
        return bytes(view)
    return view.cast("B").toreadonly()


def _index(device: torch.device | None) -> int:
    """The index of a CUDA device; the current one where that is not said."""
    if device is None or device.type != "cuda" or device.index is None:
        return torch.cuda.current_device()
    return device.index


def _input_spec(value: Any) -> TensorSpec | Int:
    return normal(value) if isinstance(value, int | torch.SymInt | sympy.Expr) else _spec(value)


def _spec(value: Any) -> TensorSpec:
    if isinstance(value, TensorSpec):
        return value
    shape, dtype = (value.shape, value.dtype) if hasattr(value, "dtype") else value
    return TensorSpec(tuple(map(normal, shape)), dtype)

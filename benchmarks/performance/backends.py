"""What models are compiled with: each gives a call, its time in stages, and what is known of the engines.

Where each comes from: ``torch_tensorrt`` is Torch-TensorRT (2.11 runs on TensorRT-RTX 1.4.0: its wheel without the
libraries, renamed ``torch_tensorrt_rtx`` in its metadata, by which it decides, and ``dllist``); ``onnx`` needs ``onnx``
and ``onnxscript``, and TensorRT's own parser; ``onnxruntime`` needs ``onnxruntime`` and
``onnxruntime-ep-nv-tensorrt-rtx-cu13``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

Call = Callable[[], Any]
Begun = Callable[[], None]
"""Called by a backend once the program is exported: from there on memory is counted."""


@dataclass
class Compiled:
    """A compiled model.

    Attributes:
        call: runs it on the example inputs; the first call may compile.
        stages: name -> seconds.
        facts: what else is known, for the row.
        graphs: a context in which calls are CUDA graphs; None where the call itself is to be recorded, or is one.
        is_graph: whether every call is a CUDA graph already.
        why_no_graph: why calls are not recorded, where they are not.
    """

    call: Call
    stages: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    graphs: Callable[[], AbstractContextManager[Any]] | None = None
    is_graph: bool = False
    why_no_graph: str = ""


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        stages[name] = stages.get(name, 0.0) + time.perf_counter() - start


def _exported(model: nn.Module, args: Sequence[Any], stages: dict[str, float]) -> torch.export.ExportedProgram:
    with timed(stages, "export"):
        return torch.export.export(model, tuple(args))


def eager(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    return Compiled(lambda: model(*args))


def engine(model: nn.Module, args: Sequence[Any], begun: Begun, **settings: Any) -> Compiled:
    """This package; on the CPU its networks run in the interpreter."""
    import engine

    stages: dict[str, float] = {}
    program = _exported(model, args, stages)
    begun()
    runtime = "auto" if torch.cuda.is_available() else "interpreter"
    compiled = engine.compile(program, runtime=runtime, **settings)
    report = compiled.report
    phases = report.timings.phases
    stages |= {"ours": report.timings.own, **{name: phases.get(name, 0.0) for name in ("build", "load", "trial")}}
    # The program is there already; what is left of this phase is the import of it.
    stages["ours"] += phases.get("export", 0.0)
    facts = {
        "engines": sum(segment.backend == "tensorrt" for segment in report.segments),
        "outside": len(report.fallbacks),
        "tensorrt": report.tensorrt,
        "refusals": [str(refusal.reason)[:200] for refusal in report.refusals],
    }

    @contextmanager
    def graphs() -> Iterator[None]:
        with engine.runtime.enable_cudagraphs(compiled), engine.runtime.enable_pre_allocated_outputs(compiled):
            yield

    return Compiled(lambda: compiled(*args), stages, facts, graphs)


def engine_inductor(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    """This package, with what stays in PyTorch compiled by Inductor."""
    return engine(model, args, begun, torch_segments="inductor")


def inductor(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    stages: dict[str, float] = {}
    compiled = torch.compile(model, mode="reduce-overhead")
    with timed(stages, "build"):
        compiled(*args)
    return Compiled(lambda: compiled(*args), stages, is_graph=torch.cuda.is_available())


def torch_tensorrt(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    import torch_tensorrt

    stages: dict[str, float] = {}
    program = _exported(model, args, stages)
    begun()
    known = torch_tensorrt.dynamo.CompilationSettings.__dataclass_fields__
    wanted = {"use_explicit_typing": True, "min_block_size": 1, "truncate_double": True, "use_python_runtime": True}
    settings = {name: value for name, value in wanted.items() if name in known}
    with timed(stages, "build"):
        compiled = torch_tensorrt.dynamo.compile(program, inputs=list(args), **settings)
    engines = sum("run_on_acc" in name for name, _ in compiled.named_children())
    facts = {"engines": engines, "version": torch_tensorrt.__version__}
    return Compiled(lambda: compiled(*args), stages, facts)


def _onnx_file(model: nn.Module, args: Sequence[Any], stages: dict[str, float]) -> str:
    folder = tempfile.mkdtemp(prefix="performance.")
    path = str(Path(folder) / "model.onnx")
    with timed(stages, "export"):
        program = torch.onnx.export(model, tuple(args), dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=True)
    return path


def onnx(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    """ONNX and TensorRT's parser, the engine run bare."""
    stages: dict[str, float] = {}
    loaded = onnx_engine(model, args, begun, stages)
    from engine.tensorrt import load

    trt = load()
    tensors = [value.to(kind.dtype).contiguous() for value, kind in zip(args, loaded.inputs, strict=True)]
    _, bare = bare_call(loaded, tensors)
    return Compiled(bare, stages, {"engines": 1, "tensorrt": f"{trt.__name__} {trt.__version__}"})


def onnx_engine(model: nn.Module, args: Sequence[Any], begun: Begun, stages: dict[str, float]) -> Any:
    """The engine of the network that TensorRT's parser makes of the model's ONNX file."""
    from engine.runtime import TRTEngine
    from engine.tensorrt import load

    trt = load()
    path = _onnx_file(model, args, stages)
    begun()
    with timed(stages, "build"):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if strongly is None else 1 << int(strongly))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(path):
            raise RuntimeError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
        plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise RuntimeError("TensorRT did not build the engine")
    with timed(stages, "load"):
        return TRTEngine(bytes(plan), torch.cuda.current_device())


def bare_call(loaded: Any, tensors: list[torch.Tensor]) -> tuple[Any, Call]:
    """An engine's context, and a call of it with addresses that stay: nothing but TensorRT's own function."""
    context = loaded._engine.create_execution_context()
    if context is None:
        raise RuntimeError("TensorRT made no execution context")
    for binding, tensor in zip(loaded.inputs, tensors, strict=True):
        context.set_input_shape(binding.name, tuple(tensor.shape))
        context.set_tensor_address(binding.name, tensor.data_ptr())
    outputs = []
    for binding in loaded.outputs:
        shape = tuple(context.get_tensor_shape(binding.name))
        outputs.append(torch.empty(shape, dtype=binding.dtype, device="cuda"))
        context.set_tensor_address(binding.name, outputs[-1].data_ptr())

    def call(keep: Any = tensors) -> Any:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT did not run the engine")
        return outputs[0]

    return context, call


def onnxruntime(model: nn.Module, args: Sequence[Any], begun: Begun) -> Compiled:
    """ONNX Runtime with its TensorRT-RTX provider, on memory of PyTorch."""
    import onnxruntime as ort
    import onnxruntime_ep_nv_tensorrt_rtx as provider

    stages: dict[str, float] = {}
    path = _onnx_file(model, args, stages)
    begun()
    name = provider.get_ep_name()
    with timed(stages, "build"):
        ort.register_execution_provider_library(name, provider.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        if not devices:
            raise RuntimeError("the TensorRT-RTX provider found no device")
        options = ort.SessionOptions()
        options.add_provider_for_devices(devices[:1], {})
        session = ort.InferenceSession(path, sess_options=options)
    binding = session.io_binding()
    kinds = {torch.float32: 1, torch.int32: 6, torch.int64: 7, torch.float16: 10, torch.float64: 11, torch.bfloat16: 16}
    for wanted, value in zip(session.get_inputs(), args, strict=True):
        value = value.contiguous()
        where = (value.device.type, value.device.index or 0, kinds[value.dtype], tuple(value.shape), value.data_ptr())
        binding.bind_input(wanted.name, *where)
    with torch.no_grad():
        like = model(*args)
    result = torch.empty_like(like)
    target = (result.device.type, result.device.index or 0, kinds[result.dtype], tuple(result.shape), result.data_ptr())
    binding.bind_output(session.get_outputs()[0].name, *target)

    def call(keep: Any = args) -> Any:
        session.run_with_iobinding(binding)
        return result

    return Compiled(call, stages, {"version": ort.__version__}, why_no_graph="the provider is left as it is by default")


BACKENDS: dict[str, Callable[[nn.Module, Sequence[Any], Begun], Compiled]] = {
    "eager": eager,
    "engine": engine,
    "engine_inductor": engine_inductor,
    "onnx": onnx,
    "torch_tensorrt": torch_tensorrt,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
}
ON_CPU = ("eager", "inductor", "engine")

# One process compiles with so many threads.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "3")

"""Compare the interpreter with TensorRT, layer by layer: ``python -m tests.interpreter.agreement``.

Every case becomes an engine that runs on the GPU, and the interpreter runs the same network.  Cases are
shared out to worker processes; one that takes its worker down is reported as crashed, and the rest goes on.
``--build-only`` needs no GPU: it builds every engine and records what the builder refuses.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from engine.interpreter import Program
from engine.interpreter.dtypes import TORCH_DTYPES
from engine.tensorrt import load
from tests.interpreter.case import LayerCase, Net, logger

_SPECIALIZATION = "of TensorRT-RTX: a first call runs kernels of all shapes, unless this is eager"

STATUSES = ("agreed", "disagreed", "refused", "failed", "crashed", "unsupported")


class RefusedError(RuntimeError):
    """TensorRT rejected an engine that its builder made: TensorRT-RTX compiles kernels only when it loads one."""


def build(case: LayerCase) -> tuple[Net, Any]:
    """The network of a case and its serialized engine.

    Raises:
        RuntimeError: the builder refused; the message is TensorRT's own.
    """
    log = logger().messages
    log.clear()
    try:
        net = case.network()
        plan = net.builder.build_serialized_network(net.network, _configure(case, net))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise RuntimeError(log[0] if log else str(error)) from error
    if plan is None:
        raise RuntimeError(log[0] if log else "the builder returned no engine and logged no reason")
    return net, plan


def _configure(case: LayerCase, net: Net) -> Any:
    trt = net.trt
    config = net.builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if case.dynamic or case.shape_inputs:
        profile = net.builder.create_optimization_profile()
        for name, (least, most) in case.shape_inputs.items():
            profile.set_shape_input(name, least, case.inputs[name].tolist(), most)
        for name, tensor in case.inputs.items():
            axes = (case.dynamic or {}).get(name, ())
            low = [1 if axis in axes else n for axis, n in enumerate(tensor.shape)]
            high = [2 * n if axis in axes else n for axis, n in enumerate(tensor.shape)]
            profile.set_shape(name, low, list(tensor.shape), high)
        config.add_optimization_profile(profile)
    return config


def _context(engine: Any, specialization: str) -> Any:
    trt = load()
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    strategies = trt.DynamicShapesKernelSpecializationStrategy.__members__
    config.dynamic_shapes_kernel_specialization_strategy = strategies[specialization.upper()]
    return engine.create_execution_context(config)


def execute(plan: Any, case: LayerCase, specialization: str = "lazy") -> list[Tensor]:
    """Run an engine on the GPU; outputs come back on the CPU, in the order the network marked them.

    Args:
        specialization: which kernels of TensorRT-RTX run, of those that serve all shapes (``"lazy"``, in a first call)
            and those that it compiles for the shapes of the call (``"eager"``).

    Raises:
        RefusedError: the engine was built and does not load, or gives no execution context.
        RuntimeError: it failed while running.
    """
    trt = load()
    runtime = trt.Runtime(logger())
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RefusedError("the engine does not load: " + "; ".join(logger().messages[:2]))
    context = _context(engine, specialization)
    if context is None:
        raise RefusedError("no execution context: " + "; ".join(logger().messages[:2]))
    held: list[Tensor] = []
    placed: dict[str, Tensor] = {}
    for name, tensor in case.inputs.items():
        context.set_input_shape(name, tuple(tensor.shape))
        # Inputs that determine shapes are read by the host.
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        place = tensor.clone() if on_host else tensor.cuda()
        placed[name] = place
        context.set_tensor_address(name, place.data_ptr() or _spare(held))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    outputs: dict[str, Any] = {}
    allocators = []
    names = sorted(n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT)
    aliased = _aliased(engine, names, placed)
    for name in names:
        dtype = _torch_dtype(engine.get_tensor_dtype(name))
        shape = tuple(context.get_tensor_shape(name))
        if name in aliased:
            outputs[name] = aliased[name]
        elif min(shape, default=0) < 0:
            allocators.append(_allocator(trt, dtype))
            outputs[name] = allocators[-1]
            context.set_output_allocator(name, allocators[-1])
            continue
        else:
            on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            outputs[name] = torch.zeros(shape, dtype=dtype, device="cpu" if on_host else "cuda")
        context.set_tensor_address(name, outputs[name].data_ptr() or _spare(held))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    if not context.execute_async_v3(stream.cuda_stream):
        raise RuntimeError("execution failed: " + "; ".join(logger().messages[:2]))
    torch.cuda.synchronize()
    return [out.cpu() if isinstance(out, Tensor) else out.tensor().cpu() for out in outputs.values()]


def _spare(held: list[Tensor]) -> int:
    """An address for a tensor without elements; TensorRT takes no null pointer."""
    held.append(torch.zeros(256, device="cuda"))
    return held[-1].data_ptr()


def _aliased(engine: Any, names: list[str], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs that must live at the address of an input, as key-value caches do."""
    find = getattr(engine, "get_aliased_input_tensor", None)
    found = {}
    for name in names if find else ():
        source = find(name)
        if source:
            found[name] = inputs[source]
    return found


def _torch_dtype(dtype: Any) -> torch.dtype:
    return TORCH_DTYPES[dtype.name]


def _allocator(trt: Any, dtype: torch.dtype) -> Any:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer = torch.empty(0, dtype=torch.uint8, device="cuda")
            self.shape: tuple[int, ...] = ()

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            if size > self.buffer.numel():
                self.buffer = torch.empty(size, dtype=torch.uint8, device="cuda")
            return self.buffer.data_ptr()

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def tensor(self) -> Tensor:
            count = int(torch.tensor(self.shape).prod()) * dtype.itemsize if self.shape else dtype.itemsize
            return self.buffer[:count].view(dtype).reshape(self.shape)

    return Allocator()


def examine(case: LayerCase, build_only: bool = False, specialization: str = "lazy") -> dict[str, Any]:
    """Build, run and compare one case."""
    result: dict[str, Any] = {"case": case.name, "error": 0.0, "reason": ""}
    if not build_only and case.capability > torch.cuda.get_device_capability()[0]:
        return result | {"status": "unsupported", "reason": f"needs compute capability {case.capability}"}
    try:
        net, plan = build(case)
    except RuntimeError as error:
        return result | {"status": "refused", "reason": str(error)}
    if build_only:
        return result | {"status": "agreed"}
    try:
        logger().messages.clear()
        wanted = execute(plan, case, specialization)
        actual = Program.from_network(net.network)(*case.inputs.values())
    except RefusedError as error:
        return result | {"status": "refused", "reason": str(error)}
    except Exception as error:
        return result | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    checks = [case.compare(ours, theirs) for ours, theirs in zip(actual, wanted, strict=True)]
    result["error"] = max(error for _, error in checks)
    if all(same for same, _ in checks):
        return result | {"status": "agreed"}
    shown = [
        {"interpreter": _show(ours), "tensorrt": _show(theirs), "max_error": error}
        for ours, theirs, (same, error) in zip(actual, wanted, checks, strict=True)
        if not same
    ]
    return result | {"status": "disagreed", "reason": shown}


def _show(tensor: Tensor) -> str:
    values = tensor.double().flatten()[:16].tolist()
    return f"{tensor.dtype} {tuple(tensor.shape)} {[round(v, 5) for v in values]}"


def examine_layer(index: int, build_only: bool = False, specialization: str = "lazy") -> dict[str, Any]:
    from tests.interpreter.cases import CASES

    return examine(CASES[index], build_only, specialization)


Examine: TypeAlias = "Callable[[int], dict[str, Any]]"
"""What became of a case, by its number; to be called in another process."""


def _work(tasks: Any, results: Any, examine: Examine) -> None:
    torch.set_num_threads(1)
    while True:
        index = tasks.get()
        if index is None:
            return
        results.put((os.getpid(), index, None))
        try:
            outcome = examine(index)
        except Exception as error:
            outcome = {"status": "failed", "error": 0.0, "reason": f"{type(error).__name__}: {error}"}
        results.put((os.getpid(), index, outcome))


def run(cases: Mapping[int, str], examine: Examine, workers: int, deadline: float) -> list[dict[str, Any]]:
    """Examine cases in worker processes, until all are done or ``deadline`` (monotonic seconds) has come.

    Args:
        cases: the name of each case, by its number.
    """
    indices = list(cases)
    spawn = multiprocessing.get_context("spawn")
    tasks, results = spawn.Queue(), spawn.Queue()
    for index in indices:
        tasks.put(index)
    for _ in range(workers):
        tasks.put(None)

    def start() -> Any:
        process = spawn.Process(target=_work, args=(tasks, results, examine), daemon=True)
        process.start()
        return process

    alive = {process.pid: process for process in (start() for _ in range(workers))}
    busy: dict[int, int] = {}
    done: dict[int, dict[str, Any]] = {}
    while alive and len(done) < len(indices) and time.monotonic() < deadline:
        try:
            pid, index, outcome = results.get(timeout=1)
            if outcome is None:
                busy[pid] = index
            else:
                done[index] = {"case": cases[index], **outcome}
                busy.pop(pid, None)
            continue
        except queue.Empty:
            pass
        for pid, process in list(alive.items()):
            if process.is_alive():
                continue
            del alive[pid]
            if pid in busy:
                index = busy.pop(pid)
                reason = f"the process died with code {process.exitcode}"
                done[index] = {"case": cases[index], "status": "crashed", "error": 0.0, "reason": reason}
                replacement = start()
                alive[replacement.pid] = replacement
    for process in alive.values():
        process.kill()
    return [done[index] for index in sorted(done)]


def main() -> int:
    """Compare layers."""
    from tests.interpreter.cases import CASES

    options = arguments(__doc__)
    cases = {index: case.name for index, case in enumerate(CASES) if options.only in case.name}
    examine = functools.partial(examine_layer, build_only=options.build_only, specialization=options.specialization)
    return compare(cases, examine, options)


def arguments(about: str | None) -> argparse.Namespace:
    """The command line of a comparison."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--build-only", action="store_true", help="build engines and run nothing")
    parser.add_argument("--specialization", default="lazy", choices=("lazy", "eager", "none"), help=_SPECIALIZATION)
    parser.add_argument("--json", type=Path, help="write every outcome that is not agreement here")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which to stop")
    return parser.parse_args()


def compare(cases: Mapping[int, str], examine: Examine, options: argparse.Namespace) -> int:
    """Examine cases and print what became of them; 1 if some disagreed, failed or crashed."""
    begun = time.monotonic()
    outcomes = run(cases, examine, options.workers, begun + options.limit)
    rest = [outcome for outcome in outcomes if outcome["status"] != "agreed"]
    for outcome in rest:
        print(f"{outcome['status']:<12}{outcome['case']}: {str(outcome['reason'])[:300]}")
    families: dict[str, Any] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        family = families[outcome["case"].split("-")[0].split(".")[0]]
        family[outcome["status"]] += 1
        family["error"] = max(family["error"], outcome["error"] if outcome["status"] == "agreed" else 0)
    print(f"\n{'family':<18}" + "".join(f"{status:>12}" for status in STATUSES) + f"{'max error':>12}")
    for name, family in sorted(families.items()):
        print(f"{name:<18}" + "".join(f"{family[s]:>12}" for s in STATUSES) + f"{family['error']:>12.2g}")
    total = collections.Counter(outcome["status"] for outcome in outcomes)
    print(f"{'total':<18}" + "".join(f"{total[status]:>12}" for status in STATUSES))
    print(f"{len(outcomes)} of {len(cases)} cases in {time.monotonic() - begun:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"tensorrt": load().__version__, "outcomes": rest}, indent=1))
    return int(any(outcome["status"] in ("disagreed", "failed", "crashed") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

"""The op ``tensorrt::execute_engine(Tensor[] input_tensors, Engine engine) -> Tensor[]`` and its engine class.

Graphs with this op run wherever the class is registered: by this package's C++ library, which LibTorch
programs load too, by Torch-TensorRT, or else from Python.  Sizes cross it as 0-d int64 CPU tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.errors import EngineError, RecordError, RuntimeUnavailable
from engine.runtime.boundary import Boundary
from engine.runtime.engines.cpp_engine import library_problem, load_library
from engine.runtime.records.metadata import module_of
from engine.runtime.records.record import EngineRecord, read_metadata
from engine.runtime.records.specs import boundary_of

_NAME = "tensorrt::execute_engine"
_KEPT: list[Any] = []
_UNSUPPORTED = (
    f"{_NAME} needs the C++ library (pip install --no-build-isolation .), or a PyTorch whose ops take Python objects, "
    f"also in torch.export, which those of {torch.__version__} do not"
)


def engine_object(record: EngineRecord) -> Any:
    """An engine as the op takes it; it is loaded onto a GPU when the op runs.

    Raises:
        RuntimeUnavailable: the op cannot be registered in this process.
    """
    return _register()[1](record)


def registered_by() -> str:
    """Who registers the op in this process: ``"cpp"``, ``"torch_tensorrt"`` or ``"python"``; registers it if need be.

    Raises:
        RuntimeUnavailable: the op cannot be registered in this process.
    """
    return _register()[0]


def require_class(what: str) -> None:
    """Check that the op's engines are objects of C++, which PyTorch can put into files.

    Raises:
        RuntimeUnavailable: they are not; the message says why ``what`` needs that.
    """
    library = load_library()
    if library is None and not _has_class():
        raise RuntimeUnavailable(f"{what} needs the C++ library: {library_problem()}")


@functools.cache
def _register() -> tuple[str, Callable[[EngineRecord], Any]]:
    library = load_library()
    if _has_class():
        own = library is not None and not library.not_registered
        _register_fake()
        return ("cpp", _cpp_object) if own else ("torch_tensorrt", _foreign_object)
    _register_python()
    _register_fake()
    return "python", _python_class()


def _has_class() -> bool:
    try:
        torch._C._get_custom_class_python_wrapper("tensorrt", "Engine")
    except RuntimeError:
        return False
    return True


def _cpp_object(record: EngineRecord) -> Any:
    return torch.classes.tensorrt.Engine(record.to_fields())


def _foreign_object(record: EngineRecord) -> Any:
    length = int(torch.ops.tensorrt.SERIALIZATION_LEN())
    abi = {11: "8", 13: "10"}.get(length)
    if abi is None:
        raise RuntimeUnavailable(
            f"another library registered tensorrt::Engine with records of {length} fields: load this package's first "
            "(import engine before torch_tensorrt)"
        )
    return torch.classes.tensorrt.Engine(record.to_fields(abi=abi, pickled=True))


@functools.cache
def _python_class() -> Any:
    try:
        from torch._export.passes import lift_constants_pass
        from torch._library.opaque_object import register_opaque_type
        from torch._opaque_base import OpaqueBase
    except ImportError:
        raise RuntimeUnavailable(_UNSUPPORTED) from None
    if not hasattr(lift_constants_pass, "is_opaque_type"):
        # torch 2.11 has such ops; its torch.export fails on them with an assertion.
        raise RuntimeUnavailable(_UNSUPPORTED)

    class Engine(OpaqueBase):  # type: ignore[misc]
        """An engine as an argument of the op, where there is no C++ library."""

        def __init__(self, record: EngineRecord) -> None:
            self._record = record
            self._module = module_of(record, runtime="python")

        def get_serialized_metadata(self) -> str:
            """Field 7 of the record."""
            return str(self._record.to_fields()[7])

        def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            """Run the engine; outputs are fresh."""
            results = self._module.run_engine(list(inputs))
            given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            return [item.clone() if item.untyped_storage().data_ptr() in given else item for item in results]

        def __reduce_ex__(self, protocol: Any) -> Any:
            """Always an error: an exported program would hold it as a pickle."""
            raise EngineError(
                "torch.export.save writes engines only as objects of the C++ library (pip install "
                "--no-build-isolation .); engine.save(module, path) writes files without it"
            )

    # Its name in the op's schema, which knows no names of local classes.
    Engine.__qualname__ = "Engine"
    try:
        register_opaque_type(Engine, typ="reference")
    except TypeError:
        raise RuntimeUnavailable(_UNSUPPORTED) from None
    return Engine


def _register_python() -> None:
    from torch._library.opaque_object import get_opaque_type_name

    library = torch.library.Library("tensorrt", "FRAGMENT")
    library.define(
        f"execute_engine(Tensor[] input_tensors, {get_opaque_type_name(_python_class())} engine) -> Tensor[]"
    )
    library.impl("execute_engine", lambda inputs, engine: _real(engine).run(inputs), "CompositeExplicitAutograd")
    _KEPT.append(library)


def _register_fake() -> None:
    if torch._library.simple_registry.singleton.find(_NAME).fake_impl.kernel is None:
        library = torch.library.Library("tensorrt", "FRAGMENT")
        torch.library.register_fake(_NAME, _fake, lib=library)
        _KEPT.append(library)


def _real(engine: Any) -> Any:
    return getattr(engine, "real_obj", engine)


def _fake(inputs: Sequence[torch.Tensor], engine: Any) -> list[torch.Tensor]:
    boundary = _boundary(_real(engine).get_serialized_metadata())
    device = next((tensor.device for tensor in inputs if tensor.ndim or tensor.is_cuda), torch.device("cuda", 0))
    shapes = boundary.output_shapes(inputs, torch.library.get_ctx().new_dynamic_size)
    return [
        torch.empty(shape, dtype=spec.dtype, device=device)
        for shape, spec in zip(shapes, boundary.outputs, strict=True)
    ]


@functools.lru_cache(maxsize=1024)
def _boundary(metadata: str) -> Boundary:
    inputs, outputs = boundary_of(read_metadata(metadata)[0])
    if outputs is None:
        raise RecordError("the engine cannot be traced: its record does not say which shapes its outputs have")
    return Boundary(None if inputs is None else tuple(inputs), tuple(outputs))


__all__ = ["engine_object", "registered_by", "require_class"]

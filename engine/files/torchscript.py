"""A compiled module as TorchScript, for LibTorch programs without Python."""

from __future__ import annotations

import io
import os
import warnings

import torch
from torch._ops import OpOverload

from engine.compiled.module import CompiledModule
from engine.errors import SaveError
from engine.files.exportable import exportable
from engine.runtime.records.engine_op import require_class
from engine.storage.whole_file import replacing

# TorchScript's sizes are ints.
_OF_INTS = {
    torch.ops.aten.sym_size: torch.ops.aten.size,
    torch.ops.aten.sym_stride: torch.ops.aten.stride,
    torch.ops.aten.sym_numel: torch.ops.aten.numel,
}


def write_torchscript(module: CompiledModule, path: str | os.PathLike[str]) -> None:
    """Write a scripted module that holds ``torch.classes.tensorrt.Engine`` objects.

    Raises:
        SaveError: TorchScript cannot hold the graph.
        RuntimeUnavailable: the C++ library is not there.
        OSError: the file cannot be written.
    """
    require_class('format="torchscript"')
    graph_module = exportable(module, checks=False)
    for node in graph_module.graph.nodes:
        # TorchScript finds the overload by the arguments.
        if isinstance(node.target, OpOverload):
            packet = node.target.overloadpacket
            node.target = _OF_INTS.get(packet, packet)
    graph_module.recompile()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.jit.save(torch.jit.script(graph_module.eval()), buffer)
        except (
            RuntimeError,
            NotImplementedError,
            ValueError,
            TypeError,
            torch.jit.frontend.NotSupportedError,
        ) as error:
            raise SaveError(f"TorchScript cannot hold the graph: {str(error).strip()[:1000]}") from None
    with replacing(path) as file:
        file.write(buffer.getbuffer())


__all__ = ["write_torchscript"]

"""Models that are, or hold, what TorchScript made: torch.export follows Python code alone."""

from __future__ import annotations

import torch
from torch import nn

from engine.capture.diagnosis import PACKED
from engine.errors import CaptureError


def refuse_scripted(model: nn.Module, error: Exception | None = None) -> None:
    """Raises ``CaptureError`` where a module is TorchScript, whose code torch.export does not follow."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"{name!r} of {type(model).__name__}" if name else type(model).__name__
            raise CaptureError(
                f"{what} is a module of TorchScript ({module.original_name}), whose code torch.export cannot follow: "
                "use the Python module that torch.jit.script or torch.jit.trace was given"
            ) from error


def refuse_packed(model: nn.Module, error: Exception) -> None:
    """Raises ``CaptureError`` where a module holds an object of TorchScript, which torch.export does not look into.

    So do the modules that ``torch.ao.quantization.convert`` and ``quantize_dynamic`` make: their weights are packed.
    """
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, torch.ScriptObject):
                kind = value._type().qualified_name().removeprefix("__torch__.torch.classes.")
                path = f"{name}.{attribute}" if name else attribute
                raise CaptureError(
                    f"{path!r} of {type(model).__name__} is an object of TorchScript ({kind}), which torch.export "
                    "cannot look into" + (PACKED if kind.startswith("quantized.") else "")
                ) from error


__all__ = ["refuse_packed", "refuse_scripted"]

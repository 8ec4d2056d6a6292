"""Whether the tensors of a captured model hold numbers, as an engine needs them."""

from __future__ import annotations

from torch._subclasses.fake_tensor import FakeTensor

from engine.capture.captured import Captured
from engine.errors import CaptureError, InputError


def check_values(captured: Captured) -> None:
    """Raise an error for a model whose tensors are on the meta device, or fake.

    Raises:
        CaptureError: a parameter, a buffer or a constant has no values.
        InputError: an input is on the meta device, where nothing can run.
    """
    for name, tensor in captured.constants.items():
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            kind = "is a fake tensor" if isinstance(tensor, FakeTensor) else "is on the meta device"
            raise CaptureError(
                f"{name!r} of {captured.model_class} {kind} and has no values to build an engine of: load them first "
                "(model.to_empty(device=...) and model.load_state_dict(...)). engine.coverage takes the model as it is"
            )
    for argument in captured.arguments:
        if argument.device == "meta":
            raise InputError(f"{argument} is on the meta device, where no engine can run: pass an example elsewhere")


__all__ = ["check_values"]

"""The trial load that ends a build: an engine that builds can still fail to load."""

from __future__ import annotations

from collections.abc import Collection

import torch

from engine.errors import RuntimeUnavailable
from engine.runtime.engines.python_engine import TRTEngine
from engine.runtime.options import RunOptions


def trial_load(
    serialized: bytes | memoryview,
    *,
    name: str = "",
    layer_names: Collection[str] = (),
    options: RunOptions = RunOptions(),  # noqa: B008 - immutable
) -> None:
    """Load an engine on the current GPU and prepare it to run, then let it go.

    TensorRT chooses some kernels only when an execution context is made, so that this is the
    first moment at which a network with no kernel for a layer is rejected.

    Args:
        serialized: the plan.
        name: the engine's name, for messages.
        layer_names: the names of the network's layers, to be found in TensorRT's messages.
        options: how it will be run; kernels that it compiles now are kept where they name a runtime cache.

    Raises:
        EngineLoadError: (a `BuildError`) TensorRT rejects it; ``failed_layers`` lists the layers that
            its messages name, so that the caller can convert them in another way.
        SettingsError: TensorRT, or this engine, cannot do what ``options`` ask for.
        RuntimeUnavailable: there is no GPU to try on.
    """
    if not torch.cuda.is_available():
        raise RuntimeUnavailable("an engine can be tried only on a machine with a GPU, and PyTorch finds none")
    TRTEngine(serialized, torch.cuda.current_device(), name=name, layer_names=layer_names, options=options)

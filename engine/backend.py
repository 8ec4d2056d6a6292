"""The backend of ``torch.compile`` under the name that scripts know; it lives in `engine.torch_compile`."""

from engine.torch_compile.backend import FallbackWarning, engine

__all__ = ["FallbackWarning", "engine"]

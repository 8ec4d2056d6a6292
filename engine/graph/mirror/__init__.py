"""The graph of a model, mirrored with what rules ask about it."""

from engine.graph.mirror.mirror import Mirror
from engine.graph.value import Value

__all__ = ["Mirror", "Value"]

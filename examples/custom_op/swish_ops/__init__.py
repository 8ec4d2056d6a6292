"""An op of our own, and rules that take it into TensorRT engines."""

from swish_ops.ops import scaled_swish

__all__ = ["scaled_swish"]

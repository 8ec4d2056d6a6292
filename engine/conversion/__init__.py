"""Conversion: tiles to TensorRT networks."""

from engine.conversion.network import BuiltNetwork, emit_network

__all__ = ["BuiltNetwork", "emit_network"]

"""Conversion: tiles to TensorRT networks, networks to engines."""

from engine.conversion.builder import build, builder_config, compute_capabilities, describe_tensorrt
from engine.conversion.network import BuiltNetwork, emit_network

__all__ = ["BuiltNetwork", "build", "builder_config", "compute_capabilities", "describe_tensorrt", "emit_network"]

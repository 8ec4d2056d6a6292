"""Conversion: tiles to TensorRT networks, networks to engines."""

from engine.builder.blueprint import Blueprint, NoBlueprint
from engine.builder.builder import build, builder_config, compute_capabilities, describe_tensorrt, for_this_gpu
from engine.conversion.network import BuiltNetwork, emit_network
from engine.conversion.weights import refits_natively

__all__ = [
    "Blueprint",
    "BuiltNetwork",
    "NoBlueprint",
    "build",
    "builder_config",
    "compute_capabilities",
    "describe_tensorrt",
    "emit_network",
    "for_this_gpu",
    "refits_natively",
]

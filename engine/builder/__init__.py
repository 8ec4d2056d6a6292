"""Building: networks to engines, the cache of built engines, and building again with new weights."""

from engine.builder.blueprint import Blueprint, NoBlueprint
from engine.builder.builder import build, builder_config, compute_capabilities, for_this_gpu

__all__ = ["Blueprint", "NoBlueprint", "build", "builder_config", "compute_capabilities", "for_this_gpu"]

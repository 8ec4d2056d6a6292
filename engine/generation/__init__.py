"""Language models that write tokens: one engine for prompt and answer, its cache kept by the module."""

from engine.generation.generator import Generator

__all__ = ["Generator"]

"""Expressions of rules as closures of Python."""

from engine.evaluator.closures.compilation import Compiler

__all__ = ["Compiler"]

"""The interpreter: a finished TensorRT network, run on the CPU with PyTorch."""

from engine.errors import InterpreterError
from engine.interpreter.program import Program

__all__ = ["InterpreterError", "Program"]

"""Evaluation of the rules language: guards to truth values, right sides to plans."""

from engine.evaluator.application import apply, decreasing, evaluate
from engine.evaluator.context import Context
from engine.evaluator.failures import Failure
from engine.evaluator.faults import Faults

__all__ = ["Context", "Failure", "Faults", "apply", "decreasing", "evaluate"]

"""Evaluation of the rules language: guards to truth values, right sides to plans."""

from engine.evaluator.evaluation import Context, Failure, apply, decreasing, evaluate
from engine.evaluator.faults import Faults

__all__ = ["Context", "Failure", "Faults", "apply", "decreasing", "evaluate"]

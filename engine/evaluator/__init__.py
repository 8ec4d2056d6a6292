"""Evaluation of the rules language: guards to truth values, right sides to plans."""

from engine.evaluator.evaluation import Context, Failure, apply, decreasing, evaluate, other_outputs

__all__ = ["Context", "Failure", "apply", "decreasing", "evaluate", "other_outputs"]

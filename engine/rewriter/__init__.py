"""Rewriting of ATen graphs: rules, PyTorch's decompositions, and constant folding."""

from engine.rewriter.decomposition import decompose
from engine.rewriter.folding import Folded, fold_constants
from engine.rewriter.lowering import lower_all
from engine.rewriter.rewriter import Rewriter, RewriteStats, rewrite
from engine.rewriter.trace import Application, Trace
from engine.weights.recipe import Recipe

__all__ = [
    "Application",
    "Folded",
    "Recipe",
    "RewriteStats",
    "Rewriter",
    "Trace",
    "decompose",
    "fold_constants",
    "lower_all",
    "rewrite",
]

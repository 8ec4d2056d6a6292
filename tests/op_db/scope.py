"""Which entries the lists of ops that real models use, and PyTorch's core set, ask for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx

from engine.verify.core import core_overloads
from tests.op_db.samples import Batch

_MODEL_OPS = Path(__file__).resolve().parents[1] / "rules" / "model_ops.txt"


@functools.cache
def listed_ops() -> frozenset[str]:
    """The ops of real models, whole and decomposed, and the core overloads."""
    lines = (line.split()[0] for line in _MODEL_OPS.read_text().splitlines() if not line.startswith("#"))
    return frozenset({f"aten.{name}" for name in lines} | set(core_overloads()))


def is_listed(ops: Sequence[str]) -> bool:
    """Whether all of these ops are on the lists."""
    return bool(ops) and listed_ops().issuperset(ops)


def ops_of(batch: Batch) -> tuple[list[str], list[str]]:
    """The ops of the exported graph, composites whole and decomposed; empty where torch.export fails."""
    try:
        with torch.no_grad():
            program = torch.export.export(batch, batch.inputs, strict=False)
            return _ops(program.run_decompositions({}).graph), _ops(program.run_decompositions().graph)
    except Exception:  # whatever the model's code or torch.export raises: that entry is not on the lists
        return [], []


def _ops(graph: fx.Graph) -> list[str]:
    targets = (node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload))
    return sorted({str(target) for target in targets})

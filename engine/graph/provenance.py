"""Where a node comes from: the model line it was traced at and the rules that rewrote it."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

# Where packages that others wrote are installed.
_INSTALLED = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in ("stdlib", "purelib", "platlib"))
_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
# Code that Dynamo wrote; where torch.export calls it for the graphs of control flow, it leaves no other line of them.
_GENERATED = "<eval_with_key>"
# Functions of ours that stand in for PyTorch's while a model is traced.
_CAPTURE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "capture", "")
_INHERITED = ("stack_trace", "nn_module_stack", "from_node", "source_fn_stack")


@dataclass(frozen=True, slots=True)
class Provenance:
    """One rewrite.

    Attributes:
        rule_id: id of the rule (``normalization.rms_norm``).
        where: ``file:line`` of the rule.
        nodes: names of the matched nodes, in graph order.
    """

    rule_id: str
    where: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule_id} ({self.where}) from {', '.join(self.nodes)}"


def history(node: fx.Node) -> tuple[Provenance, ...]:
    """The rewrites that led to a node, oldest first."""
    rules: tuple[Provenance, ...] = node.meta.get("rules", ())
    return rules


def inherit(node: fx.Node, origins: Sequence[fx.Node], rule: Provenance | None) -> None:
    """Give a new node the model lines of its first origin and the rewrite history of all origins."""
    for key in _INHERITED:
        for origin in origins:
            if key in origin.meta:
                node.meta[key] = origin.meta[key]
                break
    steps: dict[Provenance, None] = dict.fromkeys(step for origin in origins for step in history(origin))
    if rule is not None:
        steps[rule] = None
    if steps:
        node.meta["rules"] = tuple(steps)


def module_path(node: fx.Node) -> str:
    """Path of the ``nn.Module`` a node was traced in (``layers.0.mlp``), empty at the top level."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    entry = list(stack.values())[-1]
    path = entry[0] if isinstance(entry, tuple) else entry
    return _without_root(str(path))


def _without_root(path: str) -> str:
    if path.startswith("_empty_nn_module_stack"):  # FX puts this where a pass made the node
        return ""
    for prefix in ("L['self'].", "self."):
        path = path.removeprefix(prefix)
    return "" if path in ("L['self']", "self") else path


def op_of_user(node: fx.Node) -> OpOverload | None:
    """The op that a node stands for, where PyTorch wrapped it because it writes to its operands or has effects.

    ``torch.export`` makes ``auto_functionalized_v2(my.double_, ..)`` of a call of ``my.double_``.
    """
    if isinstance(node.target, HigherOrderOperator):
        return next((item for item in node.args[:2] if isinstance(item, OpOverload)), None)
    return None


def op_name(node: fx.Node, name: str) -> str:
    """The name of a node's op for people: that of the op which PyTorch wrapped, or else ``name``."""
    wrapped = op_of_user(node)
    return name if wrapped is None else str(wrapped)


def model_line(node: fx.Node) -> str:
    """``file:line`` of the model code a node comes from, empty when the trace is missing.

    That is the innermost frame of the stack trace in the user's own files, or else in a package outside PyTorch: the
    line that calls ``self.linear(x)``, not the one inside ``torch.nn.Linear``.  See :func:`module_path` for the module.
    """
    frames = []
    for line in str(node.meta.get("stack_trace") or "").splitlines():
        text = line.strip()
        if text.startswith('File "'):
            file, _, rest = text.removeprefix('File "').partition('", line ')
            if file.startswith((_GENERATED, _CAPTURE)):
                continue
            frames.append((file, rest.partition(",")[0]))
    if not frames:
        return ""
    packages = [frame for frame in frames if not frame[0].startswith(_TORCH)]
    own = [frame for frame in packages if not frame[0].startswith(_INSTALLED)]
    return ":".join((own or packages or frames)[-1])


def describe(node: fx.Node) -> str:
    """A node for a message: its name, its module and its model line, as far as they are known."""
    places: Iterable[str] = filter(None, (module_path(node), model_line(node)))
    text = ", ".join(places)
    return f"{node.name} ({text})" if text else node.name

"""Constant values: which they are, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily

from engine.distributed.collectives import is_collective
from engine.errors import EngineError
from engine.graph import provenance
from engine.graph.arguments import map_values, split
from engine.graph.canonical import is_uninitialised
from engine.graph.value import Value
from engine.sizes import is_known

if TYPE_CHECKING:
    from engine.graph.mirror import Mirror


def is_foldable(target: Any) -> bool:
    """Whether an op returns the same outputs for the same inputs and does nothing else."""
    return (
        isinstance(target, OpOverload)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and not is_collective(target)
    )


class Constants:
    """Memoised constness and constant values of the nodes of a graph."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._const: dict[fx.Node, bool] = {}
        self._results: dict[fx.Node, Any] = {}

    def is_const(self, node: fx.Node) -> bool:
        """Whether a node returns the same values in every run."""
        known = self._const.get(node)
        if known is not None:
            return known
        stack = [node]
        while stack:
            current = stack[-1]
            if current in self._const:
                stack.pop()
                continue
            pending = self._undecided(current)
            if pending is None:
                stack.pop()
            else:
                stack.append(pending)
        return self._const[node]

    def _undecided(self, node: fx.Node) -> fx.Node | None:
        """Decide ``node``, or return an input that must be decided first."""
        const = self._locally_const(node)
        if const and node.op == "call_function":
            for value in self._mirror.inputs(node):
                decided = self._const.get(value.node)
                if decided is None:
                    return value.node
                if not decided:
                    const = False
                    break
        self._const[node] = const
        return None

    def _locally_const(self, node: fx.Node) -> bool:
        """Whether the node is constant if its tensor inputs are."""
        if node.op == "get_attr":
            return node.target in self._mirror.constants
        if node.op != "call_function" or not is_foldable(node.target):
            return False
        fake = node.meta.get("val")
        for output in fake if isinstance(fake, tuple | list) else (fake,):
            if output is not None and not isinstance(output, torch.Tensor):
                return False
            if output is not None and any(isinstance(size, torch.SymInt) for size in output.shape):
                return False
        return is_known(self._mirror.arguments(node))

    def changed(self, users: Iterable[fx.Node]) -> None:
        """The arguments of ``users`` changed: forget what follows from them, as far as it follows."""
        stack = list(users)
        while stack:
            node = stack.pop()
            self._results.pop(node, None)
            before = self._const.pop(node, None)
            # Undecided: nothing downstream was derived from it.  Not constant before and now: the same.
            if before is None or (not before and not self.is_const(node)):
                continue
            stack.extend(self._mirror.node_users(node))

    def forget(self, node: fx.Node) -> None:
        """Called when ``node`` is erased."""
        self._const.pop(node, None)
        self._results.pop(node, None)

    # ------------------------------------------------------------ evaluation

    def evaluate(self, value: Value) -> torch.Tensor:
        """The tensor a constant value holds; the subgraph it needs runs eagerly, without gradients.

        Raises:
            EngineError: the value is not constant, or PyTorch could not run an op of its subgraph.
        """
        node = value.node
        if node.op == "get_attr" and node.target in self._mirror.constants:
            return self._mirror.constants[str(node.target)].detach()
        if node not in self._results:
            if not self.is_const(node):
                where = provenance.describe(node)
                raise EngineError(f"{where} is not constant, so it has no value at compile time")
            self._results[node] = self._run(node)
        result = self._results[node]
        tensor = result[value.index] if isinstance(result, tuple | list) else result
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _run(self, root: fx.Node) -> Any:
        order = self._subgraph(root)
        last_use: dict[fx.Node, fx.Node] = {}
        for node in order:
            for value in self._mirror.inputs(node):
                last_use[value.node] = node
        devices = self._devices(order)
        results: dict[fx.Node, Any] = {}
        with torch.no_grad(), unset_fake_temporarily():
            for node in order:
                results[node] = self._execute(node, results, devices)
                for value in self._mirror.inputs(node):
                    if last_use[value.node] is node:
                        results.pop(value.node, None)
        return results[root]

    def _subgraph(self, root: fx.Node) -> list[fx.Node]:
        seen = {root: None}
        stack = [root]
        while stack:
            node = stack.pop()
            if node in self._results:
                continue
            for value in self._mirror.inputs(node):
                if value.node not in seen:
                    seen[value.node] = None
                    stack.append(value.node)
        return sorted(seen)

    def _devices(self, order: list[fx.Node]) -> dict[torch.device, torch.device]:
        """Where constants live, per device the graph says; they may be kept off the device they run on."""
        devices: dict[torch.device, torch.device] = {}
        for node in order:
            if node.op == "get_attr":
                devices.setdefault(node.meta["val"].device, self._mirror.constants[str(node.target)].device)
        return devices

    def _execute(self, node: fx.Node, results: dict[fx.Node, Any], devices: dict[torch.device, torch.device]) -> Any:
        if node in self._results:
            return self._results[node]
        if node.op == "get_attr":
            return self._mirror.constants[str(node.target)].detach()
        target = node.target
        assert isinstance(target, OpOverload)

        def concrete(item: Any) -> Any:
            if isinstance(item, Value):
                result = results[item.node]
                return result[item.index] if isinstance(result, tuple | list) else result
            if isinstance(item, torch.device):
                here = devices.get(item, item)
                return here if here.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")
            return item

        positional, keywords = split(target, map_values(self._mirror.arguments(node), concrete))
        try:
            result = target(*positional, **keywords)
        except Exception as error:
            where = provenance.describe(node)
            raise EngineError(f"{where}: PyTorch could not fold {target}: {error}") from error
        if is_uninitialised(target) and isinstance(result, torch.Tensor):
            result.zero_()  # unwritten memory would make equal compilations differ
        return result

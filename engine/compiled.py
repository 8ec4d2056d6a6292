"""What ``engine.compile`` returns: a module that is called like the model it was made from."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import networkx
from torch import fx, nn

from engine.errors import EngineError
from engine.report import Report

if TYPE_CHECKING:
    from engine.capture import Captured
    from engine.graph.mirror import Mirror


class CompiledModule(nn.Module):
    """A compiled model.

    Attributes:
        graph_module: the partitioned graph; its engines are submodules ``engine_0``, ``engine_1``, ...
        report: what is in an engine, what is not, and why.
    """

    def __init__(self, graph_module: fx.GraphModule, captured: Captured, report: Report, mirror: Mirror) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.report = report
        self._signature = captured.signature()
        self._mirror = mirror

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The lowered graph, one edge per use; nodes know their op, dtype, shape and origin."""
        return self._mirror.nx

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        """A module with its own graph module; the report and the graph, which nobody changes, are shared."""
        clone = CompiledModule.__new__(CompiledModule)
        memo[id(self)] = clone
        nn.Module.__init__(clone)
        clone.graph_module = copy.deepcopy(self.graph_module, memo)
        clone.report = self.report
        clone._signature = self._signature
        clone._mirror = self._mirror
        clone.training = self.training
        return clone

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refused: engines are not tied to the classes of this process."""
        raise EngineError(
            "compiled modules cannot be pickled (torch.save, multiprocessing): compile the model where it is used; "
            "`engine compile MODEL.pt2 -o OUT` writes the plans"
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model: same arguments, same structure of results, same dtypes."""
        return self._signature.unflatten(self.graph_module(*self._signature.bind(args, kwargs)))


class DeferredModule(nn.Module):
    """A model that is compiled for the inputs of its first call."""

    def __init__(self, model: nn.Module, compile: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        # Not a submodule: parameters of the original model are not parameters of the compiled one.
        object.__setattr__(self, "_pending", (model, compile, options))
        self._lock = threading.Lock()
        self.compiled: CompiledModule | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compile on the first call, then run."""
        if self.compiled is None:
            with self._lock:
                if self.compiled is None:
                    model, compile_, options = object.__getattribute__(self, "_pending")
                    self.compiled = compile_(model, args, kwargs, **options)
                    object.__setattr__(self, "_pending", None)
        return self.compiled(*args, **kwargs)

    def _done(self, what: str) -> CompiledModule:
        if self.compiled is None:
            raise RuntimeError(f"{what} is there after the first call, which decides the shapes to compile for")
        return self.compiled

    @property
    def report(self) -> Report:
        """The report of the compilation; available after the first call."""
        return self._done("report").report

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The lowered graph; available after the first call."""
        return self._done("graph").graph

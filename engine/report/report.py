"""The report of a compilation: what is in an engine, what is not and why, and where the time went."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from engine.errors import EngineError, InputError
from engine.observers import PhaseEvent, observed
from engine.report.tuning import Tuning

if TYPE_CHECKING:
    import networkx

    from engine.report.decisions import Decision, Decisions, Explained
    from engine.report.why import Costly, Gain, Why

SCHEMA = 1
"""Version of the fields of a report as JSON; it grows when one is renamed or means something else."""

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call ``listener`` with the name of every phase that starts in this context; for progress displays."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _Fallback(NamedTuple):
    node: str
    op: str
    reason: str
    source: str = ""


class Fallback(_Fallback):
    """A node that stays in PyTorch; it unpacks as ``node, op, reason, source``.

    Attributes:
        source: ``file:line`` of the user's model, if known.
        module: path of the module of the user's model, empty at the top level.
    """

    module: str

    def __new__(cls, node: str, op: str, reason: str, source: str = "", module: str = "") -> Self:
        """The five of them; ``module`` is no element of the tuple."""
        self = super().__new__(cls, node, op, reason, source)
        self.module = module
        return self

    def _asdict(self) -> dict[str, str]:
        return {**super()._asdict(), "module": self.module}


@dataclass(slots=True)
class SegmentReport:
    """One segment of the compiled graph.

    Attributes:
        backend: ``"tensorrt"`` or ``"torch"``.
        tiles: number of tiles (nodes, for PyTorch).
        layers: number of TensorRT layers, 0 if nothing was built.
        engine_bytes: size of the serialized engine, 0 if nothing was built.
        inputs, outputs: names of the boundary values.
        cache: ``"hit"`` or ``"miss"`` of the engine cache, with what happened besides; empty without the cache.
        inductor: for PyTorch, ``"aot_inductor"`` or ``"inductor"`` where it was compiled to a package, or to code of
            this process; empty where it runs op by op.
    """

    name: str
    backend: str
    nodes: int
    tiles: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: int = 0
    engine_bytes: int = 0
    cache: str = ""
    inductor: str = ""


@dataclass(frozen=True, slots=True)
class Precision:
    """In what precision engines compute, where it is less than PyTorch's.

    Attributes:
        sums_in_half: layer -> how many of them sum up half-precision products or elements in half precision; their
            error grows with the length of the sum.
        use_fp32_acc: the setting, which sums them in float32.
    """

    sums_in_half: dict[str, int] = field(default_factory=dict)
    use_fp32_acc: bool = False

    @property
    def total(self) -> int:
        """How many layers sum in half precision."""
        return sum(self.sums_in_half.values())

    def __str__(self) -> str:
        if not self.sums_in_half:
            return "no layer sums in half precision"
        layers = ", ".join(f"{count} {layer}" for layer, count in self.sums_in_half.items())
        remedy = "" if self.use_fp32_acc else "; use_fp32_acc=True sums them in float32, as PyTorch does"
        return f"{self.total} layer(s) sum in half precision ({layers}){remedy}"


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of weights.

    Attributes:
        before: dtype -> bytes of the constants of the model that are used.
        after: dtype -> bytes that the engines hold, before TensorRT lays them out.
    """

    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        def listed(sizes: dict[str, int]) -> str:
            return ", ".join(f"{dtype} {size / 1e6:.2f} MB" for dtype, size in sizes.items()) or "none"

        return f"{listed(self.before)} in the model; {listed(self.after)} in engines"


class Products(NamedTuple):
    """Layers of one kind that multiply.

    Attributes:
        layer: the layer.
        dtypes: of both operands before they are dequantized.
        number: how many there are.
        why: why they multiply in floats although an operand has fewer bits; empty where none has, or they do not.
    """

    layer: str
    dtypes: tuple[str, ...]
    number: int
    why: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.layer} of {' x '.join(self.dtypes)}" + (f" ({self.why})" if self.why else "")


@dataclass(slots=True)
class Timings:
    """Seconds per phase, in order of execution; phases that run several times add up.

    A phase inside another one counts by itself.  ``model`` is what observers of phases are told.
    """

    phases: dict[str, float] = field(default_factory=dict)
    model: str = ""
    _inside: float = field(default=0.0, repr=False, compare=False)

    # What torch.export, TensorRT and Inductor take, loading the engine onto a GPU, and a run of the model in PyTorch,
    # is not ours to shorten; nor are measurements, which somebody asked for.
    FOREIGN = frozenset({"export", "trial", "build", "load", "inductor", "tune"})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        listener = _listener.get()
        if listener is not None:
            listener(name)
        with observed("phase", PhaseEvent, name, self.model):
            before, self._inside = self._inside, 0.0
            start = time.perf_counter()
            try:
                yield
            finally:
                spent = time.perf_counter() - start
                self.phases[name] = self.phases.get(name, 0.0) + spent - self._inside
                self._inside = before + spent

    def fill(self, wall: float) -> None:
        """Let the phases sum up to the wall time of a call: what is in none of them is ``other``.

        Args:
            wall: seconds from the beginning of the call to its end.
        """
        self.phases["other"] = self.phases.pop("other", 0.0) + max(0.0, wall - self.total)

    @property
    def total(self) -> float:
        """All phases together, in seconds; the wall time of the call once it has ended."""
        return sum(self.phases.values())

    @property
    def own(self) -> float:
        """Everything but ``FOREIGN`` phases, in seconds."""
        return sum(seconds for name, seconds in self.phases.items() if name not in self.FOREIGN)


@dataclass(slots=True)
class Report:
    """What became of a model.

    It can be copied and pickled; a pickled one knows what was decided, but cannot be asked ``why``, ``costly`` or
    ``gains``.

    Attributes:
        coverage: nodes in engines / nodes that compute, 0..1 (1.0 for a graph that computes nothing).
        segments: in order of execution.
        fallbacks: nodes that stay in PyTorch, in graph order.
        rules_used: rule id -> number of times it was applied, rewrites and tiles together.
        overridden: (rule that won, rule it overrides) for user rules over built-in ones.
        compute_capabilities: that the engines serve, as TensorRT names them.
        notes: what was decided about the sizes of inputs, one sentence each; and what rules did wrong, with the
            rule's file and line and the node, once for each rule and kind of fault.
        precision: how many layers sum in half precision.
        weights: bytes of weights by dtype, in the model and in engines.
        products: how many layers multiply in which dtypes, and why in floats where an operand has fewer bits.
        unbuilt: what is not known because nothing was built; empty after a compile.
        decisions: what was decided about each node; None for a module that was loaded from a file.
        tuning: what was measured and decided; None without ``tune``.
    """

    model: str
    coverage: float = 1.0
    nodes: int = 0
    segments: list[SegmentReport] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    rules_used: dict[str, int] = field(default_factory=dict)
    overridden: tuple[tuple[str, str], ...] = ()
    timings: Timings = field(default_factory=Timings)
    compute_capabilities: tuple[str, ...] = ()
    tensorrt: str = ""
    refusals: list[Fallback] = field(default_factory=list)  # rules that TensorRT rejected, whatever came of the node
    notes: tuple[str, ...] = ()
    precision: Precision = field(default_factory=Precision)
    weights: Weights = field(default_factory=Weights)
    products: tuple[Products, ...] = ()
    unbuilt: str = ""
    decisions: Decisions | None = field(default=None, repr=False, compare=False)
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        self.timings.model = self.model

    @property
    def engine_bytes(self) -> int:
        """Size of all serialized engines."""
        return sum(segment.engine_bytes for segment in self.segments)

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The lowered graph with what was decided, see :func:`engine.report.decisions.decided_graph`.

        Raises:
            EngineError: the module was loaded from a file, which does not keep it.
        """
        if self.decisions is None:
            raise EngineError("files do not keep the lowered graph: module.graph_module.graph is what is run")
        return self.decisions.graph()

    def _explained(self) -> Explained:
        explanation = self.decisions.explanation if self.decisions is not None else None
        if explanation is None:
            raise EngineError(
                "neither files nor pickles keep what rules said: ask the report of engine.compile or "
                "engine.coverage in its own process"
            )
        return explanation

    def why(self, node: str) -> Why:
        """Why a node runs where it does: each rule of its op, with the test that failed and what it saw.

        Args:
            node: name of a node of the lowered graph, or of one that a rule rewrote.

        Raises:
            InputError: there is no such node; the nearest names are offered.
            EngineError: the report comes from a file or a pickle, which do not keep it.
        """
        return self._explained().why(node)

    def costly(self) -> list[Costly]:
        """The nodes that stay in PyTorch, those that read and give the most elements first.

        Raises:
            EngineError: the report comes from a file or a pickle, which do not keep it.
        """
        return self._explained().fallbacks()

    def gains(self) -> list[Gain]:
        """What a rule for an op, or another setting, would win: most nodes first, then most segments merged.

        Raises:
            EngineError: the report comes from a file or a pickle, which do not keep it.
        """
        return self._explained().gains()

    def query(self, **fields: str) -> list[Decision]:
        """The nodes whose fields are as given, in graph order: ``query(color="torch", module="layers.3*")``.

        Args:
            fields: of :class:`engine.report.decisions.Decision`; ``*`` stands for anything.

        Raises:
            InputError: a decision has no such field.
            EngineError: the module was loaded from a file, which does not keep it.
        """
        from engine.report.decisions import Decision

        unknown = sorted(set(fields) - set(Decision._fields))
        if unknown:
            raise InputError(f"nodes have no {unknown[0]!r}; there are {', '.join(Decision._fields)}")
        if self.decisions is None:
            raise EngineError("files do not keep what was decided: ask the report of engine.compile or engine.coverage")
        return [
            decision
            for decision in self.decisions.listed()
            if all(fnmatchcase(getattr(decision, name), wanted) for name, wanted in fields.items())
        ]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data; ``schema`` is the version of its fields."""
        data = asdict(replace(self, decisions=None, tuning=None))
        data["decisions"] = [decision._asdict() for decision in self.decisions.listed()] if self.decisions else []
        data["tuning"] = self.tuning.as_dict() if self.tuning is not None else None
        data["schema"] = SCHEMA
        data["timings"] = {**self.timings.phases, "own": self.timings.own, "total": self.timings.total}
        data["fallbacks"] = [fallback._asdict() for fallback in self.fallbacks]
        data["refusals"] = [refusal._asdict() for refusal in self.refusals]
        data["products"] = [{**product._asdict(), "dtypes": list(product.dtypes)} for product in self.products]
        return data

    def __str__(self) -> str:
        from engine.report.table import render_report

        buffer = io.StringIO()
        # What was only planned is told in the same words each time.
        render_report(self, buffer, width=110, color=False, times=not self.unbuilt)
        return buffer.getvalue().rstrip() + "\n"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def model_name(model: Any) -> str:
    """The name of a model's class."""
    # torch.export and torch.fx keep the name of the class they were given, where it is not one of their own.
    graph_module = getattr(model, "graph_module", model)
    return str(getattr(graph_module, "_model_name", None) or type(model).__name__)

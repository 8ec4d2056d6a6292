"""Checking layer declarations against the language and the installed TensorRT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from engine.dsl import tree
from engine.dsl.bindings import Bindings, Method
from engine.dsl.checked import Checked, Joined
from engine.dsl.checks import needs, sorts
from engine.dsl.diagnostics import Problems
from engine.dsl.rule import Layer
from engine.dsl.vocabulary import SORTS, dtype_classes, dtypes, nearest, suggestion
from engine.tensorrt import Capabilities


class LayerTable:
    """The declared layers.

    Attributes:
        active: layers that the installed TensorRT has, by name.
        inactive: why each other declared layer cannot be used, by name.
        items: every name with the declaration that rules are checked against.
        declared: the declarations as they were parsed.
    """

    def __init__(
        self,
        items: Sequence[tree.LayerItem],
        capabilities: Capabilities | None,
        bindings: Bindings | None,
        problems: Problems,
        base: Checked | None = None,
    ) -> None:
        """Check declarations.

        Args:
            base: built-in rules that were checked before; their layers are checked again only beside others.
        """
        self.bindings = bindings
        self.problems = problems
        self.active: Mapping[str, Layer]
        self.inactive: Mapping[str, str]
        self.items: Mapping[str, Layer]
        self.declared = items if base is None else [*base.declared, *items] if items else base.declared
        if base is not None and not items:
            absent = {name: layer for name, (_, layer) in base.absent.items()}
            self.active, self.items = base.layers, Joined(base.layers, absent)
            self.inactive = {name: reason for name, (reason, _) in base.absent.items()}
        else:
            self._declare(self.declared, capabilities)

    def absent(self) -> dict[str, tuple[str, Layer]]:
        """Declared layers that the installed TensorRT lacks, with the reason, by name."""
        return {name: (reason, self.items[name]) for name, reason in self.inactive.items()}

    def _declare(self, items: Sequence[tree.LayerItem], capabilities: Capabilities | None) -> None:
        bindings = self.bindings
        active: dict[str, Layer] = {}
        inactive: dict[str, str] = {}
        every: dict[str, Layer] = {}
        self.active, self.inactive, self.items = active, inactive, every
        by_name: dict[str, list[tree.LayerItem]] = defaultdict(list)
        for item in items:
            by_name[item.name].append(item)
        for name, declared in by_name.items():
            self._no_overlap(declared)
            for item in declared:
                layer = _layer(item)
                reason = None if capabilities is None else _missing(layer, capabilities)
                # An enum may be as absent as the layer that takes it.
                self._check(item, bindings if reason is None else None)
                every.setdefault(name, layer)
                if reason is None and name not in active:
                    active[name] = every[name] = layer
                    if bindings is not None:
                        self._check_bindings(item, bindings)
                elif reason is not None:
                    inactive[name] = reason
        for name in active:
            inactive.pop(name, None)

    def features(self) -> frozenset[str]:
        """The names that may follow ``cap.``, as far as declarations tell."""
        methods = {layer.via.function.name for layer in self.items.values()}  # type: ignore[union-attr]
        return frozenset(method.removeprefix("add_") for method in methods) | needs.FEATURES

    def enum_types(self) -> frozenset[str]:
        """Enum classes that parameters of declared layers have."""
        return frozenset(
            name
            for layer in self.items.values()
            for parameter in layer.parameters
            if parameter.type is not None
            for name in parameter.type.names
            if name[:1].isupper()
        )

    def enum_members(self) -> frozenset[str] | None:
        """All members of the enums of declared layers; None if TensorRT is not there to tell."""
        if self.bindings is None:
            return None
        return frozenset(m for enum in self.enum_types() for m in self.bindings.members(enum) or ())

    # ------------------------------------------------------------------------------------ checks

    def _no_overlap(self, declared: Sequence[tree.LayerItem]) -> None:
        """The same layer may be declared again for other versions only."""
        for index, second in enumerate(declared):
            for first in declared[:index]:
                low = max(_since(first), _since(second))
                if low < min(_until(first), _until(second)):
                    self.problems.report(
                        f"layer `{second.name}` is declared twice",
                        second.span,
                        "tell the declarations apart by `since` and `until`",
                        (first.span, "the other declaration"),
                    )

    def _check(self, item: tree.LayerItem, bindings: Bindings | None) -> None:
        report = self.problems.report
        if not item.name.startswith("trt."):
            report(f"`{item.name}` is not the name of a layer", item.span, "layers are called `trt.name`")
        if _since(item) >= _until(item):
            report(f"no version is both since {item.since} and before {item.until}", item.span, "`until` is exclusive")
        seen: set[str] = set()
        for parameter in item.parameters:
            if parameter.name in seen:
                report(f"`{item.name}` has two parameters `{parameter.name}`", parameter.span)
            seen.add(parameter.name)
            self._check_type(parameter, bindings)
            if parameter.wildcard and (parameter.slot is None or parameter.type is None or not parameter.type.element):
                report("`|-1` applies only to lists with a run-time slot", parameter.span, "shape: [int] @1|-1")
            if parameter.slot is not None and parameter.type is not None and parameter.type.modifier == "static":
                report(
                    f"`{parameter.name}` is static and cannot arrive through input {parameter.slot}",
                    parameter.span,
                    "drop `static` or the slot",
                )

    def _check_type(self, parameter: tree.Parameter, bindings: Bindings | None) -> None:
        kind = parameter.type
        if kind is None:  # the grammar does not allow it
            return
        element = kind if kind.element is None else kind.element
        known = SORTS | set(dtype_classes()) | set(dtypes())
        for name in element.names:
            if name[0].isupper():
                if bindings is not None and bindings.members(name) is None:
                    hint = suggestion(name, bindings.enums())
                    self.problems.report(f"TensorRT has no enum `{name}`", element.span, hint)
            elif name not in known:
                hint = suggestion(name, known, f"types are {', '.join(sorted(known))} and TensorRT's enums")
                self.problems.report(f"unknown type `{name}`", element.span, hint)
        if kind.modifier == "const" and not set(element.names) <= set(dtype_classes()):
            self.problems.report(
                "`const` applies only to tensors",
                kind.span,
                "numbers that must be known are `static`; `weights` are constant",
            )
        if kind.modifier == "static" and set(element.names) & {"tensor", "weights"}:
            self.problems.report(
                "`static` applies only to numbers", kind.span, "a tensor that must be constant is `weights`"
            )
        if kind.dims is not None:
            self.problems.report(f"`{sorts.show(kind)}`: layers declare no shapes", kind.span)

    def _check_bindings(self, item: tree.LayerItem, bindings: Bindings) -> None:
        method = item.via.function.name  # type: ignore[union-attr]
        overloads = bindings.methods(method)
        if not overloads:  # present but without a readable signature
            return
        positional = [a for a in item.via.arguments if not isinstance(a, tree.Keyword)]
        keywords = [a for a in item.via.arguments if isinstance(a, tree.Keyword)]
        fitting = [overload for overload in overloads if _takes(overload, len(positional), keywords)]
        if not fitting:
            signatures = " or ".join(f"{method}({', '.join(overload.parameters)})" for overload in overloads)
            self.problems.report(
                f"no `{method}` of the installed TensorRT takes these arguments",
                item.via.span,
                f"there is {signatures}",
            )
            return
        properties = bindings.properties(fitting[0].returns)
        passed = set(_names(item.via.arguments))
        for parameter in item.parameters:
            name = parameter.property or parameter.name
            if name in properties or (
                parameter.property is None and (parameter.name in passed or parameter.slot is not None)
            ):
                continue
            near = nearest(name, properties)
            hint = f"did you mean `{near}`?" if near else "pass it in `via`, or name its property with `as`"
            self.problems.report(f"{fitting[0].returns} has no property `{name}`", parameter.span, hint)
        for parameter in item.parameters:
            if isinstance(parameter.default, tree.Upper) and parameter.type is not None:
                self.check_member(parameter.default, parameter.type)

    def check_member(self, token: tree.Upper, kind: tree.Type) -> None:
        """Report an enum member that the enum of a parameter does not have."""
        if self.bindings is None:
            return
        for enum in kind.names:
            members = self.bindings.members(enum) if enum[0].isupper() else None
            if members is not None and token.name not in members:
                hint = suggestion(token.name, members, f"{enum} has {', '.join(sorted(members))}")
                self.problems.report(f"{enum} has no member `{token.name}`", token.span, hint)


def _layer(item: tree.LayerItem) -> Layer:
    return Layer(
        item.name,
        item.parameters,
        item.outputs,
        item.gives,
        item.via,
        item.unless,
        item.apart,
        item.accumulates,
        None if item.since is None else needs.parse_version(item.since),
        None if item.until is None else needs.parse_version(item.until),
        item.span,
        {parameter.name: parameter for parameter in item.parameters},
    )


def _missing(layer: Layer, capabilities: Capabilities) -> str | None:
    """Why a TensorRT does not have a layer."""
    if layer.since is not None and capabilities.version < layer.since:
        wanted = f"TensorRT {_dotted(layer.since)} or later"
        return f"{layer.name} needs {wanted}, but {needs.installed(capabilities)} is installed"
    if layer.until is not None and capabilities.version >= layer.until:
        wanted = f"TensorRT before {_dotted(layer.until)}"
        return f"{layer.name} needs {wanted}, but {needs.installed(capabilities)} is installed"
    method = layer.via.function.name  # type: ignore[union-attr]
    if method.removeprefix("add_") not in capabilities.features:
        return f"{layer.name} needs INetworkDefinition.{method}, which {needs.installed(capabilities)} does not have"
    return None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _since(item: tree.LayerItem) -> tuple[int, int]:
    return (0, 0) if item.since is None else needs.parse_version(item.since)


def _until(item: tree.LayerItem) -> tuple[int, int]:
    return (1 << 30, 0) if item.until is None else needs.parse_version(item.until)


def _takes(method: Method, positional: int, keywords: Sequence[tree.Keyword]) -> bool:
    given = {*method.parameters[:positional], *(keyword.name for keyword in keywords)}
    return (
        positional + len(keywords) == len(given)
        and method.required <= len(given) <= len(method.parameters)
        and given <= set(method.parameters)
    )


def _names(items: Iterable[object]) -> Iterable[str]:
    """Names that arguments pass on as they are."""
    for item in items:
        value = item.value if isinstance(item, tree.Keyword) else item
        if isinstance(value, tree.Name):
            yield value.name
        elif isinstance(value, tree.Call | tree.Binary | tree.Slice | tree.Index | tree.ListOf | tree.Conditional):
            yield from _names(_parts(value))


def _parts(node: object) -> list[object]:
    """Subexpressions of the kinds that occur after ``via``."""
    match node:
        case tree.Call():
            return list(node.arguments)
        case tree.Binary():
            return [node.left, node.right]
        case tree.Slice() | tree.Index():
            return [node.value]
        case tree.ListOf():
            return list(node.items)
        case tree.Conditional():
            return [node.test, node.then, node.otherwise]
    return []

"""Making instances of rules: the graph that a rule's pattern describes, filled in from a ``test`` line.

An instance is a canonical graph whose only nodes are those of the pattern, inputs for what the test line calls
tensors, and constants for those it calls ``const``.  Dims with a range are symbolic.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StrictMinMaxConstraint
from torch.utils._sympy.value_ranges import ValueRanges

from engine.dsl import operators, tree
from engine.dsl.expansion import expand
from engine.dsl.rule import Anything, ArgumentPattern, Bind, Equals, ListMatch, OpMatch, Rule
from engine.dtypes import DTYPES
from engine.evaluator import Context, evaluate
from engine.evaluator.failures import Failed
from engine.evaluator.op_calls import resolve
from engine.evaluator.plan import ConstantTensor
from engine.graph.arguments import graph_parameters
from engine.graph.canonical import canonical_arguments
from engine.graph.mirror import Mirror, Value
from engine.graph.recurrence import whole_recurrence
from engine.graph.subgraph import Subgraph
from engine.verify.forms import described
from engine.verify.instances.graphs import function, traced
from engine.verify.instances.instance import Inapplicable, Instance, sizes_of
from engine.verify.values import Tier, contents


def instance(
    rule: Rule,
    test: tree.Test,
    seed: int = 0,
    macros: Mapping[str, tree.Macro] | None = None,
    *,
    tier: Tier = "normal",
    form: int | None = None,
) -> Instance:
    """The instance of a rule that a test line describes.

    Args:
        macros: of the rule set; a test line names one for a graph.
        tier: of the values of constants.
        form: which of the plain patterns that the rule's pattern stands for to build, as `expand` counts them;
            0 is the pattern as written, with all optional ops. None: the one that the line describes.

    Raises:
        Inapplicable: the ops of the pattern refuse what the line says, e.g. a rank that one member of a
            family does not take, or the line leaves something open.
    """
    if form is None:
        form = described(rule, test)
    if form is None:
        raise Inapplicable("no alternatives of the pattern bind exactly the names in the test line")
    return _Synthesis(rule, test, seed, tier, expand(rule)[form].roots, macros or {}).build()


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
_GUESSES: dict[str, Any] = {"float": 0.125, "bool": False, "int": 1, "SymInt": 1, "number": 1}


@dataclass
class _Synthesis:
    rule: Rule
    test: tree.Test
    seed: int
    tier: Tier
    patterns: tuple[OpMatch, ...]
    macros: Mapping[str, tree.Macro] = field(default_factory=dict)
    shape_env: ShapeEnv = field(default_factory=ShapeEnv)
    bound: dict[str, Any] = field(default_factory=dict)
    symbols: dict[str, sympy.Symbol] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    ranges: dict[sympy.Symbol, tuple[int, int]] = field(default_factory=dict)
    specs: dict[fx.Node, tree.TensorSpec] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    operands: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def build(self) -> Instance:
        self.mode = FakeTensorMode(shape_env=self.shape_env, allow_non_fake_inputs=False)
        self.mode.cache_enabled = False  # no call comes twice
        self.graph = fx.Graph()
        self.generator = torch.Generator().manual_seed(self.seed)
        for binding in self.test.bindings:
            self._declare(binding.value)
        for binding in self.test.bindings:
            self.bound[binding.name] = self._binding(binding.name, binding.value)
        roots = tuple(map(self._op, self.patterns))
        outputs = [
            value for root, node in zip(self.patterns, roots, strict=True) for value in self._outputs(root, node)
        ]
        if not outputs:
            raise Inapplicable("the pattern matches no tensor")
        self.graph.output(tuple(self._node(value) for value in outputs))
        if self.shape_env.guards:
            assumed = ", ".join(str(guard.expr) for guard in self.shape_env.guards)
            raise Inapplicable(f"PyTorch takes such sizes only where {assumed}")
        mirror = Mirror(self.graph, self.constants, self.mode, self.shape_env)
        mirror.written = {node: 0 for node, spec in self.specs.items() if spec.written}
        return Instance(self.rule, mirror, roots, tuple(outputs), self.specs, self.symbols, self.ranges, self.operands)

    # ------------------------------------------------------------ what the test line says

    def _declare(self, value: Any) -> None:
        """Make the symbols of a test line before anything uses them."""
        if isinstance(value, tree.ListSpec):
            for item in value.items:
                self._declare(item)
        if not isinstance(value, tree.TensorSpec):
            return
        for dim in value.dims:
            if dim.name is None or dim.name in self.sizes or dim.range is None:
                continue
            low, high = dim.range
            source = ConstantSource(dim.name)
            symbol = self.shape_env.create_symbol(
                high,
                source=source,
                dynamic_dim=DimDynamic.DYNAMIC,
                constraint_dim=StrictMinMaxConstraint(vr=ValueRanges(low, high), warn_only=False),
            )
            assert isinstance(symbol, sympy.Symbol)
            self.symbols[dim.name] = symbol
            self.ranges[symbol] = dim.range
            self.sizes[dim.name] = self.shape_env.create_symintnode(symbol, hint=high, source=source)

    def _binding(self, name: str, value: Any) -> Any:
        if isinstance(value, tree.TensorSpec):
            return self._tensor(name, value)
        if isinstance(value, tree.ListSpec):
            return [self._binding(f"{name}_{index}", item) for index, item in enumerate(value.items)]
        if isinstance(value, tree.Name) and value.name in self.bound:
            return self.bound[value.name]
        if isinstance(value, tree.Name) and value.name in self.macros:
            return function(self.macros[value.name], self.macros, self.mode, self.shape_env)
        if isinstance(value, tree.ListOf) and (self._has_size(value) or self._has_macro(value)):
            return [self._binding(name, item) for item in value.items]
        if self._has_size(value):
            return self._number(value)
        context = Context(None, {}, {})  # type: ignore[arg-type]
        try:
            evaluated = evaluate(value, dict(self.sizes), context)
        except Failed as error:  # the search divides by zero
            raise Inapplicable(f"the test line does not say what `{name}` is: {error}") from error
        return self._written_out(name, evaluated) if isinstance(evaluated, ConstantTensor) else evaluated

    def _has_size(self, value: Any) -> bool:
        return any(isinstance(item, tree.Name | tree.Upper) and item.name in self.sizes for item in tree.walk(value))

    def _has_macro(self, value: tree.ListOf) -> bool:
        return any(isinstance(item, tree.Name) and item.name in self.macros for item in value.items)

    def _number(self, value: Any) -> Any:
        """A number that is computed from sizes, node by node, as models compute it."""
        if isinstance(value, tree.Name | tree.Upper):
            return self._size(value.name)
        if isinstance(value, tree.Literal):
            return value.value
        if not isinstance(value, tree.Binary) or value.operator not in _ARITHMETIC:
            raise Inapplicable("numbers of a test line are computed from sizes by + - * // %")
        function = _ARITHMETIC[value.operator]
        operands = (self._number(value.left), self._number(value.right))
        if function in (operator.floordiv, operator.mod) and operands[1] == 0:
            raise Inapplicable("the test line divides by zero")
        node = self.graph.call_function(function, operands)
        node.meta["val"] = function(*(item.meta["val"] if isinstance(item, fx.Node) else item for item in operands))
        return node

    def _size(self, name: str) -> fx.Node:
        """A size that the op is given as a number, as models read it off a tensor."""
        for placeholder, spec in self.specs.items():
            for axis, dim in enumerate(spec.dims):
                if dim.name == name:
                    node = self.graph.call_function(torch.ops.aten.sym_size.int, (placeholder, axis))
                    node.meta["val"] = self.sizes[name]
                    return node
        raise Inapplicable(f"no tensor in front has the size {name}")

    def _written_out(self, name: str, tensor: ConstantTensor) -> fx.Node:
        """A constant from ``tensor([0, 2], i64)`` and the like, where values matter."""
        data = tensor.number if tensor.numbers is None else list(tensor.numbers)
        return self._constant(
            name, torch.as_tensor(data, dtype=tensor.dtype).expand([int(n) for n in tensor.shape or ()])
        )

    def _constant(self, name: str, tensor: torch.Tensor) -> fx.Node:
        self.constants[name] = tensor
        node = self.graph.get_attr(name)
        with self.mode:
            node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return node

    def _tensor(self, name: str, spec: tree.TensorSpec) -> fx.Node:
        if any(dim.name is not None and dim.name not in self.sizes for dim in spec.dims):
            raise Inapplicable(f"{name}: a named dim has no range; write it as N=2..4 where it first occurs")
        if (spec.const or spec.expanded) and any(dim.name is not None for dim in spec.dims):
            raise Inapplicable(f"{name}: the sizes of what is constant or expanded are numbers")
        if spec.expanded:
            return self._expanded(name, spec)
        if spec.const:
            sizes = [int(size) for size in sizes_of(spec, {})]
            tensor = contents(spec, sizes, self.generator, self.tier)
            trains = tensor.is_floating_point() or tensor.is_complex()
            return self._constant(name, torch.nn.Parameter(tensor, trains) if spec.parameter else tensor)
        node = self.graph.placeholder(name)
        self.specs[node] = spec
        with self.mode:
            node.meta["val"] = torch.empty(sizes_of(spec, self.sizes), dtype=DTYPES[spec.dtype])
        return node

    def _expanded(self, name: str, spec: tree.TensorSpec) -> fx.Node:
        """A tensor that is one element along its first dim of several, expanded to them."""
        sizes = [int(size) for size in sizes_of(spec, {})]
        axis = next((axis for axis, size in enumerate(sizes) if size > 1), None)
        one = tuple(dataclasses.replace(d, size=1) if i == axis else d for i, d in enumerate(spec.dims))
        parameter = spec.parameter
        base = self._tensor(name, tree.OperandSpec(spec.span, spec.dtype, one, spec.const, spec.below, parameter))
        node = self.graph.call_function(torch.ops.aten.expand.default, (base, sizes), {"implicit": False})
        node.meta["val"] = self._infer(torch.ops.aten.expand.default, (base, sizes), {})
        if base.op == "placeholder":
            self.operands[base] = node
        return node

    # ------------------------------------------------------------ the pattern

    def _graphs_op(self, pattern: OpMatch, op: HigherOrderOperator) -> fx.Node:
        """A node of an op that takes graphs, which the test line gives as macros."""
        given = dict(pattern.arguments)
        arguments: list[Any] = []
        for position, (name, keyword_only, has_default, default) in enumerate(graph_parameters(op)):
            if keyword_only:
                continue
            argument = given.get(position)
            if isinstance(argument, Bind) and argument.name in self.bound:
                arguments.append(self.bound[argument.name])
            elif isinstance(argument, Equals):
                arguments.append(argument.value)
            elif has_default:
                arguments.append(default)
            else:
                raise Inapplicable(f"the test line does not say what `{name}` is")
        nodes: list[fx.Node] = []
        fakes = [fx.map_arg(item, lambda node: nodes.append(node) or node.meta["val"]) for item in arguments]  # type: ignore[func-returns-value]
        try:
            with self.mode, torch.no_grad():
                module = traced(op, fakes)
        except Exception as error:
            raise Inapplicable(f"{pattern.op} rejects {arguments}: {error}") from error
        return self._spliced(module, nodes)

    def _spliced(self, module: fx.GraphModule, inputs: Sequence[fx.Node]) -> fx.Node:
        """The nodes of a traced graph in this one; returns the one that takes graphs."""
        copies: dict[fx.Node, fx.Node] = {}
        rest = iter(inputs)
        root = None
        for node in module.graph.nodes:
            if node.op == "placeholder":
                copies[node] = next(rest)
            elif node.op == "get_attr":
                copies[node] = self.graph.get_attr(str(node.target))
                copies[node].meta["graph"] = Subgraph(str(node.target), getattr(module, str(node.target)))
            elif isinstance(node.target, HigherOrderOperator):
                root = copies[node] = self.graph.node_copy(node, lambda item: copies[item])
        assert root is not None
        return root

    def _op(self, pattern: OpMatch) -> fx.Node:
        graphs = operators.higher_order(pattern.op) if operators.is_higher_order(pattern.op) else None
        if graphs is not None:
            return self._graphs_op(pattern, graphs)
        name, op = resolve(pattern.op)
        given = dict(pattern.arguments)
        rest = self.bound.get(pattern.rest) if pattern.rest else None
        spare = list(rest or ())
        arguments: list[Any] = []
        for position, argument in enumerate(op._schema.arguments):
            if position in given:
                arguments.append(self._argument(given[position], argument))
            elif spare:
                arguments.append(spare.pop(0))
            else:
                arguments.append(self._default(argument))
        count = sum(not argument.kwarg_only for argument in op._schema.arguments)
        keywords = {a.name: v for a, v in zip(op._schema.arguments[count:], arguments[count:], strict=True)}
        try:
            args, kwargs = canonical_arguments(op, arguments[:count], keywords)
            fake = self._infer(op, args, kwargs)
        except Exception as error:
            raise Inapplicable(f"{name} rejects {arguments}: {error}") from error
        node = self.graph.call_function(op, args, kwargs)
        node.meta["val"] = fake
        return node

    def _infer(self, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        fakes = fx.map_arg((tuple(args), dict(kwargs)), lambda node: node.meta["val"])
        # The dispatcher's Python kernels keep sizes symbolic where C++ ones of composite ops would fix them.
        with whole_recurrence(), enable_python_dispatcher(), self.mode, torch.no_grad():
            return op(*fakes[0], **fakes[1])

    def _argument(self, pattern: ArgumentPattern, argument: Any) -> Any:
        if isinstance(pattern, OpMatch):
            node = self._op(pattern)
            for index, name in enumerate(pattern.outputs or ()):
                if name is not None:
                    # What stands behind it in the pattern may read its outputs again.
                    self.bound.setdefault(name, self._node(Value(node, index)))
            return self._node(Value(node, pattern.output))
        if isinstance(pattern, ListMatch):
            rest = list(self.bound.get(pattern.rest_name, ())) if pattern.rest_name else []
            before = [self._argument(item, argument) for item in pattern.before]
            return [*before, *rest, *(self._argument(item, argument) for item in pattern.after)]
        if isinstance(pattern, Equals):
            return pattern.value
        if isinstance(pattern, Anything):
            return self._default(argument)
        assert isinstance(pattern, Bind)
        if pattern.name not in self.bound:
            if argument.has_default_value():
                return argument.default_value
            raise Inapplicable(f"the test line does not say what `{pattern.name}` is")
        value = self.bound[pattern.name]
        tensor = isinstance(value, fx.Node) and not isinstance(value.meta["val"], torch.SymInt)
        if isinstance(value, torch.Tensor) or (tensor and not _takes_tensors(argument)):
            raise Inapplicable(f"`{argument.name}` is not a tensor")
        if value is None and not str(argument.real_type).startswith("Optional"):
            raise Inapplicable(f"`{argument.name}` cannot be none")
        return value

    def _default(self, argument: Any) -> Any:
        """The schema default of an argument, or something of its type where there is none."""
        if argument.has_default_value():
            return argument.default_value
        kind = str(argument.real_type)
        if kind.startswith("Optional"):
            return None
        if kind == "Tensor":
            dim = tree.Dim(self.rule.span, size=1)
            return self._tensor(f"any_{len(self.specs)}", tree.TensorSpec(self.rule.span, "f32", (dim,)))
        if kind in _GUESSES:
            return _GUESSES[kind]
        raise Inapplicable(f"nothing says what `{argument.name}` is")

    def _outputs(self, pattern: OpMatch, node: fx.Node) -> list[Value]:
        fakes = node.meta["val"]
        if not isinstance(fakes, tuple | list):
            return [Value(node, 0)]
        if pattern.outputs is None:
            schema = getattr(node.target, "_schema", None)
            single = schema is not None and any(str(item.type) != "Tensor[]" for item in schema.returns)
            wanted = [pattern.output] if single else range(len(fakes))
        else:
            unused = _wanted_unused(self.rule)
            read = (name is None or self.bound.get(name, name not in unused) for name in pattern.outputs)
            wanted = [index for index, is_read in enumerate(read) if is_read]
        # A number that a loop carries is no tensor to compare.
        return [Value(node, index) for index in wanted if not isinstance(fakes[index], int | torch.SymInt)]

    def _node(self, value: Value) -> fx.Node:
        fakes = value.node.meta["val"]
        if not isinstance(fakes, tuple | list):
            return value.node
        node = self.graph.call_function(operator.getitem, (value.node, value.index))
        node.meta["val"] = fakes[value.index]
        return node


def _takes_tensors(argument: Any) -> bool:
    return "Tensor" in str(argument.real_type)


def _wanted_unused(rule: Rule) -> set[str]:
    """Names of outputs that the guards of a rule want unused."""
    found = set()
    for step in rule.steps:
        if isinstance(step, tree.Guard) and isinstance(step.value, tree.Call):
            function, arguments = step.value.function, step.value.arguments
            if isinstance(function, tree.Name) and function.name == "unused" and isinstance(arguments[0], tree.Name):
                found.add(arguments[0].name)
    return found


__all__ = ["instance"]

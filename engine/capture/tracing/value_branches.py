"""Branches on the values of tensors, whose sides are both computed and one of them chosen: the code of the model that
is traced is written anew, where that says the same.
"""

from __future__ import annotations
import __future__

import ast
import gc
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Self

import torch

from engine.capture.sizes.branches import described_line
from engine.capture.tracing.assertions import is_unknown
from engine.errors import CaptureError
from engine.sizes import normal

_TORCH = torch.__file__.removesuffix("__init__.py")
_HERE = str(Path(__file__).parents[1])
_FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
# What may have effects, which the side that is not chosen must not have.
_EFFECTS = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Starred)


class WrittenAnew(Exception):
    """Tracing has to begin again, with other code."""


class ValueBranches:
    """Python functions whose branches on values are written as choices between tensors, until the body has run.

    Written anew are ``if`` statements whose sides only assign to local names (``if not torch.isfinite(h).all(): h =
    h.clamp(...)``, by which models in half precision guard against overflow) or only return something, and ``a if
    condition else b``.  Both sides are computed, and ``torch.where`` takes the one that holds.
    """

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self._wanted: dict[tuple[str, int, str], set[int]] = {}
        self._before: dict[FunctionType, CodeType] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for function, code in self._before.items():
            function.__code__ = code

    def asked(self, frame: FrameType) -> None:
        """Write the branch anew that asks for the truth of a value, in a frame of the model.

        Raises:
            WrittenAnew: it is; what runs is the old code, so tracing has to begin again.
        """
        code, line = frame.f_code, frame.f_lineno
        if code.co_filename.startswith(_TORCH):
            return
        lines = self._wanted.setdefault((code.co_filename, code.co_firstlineno, code.co_name), set())
        functions = [
            each for each in gc.get_referrers(code) if isinstance(each, FunctionType) and each.__code__ is code
        ]
        if line in lines or not functions:
            return
        try:
            new = _written(code, lines | {line})
        except (OSError, SyntaxError, TypeError):
            return  # there is no source, or it is that of something else
        if new is None:
            return
        lines.add(line)
        for function in functions:
            self._before.setdefault(function, code)
            function.__code__ = new
        self.lines[described_line(code.co_filename, line, code.co_name)] = None
        raise WrittenAnew(f"branches of {code.co_qualname} are written anew")


# ------------------------------------------------------------------------------------ what the new code calls

# What a name holds to which only one side gives something.  Where the other one holds, reading it is an error of the
# model; a graph has no such errors.
UNBOUND = object()


def negated(value: Any) -> Any:
    """``not value``."""
    return torch.logical_not(value) if is_unknown(value) else not value


def both(value: Any, other: Callable[[], Any]) -> Any:
    """``value and other()``."""
    if not is_unknown(value):
        return other() if value else value
    return _combined(torch.logical_and, value, other())


def either(value: Any, other: Callable[[], Any]) -> Any:
    """``value or other()``."""
    if not is_unknown(value):
        return value if value else other()
    return _combined(torch.logical_or, value, other())


def _combined(function: Callable[..., torch.Tensor], a: torch.Tensor, b: Any) -> torch.Tensor:
    return function(a, b if isinstance(b, torch.Tensor) else torch.full_like(a, bool(b), dtype=torch.bool))


def chosen(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """``then() if test else otherwise()``."""
    if not is_unknown(test):
        return then() if test else otherwise()
    return selected(test, then(), otherwise())


def selected(test: torch.Tensor, then: Any, otherwise: Any) -> Any:
    """``then`` where the one element of ``test`` is true, ``otherwise`` elsewhere.

    Raises:
        CaptureError: no tensor can be either of the two.
    """
    if then is otherwise or otherwise is UNBOUND:
        return then
    if then is UNBOUND:
        return otherwise
    if isinstance(then, tuple | list) and type(then) is type(otherwise) and len(then) == len(otherwise):
        return type(then)(selected(test, a, b) for a, b in zip(then, otherwise, strict=True))
    tensors = isinstance(then, torch.Tensor) and isinstance(otherwise, torch.Tensor)
    if tensors and _kind(then) == _kind(otherwise):
        return torch.where(test.reshape(()).bool(), then, otherwise)
    if not tensors and type(then) is type(otherwise) and then == otherwise:
        return then
    raise CaptureError(
        f"the model decides by the values of a tensor between {_described(then)} and {_described(otherwise)}, of which "
        "no graph can choose one: give both sides one shape and dtype, or decide before the model is called"
        f"{_place(sys._getframe(1))}"
    )


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    # Comparing symbolic sizes would hold calls against it.
    return tensor.dtype, tensor.device, list(map(normal, tensor.shape))


def _place(frame: FrameType | None) -> str:
    while frame is not None and frame.f_code.co_filename.startswith((_HERE, _TORCH)):
        frame = frame.f_back
    if frame is None:
        return ""
    return f"\n  at {described_line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)}"


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} with shape {list(value.shape)}"
    return repr(value)


# ------------------------------------------------------------------------------------ new code


def _written(code: CodeType, lines: set[int]) -> CodeType | None:
    """The code of a function with its branches at ``lines`` written anew; None where one of them cannot be."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    function = tree.body[0]
    if len(tree.body) != 1 or not isinstance(function, ast.FunctionDef) or function.name != code.co_name:
        return None
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    function.decorator_list = []
    writer = _Writer(function, lines)
    writer.visit(function)
    if writer.missing:
        return None
    # Free variables are those of a function around it, and private names get the name of a class around it.
    owner, _, _ = code.co_qualname.rpartition(".")
    body: list[ast.stmt] = [function]
    if owner and not owner.endswith("<locals>"):
        body = [ast.ClassDef(owner.rpartition(".")[2], bases=[], keywords=[], body=body, decorator_list=[])]
    free = [ast.arg(name) for name in code.co_freevars if name != "__class__" or len(body) != 1 or body[0] is function]
    arguments = ast.arguments(posonlyargs=[], args=free, kwonlyargs=[], kw_defaults=[], defaults=[])
    around = ast.FunctionDef("around", args=arguments, body=body, decorator_list=[])
    module = ast.fix_missing_locations(ast.Module([around], type_ignores=[]))
    made = compile(module, code.co_filename, "exec", flags=code.co_flags & _FUTURE, dont_inherit=True)
    new = next((each for each in _codes(made) if each.co_name == code.co_name), None)
    return new if new is not None and new.co_freevars == code.co_freevars else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


class _Writer(ast.NodeTransformer):
    """Writes the branches of a function at some lines anew; ``missing`` has the lines where there is none."""

    def __init__(self, function: ast.FunctionDef, lines: set[int]) -> None:
        self.missing = set(lines)
        self._lines = lines
        declared = [part for part in ast.walk(function) if isinstance(part, ast.Global | ast.Nonlocal)]
        self._shared = {name for part in declared for name in part.names}
        self._count = 0

    def _is_asked(self, test: ast.expr) -> bool:
        return any(test.lineno <= line <= (test.end_lineno or test.lineno) for line in self._lines)

    def _are_shared(self, statement: ast.If) -> bool:
        """Whether a side assigns to a name that others than this function read."""
        return not self._shared.isdisjoint((*_targets(statement.body), *_targets(statement.orelse)))

    def _done(self, test: ast.expr) -> None:
        self.missing -= set(range(test.lineno, (test.end_lineno or test.lineno) + 1))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if not self._is_asked(node.test) or not (_is_pure(node.body) and _is_pure(node.orelse)):
            return node
        self._done(node.test)
        return ast.copy_location(_call("chosen", _test(node.test), _late(node.body), _late(node.orelse)), node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, self._block(block))
        return node

    def _block(self, block: list[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        index = 0
        while index < len(block):
            statement = block[index]
            index += 1
            if not isinstance(statement, ast.If) or not self._is_asked(statement.test):
                made.append(statement)
                continue
            otherwise = statement.orelse or block[index : index + 1]
            if _returns(statement.body) and _returns(otherwise):
                self._done(statement.test)
                then, other = statement.body[0].value, otherwise[0].value  # type: ignore[attr-defined]
                value = _call("chosen", _test(statement.test), _late(then), _late(other))
                made.append(ast.copy_location(ast.Return(value), statement))
                break
            if _assigns(statement.body) and _assigns(statement.orelse) and not self._are_shared(statement):
                self._done(statement.test)
                made.extend(self._choice(statement))
            else:
                made.append(statement)
        return made

    def _choice(self, statement: ast.If) -> list[ast.stmt]:
        self._count += 1
        test = f"_engine_test_{self._count}"
        names = list(dict.fromkeys((*_targets(statement.body), *_targets(statement.orelse))))
        kept = {name: f"_engine_{name}_{self._count}" for name in names}
        before = [_assign(f"{kept[name]}_before", _bound(name)) for name in names]
        after = [_assign(f"{kept[name]}_then", _name(name)) for name in names]
        back = [_assign(name, _name(f"{kept[name]}_before")) for name in names]
        choose = [
            _assign(name, _call("selected", _name(test), _name(f"{kept[name]}_then"), _name(name))) for name in names
        ]
        both_sides = [*before, *back, *statement.body, *after, *back, *statement.orelse, *choose]
        one_side = ast.If(_name(test), statement.body, statement.orelse)
        written: list[ast.stmt] = [
            _assign(test, _test(statement.test)),
            ast.If(_call("is_unknown", _name(test)), both_sides, [one_side]),
        ]
        for each in written:
            for part in ast.walk(each):
                if "lineno" in part._attributes and not hasattr(part, "lineno"):
                    ast.copy_location(part, statement)
        return written


def _call(function: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(_imported(function), list(arguments), [])


def _imported(name: str) -> ast.expr:
    # Found through the import system: the function keeps its own global names.
    module = ast.Call(
        ast.Name("__import__", ast.Load()),
        [ast.Constant(__name__)],
        [ast.keyword("fromlist", ast.List([ast.Constant(name)], ast.Load()))],
    )
    return ast.Attribute(module, name, ast.Load())


def _late(value: ast.expr | None) -> ast.expr:
    none = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.Lambda(none, value if value is not None else ast.Constant(None))


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _bound(name: str) -> ast.expr:
    """What a local name holds, ``UNBOUND`` where that is nothing."""
    names = ast.Call(ast.Name("locals", ast.Load()), [], [])
    return ast.IfExp(ast.Compare(ast.Constant(name), [ast.In()], [names]), _name(name), _imported("UNBOUND"))


def _assign(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _test(test: ast.expr) -> ast.expr:
    """A condition whose ``and``, ``or`` and ``not`` take tensors without asking for their truth."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return ast.copy_location(_call("negated", _test(test.operand)), test)
    if isinstance(test, ast.BoolOp):
        function = "both" if isinstance(test.op, ast.And) else "either"
        made = _test(test.values[-1])
        for value in reversed(test.values[:-1]):
            made = _call(function, _test(value), _late(made))
        return ast.copy_location(made, test)
    if (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id == "bool"
        and len(test.args) == 1
    ):
        return _test(test.args[0])
    return test


def _is_pure(node: ast.AST | None) -> bool:
    """Whether computing something changes nothing, as far as its text shows."""
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, _EFFECTS):
            return False
        # Methods that write to their tensor end in an underscore.
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            name = part.func.attr
            if (name.endswith("_") and not name.endswith("__")) or any(
                word.arg in ("out", "inplace") for word in part.keywords
            ):
                return False
    return True


def _returns(block: Sequence[ast.stmt]) -> bool:
    return len(block) == 1 and isinstance(block[0], ast.Return) and _is_pure(block[0].value)


def _assigns(block: Sequence[ast.stmt]) -> bool:
    """Whether statements only compute something and give it local names."""
    for statement in block:
        if isinstance(statement, ast.Pass):
            continue
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            return False
        if not all(isinstance(target, ast.Name) for target in targets) or not _is_pure(statement.value):
            return False
    return True


def _targets(block: Sequence[ast.stmt]) -> list[str]:
    targets: list[ast.expr] = []
    for statement in block:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


__all__ = ["ValueBranches", "WrittenAnew", "both", "chosen", "either", "is_unknown", "negated", "selected"]

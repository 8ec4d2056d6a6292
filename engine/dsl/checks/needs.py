"""``needs``, ``since`` and ``until``: what a rule or a layer asks of the installed TensorRT and PyTorch."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable

from engine.dsl import tree
from engine.dsl.diagnostics import Problems
from engine.dsl.vocabulary import suggestion
from engine.storage import installed_pytorch
from engine.tensorrt import Capabilities

RELATIONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Features that are not layers; see `engine.tensorrt.capabilities`.
FEATURES = frozenset({"data_dependent", "plugin"})
# Settings that rules may ask for, as ``setting.NAME``; such rules are left out of compilations without them.
SETTINGS = frozenset({"use_fp32_acc", "keep_quantized_weights", "tune"})
# Those whose rules compute the same more exactly: with `tune` they are tried where the setting does not ask for them.
MORE_EXACT = frozenset({"use_fp32_acc"})

# What GPUs have from a compute capability on, as ``target.NAME``; such rules are left out where an engine is built for
# GPUs before it. NVIDIA documents products of float8 for Ada and Hopper, of float4 for Blackwell.
TARGETS = {"fp8": (8, 9), "fp4": (10, 0)}


def parse_version(text: str) -> tuple[int, int]:
    """``"10.15"`` as ``(10, 15)``, so that it is later than 10.9; ``"11"`` is 11.0."""
    major, _, minor = text.partition(".")
    # No version has nine digits, and Python reads no more than some thousand.
    return int(major[:9]), int(minor.partition(".")[0][:9] or 0)


def satisfied(term: tree.Expr, capabilities: Capabilities) -> bool:
    """Whether the installed TensorRT, or PyTorch, is as one term of a ``needs`` clause asks."""
    match term:
        case tree.Binary(operator="and"):
            return satisfied(term.left, capabilities) and satisfied(term.right, capabilities)
        case tree.Binary(operator="or"):
            return satisfied(term.left, capabilities) or satisfied(term.right, capabilities)
        case tree.Unary() if setting_against(term) is not None:
            return True
        case tree.Unary():
            return not satisfied(term.value, capabilities)
        case tree.Binary() if asks_torch(term):
            return missing_torch([term]) is None
        case tree.Binary(right=tree.Literal(value=str(version))):
            return _holds(term.operator, capabilities.version, version)
        case tree.Name(name="rtx"):
            return capabilities.rtx
        case tree.Qualified():
            return (
                setting(term) is not None
                or target(term) is not None
                or term.name.removeprefix("cap.") in capabilities.features
            )
    raise AssertionError(f"unchecked term of `needs`: {term}")


def asks_torch(term: tree.Expr) -> bool:
    """Whether a term asks for a version of PyTorch."""
    return isinstance(term, tree.Binary) and isinstance(term.left, tree.Name) and term.left.name == "torch"


def missing_torch(terms: Iterable[tree.Expr]) -> str | None:
    """Why the installed PyTorch is not the one that a rule is for; None where it is."""
    for term in terms:
        match term:
            case tree.Binary(right=tree.Literal(value=str(version))) if asks_torch(term):
                installed = installed_pytorch.version()
                if not _holds(term.operator, parse_version(installed), version):
                    return f"needs {show(term)}, but torch {installed} is installed"
    return None


def _holds(relation: str, installed: tuple[int, int], version: str) -> bool:
    # `trt == 10` is any 10.x.
    return bool(RELATIONS[relation](installed if "." in version else (installed[0], 0), parse_version(version)))


def setting(term: tree.Expr) -> str | None:
    """The setting that a term asks for, None if it asks for something else."""
    prefix, _, name = term.name.partition(".") if isinstance(term, tree.Qualified) else ("", "", "")
    return name if prefix == "setting" else None


def setting_against(term: tree.Expr) -> str | None:
    """The setting with which a rule is left out (``not setting.NAME``), None if a term asks for something else."""
    return setting(term.value) if isinstance(term, tree.Unary) else None


def is_optional(terms: Iterable[tree.Expr]) -> bool:
    """Whether a rule with these terms is another form, used only where that was measured to be faster."""
    return any(setting(term) == "tune" for term in terms)


def target(term: tree.Expr) -> str | None:
    """What a term asks of the GPUs that engines are built for, None if it asks for something else."""
    prefix, _, name = term.name.partition(".") if isinstance(term, tree.Qualified) else ("", "", "")
    return name if prefix == "target" else None


def missing_target(term: tree.Expr, capabilities: Collection[tuple[int, int]]) -> str | None:
    """Why GPUs of some compute capabilities do not have what a term asks of them; None where they have."""
    least = TARGETS.get(target(term) or "")
    before = sorted(capability for capability in capabilities if least is not None and capability < least)
    if not before or least is None:
        return None
    listed = ", ".join(".".join(map(str, capability)) for capability in before)
    return (
        f"needs {show(term)}: GPUs have it from compute capability {least[0]}.{least[1]} on, and the engine is "
        f"built for {listed}"
    )


def check(term: tree.Expr, features: Collection[str], problems: Problems) -> None:
    """Report words that `satisfied` does not know.

    Args:
        features: what ``cap.`` may be followed by.
    """
    hint: str | None
    match term:
        case tree.Qualified() if setting(term) is not None:
            name = setting(term)
            if name not in SETTINGS:
                hint = suggestion(str(name), SETTINGS, f"rules may ask for {', '.join(sorted(SETTINGS))}")
                problems.report(f"unknown setting `{name}`", term.span, hint)
        case tree.Qualified() if target(term) is not None:
            if target(term) not in TARGETS:
                hint = suggestion(str(target(term)), TARGETS, f"rules may ask for {', '.join(sorted(TARGETS))}")
                problems.report(f"unknown feature `{term.name}` of GPUs", term.span, hint)
        case tree.Unary() if setting_against(term) is not None:
            check(term.value, features, problems)
        case tree.Binary(operator="and" | "or") | tree.Unary() if any(map(setting, _parts(term))):
            problems.report("a setting stands alone in `needs`", term.span, "needs setting.use_fp32_acc, not rtx")
        case tree.Binary(operator="and" | "or") | tree.Unary() if any(map(target, _parts(term))):
            problems.report("what GPUs have stands alone in `needs`", term.span, "needs target.fp8, not rtx")
        case tree.Binary(operator="and" | "or") | tree.Unary() if any(map(asks_torch, _parts(term))):
            problems.report("a version of PyTorch stands alone in `needs`", term.span, "needs torch >= 2.14, not rtx")
        case tree.Binary(operator="and" | "or"):
            check(term.left, features, problems)
            check(term.right, features, problems)
        case tree.Unary():
            check(term.value, features, problems)
        case tree.Binary():
            if not (isinstance(term.left, tree.Name) and term.left.name in ("trt", "torch")):
                problems.report("only `trt` and `torch` have a version", term.span, "needs trt >= 10.14")
        case tree.Qualified():
            prefix, _, feature = term.name.partition(".")
            if prefix != "cap":
                hint = "needs trt >= 10.14, not rtx, cap.attention"
                problems.report(f"unknown term `{term.name}` in `needs`", term.span, hint)
            elif feature not in features:
                hint = suggestion(
                    feature, features, "features are the names of `add_..` methods, `data_dependent`, `plugin`"
                )
                problems.report(f"unknown feature `{term.name}`", term.span, hint)
        case tree.Name(name="rtx"):
            pass
        case tree.Name(name="trt"):
            problems.report("`trt` alone says nothing", term.span, "compare its version: `trt >= 10.14`")
        case tree.Name(name="torch"):
            problems.report("`torch` alone says nothing", term.span, "compare its version: `torch >= 2.14`")
        case tree.Name():
            hint = suggestion(term.name, ["rtx", "trt", "torch"], "needs trt >= 10.14, not rtx, cap.attention")
            problems.report(f"unknown term `{term.name}` in `needs`", term.span, hint)


def _parts(term: tree.Expr) -> list[tree.Expr]:
    match term:
        case tree.Binary(operator="and" | "or"):
            return [*_parts(term.left), *_parts(term.right)]
        case tree.Unary():
            return _parts(term.value)
    return [term]


def show(term: tree.Expr) -> str:
    """A term as it is written."""
    match term:
        case tree.Unary():
            return f"not {show(term.value)}"
        case tree.Binary():
            return f"{show(term.left)} {term.operator} {show(term.right)}"
        case tree.Literal():
            return str(term.value)
        case tree.Name() | tree.Qualified():
            return term.name
    return "?"


def installed(capabilities: Capabilities) -> str:
    """The installed TensorRT in a sentence."""
    version = ".".join(map(str, capabilities.version))
    return f"TensorRT-RTX with the API of {version}" if capabilities.rtx else f"TensorRT {version}"

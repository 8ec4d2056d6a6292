"""Models as the command line names them: an exported program, or ``module:Class`` with its inputs."""

from __future__ import annotations

import ast
import importlib
import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click

import engine
from engine.errors import EngineError, InputError

_SPEC = re.compile(r"\s*(?:(?P<name>\w+)\s*:\s*)?(?P<dtype>\w+)\s*\[(?P<dims>[^\]]*)\]\s*")
_DIM = re.compile(r"\s*(\d+)(?:\s*\.\.\s*(\d+))?\s*")


class Model(NamedTuple):
    """A model and what it is called with.

    Attributes:
        name: for reports.
        args, kwargs: None for a program, which knows its inputs.
    """

    name: str
    model: Any
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None


def load_model(text: str, inputs: tuple[str, ...] = ()) -> Model:
    """The model that an argument of the command line names.

    Args:
        text: path of a ``.pt2`` file, or ``module:Class``, of which an instance is made, or ``module:name`` of a model
            or of a function that gives one, or a model with its arguments.
        inputs: as ``f32[2, 8]``, ``f32[1..8, 3, 224, 224]`` or ``name: i64[4]``; without them those of
            ``example_inputs`` of the model or the module are taken.

    Raises:
        click.BadParameter: there is no such file, module or name, or an input cannot be read.
        EngineError: the file holds something else, or the module fails.
    """
    path = Path(text)
    module, colon, name = text.partition(":")
    if not path.exists() and colon and re.fullmatch(r"[\w.]+", module) and re.fullmatch(r"[\w.]+", name):
        return _from_module(text, module, name, inputs)
    if not path.exists():
        raise click.BadParameter(f"there is no {text}; a model is a .pt2 file, or module:Class", param_hint="MODEL")
    if inputs:
        raise click.BadParameter("an exported program knows its inputs", param_hint="--input")
    return Model(path.name, load_program(path))


def load_program(path: Path) -> Any:
    """An exported program from its file.

    Raises:
        EngineError: the file holds something else; says what and what to do.
    """
    import torch

    if path.is_dir():
        raise EngineError(f"{path} is a folder; a model is a .pt2 file of torch.export.save")
    log = logging.getLogger("torch.export")
    quiet, log.disabled = log.disabled, True  # it writes a traceback for what is said here in one line
    try:
        return torch.export.load(path)
    except Exception as error:
        if _is_compiled(path):
            raise EngineError(
                f"{path} is a compiled model: give the program it was compiled from, or `engine inspect {path}`"
            ) from error
        raise EngineError(
            f"{path} is not an exported program: {_without_warnings(error)}\n"
            "save one with torch.export.save(torch.export.export(model, args), path)"
        ) from error
    finally:
        log.disabled = quiet


def _without_warnings(error: Exception) -> str:
    """The first line of an error of loading, or of the one before it where that refers to warnings."""
    said = str(error).strip()
    if "warnings above" in said and error.__context__ is not None:
        said = str(error.__context__).strip()
    first = said.splitlines()[0] if said else type(error).__name__
    return "it is no archive of torch.export" if "warnings above" in first else first


def _is_compiled(path: Path) -> bool:
    from engine.files import inspect

    try:
        inspect(path)
    except Exception:  # whatever such a file holds
        return False
    return True


def import_module(module: str, hint: str) -> ModuleType:
    """A module of the user's, from the current folder too, as ``python -m`` finds them.

    Args:
        hint: the argument or option that names it.

    Raises:
        click.BadParameter: there is no such module.
        EngineError: the module fails, or ends the process.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise click.BadParameter(f"there is no module {module}", param_hint=hint) from error
        raise EngineError(f"{module} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise EngineError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error


def _from_module(text: str, module: str, name: str, inputs: tuple[str, ...]) -> Model:
    import torch

    home = import_module(module, "MODEL")
    found: Any = home
    for part in name.split("."):
        if not hasattr(found, part):
            from engine.dsl.vocabulary import suggestion

            known = [other for other in vars(found) if not other.startswith("_")]
            raise click.BadParameter(f"{module} has no {name}; {suggestion(part, known)}", param_hint="MODEL")
        found = getattr(found, part)
    if not isinstance(found, torch.nn.Module) and callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:  # whatever the user's class does
            said = f"{text}(), called without arguments, raises {type(error).__name__}: {error}"
            raise EngineError(said) from error
    given: Any = None
    if isinstance(found, tuple) and len(found) == 2:
        found, given = found
    if not isinstance(found, torch.nn.Module):
        raise EngineError(f"{text} gives {type(found).__name__!r}, and no torch.nn.Module")
    given = given if given is not None else getattr(found, "example_inputs", getattr(home, "example_inputs", None))
    if inputs:
        args, kwargs = _inputs(inputs)
        return Model(text, found.eval(), args, kwargs)
    if callable(given):
        given = given()
    if given is None:
        raise EngineError(
            f"nothing says what {text} is called with: give --input 'f32[1, 3, 224, 224]' for each input, or let "
            "`example_inputs` of the model or its module be a tuple of tensors"
        )
    if isinstance(given, str) or not isinstance(given, dict | tuple | list | torch.Tensor | engine.Input):
        raise EngineError(f"`example_inputs` of {text} is {type(given).__name__!r}; let it be a tuple of tensors")
    if isinstance(given, dict):
        return Model(text, found.eval(), (), given)
    return Model(text, found.eval(), tuple(given) if isinstance(given, tuple | list) else (given,))


def _inputs(texts: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, value = _input(text)
        if name is None:
            args.append(value)
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def _input(text: str) -> tuple[str | None, Any]:
    """One input: a tensor by dtype and dims, or a number or string of Python."""
    from engine.dtypes import DTYPES

    match = _SPEC.fullmatch(text)
    if match is None:
        try:
            return None, ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise click.BadParameter(f"{text!r} is no input: write f32[2, 8]", param_hint="--input") from error
    if match["dtype"] not in DTYPES:
        from engine.dsl.vocabulary import suggestion

        hint = suggestion(match["dtype"], DTYPES)
        raise click.BadParameter(f"{match['dtype']!r} is no dtype; {hint}", param_hint="--input")
    low: list[int] = []
    high: list[int] = []
    for dim in filter(str.strip, match["dims"].split(",")):
        found = _DIM.fullmatch(dim)
        if found is None:
            raise click.BadParameter(f"{dim.strip()!r} is no dim: write 8, or 1..8", param_hint="--input")
        low.append(int(found[1]))
        high.append(int(found[2] or found[1]))
    dtype = DTYPES[match["dtype"]]
    try:
        given = engine.Input(min_shape=low, opt_shape=high, max_shape=high, dtype=dtype, name=match["name"])
    except InputError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--input") from error
    return match["name"], given


__all__ = ["Model", "import_module", "load_model", "load_program"]

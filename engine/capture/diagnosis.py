"""What to tell a user when torch.export fails: its message without the noise, where, and what to try."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import sympy
import torch

from engine.capture.sizes.branches import Branch
from engine.capture.sizes.fixed_sizes import instead_of
from engine.errors import CaptureError

# Lines of torch.export's messages that help its developers more than the user.
_NOISE = (
    "For more information",
    "For extended logs",
    "For more debugging help",
    "For C++ stack trace",
    "If you suspect the guard",
    "The error above occurred when calling torch.export",
    "Set TORCHDYNAMO_VERBOSE",
    "Set TORCH_LOGS",
    "You can suppress this exception",
    "For more details about this graph break",
    "Hint: Please report an issue",
    # The frame that PyTorch names is its own or that of an observer of ours; the model's line is found from the trace.
    "Caused by: (",
)
_MOST_LINES = 14
_MOST_BRANCHES = 3

_NUMPY = (
    "functions of numpy do not take sizes: torch.arange(n), torch.scalar_tensor(n).sqrt() and the like in place of "
    "np.arange(n) and np.sqrt(n)"
)
_QUANTISED = (
    "quantise with torchao (quantize_, or prepare_pt2e and convert_pt2e), or compile the model that prepare_qat gave, "
    "after disable_observer and before convert"
)
PACKED = f": it has weights that PyTorch packed for its own kernels, which compute in quantized tensors; {_QUANTISED}"
"""What to say of a model that ``torch.ao.quantization`` converted."""
_ADVICE = (
    (
        ("quantized nyi in meta tensors",),
        f"the model makes quantized tensors (torch.quantize_per_tensor), which cannot be traced: {_QUANTISED}",
    ),
    (
        ("Constraints violated", "conflicts between user-specified ranges", "specialized it to be a constant", "Dim"),
        "the model needs these dims to be fixed or related: mark them static (None), use the suggested Dim, "
        "or let torch.export decide with torch.export.Dim.AUTO",
    ),
    (
        ("data-dependent", "Data-dependent", "DataDependent"),
        "the model decides something by the values of a tensor: use torch.where or torch.cond instead of `if`, "
        "and torch._check(...) to promise what holds of a size read from data",
    ),
    (
        ("in output, which is not a known type", "Unsupported input type", "register"),
        "return tensors in tuples, lists, dicts or dataclasses, or register the type with "
        "torch.utils._pytree.register_pytree_node",
    ),
    (
        ("not supported", "Unsupported", "graph break", "Graph break"),
        "torch.export cannot follow this Python code: move it out of forward, or mark it with "
        "torch.compiler.assume_constant_result",
    ),
)
_DEFAULT_ADVICE = (
    "check that `model(*args, **kwargs)` runs with these inputs; torch.export.draft_export(model, args) lists "
    "every problem at once, and an ExportedProgram made in any other way is taken as it is"
)

# With the separator: the folders of torchvision and torchaudio begin with the name of PyTorch's.
_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
_HERE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
# Such as copy.py; packages are installed in a folder of it.
_STDLIB = tuple(str(path) for path in Path(sysconfig.get_path("stdlib")).glob("*.py"))
_USER_CODE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(.+)')


def capture_error(
    model: str, error: BaseException, strict_error: BaseException | None = None, branches: Sequence[Branch] = ()
) -> CaptureError:
    """The error for a model that torch.export rejected.

    ``error`` comes from the non-strict mode, ``strict_error`` from the second attempt, if there was one;
    ``branches`` are what the model asked of sizes until then.
    """
    text = str(error) or type(error).__name__
    message = f"torch.export could not take {model}: {type(error).__name__}: {essence(text)}"
    where = user_line(error) or _quoted_line(text)
    if where:
        message += f"\n  at {where}"
    elif "specialized it to be a constant" in text:
        fixing = dict.fromkeys(branch.source for branch in branches if isinstance(branch.relation, sympy.Eq))
        message += "".join(f"\n  the model fixes a size at {source}" for source in list(fixing)[:_MOST_BRANCHES])
    if strict_error is not None and type(strict_error) is not type(error):
        message += f"\n  strict mode fails too: {essence(str(strict_error)).splitlines()[0]}"
    return CaptureError(f"{message}\n  try: {_advice_on_sizes(text, branches) or advice(error)}")


def _advice_on_sizes(text: str, branches: Sequence[Branch]) -> str:
    """What to write instead of the lines that fix a size; empty where there are none."""
    lines = [branch.source for branch in branches if branch.fixes and "specialized it to be a constant" in text]
    return "; ".join(dict.fromkeys(map(instead_of, lines[:_MOST_BRANCHES])))


def advice(error: BaseException) -> str:
    """What to try after an error of torch.export."""
    text = f"{type(error).__name__} {error}"
    if "ufunc" in text or "numpy.object_" in text:
        return _NUMPY
    if not type(error).__module__.startswith("torch") and type(error) is not RuntimeError:
        return _DEFAULT_ADVICE
    for signs, hint in _ADVICE:
        if any(sign in text for sign in signs):
            return hint
    return _DEFAULT_ADVICE


def essence(text: str) -> str:
    """A message of torch.export without stack traces and developer hints, a few lines at most."""
    kept: list[str] = []
    for line in text.strip().splitlines():
        stripped = line.strip()
        if stripped.startswith(
            ("from user code:", "User Stack", "The following call raised this error", "While executing")
        ):
            break
        stripped = re.sub(r" ?For more information, run with TORCH_LOGS=\S+\.?$", "", stripped)
        if stripped and not stripped.startswith(_NOISE):
            kept.append(stripped)
    more = len(kept) - _MOST_LINES
    if more > 0:
        kept[_MOST_LINES:] = [f"... ({more} more lines)"]
    return "\n    ".join(kept)


def user_line(error: BaseException) -> str:
    """``file:line in function: code`` of the deepest frame outside PyTorch; empty where there is none."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        found = _deepest(current.__traceback__)
        if found:
            return found
        current = current.__cause__ or current.__context__
    return ""


def _deepest(trace: TracebackType | None) -> str:
    found = ""
    inside = False
    for frame in traceback.extract_tb(trace):
        # Only frames below torch.export are the model's; those above are whoever called us.
        if frame.filename.startswith(_TORCH):
            inside = True
        elif inside and not frame.filename.startswith((_HERE, "<", *_STDLIB)):
            found = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return found


def _quoted_line(text: str) -> str:
    frames = [m for m in _USER_CODE.finditer(text) if not m[1].startswith(_TORCH)]
    if not frames:
        return ""
    last = frames[-1]
    return f"{last[1]}:{last[2]} in {last[3]}: {last[4].strip()}"

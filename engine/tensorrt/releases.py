"""Releases that this package was not run with: newer ones than those of ``docs/releases.md``."""

from __future__ import annotations

import functools
import re
import warnings
from types import ModuleType

from engine.errors import NewReleaseWarning, user_frame
from engine.storage import installed_pytorch

NEWEST = {"torch": (2, 14), "tensorrt_rtx": (1, 7)}
"""Package -> the newest minor version of ``docs/releases.md``, without those of NVIDIA's full TensorRT."""


@functools.cache
def warn_of_new_releases(trt: ModuleType) -> None:
    """Warn, once per process, of a PyTorch or TensorRT that is newer than what was tested.

    Args:
        trt: the TensorRT module that is used.
    """
    found = newer(installed_pytorch.version(), trt.__name__, trt.__version__)
    if found:
        warnings.warn(found, NewReleaseWarning, stacklevel=user_frame())


def newer(torch_version: str, package: str, version: str) -> str:
    """What is newer than the tested releases, and what to do; empty where nothing is.

    Args:
        package: the name of TensorRT's module.
        version: TensorRT's version.
    """
    named = (("torch", torch_version), (package, version))
    new = [(name, own) for name, own in named if name in NEWEST and _minor(own) > NEWEST[name]]
    if not new:
        return ""
    what = " and ".join(f"{name} {own}" for name, own in new)
    tested = ", ".join(f"{name.replace('_', '-')} up to {'.'.join(map(str, NEWEST[name]))}" for name, _ in new)
    wanted = " ".join(f'"{name.replace("_", "-")}<{NEWEST[name][0]}.{NEWEST[name][1] + 1}"' for name, _ in new)
    return (
        f"engine was not run with {what}, which may work all the same: it was tested with {tested}. Look for a newer "
        f"release of engine, or if something fails install what was tested: pip install {wanted}"
    )


def _minor(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)

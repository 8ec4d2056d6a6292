"""The installed TensorRT: which one it is and what it can do.

``tensorrt`` wins over ``tensorrt_rtx``; ``ENGINE_TENSORRT=tensorrt|tensorrt_rtx`` overrides.
This is the only module that imports either, and the only place that compares versions.
"""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass
from types import ModuleType

from engine.errors import TensorRTNotFound
from engine.tensorrt.releases import warn_of_new_releases

_PACKAGES = ("tensorrt", "tensorrt_rtx")


@functools.cache
def load() -> ModuleType:
    """Import and return the TensorRT Python module.

    Raises:
        TensorRTNotFound: no usable package is installed.
    """
    chosen = os.environ.get("ENGINE_TENSORRT")
    if chosen and chosen not in _PACKAGES:
        raise TensorRTNotFound(f"ENGINE_TENSORRT={chosen!r} is not one of {', '.join(_PACKAGES)}")
    reasons = []
    for name in (chosen,) if chosen else _PACKAGES:
        try:
            module = importlib.import_module(name)
            # NVIDIA's index ships bindings without libraries: they import and hold nothing.
            module.INetworkDefinition  # noqa: B018
            return module
        except (ImportError, AttributeError, OSError) as error:
            reasons.append(f"  {name}: {error}")
    raise TensorRTNotFound(
        "no usable TensorRT is installed:\n"
        + "\n".join(reasons)
        + "\ninstall one with `pip install tensorrt-rtx` (any machine) or `pip install tensorrt` (NVIDIA's index)"
    )


@dataclass(frozen=True)
class Capabilities:
    """What the installed TensorRT offers; rules test it with ``needs``.

    Attributes:
        version: the version of the TensorRT *API*, e.g. ``(11, 1)``; RTX 1.6 has the API of 11.1.
        rtx: TensorRT-RTX: no plugins, no data-dependent output sizes.
        features: names that ``needs cap.<name>`` tests.
        specializes: whether the kernels that TensorRT-RTX compiles for the shapes of a call compute what they should.
        undoes_casts: whether products of float16 between casts to float32 are summed in float16 all the same.
    """

    version: tuple[int, int]
    rtx: bool
    features: frozenset[str]
    specializes: bool = True
    undoes_casts: bool = False

    @property
    def refit_keeps_biases(self) -> bool:
        """Whether an engine that TensorRT can refit computes what one that it cannot does.

        TensorRT 11.3's guide: one that is built with ``REFIT`` may drop the bias of a product, even if it is never
        refitted.  ``REFIT_IDENTICAL`` does not, and takes no weights but those it was built with.  The guide of 11.4
        lost the warning without a word that this was repaired, so later versions are taken for no better.
        """
        return self.version < (11, 3)


# TensorRT-RTX has version numbers of its own; the API each one follows was read from its bindings.
_RTX_API = {(1, 4): (10, 16), (1, 5): (11, 0), (1, 6): (11, 1), (1, 7): (11, 4)}

# Of x @ w + b with a dynamic number of rows, kernels for one shape add b to the first row only, in TensorRT alone too
# (seen with 1.4.0.76 on an H100; 1.6.1.120 is right; 1.5 was not run).  layouts.cpp says the same to C++.
_WRONG_KERNELS = {(1, 4), (1, 5)}

# Matrix products and einsum, by their error against float64 (seen with 1.4.0.76 on an H200; 1.6.1.120 keeps the casts;
# 1.5 was not run)
_UNDO_CASTS = {(1, 4), (1, 5)}


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of the installed TensorRT."""
    trt = load()
    warn_of_new_releases(trt)
    own = tuple(int(part) for part in trt.__version__.split(".")[:2])
    rtx = trt.__name__.startswith("tensorrt_rtx")
    version = _RTX_API.get((own[0], own[1]), max(_RTX_API.values())) if rtx else own
    network = trt.INetworkDefinition
    features = {name.removeprefix("add_") for name in dir(network) if name.startswith("add_")}
    if not rtx:
        features |= {"data_dependent", "plugin"}
    specializes = not (rtx and own in _WRONG_KERNELS)
    undoes_casts = rtx and own in _UNDO_CASTS
    return Capabilities((version[0], version[1]), rtx, frozenset(features), specializes, undoes_casts)


def describe_tensorrt() -> str:
    """Name and version of the TensorRT that builds, e.g. ``TensorRT-RTX 1.6.1.120``."""
    trt = load()
    return f"{'TensorRT-RTX' if capabilities().rtx else 'TensorRT'} {trt.__version__}"

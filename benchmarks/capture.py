"""CPU seconds of capture over those of ``torch.export.export`` alone, which is the least that it can take.

    python -m benchmarks.capture [--models resnet50,...] [--modes static,batch,size] [--repeats 2] [--json FILE]

Models are full-size, from torchvision, timm and transformers.  ``static`` has known sizes, ``batch`` a batch of 1 to 8,
``size`` also a dynamic height and width, or length.  Capture is what comes before the first rewrite: torch.export,
guards, and the canonical graph.  Both are run in turn, after one run of a small model; of each the least is taken.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.export import Dim

from engine.capture import capture
from engine.capture.tracing.tracing_lock import tracing_lock
from tests.models import ZOO, declare_torchvision_operators
from tests.zoo.request import Built

LIMIT = 1.3
MODES = ("static", "batch", "size")


def image_model(make: Callable[[], Any], side: int, step: int) -> Callable[[str], Built]:
    """A model of one image input, whose sides are multiples of ``step``."""

    def build(mode: str) -> Built:
        dims: dict[int, Any] = {0: Dim("batch", min=1, max=8)}
        if mode == "size":
            height, width = (Dim(name, min=2, max=2 * side // step) for name in ("height", "width"))
            dims |= {2: step * height, 3: step * width}
        torch.manual_seed(0)
        return Built(make().eval(), (torch.randn(2, 3, side, side),), {}, None if mode == "static" else (dims,))

    return build


def zoo_model(name: str) -> Callable[[str], Built]:
    """A model of the list that tokens go into."""

    def build(mode: str) -> Built:
        built = ZOO[name].build("full", dynamic=mode != "static")
        if mode != "size":
            return built
        length = Dim("length", min=2, max=256)
        shapes = {key: {0: Dim("batch", min=1, max=8), 1: length} for key in built.kwargs}
        return built._replace(dynamic_shapes=shapes)

    return build


def torchvision_model(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return make


def timm_model(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import timm

        return timm.create_model(name, pretrained=False)

    return make


MODELS: dict[str, Callable[[str], Built]] = {
    "resnet50": image_model(torchvision_model("resnet50"), 224, 32),
    "densenet121": image_model(torchvision_model("densenet121"), 224, 32),
    "efficientnet_b0": image_model(torchvision_model("efficientnet_b0"), 224, 32),
    "convnext_tiny": image_model(torchvision_model("convnext_tiny"), 224, 32),
    "efficientvit_b0": image_model(timm_model("efficientvit_b0"), 224, 32),
    "BertModel": zoo_model("BertModel"),
    "GPT2LMHeadModel": zoo_model("GPT2LMHeadModel"),
    "T5ForConditionalGeneration": zoo_model("T5ForConditionalGeneration"),
}


def seconds(function: Callable[[Built], None], built: Built) -> float:
    """CPU seconds of this process for one call."""
    gc.collect()
    started = time.process_time()
    function(built)
    return time.process_time() - started


def exported(built: Built) -> None:
    with tracing_lock(), torch.no_grad():
        torch.export.export(built.model, built.args, built.kwargs, dynamic_shapes=built.dynamic_shapes)


def captured(built: Built) -> None:
    with tracing_lock():
        capture(built.model, built.args, built.kwargs, dynamic_shapes=copy.copy(built.dynamic_shapes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args()
    declare_torchvision_operators()
    warnings.filterwarnings("ignore")
    small = ZOO["BertModel"].build("small")
    exported(small)
    captured(small)
    print(f"{'model':28} {'mode':7} {'export':>8} {'capture':>8} {'ratio':>6}")
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        for mode in options.modes.split(","):
            built = MODELS[name](mode)
            alone: list[float] = []
            ours: list[float] = []
            for _ in range(options.repeats):
                alone.append(seconds(exported, built))
                ours.append(seconds(captured, built))
            row = {"model": name, "mode": mode, "export": min(alone), "capture": min(ours)}
            rows.append({**row, "ratio": min(ours) / min(alone)})
            over = "  over" if rows[-1]["ratio"] > LIMIT else ""
            print(f"{name:28} {mode:7} {min(alone):8.2f} {min(ours):8.2f} {rows[-1]['ratio']:6.2f}{over}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())

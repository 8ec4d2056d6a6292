"""The interpreter against TensorRT on a GPU: every case, in worker processes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.tensorrt import load
from tests.interpreter import agreement
from tests.interpreter.cases import CASES

_REFUSALS = json.loads(Path(__file__).with_name("refusals.json").read_text())
# What a release computes otherwise than the interpreter, which follows the latest; what two runs of one release
# computed otherwise is under "depends on the kernel".
_DIFFERENCES = json.loads(Path(__file__).with_name("differences.json").read_text())


@pytest.mark.gpu
def test_agreement() -> None:
    cases = {index: case.name for index, case in enumerate(CASES)}
    outcomes = agreement.run(cases, agreement.examine_layer, 8, time.monotonic() + 1200)
    assert len(outcomes) == len(CASES)
    release = f"{load().__name__} {load().__version__}"
    differs = {o["case"] for o in outcomes if o["status"] == "disagreed"}
    by_kernel = set(_DIFFERENCES["depends on the kernel"])
    assert by_kernel <= set(cases.values())
    known = set(_DIFFERENCES.get(release, {}))
    assert differs - by_kernel == known, [o for o in outcomes if o["case"] in differs ^ known]
    wrong = [o for o in outcomes if o["status"] in ("failed", "crashed")]
    recorded = _REFUSALS.get(release)
    if recorded is not None:
        # What builds and does not load is only known of releases that ran on a GPU.
        known = {**recorded["build"], **recorded.get("load", {})}
        wrong += [o for o in outcomes if o["status"] == "refused" and o["case"] not in known]
    assert not wrong, "\n".join(f"{o['status']} {o['case']}: {o['reason']}" for o in wrong)

"""The interpreter against TensorRT on a GPU: every case, in worker processes."""

from __future__ import annotations

import time

import pytest

from tests.interpreter import agreement
from tests.interpreter.cases import CASES


@pytest.mark.gpu
def test_agreement() -> None:
    outcomes = agreement.run(list(range(len(CASES))), 8, False, time.monotonic() + 1200)
    assert len(outcomes) == len(CASES)
    wrong = [o for o in outcomes if o["status"] in ("disagreed", "failed", "crashed")]
    assert not wrong, "\n".join(f"{o['status']} {o['case']}: {o['reason']}" for o in wrong)

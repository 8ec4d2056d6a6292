"""Every op of the lists, in every dtype and of every rank: in one engine with others, and as eager PyTorch computes it.

float32 runs each time; of other dtypes the first call of each op, and all of them with ``ENGINE_TEST_FULL=1``.
``python -m tests.rules.operator_results --write`` writes down what became of them.
"""

import functools
import os

import pytest

import engine
from engine.verify.core import core_overloads, standing
from tests.op_db.expected import says
from tests.op_db.scope import listed_ops
from tests.rules.operator_results import FINE, OPS, TOGETHER, load, outcomes, parts

FULL = os.environ.get("ENGINE_TEST_FULL") == "1"
SHARES = 20


@functools.cache
def rules():
    return engine.RuleSet.load()


@pytest.mark.parametrize("share", range(SHARES))
def test_calls_agree_with_eager(share):
    some = list(parts(OPS[share::SHARES], whole=FULL))
    results = load()
    wrong = []
    for start in range(0, len(some), TOGETHER):
        now = some[start : start + TOGETHER]
        for part, outcome in zip(now, outcomes(now, rules()), strict=True):
            if outcome.text not in (*FINE, results[part.op][part.dtype]):
                wrong.append(f"{part.op} {part.dtype}: {outcome.text}, not {results[part.op][part.dtype]}")
    assert wrong == []


def test_every_op_has_calls():
    standings = {op: standing(op, rules()) for op in sorted(listed_ops() | set(core_overloads()))}
    taken = {op for op, what in standings.items() if what in ("rule", "decomposition") and op.startswith("aten.")}
    elsewhere = {name.removeprefix("aten.") for name in taken} - set(OPS)
    assert elsewhere == {"aten.nonzero.default"} - {"aten.nonzero.default"}


def test_every_op_passes_in_some_dtype():
    assert [op for op, by_dtype in load().items() if "passed" not in by_dtype.values()] == []


def test_every_reason_is_explained():
    texts = {text for by_dtype in load().values() for text in by_dtype.values() if text != "passed"}
    assert [text for text in sorted(texts) if text.startswith("failed") or says(text) is None] == []

"""The page of ops says how the rules of an op may differ from PyTorch."""

import pytest

from engine.dsl.ruleset import RuleSet
from engine.verify.ops_page import table

NAN, ZERO = "nan and infinities may give another result", "-0 may become 0"


@pytest.fixture(scope="module")
def rows():
    lines = table(RuleSet.load(), {}).splitlines()[2:]
    cells = [line.removesuffix(" |").split(" | ") for line in lines]
    return {op.strip("| `"): limits for op, *_, limits in cells}


def test_an_op_that_is_spelled_as_another_has_its_limits(rows):
    assert rows["clamp.default"] == rows["relu6.default"] == rows["hardtanh.default"] == f"{NAN}; {ZERO}"


def test_an_op_that_others_compute_has_its_own(rows):
    assert NAN in rows["argmax.default"]
    assert rows["threshold.default"] == ""
    assert NAN not in rows["atan2.default"]

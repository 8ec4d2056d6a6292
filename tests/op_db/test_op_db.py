"""Every sample of PyTorch's operator database does what ``outcomes.json`` says.

The fixed quarter of entries and dtypes runs each time; ``ENGINE_TEST_FULL=1`` runs all.  A sample that does better
than written down fails the test too: ``python -m tests.op_db --write ENTRY`` writes the new outcomes.
"""

import functools
import os

import pytest
import torch

import engine
from tests.op_db import expected

FULL = os.environ.get("ENGINE_TEST_FULL") == "1"
MOST = 12  # samples of each unit, but all of them in full
UNITS = [unit for unit in expected.units() if FULL or unit.in_quarter]

recorded = pytest.mark.skipif(
    torch.__version__.partition("+")[0] != expected.load()["torch"],
    reason="the samples are those of another PyTorch",
)


@functools.cache
def rules():
    return engine.RuleSet.load()


@recorded
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.entry}-{unit.dtype}")
def test_samples_do_as_expected(unit):
    from tests.op_db.judge import judge
    from tests.op_db.samples import calls, entries

    entry = entries()[unit.entry]
    samples = calls(entry, unit.dtype)
    assert len(samples) == unit.samples
    numbers = unit.some(len(samples) if FULL else MOST)
    outcomes = judge(entry.op, [samples[number] for number in numbers], rules(), unit.entry)
    found = {number: outcome.text for number, outcome in zip(numbers, outcomes, strict=True)}
    assert found == {number: unit.became[number] for number in numbers}


def test_no_wrong_result_is_expected():
    assert [unit for unit in expected.units() if any(text.startswith("failed") for text in unit.outcomes)] == []


def test_every_reason_is_explained():
    texts = {text for unit in expected.units() for text in unit.outcomes if text not in ("passed", "constant")}
    assert sorted(text for text in texts if expected.says(text) is None) == []


@recorded
def test_no_entry_is_left_out():
    from tests.op_db.samples import dtypes_of, entries

    known = {(unit.entry, unit.dtype) for unit in expected.units()}
    assert {(name, dtype) for name, entry in entries().items() for dtype in dtypes_of(entry)} == known


@recorded
def test_the_page_is_current():
    from tests.op_db import page

    data = expected.load()
    assert page.PAGE.read_text() == page.page(data), "python -m tests.op_db --docs"
    readme = page.README.read_text()
    if page.MARKS[0] in readme:
        assert readme == page.with_counts(readme, data), "python -m tests.op_db --docs"

"""Every sample of PyTorch's operator database does what ``outcomes.json`` says.

A fixed quarter of entries and dtypes runs each time, up to 6 samples of each, evenly spaced; with
``ENGINE_TEST_FULL=1`` every sample that is written down.  A sample that does better
than written down fails the test too: ``python -m tests.op_db --write ENTRY`` writes the new outcomes.
"""

import functools
import os
import subprocess
import sys

import pytest
import torch

import engine
from tests.op_db import expected

FULL = os.environ.get("ENGINE_TEST_FULL") == "1"
MOST = 6  # samples of each unit, but all of them in full
AT_ONCE = 200
UNITS = [unit for unit in expected.units() if FULL or unit.in_quarter]


def _portions():
    """Units together that have some hundred samples: engines hold samples of several."""
    portion, samples = [], 0
    for unit in UNITS:
        numbers = unit.some(unit.samples if FULL else MOST)
        portion.append((unit, numbers))
        samples += len(numbers)
        if samples >= AT_ONCE:
            yield portion
            portion, samples = [], 0
    if portion:
        yield portion


recorded = pytest.mark.skipif(
    torch.__version__.partition("+")[0] != expected.load()["torch"],
    reason="the samples are those of another PyTorch",
)


@functools.cache
def rules():
    return engine.RuleSet.load()


@recorded
@pytest.mark.parametrize(
    "portion", _portions(), ids=lambda portion: f"from-{portion[0][0].entry}-{portion[0][0].dtype}"
)
def test_samples_do_as_expected(portion):
    from tests.op_db.judge import judge
    from tests.op_db.samples import calls

    chosen, names, became = [], [], []
    for unit, numbers in portion:
        samples = calls(unit.entry, unit.dtype)
        assert len(samples) == unit.samples, (unit.entry, unit.dtype)
        chosen += [samples[number] for number in numbers]
        names += [f"{unit.entry} {unit.dtype} {number}" for number in numbers]
        became += [unit.became[number] for number in numbers]
    alone = [index for index, text in enumerate(became) if expected.spoils(text)]
    judged = judge(chosen, rules(), alone=alone)
    wrong = [
        f"{name}: {found.outcome.text}, not {text}"
        for name, text, found in zip(names, became, judged, strict=True)
        if found.outcome.text != text
    ]
    assert wrong == []


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
    # In a process of its own: rules for the ops of a package are active once it is imported.
    code = "import sys; from tests.op_db import expected, page; sys.stdout.write(page.page(expected.load()))"
    written = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert page.PAGE.read_text() == written, "python -m tests.op_db --docs"
    readme = page.README.read_text()
    assert all(mark in readme for mark in page.MARKS)
    assert readme == page.with_counts(readme, data), "python -m tests.op_db --docs"

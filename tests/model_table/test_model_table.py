"""The page agrees with its data, and what judges the models finds what is wrong."""

import os

import pytest
import torch
from torch import nn

from tests.model_table import page
from tests.model_table.corpus import LIBRARIES, corpus
from tests.model_table.forms import FORMS
from tests.model_table.judge import OUTCOMES, Row, judged
from tests.model_table.processes import Limits, answers
from tests.model_table.results import RESULTS, append, read, regressions
from tests.model_table.subject import Made, Point, Subject, dynamic_dims, images, points


def test_the_page_agrees_with_the_answers():
    assert page.PAGE.read_text() == page.text(read(), [*corpus()]), "python -m tests.model_table --docs"


def test_answers_are_of_models_and_forms_of_the_table():
    for (library, model, form), row in read().items():
        assert (library, model) in corpus()
        assert form in FORMS
        assert row["outcome"] in OUTCOMES
        assert row["date"]
        assert row["commit"]
        if row["outcome"] in ("whole", "parts") and not form.endswith("static"):
            assert row["sizes"][0][0] == 1
            assert row["sizes"][-1][0] == corpus()[library, model].most
    assert len(RESULTS.read_text().splitlines()) == len(read())


def test_every_library_has_its_share():
    counts = {library: sum(key[0] == library for key in corpus()) for library in LIBRARIES}
    assert counts["timm"] == 80
    assert counts["torchvision"] > 100
    assert counts["transformers"] >= 60
    assert counts["diffusers"] >= 20


def test_sizes_are_both_ends_and_primes_in_between():
    found = points(((64, 128), (64, 128)), 1)
    assert found[0] == Point(1, (64, 64))
    assert found[-1] == Point(5, (128, 128))
    inner = [size for point in found[1:-1] for size in point.sizes]
    assert inner == [73, 127, 89, 109, 97, 97, 109, 89, 127, 73]
    assert {size % 8 for point in points(((60, 128),), 8) for size in point.sizes} == {0}


class Net(nn.Module):
    """A convolution, and what ``kind`` says: an op without a rule, or a size in numbers."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.kind = kind

    def forward(self, x):
        y = self.conv(x).relu()
        if self.kind == "parts":
            y = y * y.flatten(1).nonzero().sum()
        if self.kind == "refused":
            for _ in range(int(y.sum().abs())):
                y = y + 1
        if self.kind == "one size":
            assert x.shape[2] == 16, "images are 16 high"
        return y.double() if self.kind == "no eager" and y.dtype == torch.float16 else y


def subject(kind="", model=Net):
    def dynamic(ranges, step):
        return (dynamic_dims(ranges, step, 2, 3),)

    return Subject(
        kind,
        "torch",
        lambda: Made(model(kind).eval(), ((16, 32), (16, 32))),
        lambda point: ((images(point),), {}),
        dynamic,
    )


def judge(kind, form, model=Net):
    torch.manual_seed(0)
    one = subject(kind, model)
    return judged(one, one.make(), FORMS[form], lambda phase: None)


@pytest.mark.parametrize("form", ["float16-static", "float32-sizes"])
def test_a_whole_model_is_whole(form):
    row = judge("", form)
    assert (row.outcome, row.coverage, row.engines, row.reason) == ("whole", 1.0, 1, "")
    assert len(row.sizes) == (7 if form == "float32-sizes" else 1)
    assert row.error <= 8 * row.eager


@pytest.mark.parametrize(
    ("kind", "form", "outcome", "reason"),
    [
        ("parts", "float32-static", "parts", "aten.nonzero"),
        ("refused", "float32-static", "not exported", "data-dependent"),
        ("one size", "float32-sizes", "one size", "images are 16 high"),
    ],
)
def test_what_is_not_whole_has_its_reason(kind, form, outcome, reason):
    row = judge(kind, form)
    assert row.outcome == outcome
    assert reason in row.reason


class Counting(Net):
    """Gives other values at each call, so that no engine agrees with it."""

    def forward(self, x):
        self.calls = getattr(self, "calls", 0)
        if not torch.compiler.is_compiling():
            self.calls += 1
        return super().forward(x) + 0.01 * self.calls


def test_wrong_values_are_seen():
    row = judge("", "float32-static", Counting)
    assert row.outcome == "wrong"
    assert "from float64" in row.reason


def test_what_became_worse_is_named(tmp_path):
    entry = {"library": "a", "model": "b", "form": "c", "outcome": "whole"}
    for name, outcome in (("before", "whole"), ("after", "parts")):
        append({**entry, "outcome": outcome, "reason": "why"}, tmp_path / name)
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    assert regressions(before, after) == ["a b c: whole, now parts: why"]
    assert regressions(after, before) == []


class Ending(Net):
    """Ends the process, waits for ever or fills the memory when it is called in half precision."""

    def forward(self, x):
        if x.dtype == torch.float16:
            if self.kind == "exit":
                os._exit(3)
            if self.kind == "hang":
                while True:
                    pass
            if self.kind == "fill":
                torch.ones(1 << 33)
        return super().forward(x)


def ending(key):
    return subject(key[1], Ending)


@pytest.mark.slow
def test_a_process_that_ends_is_a_row_and_the_rest_goes_on():
    forms = ["float16-static", "float32-static"]
    work = [(("torch", kind), forms) for kind in ("exit", "hang", "fill")]
    found = {(key[1], form): row for key, form, row in answers(work, 1, Limits(20, 6 << 30), ending)}
    assert found["exit", forms[0]] == Row("crashed", reason="exit code 3 in eager PyTorch")
    assert found["hang", forms[0]] == Row("over time", reason="20 s in eager PyTorch")
    assert found["fill", forms[0]] == Row("over memory", reason="6 GiB")
    assert {found[kind, forms[1]].outcome for kind in ("exit", "hang", "fill")} == {"whole"}

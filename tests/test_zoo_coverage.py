"""Every model that we know can be asked for its coverage, in every float dtype, with a batch of one or several sizes.

What ``torch.export`` itself cannot take is in ``NOT_EXPORTED``, and ends in a ``CaptureError`` with the model's line.
"""

import pytest

import engine
from tests.zoo.__main__ import ALL, read
from tests.zoo.forms import FORMS, Outcome, cast, covered, exported

_HALF = ("float16-static", "float16-dynamic", "bfloat16-static", "bfloat16-dynamic")
_EVERY = tuple(map(str, FORMS))

# Model -> forms and part of the message. PyTorch's own export ends in an error of the same kind.
NOT_EXPORTED: dict[str, tuple[tuple[str, ...], str]] = {}

# Model -> ops that stay in PyTorch.
LEFT: dict[str, set[str]] = {}

# Quick ones of several families; the others are slow together.
IN_CI: list[tuple[str, str]] = []
REST = [(name, str(form)) for name in ALL for form in FORMS if (name, str(form)) not in IN_CI]


def _check(name, form):
    form = next(each for each in FORMS if str(each) == form)
    built = cast(form.dtype, ALL[name].build("small", dynamic=form.dynamic))
    outcome = covered(built)
    forms, message = NOT_EXPORTED.get(name, ((), ""))
    if str(form) in forms:
        assert outcome.error.startswith("CaptureError: ")
        assert message in outcome.error
        assert "\n  at " in outcome.error
        assert exported(built) != ""
    else:
        assert outcome.error == ""
        assert {op for _, op, _ in outcome.left} == LEFT.get(name, set())
        assert (outcome.coverage == 1.0) == (not outcome.left)


@pytest.mark.parametrize(("name", "form"), IN_CI)
def test_model_can_be_asked_for_its_coverage(name, form):
    _check(name, form)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), REST)
def test_model_can_be_asked_for_its_coverage_in_every_form(name, form):
    _check(name, form)

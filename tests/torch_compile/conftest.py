"""What tests under ``torch.compile`` share."""

import pytest

import engine


@pytest.fixture
def reports():
    """The reports of the compilations that a test makes, in order."""
    found = []
    with engine.observe(after_compile=lambda event: found.append(event.report)):
        yield found

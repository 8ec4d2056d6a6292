"""Ranks for the tests of this folder: processes take seconds to start, so the tests share them."""

import pytest

from tests.distributed.ranks import Ranks


@pytest.fixture(scope="package")
def ranks():
    """Two ranks."""
    started = Ranks(2)
    yield started
    started.close()

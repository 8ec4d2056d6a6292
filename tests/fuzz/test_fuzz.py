"""A fixed part of every search; ``make fuzz`` runs the rest."""

import pytest

from tests.fuzz import searches


@pytest.mark.parametrize("name", searches())
def test_fixed_part(name):
    search = searches()[name]
    faults = search.run(search.FIXED, seed=0)
    assert not faults, "\n".join(faults)

"""In how many studies the truly best setting is one of the likely ones that `regimes` tells.

By default it is a glance; BELAY_SETTINGS=64 says something, in a few minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from questions import DRAWS
from surfaces import SURFACES, held

pytestmark = pytest.mark.timeout(0)  # as long as it takes


@pytest.mark.parametrize("surface", SURFACES)
def test_the_truly_best_is_one_of_the_likely_ones(surface: str, figure: Callable[..., None]) -> None:
    missed = 100 * (1 - held(surface, DRAWS) / DRAWS)
    figure(f"{surface}: studies whose likely settings miss the best", "5 of 100", missed, 7, "of 100")

"""In how many studies a setting that is as good as any is missing from those that cannot be told from the best.

The settings are as noisy as those of the quickstart's question, but as good. By default it is a glance;
BELAY_SETTINGS=64 BELAY_SEEDS=64 says something, in two minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from questions import DRAWS, Measured

from study.findings.choose import level

pytestmark = pytest.mark.timeout(0)  # as long as it takes


@pytest.mark.parametrize("seeds", [4, 14])
@pytest.mark.parametrize("noise", ["their own values", "normal noise"])
def test_settings_that_are_as_good_and_differ_in_how_noisy_they_are(
    tried: Measured, noise: str, seeds: int, figure: Callable[..., None]
) -> None:
    values = pd.DataFrame({number: by_seed for number, (_, by_seed) in tried.items()}).T.to_numpy()
    values = values - values.mean(axis=1, keepdims=True)
    sizes = (values - values.mean(axis=0)).std(axis=1, ddof=1, keepdims=True)
    rng, missing = np.random.default_rng(0), np.zeros(len(values))
    for _ in range(DRAWS):
        drawn = sizes * rng.standard_normal((len(values), seeds))
        if noise == "their own values":
            drawn = values[:, rng.permutation(values.shape[1])[:seeds]]
            # Means of some seeds of so many vary less than those of any seeds.
            drawn = drawn + drawn.mean(axis=1, keepdims=True) * ((1 - seeds / values.shape[1]) ** -0.5 - 1)
        missing += 1
        missing[level(pd.DataFrame(drawn), "max")] -= 1
    what = f"{noise}, {seeds} seeds: studies that miss"
    figure(f"{what} the setting that is missed most", "5 of 100", 100 * missing.max() / DRAWS, 7, "of 100")
    figure(f"{what} a setting", "5 of 100", 100 * missing.mean() / DRAWS, 7, "of 100")

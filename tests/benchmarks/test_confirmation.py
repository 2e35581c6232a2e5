"""What it would be worth to give finalists near the best more fresh seeds than others, on the quickstart's finalists.

Studies are drawn whose finalists get as many seeds each, and as many in all by OCBA (Chen and Lee 2010), which is for
choosing the best one surely. By default it is a glance; BELAY_SETTINGS=64 says something, in some minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from questions import DRAWS, SETTINGS, trained

from study.design.schema import CONFIRMATION, family
from study.findings.choose import best_first, leads, row
from study.findings.compare import difference

GLANCE = SETTINGS == 8
FEW = ["search={sampler: qmc, settings: 5, baseline: 3}", "confirm={finalists: 4, seeds: 40}"]
SEEDS = 12 if GLANCE else 48  # that each finalist has, if each has as many
FIRST, STEP = SEEDS // 4, 32  # seeds of each that OCBA starts from, and trainings between two looks at it

pytestmark = pytest.mark.timeout(0)  # as long as it takes


def by_ocba(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each finalist (rows) its first seeds (columns), as many as OCBA gives it; nan for the others."""
    finalists, there = values.shape
    counts, budget = np.full(finalists, FIRST), SEEDS * finalists
    while (left := budget - counts.sum()) > 0:
        given = np.where(np.arange(there) < counts[:, None], values, np.nan)
        means, deviations = np.nanmean(given, axis=1), np.nanstd(given, axis=1, ddof=1)
        best = means.argmax()
        behind = np.maximum(means[best] - means, 1e-9)
        shares = (deviations / behind) ** 2
        shares[best] = 0
        shares[best] = deviations[best] * np.sqrt(np.square(shares / deviations).sum())
        lacking = np.maximum(budget * shares / shares.sum() - counts, 0)
        more = np.floor(min(left, STEP) * lacking / lacking.sum()).astype(int)
        more[lacking.argmax()] += min(left, STEP) - more.sum()
        counts = np.minimum(counts + more, there)
    return np.where(np.arange(there) < counts[:, None], values, np.nan)


def studied(drawn: pd.DataFrame, ema: int) -> tuple[int, float]:
    """The finalist that a study chooses, and how wide the interval of its lead over the best EMA is."""
    longest = drawn.index[int(drawn.count(axis=1).argmax())]
    best = drawn.index[int(leads(row(drawn, longest), drawn, "max")["mean"].argmin())]
    lead = difference(row(drawn, best), drawn, ema, "max", chosen_from=len(drawn))
    return best, lead.high - lead.low if best != ema else math.nan


def test_seeds_spread_by_how_near_to_the_best_a_finalist_is(
    tmp_path_factory: pytest.TempPathFactory, figure: Callable[..., None]
) -> None:
    measured = trained(
        f"sqlite:///{tmp_path_factory.mktemp('finalists')}/ledger.db", FEW if GLANCE else ["confirm.seeds=400"]
    )
    fresh = pd.DataFrame({number: values for number, (_, values) in measured.items()}).T.sort_index(axis=1)
    fresh = fresh.loc[:, CONFIRMATION:].dropna()
    true = fresh.mean(axis=1)
    emas = [family(measured[number][0].oscillator) == "ema" for number in fresh.index]
    ema, *_ = best_first(fresh[emas], "max")
    rng, regrets, widths = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        values = fresh.to_numpy()[:, rng.permutation(len(fresh.columns))]
        drawn = [pd.DataFrame(each, fresh.index) for each in (values[:, :SEEDS], by_ocba(values))]
        chosen, width = zip(*(studied(each, ema) for each in drawn), strict=True)
        regrets.append([true.max() - true[each] for each in chosen])
        widths.append(width)
    (alike, ocba), (wide, wider) = np.mean(regrets, axis=0), np.nanmean(widths, axis=0)
    against = "spread by OCBA"
    figure("as many seeds each: regret, more than with them", against, 100 * (alike - ocba), 0.05, "points")
    figure("as many seeds each: interval of the lead over EMA", against, wide / wider, 1.0)

"""How surely one setting is better than others, when it was chosen because it measured best.

Settings share their seeds, so they are compared by paired differences. Two things are allowed for. Few seeds say little
of how much a difference varies: each variance leans on those of all others (Smyth 2004, "moderated" t), unless it is
far larger than theirs (Phipson and others 2016). And the best of many is best by luck too: what is said of it holds for
all that it was chosen from at once (Dunnett 1955; Hsu 1984).
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtri, digamma, fdtrc, ndtr, ndtri, polygamma, stdtrit

from study.design.schema import over_seeds

CONFIDENCE = 0.95
POWER = 0.8  # probability of telling a difference apart, for which `seeds_needed` asks
FEWEST = 6  # seeds below which no sign-flip test comes to 5 %: nothing is settled by fewer
MOST_WORTH = 1e6  # degrees of freedom that a typical variance is worth, at most
MOST_SHARED = 4  # times its own degrees of freedom that a variance is worth with those of others, at most
LOUD = 0.01  # probability of as large a variance, below which it stands by itself
MOST_NEEDED = 10**9  # seeds that no one has: more are called infinitely many
MOST_FLIPPED = 16  # seeds whose signs are all flipped: 65,536 ways


def row(table: pd.DataFrame, setting: int) -> pd.Series:
    """A setting's row of a table whose index is the setting."""
    return cast("pd.Series", table.loc[setting])


def leads(ours: pd.Series, others: pd.DataFrame, mode: str) -> pd.DataFrame:
    """How far one setting leads others, paired over the seeds that both have.

    Args:
        ours: Its values by seed.
        others: Values by setting (rows) and seed (columns), nan where there is none.
        mode: Which direction is better, "max" or "min".

    Returns:
        By setting: ``mean`` of the differences, positive where ours is better; ``se`` of that mean, moderated, and its
        degrees of freedom ``df``, nan with one seed; ``seeds``.
    """
    apart = ours.reindex(others.columns).to_numpy(float) - others.to_numpy(float)
    differences = apart if mode == "max" else -apart
    paired = ~np.isnan(differences)
    shared = paired.any(axis=1)
    differences, paired = differences[shared], paired[shared]
    seeds = paired.sum(axis=1)
    means = np.nansum(differences, axis=1) / seeds
    own = seeds - 1
    known = np.where(own > 0, own, math.nan)  # nan with one seed
    variances = np.nansum((differences - means[:, None]) ** 2, axis=1) / known
    variances, df = moderated(variances, known)
    columns = {"mean": means, "seeds": seeds, "se": np.sqrt(variances / seeds), "df": df}
    return pd.DataFrame(columns, index=others.index[shared])


def level(measured: pd.DataFrame, mode: str, confidence: float = CONFIDENCE) -> list[int]:
    """The settings that cannot be told from the best, itself among them, best first.

    The truly best one is among them with this confidence, whatever the others are (Hsu's comparisons with the best). Of
    two, the other one is told from the best two-sided: if they are as good, either may have been ahead by chance.

    Args:
        measured: Values by setting (rows) and seed (columns), without nan.
        mode: Which direction is better, "max" or "min".
        confidence: That of the whole statement, over all settings.

    Returns:
        Their numbers; with one seed all of them, as nothing is known of its error.
    """
    best, *rest = best_first(measured, mode)
    if not rest or len(measured.columns) < 2:
        return [best, *rest]
    found = leads(row(measured, best), measured.loc[rest], mode)
    critical = found["df"].map(lambda df: dunnett(len(rest), df, confidence, two_sided=len(rest) == 1))
    return [best, *map(int, found.index[found["mean"] <= critical * found["se"]])]


def shrunken(measured: pd.DataFrame) -> pd.Series | None:
    """Means over seeds, drawn towards their common mean by as much as chance alone sets them apart.

    The best of many raw means is too good by luck; of these, which are better estimates in sum, it is less so: of 8
    settings that are as good two thirds of the luck are gone, of 64 nine tenths.

    Args:
        measured: Values by setting (rows) and seed (columns), without nan.

    Returns:
        The means; None of fewer than four settings, or with one seed, of which nothing can be said.

    Source: James and Stein 1961, positive part, around the mean.
    """
    means, settings, seeds = measured.mean(axis=1), *measured.shape
    if settings < 4 or seeds < 2:
        return None
    common = means.mean()
    noise = measured.sub(means, axis=0).sub(measured.mean(axis=0) - common, axis=1)
    chance = (noise**2).to_numpy().sum() / ((settings - 1) * (seeds - 1) * seeds)
    apart = ((means - common) ** 2).sum()
    kept = max(0.0, 1 - (settings - 3) * chance / apart) if apart else 0.0
    return common + kept * (means - common)


def best_first(measured: pd.DataFrame, mode: str) -> list[int]:
    """The settings (rows) by their means over seeds (columns), the best first, ties in the order of the rows."""
    means = pd.Series([over_seeds(seeds) for seeds in measured.to_numpy()], measured.index)
    return [int(setting) for setting in means.sort_values(ascending=mode == "min", kind="stable").index]


@functools.lru_cache(maxsize=4096)
def dunnett(comparisons: int, df: float, confidence: float = CONFIDENCE, two_sided: bool = True) -> float:
    """What the largest of so many t values stays below with this confidence, if all are of differences to one setting.

    Such values are correlated by one half. Of a single one it is Student's quantile.

    Args:
        comparisons: At least 1.
        df: Degrees of freedom of their common variance, above 0.
        confidence: In (0, 1).
        two_sided: Whether the largest in size is meant.

    Source: Dunnett 1955.
    """
    if comparisons == 1:
        return float(stdtrit(df, (1 + confidence) / 2 if two_sided else confidence))
    shared, weights, places, lengths = _nodes()
    spread = np.sqrt(chdtri(df, (places + 1) / 2) / df)[:, None]

    def beyond(critical: float) -> float:
        reach = math.sqrt(2) * critical * spread
        each = ndtr(shared + reach) - (ndtr(shared - reach) if two_sided else 0)
        return float(lengths @ (each**comparisons) @ weights / lengths.sum() / weights.sum()) - confidence

    return float(brentq(beyond, 0.0, 1e4))


@functools.cache
def _nodes() -> tuple[NDArray[np.float64], ...]:
    """Places and weights over the noise that all differences share, and over the standard error's quantiles."""
    return *np.polynomial.hermite_e.hermegauss(51), *np.polynomial.legendre.leggauss(80)


def sign_flip(differences: NDArray[np.float64]) -> float:
    """Probability of a mean as far from 0 if each seed's difference had either sign by chance; exact.

    Args:
        differences: At most `MOST_FLIPPED`; nan with more.
    """
    if not 1 <= len(differences) <= MOST_FLIPPED:
        return math.nan
    sums = differences[:1]  # which keeps its sign: the other half is the same
    for each in differences[1:]:
        sums = np.concatenate([sums + each, sums - each])
    return float((np.abs(sums) >= abs(differences.sum()) * (1 - 1e-12)).mean())


def seeds_needed(mean: float, se: float, seeds: int, df: float, comparisons: int, two_sided: bool = True) -> float:
    """Seeds on which a difference as large as this one would be told from 0, four times in five; inf if there is none.

    Args:
        mean: The difference.
        se: Its standard error on the seeds that there are.
        seeds: How many there are, at least 2.
        df: Degrees of freedom of this standard error.
        comparisons: To how many other settings one will be compared on these seeds.
        two_sided: Whether it may be told in either direction.
    """

    def asked(count: int) -> float:
        """Seeds that it takes if their noise is known as well as by so many: the more, the nearer to 0 is told."""
        critical = dunnett(comparisons, df * (count - 1) / (seeds - 1), two_sided=two_sided)
        return seeds * (critical + float(ndtri(POWER))) ** 2 * (se / mean) * (se / mean)

    if not mean or asked(MOST_NEEDED) > MOST_NEEDED:
        return math.inf
    fewest = max(FEWEST, math.ceil(asked(MOST_NEEDED)))
    most = max(FEWEST, math.ceil(asked(fewest)))
    return bisect.bisect_left(range(most), True, lo=fewest, key=lambda count: asked(count) <= count)


def moderated(variances: NDArray[np.float64], df: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Variances that lean on each other, and what they are worth.

    Args:
        variances: Each may be nan, where its degrees of freedom are.
        df: Their degrees of freedom.

    Returns:
        The variances, and their degrees of freedom: no more than four times its own, as all may share a part of which
        the others say nothing, the noise of the best setting. A variance that is far larger than others stays as it is.

    Source: Smyth 2004; Phipson, Lee, Majewski, Alexander and Smyth 2016, for those that are far larger.
    """
    prior, usual = typical(variances, df)
    leaning = (prior * usual + df * variances) / (prior + df)
    worth = np.minimum(prior + df, MOST_SHARED * df)
    loud = fdtrc(df, prior, variances / usual) < LOUD if usual else np.zeros(len(df), bool)
    return np.where(loud, variances, leaning), np.where(loud, df, worth)


def typical(variances: NDArray[np.float64], df: NDArray[np.float64]) -> tuple[float, float]:
    """How many degrees of freedom the variances of others are worth, and their typical value; 0 if there are few.

    Source: Smyth 2004, section 6.2.
    """
    there = (df > 0) & (variances > 0)
    if there.sum() < 3:
        return 0.0, 0.0
    half = df[there] / 2
    logs = np.log(variances[there]) - digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if excess <= 1e-8:  # they differ by no more than chance
        return MOST_WORTH, float(np.exp(logs.mean()))
    prior = brentq(lambda log: float(polygamma(1, math.exp(log))) - excess, -20.0, 20.0)
    worth = math.exp(prior)
    return 2 * worth, float(np.exp(logs.mean() + digamma(worth) - math.log(worth)))

"""How probably each candidate is truly the best, when chance decided which one measured best.

How the true means are spread is learnt from all candidates (empirical Bayes), and each true mean from that and from
what its candidate measured. Candidates share their seeds, so what a seed adds to all alike is no noise. The variance of
a candidate leans on those of all others (Smyth 2004). Everything is summed over a grid of true means: nothing is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.findings.choose import MOST_SHARED, typical

FEWEST_LEARNT = 4  # candidates below which any true mean is as probable as another
ROUNDS = 8  # of learning the spread, times the logarithm of the candidates' number
BELOW, ABOVE = 14.0, 4.0  # usual standard errors that the grid goes below the best measured mean, and above it
FINE, CELLS = 4.0, 240  # cells of the grid to a standard error, and all of them, at most
SHIFTS, WIDE = 41, 5.0  # values of what fresh seeds add to all alike, and how many of its standard errors they go
NEVER = 1e-6  # a probability that is left out

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Measured:
    """What some candidates measured.

    Attributes:
        means: Over seeds; higher is better.
        errors: Standard errors of these.
        df: Their degrees of freedom.
    """

    means: Array
    errors: Array
    df: float

    def likelihood(self, grid: Array, shift: float = 0.0) -> Array:
        """Of each candidate (rows) at each true mean (columns), with a shift added to all: Student's t, at most 1.

        The lowest true mean stands for all below it; errors of less than half a cell are taken as that.
        """
        errors = np.maximum(self.errors, (grid[1] - grid[0]) / 2)
        distances = (self.means[:, None] - shift - grid) / errors[:, None]
        distances[:, 0] = distances[:, 0].clip(min=0)
        return np.asarray(np.exp(-(self.df + 1) / 2 * np.log1p(distances**2 / self.df)))


def chances(searched: pd.DataFrame, fresh: pd.DataFrame, mode: str) -> pd.Series:
    """How probably each candidate is truly the best one.

    Args:
        searched: Values by candidate (rows) and seed (columns), two seeds or more, without nan.
        fresh: The same of finalists on fresh seeds; empty if there are none. Those that are not in `searched` are left
            out.
        mode: Which direction is better, "max" or "min".

    Returns:
        Probabilities that sum to 1, of the candidates that have one to speak of, the most probable first.
    """
    sign = 1 if mode == "max" else -1
    search = _measured(sign * searched.to_numpy())
    finalists = searched.index.intersection(fresh.index)
    again = _measured(sign * fresh.loc[finalists].to_numpy()) if len(finalists) else None
    grid = _grid(search, again)
    beliefs = _beliefs(search.likelihood(grid))
    places = searched.index.get_indexer(finalists)
    best = _best(beliefs) if again is None else _confirmed(beliefs, places, again, grid)
    found = pd.Series(best, index=searched.index)
    found = found[found > NEVER].sort_values(ascending=False, kind="stable")
    return found / found.sum()


def _measured(values: Array) -> _Measured:
    """What candidates measured, by their values by seed, of which higher ones are better."""
    candidates, seeds = values.shape
    means, own = values.mean(axis=1), seeds - 1
    if candidates == 1:
        return _Measured(means, np.ones(1), float(own))
    centred = values - means[:, None]
    noise = centred - np.median(centred, axis=0)  # the median, as some candidates may be much noisier than others
    variances = np.square(noise).sum(axis=1) / own * candidates / (candidates - 1)
    prior, usual = typical(variances, np.full(candidates, own))
    errors = np.sqrt((prior * usual + own * variances) / (prior + own) / seeds)
    least = 1e-9 * float(np.ptp(means) or np.abs(means).max() or 1)  # where there is no noise at all
    return _Measured(means, np.maximum(errors, least), min(prior + own, MOST_SHARED * own))


def _grid(search: _Measured, again: _Measured | None) -> Array:
    """True means, ascending, among which the best one is; those far below it count as the lowest."""
    best, least = search.means.max(), search.means.min()
    usual = float(np.median(search.errors[search.means >= np.median(search.means)]))
    low, high = max(least - ABOVE * usual, best - BELOW * usual), best + ABOVE * usual
    finest = usual if again is None else min(usual, float(np.median(again.errors)))
    return np.linspace(low, high, min(CELLS, 1 + math.ceil(FINE * (high - low) / finest)))


def _beliefs(likelihood: Array) -> Array:
    """Each candidate's (rows) probability of each true mean (columns), whose spread is learnt from all.

    Learning starts from an even spread and ends early, which keeps the spread smooth where candidates are few.

    Source: Laird and Louis 1991, smoothing by roughening.
    """
    candidates, cells = likelihood.shape
    spread = np.full(cells, 1 / cells)
    for _ in range(0 if candidates < FEWEST_LEARNT else math.ceil(ROUNDS * math.log(candidates))):
        spread = spread * ((1 / (likelihood @ spread)) @ likelihood) / candidates
    return _whole(likelihood * spread)


def _confirmed(beliefs: Array, finalists: NDArray[np.intp], again: _Measured, grid: Array) -> Array:
    """Probability of each candidate to be the best, after finalists were measured again on fresh seeds.

    What these seeds add to all alike is whatever makes the finalists' values agree with their beliefs.
    """
    before = beliefs[finalists]
    means = before @ grid
    variances = before @ grid**2 - means**2 + again.errors**2
    error = math.sqrt(variances.sum()) / len(finalists)
    shifts = float((again.means - means).mean()) + error * np.linspace(-WIDE, WIDE, SHIFTS)
    after = [before * again.likelihood(grid, shift) for shift in shifts]
    logs = np.array([np.log(np.maximum(each.sum(axis=1), 1e-300)).sum() for each in after])
    weights = np.exp(logs - logs.max())
    best, whole = np.zeros(len(beliefs)), beliefs.copy()
    for each, weight in zip(after, weights / weights.sum(), strict=True):
        if weight > 1e-3:
            whole[finalists] = _whole(each + 1e-300)
            best += weight * _best(whole)
    return best


def _best(beliefs: Array) -> Array:
    """Probability of each candidate to be the best; true means in one cell of the grid lie anywhere in it."""
    below = beliefs.cumsum(axis=1) - beliefs
    places, lengths = np.polynomial.legendre.leggauss(4)
    found = np.zeros(len(beliefs))
    for place, length in zip((places + 1) / 2, lengths / 2, strict=True):
        under = np.maximum(below + place * beliefs, 1e-300)
        found += length * ((beliefs / under) @ np.exp(np.log(under).sum(axis=0)))
    return found


def _whole(beliefs: Array) -> Array:
    return np.asarray(beliefs / beliefs.sum(axis=1, keepdims=True))

"""How probably each candidate is truly the best, when chance decided which one measured best.

How the true means are spread is learnt from all candidates (empirical Bayes), and each true mean from that and from
what its candidate measured. The spread is itself known only so well, so it is learnt several times, each time with
other weights on the candidates (the Bayesian bootstrap; the weights are always the same ones), and the probabilities
that follow are averaged. Candidates share their seeds, so what a seed adds to all alike is no noise. The variance of a
candidate leans on those of all others (`study.findings.choose.moderated`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.findings.choose import moderated

FEWEST_LEARNT = 4  # candidates below which any true mean is as probable as another
ROUNDS = 1000  # of learning the spread
SPREADS, LEARNT_FROM = 10, 10_000  # times that it is learnt, at most, and candidates of all these times together
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
    df: Array

    def likelihood(self, grid: Array, shift: float = 0.0) -> Array:
        """Of each candidate (rows) at each true mean (columns), with a shift added to all: Student's t, at most 1.

        The lowest true mean stands for all below it; errors of less than half a cell are taken as that.
        """
        errors = np.maximum(self.errors, (grid[1] - grid[0]) / 2)
        distances = (self.means[:, None] - shift - grid) / errors[:, None]
        distances[:, 0] = distances[:, 0].clip(min=0)
        df = self.df[:, None]
        return np.asarray(np.exp(-(df + 1) / 2 * np.log1p(distances**2 / df)))


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
    places = searched.index.get_indexer(finalists)
    rest, best = np.delete(np.arange(len(searched)), places), np.zeros(len(searched))
    for beliefs in _beliefs(search.likelihood(grid)):
        cases = (beliefs[None, places], np.ones(1)) if again is None else _confirmed(beliefs[places], again, grid)
        others, theirs = _best(beliefs[rest], *cases)
        best[rest] += others
        best[places] += theirs
    found = pd.Series(best, index=searched.index)
    found = found[found > NEVER].sort_values(ascending=False, kind="stable")
    return found / found.sum()


def _measured(values: Array) -> _Measured:
    """What candidates measured, by their values by seed, of which higher ones are better."""
    values = values - values.max()  # a grid of differences is as fine wherever the values lie
    candidates, seeds = values.shape
    means, own = values.mean(axis=1), seeds - 1
    if candidates == 1:
        return _Measured(means, np.ones(1), np.full(1, own))
    centred = values - means[:, None]
    noise = centred - np.median(centred, axis=0)  # the median, as some candidates may be much noisier than others
    variances = np.square(noise).sum(axis=1) / own * candidates / (candidates - 1)
    variances, df = moderated(variances, np.full(candidates, own))
    least = 1e-9 * float(np.ptp(means) or np.abs(means).max() or 1)  # where there is no noise at all
    return _Measured(means, np.maximum(np.sqrt(variances / seeds), least), df)


def _grid(search: _Measured, again: _Measured | None) -> Array:
    """True means, ascending, among which the best one is; those far below it count as the lowest."""
    best, least = search.means.max(), search.means.min()
    usual = float(np.median(search.errors[search.means >= np.median(search.means)]))
    low, high = max(least - ABOVE * usual, best - BELOW * usual), best + ABOVE * usual
    finest = usual if again is None else min(usual, float(np.median(again.errors)))
    return np.linspace(low, high, min(CELLS, 1 + math.ceil(FINE * (high - low) / finest)))


def _beliefs(likelihood: Array) -> Iterator[Array]:
    """Each candidate's (rows) probability of each true mean (columns), for each time that their spread is learnt.

    Learning starts from an even spread and ends early, which keeps the spread smooth where candidates are few.

    Source: Laird and Louis 1987 (the bootstrap), 1991 (smoothing by roughening).
    """
    candidates, cells = likelihood.shape
    if candidates < FEWEST_LEARNT:
        yield _whole(likelihood)
        return
    times = min(max(1, LEARNT_FROM // candidates), SPREADS)
    even = np.full((1, candidates), 1 / candidates)
    weights = even if times == 1 else np.random.default_rng(0).dirichlet(np.ones(candidates), times)
    spreads = np.full((times, cells), 1 / cells)
    for _ in range(ROUNDS):
        spreads = spreads * ((weights / (spreads @ likelihood.T)) @ likelihood)
    yield from (_whole(likelihood * spread) for spread in spreads)


def _confirmed(beliefs: Array, again: _Measured, grid: Array) -> tuple[Array, Array]:
    """What finalists' fresh seeds make of their beliefs, shape (cases, finalists, cells), and each case's probability.

    A case is what these seeds add to all alike, which is whatever makes the values agree with the beliefs.
    """
    means = beliefs @ grid
    variances = (beliefs * (grid - means[:, None]) ** 2).sum(axis=1) + again.errors**2
    error = math.sqrt(variances.sum()) / len(means)
    shifts = float((again.means - means).mean()) + error * np.linspace(-WIDE, WIDE, SHIFTS)
    after = np.stack([beliefs * again.likelihood(grid, shift) for shift in shifts])
    logs = np.log(np.maximum(after.sum(axis=2), 1e-300)).sum(axis=1)
    weights = np.exp(logs - logs.max())
    return _whole(after + 1e-300), weights / weights.sum()


def _best(beliefs: Array, finalists: Array, weights: Array) -> tuple[Array, Array]:
    """Probability of each candidate, and of each finalist, to be the best of all.

    True means in one cell of the grid lie anywhere in it.

    Args:
        beliefs: Of candidates that are no finalists.
        finalists: Of finalists in each of some cases, shape (cases, finalists, cells).
        weights: The probability of each case.
    """
    places, lengths = np.polynomial.legendre.leggauss(4)
    others, theirs = np.zeros(len(beliefs)), np.zeros(finalists.shape[1])
    for place, length in zip((places + 1) / 2, lengths / 2, strict=True):
        below, under = _below(beliefs, place), _below(finalists, place)
        all_below = weights[:, None] * np.exp(np.log(below).sum(axis=0) + np.log(under).sum(axis=1))  # (cases, cells)
        others += length * ((beliefs / below) @ all_below.sum(axis=0))
        theirs += length * (finalists / under * all_below[:, None]).sum(axis=(0, 2))
    return others, theirs


def _below(beliefs: Array, place: float) -> Array:
    """The probability of a true mean below this place, as a share, of each cell."""
    return np.maximum(beliefs.cumsum(axis=-1) - (1 - place) * beliefs, 1e-300)


def _whole(beliefs: Array) -> Array:
    return np.asarray(beliefs / beliefs.sum(axis=-1, keepdims=True))

"""Averages as weights on a run's iterates (their kernels), and the combination of stored EMAs nearest to one.

An average without coupling is ``y = h_0 x_0 + sum_t h_t x_t``, with x_0 the start and x_t the model after step t. A few
EMAs are stored at steps t_1 < t_2 < ..., and x_0. Of an EMA at one of these steps ``decay ** (t_i - t_(i-1))`` is what
it was at the one before; the rest weighs the steps between the two alone. In these rests least squares is a small
problem for each segment, and exact.

The kernel error ``e = |w - h| / |h|`` of a combination w bounds what it misses: the residual ``r = w - h`` sums to 0
over every segment (a constraint of the fit) and is 0 at x_0, so that for any m that is constant on a segment

    |y_w - y_h| = |sum_t r_t (x_t - m_t)| <= e |h| sqrt(sum_t |x_t - m_t|^2)        (Cauchy and Schwarz)

Where the model moves as white noise within segments, e is the error over the noise of the average itself.

Source: averages after a run, by least squares between kernels: T. Karras et al., "Analyzing and Improving the Training
Dynamics of Diffusion Models" (EDM2), 2024, arXiv 2312.02696, of power profiles from power profiles. Damped averages,
EMAs as what is stored, the fit by segments and the bound are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from belay import response
from belay.checks import nonnegative, positive
from belay.oscillator import Oscillator

Numbers = NDArray[np.float64]
WIDEST = 12**-0.5  # relative standard deviation of the profile of exponent 0, the mean of all iterates


@dataclass(frozen=True, slots=True)
class PowerProfile:
    """The average that weighs the iterate of step t in proportion to ``t ** exponent``: EDM2's.

    Its memory is a share of the steps done, however many, and the start has no weight in it.

    Args:
        exponent: gamma, >= 0; 0 is the mean of all iterates, larger is shorter memory. The lag is
            ``steps / (gamma + 2)``.

    Raises:
        ValueError: It is out of range.
        TypeError: It is no real number.

    Source: T. Karras et al., arXiv 2312.02696, section 3.1 and appendix C.

    >>> round(PowerProfile.from_relative_std(0.10).exponent, 2)
    6.94
    """

    exponent: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponent", nonnegative("exponent", self.exponent))

    @classmethod
    def from_relative_std(cls, relative_std: float) -> PowerProfile:
        """The profile of this width, ``sigma_rel``: its kernel's standard deviation as a share of the run.

        Args:
            relative_std: In (0, 0.2886], the latter that of the mean of all iterates.

        Raises:
            ValueError: It is out of range.
        """
        if positive("relative_std", relative_std) > WIDEST:
            raise ValueError(f"`relative_std` must be at most 12 ** -0.5 = {WIDEST:.4g}, got {relative_std=}.")
        inverse = relative_std**-2
        return cls(max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())))

    @property
    def relative_std(self) -> float:
        """``sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))``."""
        return math.sqrt((self.exponent + 1) / (self.exponent + 3)) / (self.exponent + 2)


Target = Oscillator | PowerProfile


@dataclass(frozen=True)
class Fit:
    """A combination of stored EMAs.

    Attributes:
        coefficients: Of each stored step (row) and EMA (column).
        start: Of the start weights.
        error: Kernel error.
    """

    coefficients: Numbers
    start: float
    error: float


def fit(target: Target, decays: Sequence[float], steps: Sequence[int], noise: float) -> Fit:
    """The combination of EMAs nearest to an average as it was at the last stored step.

    Args:
        target: The average; an oscillator without coupling.
        decays: Those of the EMAs, below 1.
        steps: The stored steps, ascending, the first >= 1.
        noise: Error of a stored weight over the way that the model goes in a step, > 0: coefficients that are large
            and cancel would amplify it, so that their square times that of the noise counts as miss.
    """
    edges = [0, *steps]
    own = np.zeros((len(steps), len(decays)))  # coefficients of the EMAs without what they had before their segments
    start = float(_held(target, edges[-1], 0, 0)[0])
    missed, square = 0.0, start * start
    for row, (begin, end) in enumerate(pairwise(edges)):
        h = np.diff(_held(target, edges[-1], begin, end))  # weights on the iterates of the segment
        if h.any():
            own[row], miss = _Segment.of(tuple(decays), end - begin, noise).nearest(h)
            missed, square = missed + miss, square + float(h @ h)
    lengths = np.diff(edges)[:, None]
    before = own * np.array(decays) ** lengths  # what has to be taken off the EMAs one stored step earlier
    found = own.copy()
    found[:-1] -= before[1:]
    return Fit(found, start - float(before[0].sum()), math.sqrt(missed / square))


def _held(target: Target, at: int, begin: int, end: int) -> Numbers:
    """Of the average at a step, the weight on the start and all iterates up to each step from `begin` to `end`."""
    steps = np.arange(begin, end + 1, dtype=float)
    if isinstance(target, PowerProfile):
        return (steps / at) ** (target.exponent + 1)
    return response.remaining(target.stiffness, target.damping, at - steps)


class _Segment:
    """EMAs on the steps between two stored ones, by singular values.

    Args:
        decays: Those of the EMAs.
        length: Number of steps.
        noise: As for `fit`.
    """

    def __init__(self, decays: Sequence[float], length: int, noise: float) -> None:
        ages, decay = np.arange(length - 1, -1, -1, dtype=float)[:, None], np.array(decays)
        table = (1 - decay) * decay**ages
        self._left, self._singular, self._right = np.linalg.svd(table, full_matrices=False)
        self._damped = self._singular**2 + noise**2
        self._sums = table.sum(axis=0)
        self._towards = self._right.T @ (self._right @ self._sums / self._damped)  # the cheapest way to another sum

    @staticmethod
    @lru_cache(maxsize=64)
    def of(decays: tuple[float, ...], length: int, noise: float) -> _Segment:
        """The same for all segments of a length."""
        return _Segment(decays, length, noise)

    def nearest(self, h: Numbers) -> tuple[Numbers, float]:
        """Coefficients of the EMAs that come nearest to h on this segment and keep its sum, and the squared miss."""
        c = self._right.T @ (self._singular / self._damped * (self._left.T @ h))
        c += self._towards * (h.sum() - self._sums @ c) / (self._sums @ self._towards)
        miss = self._left @ (self._singular * (self._right @ c)) - h
        return c, float(miss @ miss)

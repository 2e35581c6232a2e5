"""The average as a second-order filter of stiffness k and damping c: its poles and its response over time.

All in closed form, written so that no digits are lost when k is tiny: by ``1 - z`` for a pole z near 1, by logarithms
through log1p and expm1. Arguments are taken as valid: `belay.oscillator.Oscillator` checks them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.float64]

EPS = float(np.finfo(float).eps)
CYCLES_SEARCHED = 1024  # of a slowly damped swing; searching more raises the overshoot found by less than 1e-6 of it
STEPS_SEARCHED = [1 << bits for bits in range(12, 22, 2)]  # going back from where the swing last leaves the band


def critical_stiffness(c: float) -> float:
    """``(1 - sqrt(1 - c))^2`` for c <= 1."""
    return (c / (1 + math.sqrt(1 - c))) ** 2


def is_critical(k: float, c: float) -> bool:
    """Whether the poles coincide, as far as floating point can tell; never so for EMA (c = 1)."""
    if c >= 1:
        return False
    rounding = 2 * EPS * (1 + k / math.sqrt(1 - c))  # of decay, and of k* where damping is rounded
    return abs(k - critical_stiffness(c)) <= rounding or _discriminant(k, c) == 0


def is_underdamped(k: float, c: float) -> bool:
    """Whether the poles are a complex pair."""
    return _discriminant(k, c) < 0 and not is_critical(k, c)


def poles(k: float, c: float) -> tuple[complex, complex]:
    """Roots of ``z^2 - (2 - c - k) z + (1 - c)``, slowest first."""
    if c == 1:
        return complex(1 - k), 0j
    if is_critical(k, c):
        return complex(math.sqrt(1 - c)), complex(math.sqrt(1 - c))
    middle, spread = 2 - c - k, _discriminant(k, c)
    if is_underdamped(k, c):
        upper = complex(middle, math.sqrt(-spread)) / 2
        return upper, upper.conjugate()
    large = (middle + math.copysign(math.sqrt(spread), middle)) / 2
    return complex(large), complex((1 - c) / large)


def is_stable(k: float, c: float) -> bool:
    """Whether both poles are inside the unit circle, as far as floating point can tell; always so below c = 1.5."""
    return k < 2 * (2 - c)


def log_modulus(k: float, c: float) -> float:
    """Logarithm of |z| of the slowest pole, which must not be 0."""
    if c == 1:
        return math.log1p(-k)
    if is_critical(k, c) or is_underdamped(k, c):
        return math.log1p(-c) / 2
    return -min(_rates(k, c))


def frequency_and_ratio(k: float, c: float) -> tuple[float, float]:
    """Natural frequency (radians a step) and damping ratio of ``s = log z``."""
    if c > 1:
        return math.nan, math.nan  # a negative pole has no continuous-time oscillator
    if c == 1:
        return math.inf, math.inf
    if is_critical(k, c):
        return -math.log1p(-c) / 2, 1.0
    if is_underdamped(k, c):
        rate, angle = _rate_and_angle(k, c)
        frequency = math.hypot(rate, angle)
        return frequency, rate / frequency
    slow, fast = _rates(k, c)
    frequency = math.sqrt(slow * fast)
    return frequency, (slow + fast) / (2 * frequency)


def power(k: float, c: float, n: float) -> tuple[float, float]:
    """Stiffness and damping whose poles are the n-th powers of these; c is not 1, and n is whole where c > 1."""
    if c > 1:
        larger, smaller = (n * rate for rate in _rates(k, c))
        if n % 2 == 0:
            return math.expm1(-larger) * math.expm1(-smaller), -math.expm1(-larger - smaller)
        return -math.expm1(-larger) * (1 + math.exp(-smaller)), 1 + math.exp(-larger - smaller)
    damping = -math.expm1(n * math.log1p(-c))
    if is_critical(k, c):
        return math.expm1(n * math.log1p(-c) / 2) ** 2, damping
    if is_underdamped(k, c):
        rate, angle = _rate_and_angle(k, c)
        return math.expm1(-n * rate) ** 2 + 4 * math.exp(-n * rate) * math.sin(n * angle / 2) ** 2, damping
    slow, fast = _rates(k, c)
    return math.expm1(-n * slow) * math.expm1(-n * fast), damping


def solve_lag(damping_ratio: float, lag: float) -> tuple[float, float]:
    """Stiffness and damping of the given damping ratio and lag.

    The lag, the sum of ``z / (1 - z)`` over both poles, falls as the natural frequency rises: bisection finds it.
    """

    def lag_at(frequency: float) -> float:
        with np.errstate(over="ignore"):  # a fast mode that is forgotten within the step adds no lag
            return float(np.sum(1 / np.expm1(-_logarithms(damping_ratio, frequency))).real)

    high = damping_ratio / (lag + 1) / 2
    while lag_at(high) > lag:
        high *= 1.1
    frequency = _bisect(lambda frequency: lag_at(frequency) > lag, high / 1.1, high)
    logarithms = _logarithms(damping_ratio, frequency)
    return float(np.prod(np.expm1(logarithms)).real), -math.expm1(float(logarithms.sum().real))


def kernel(k: float, c: float, n: int) -> NDArray[np.float64]:
    """Response to a unit impulse, over n updates."""
    weights = np.empty(n)
    value = velocity = 0.0
    for age in range(n):
        velocity = (1 - c) * velocity + k * ((age == 0) - value)
        value += velocity
        weights[age] = value
    return weights


def overshoot(k: float, c: float) -> float:
    """Largest excess over 1 of the response to a unit step, at whole steps."""
    if not is_stable(k, c):
        return math.inf
    if c > 1:
        return _alternating_overshoot(k, c)
    if not is_underdamped(k, c):
        return 0.0
    rate, angle = _rate_and_angle(k, c)
    half_cycles = np.arange(1, 2 * CYCLES_SEARCHED, 2, dtype=float)
    peaks = np.floor(_extrema(k, c, rate, angle, half_cycles)) - 1
    updates = np.maximum(np.concatenate([peaks, peaks + 1]), 0)
    return max(0.0, float(-remaining(k, c, updates).min()))


def settling_time(k: float, c: float, band: float) -> int | float:
    """First step from which the response to a unit step at step 0 stays within `band` of 1; a whole number or inf.

    Below a damping of 1e-6 it may be up to 4 % late: there the response is looked at between whole steps too.
    """
    if not is_stable(k, c):
        return math.inf
    latest = crossing = _last_crossing(k, c, band)
    for width in STEPS_SEARCHED:  # at whole steps the last excess can lie well before the crossing
        earliest = max(0, latest - width)
        outside = np.flatnonzero(np.abs(remaining(k, c, np.arange(earliest, latest + 1, dtype=float))) > band)
        if len(outside):
            return earliest + int(outside[-1])  # updates are counted from 1, steps from 0
        latest = earliest
    return crossing


# --- poles, written so that no digits are lost ------------------------------------------------------------------------


def _discriminant(k: float, c: float) -> float:
    """``(2 - c - k)^2 - 4 (1 - c)``, factored below c = 1 so that it keeps its sign close to critical damping."""
    if c >= 1:
        return (2 - c - k) ** 2 + 4 * (c - 1)
    root = 2 * math.sqrt(k)
    return (k - root + c) * (k + root + c)


def _slow_gap(k: float, c: float) -> float:
    """``1 - z`` of the real pole nearer to 1."""
    return 2 * k / (c + k + math.sqrt(max(0.0, _discriminant(k, c))))


def _rate_and_angle(k: float, c: float) -> tuple[float, float]:
    """``-log |z|`` and the angle of the complex pole above the real axis."""
    return -math.log1p(-c) / 2, math.atan2(math.sqrt(-_discriminant(k, c)), 2 - c - k)


def _rates(k: float, c: float) -> tuple[float, float]:
    """``-log |z|`` of two real poles, the larger pole first; where c > 1 the second pole is negative."""
    larger = -math.log1p(-_slow_gap(k, c))
    return larger, -(math.log1p(-c) if c < 1 else math.log(c - 1)) - larger


def _logarithms(damping_ratio: float, frequency: float) -> NDArray[np.complex128] | NDArray[np.float64]:
    """The poles' logarithms at a damping ratio and natural frequency; complex where the poles are."""
    if damping_ratio < 1:
        upper = frequency * complex(-damping_ratio, math.sqrt((1 - damping_ratio) * (1 + damping_ratio)))
        return np.array([upper, upper.conjugate()])
    fast = damping_ratio + math.sqrt((damping_ratio - 1) * (damping_ratio + 1))
    return np.array([-frequency / fast, -frequency * fast])


# --- the distance still to go after n updates of a unit step ----------------------------------------------------------


def remaining(k: float, c: float, n: Steps) -> Steps:
    """``1 - y`` after n updates (real numbers are allowed where the poles are not negative)."""
    if c == 1:
        return np.exp(n * math.log1p(-k)) if k < 1 else np.where(n > 0, 0.0, 1.0)
    if is_critical(k, c):
        pole = math.sqrt(1 - c)
        return pole**n * (1 + n * (1 - pole))
    if is_underdamped(k, c):
        rate, angle = _rate_and_angle(k, c)
        scale = 2 * math.sqrt(k / -_discriminant(k, c))
        return scale * np.exp(-rate * (n + 1)) * np.sin(angle * (n + 1) + _phase(k, c))
    larger, smaller = _modes(k, c, n)
    return larger - smaller if c < 1 else larger + smaller * np.where(n % 2 == 0, 1, -1)


def _modes(k: float, c: float, n: Steps) -> tuple[Steps, Steps]:
    """Parts of the error from two real poles z (w the other), larger one first: ``|(1 - w) z^(n+1) / (z - w)|``."""
    gap, distance = _slow_gap(k, c), math.sqrt(_discriminant(k, c))
    larger, smaller = _rates(k, c)
    return k / gap / distance * np.exp(-larger * (n + 1)), gap / distance * np.exp(-smaller * (n + 1))


def _phase(k: float, c: float) -> float:
    """Angle by which the swing of a complex pair is ahead: that of ``1 - conj(z)``."""
    return math.atan2(math.sqrt(-_discriminant(k, c)), c + k)


def _extrema(k: float, c: float, rate: float, angle: float, half_cycles: Steps) -> Steps:
    """Times n + 1 at which the error of a complex pair peaks in each half cycle, counted from the start."""
    return (math.pi * half_cycles + math.atan2(angle, rate) - _phase(k, c)) / angle


def _last_crossing(k: float, c: float, band: float) -> int:
    """A number of updates after which the error, at any real time, stays within `band`."""
    if c > 1:  # bounded by the sum of both modes, which falls
        return _first(lambda n: bool(np.sum(_modes(k, c, np.array([n], dtype=float))) <= band))
    if not is_underdamped(k, c):
        return _first(lambda n: bool(remaining(k, c, np.array([n], dtype=float))[0] <= band))
    rate, angle = _rate_and_angle(k, c)
    scale = 2 * math.sqrt(k / -_discriminant(k, c)) * math.sin(math.atan2(angle, rate))
    first_peak = float(_extrema(k, c, rate, angle, np.zeros(1))[0])
    cycle = max(0, math.floor((math.log(scale / band) / rate - first_peak) * angle / math.pi))
    start = max(0.0, first_peak + cycle * math.pi / angle - 1)
    end = ((cycle + 1) * math.pi - _phase(k, c)) / angle - 1
    return math.ceil(_bisect(lambda n: abs(float(remaining(k, c, np.array([n]))[0])) > band, start, max(start, end)))


def _alternating_overshoot(k: float, c: float) -> float:
    """Overshoot above damping 1: at every second update, and only where the negative pole is the slower one."""
    positive, negative = _rates(k, c)
    if negative >= positive:
        return 0.0
    gap = _slow_gap(k, c)
    peak = math.log(k * positive / (gap * gap * negative)) / (positive - negative)
    even = 2 * max(1, math.floor(peak / 2))
    return max(0.0, float(-remaining(k, c, np.array([even - 1.0, even + 1.0])).min()))


# --- small solvers ----------------------------------------------------------------------------------------------------


def _first(holds: Callable[[int], bool]) -> int:
    """Smallest n >= 0 from which on a condition holds; where it holds once, it holds ever after."""
    high = 1
    while not holds(high):
        high *= 2
    low = -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _bisect(above: Callable[[float], bool], low: float, high: float) -> float:
    """The point where a condition that holds at `low` stops holding, to the last digit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if above(middle) else (low, middle)
    return high

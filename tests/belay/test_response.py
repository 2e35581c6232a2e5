"""The oscillator as a filter in time: its closed forms against direct simulation."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from belay import Oscillator
from belay.reference import step

swept = settings(settings.get_profile("belay"))


def _filtered(oscillator: Oscillator, signal: np.ndarray) -> np.ndarray:
    k, c = oscillator.stiffness, oscillator.damping
    return lfilter([k], [1, -(2 - c - k), 1 - c], signal)


def _step_response(oscillator: Oscillator) -> np.ndarray:
    """Long enough to fall to 1e-6 of the step; settings that take too long are left to other tests."""
    assume(oscillator.half_life < 2000)
    return _filtered(oscillator, np.ones(20 * math.ceil(oscillator.half_life) + 100))


@pytest.mark.parametrize("setting", [(0.9, 1.0), (0.99, 0.2), (0.9, 0.5), (0.9975, 0.0975), (0.7, 1.5)])
def test_the_kernel_is_what_the_reference_does_with_an_impulse(setting):
    oscillator = Oscillator(*setting)
    y, v, weights = 0.0, 0.0, []
    for age in range(300):
        _, y, v = step(float(age == 0), y, v, oscillator)
        weights.append(y)
    assert oscillator.kernel(300) == pytest.approx(weights, rel=1e-12, abs=1e-15)
    assert oscillator.kernel(0).shape == (0,)


@pytest.mark.parametrize("setting", [(0.9, 1.0), (0.99, 0.2), (0.9, 0.5), (0.9931, 0.05), (0.7, 1.5)])
def test_the_kernel_sums_to_one_and_has_the_lag_and_the_noise_gain(setting):
    oscillator = Oscillator(*setting)
    weights = oscillator.kernel(5000)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert weights @ np.arange(5000) == pytest.approx(oscillator.lag, rel=1e-10)
    assert weights @ weights == pytest.approx(oscillator.noise_gain, rel=1e-12)


def test_the_kernel_weighs_what_the_optimizer_left_when_the_average_is_coupled():
    oscillator = Oscillator(0.9, 0.4, 0.2)
    iterates = np.random.default_rng(0).normal(size=400)
    y, v = 0.0, 0.0
    for x in iterates:
        _, y, v = step(x, y, v, oscillator)
    assert y == pytest.approx(oscillator.kernel(400) @ iterates[::-1], rel=1e-12)


@pytest.mark.parametrize("n", [-1, 1.5, True, "3", None])
def test_the_kernel_refuses_a_length_that_is_no_count(n):
    with pytest.raises(ValueError, match=r"^`n` must be a whole number of at least 0, got .+\.$"):
        Oscillator(0.9).kernel(n)


@swept
@given(st.from_type(Oscillator))
def test_the_half_life_is_that_of_the_slowest_mode_of_the_free_average(oscillator):
    assume(oscillator.stiffness > 1e-6)
    k, q = oscillator.stiffness, 1 - oscillator.damping
    slowest = max(abs(np.linalg.eigvals([[1 - k, q], [-k, q]])))
    if slowest == 0:
        assert oscillator.half_life == 0
    elif oscillator.half_life == math.inf:
        assert slowest >= 1 - 1e-8
    else:
        assume(oscillator.regime != "critical" and abs(1 - slowest) > 1e-8)  # a double root is known to 1e-8
        assert math.exp(-math.log(2) / oscillator.half_life) == pytest.approx(slowest, abs=1e-8)


def test_the_distance_to_a_reached_step_halves_every_half_life():
    oscillator = Oscillator(0.99, 0.2)
    rest = 1 - _filtered(oscillator, np.ones(400))
    halves = math.log(rest[200] / rest[300]) / math.log(2)
    assert halves == pytest.approx(100 / oscillator.half_life, rel=1e-3)


@swept
@given(st.from_type(Oscillator))
@example(Oscillator(0.00695, 0.001))  # whole steps miss the first peak and meet a later one
def test_the_overshoot_is_the_highest_point_of_the_simulated_step_response(oscillator):
    response = _step_response(oscillator)
    assert oscillator.overshoot == pytest.approx(max(0, response.max() - 1), rel=1e-6, abs=1e-9)


@swept
@given(st.from_type(Oscillator))
def test_the_settling_time_is_where_the_simulated_step_response_stays_within_two_percent(oscillator):
    error = abs(1 - _step_response(oscillator))
    last = [np.flatnonzero(error > band) for band in (0.02 + 1e-9, 0.02 - 1e-9)]  # either side of a tie
    earliest, latest = (int(outside[-1]) + 1 if len(outside) else 0 for outside in last)
    assert earliest <= oscillator.settling_time <= latest


@pytest.mark.parametrize("damping", [1e-5, 1e-9, 1e-15])
def test_the_settling_time_of_a_hardly_damped_swing_lies_within_its_envelope(damping):
    oscillator = Oscillator(0, damping)  # one turn in six steps, so that whole steps may miss its peaks
    rate, height = -math.log1p(-damping) / 2, 2 / math.sqrt(3)
    settled = oscillator.settling_time
    assert math.log(height * math.cos(math.pi / 6) / 0.02) / rate * (1 - 1e-4) <= settled
    assert settled <= math.log(height / 0.02) / rate + 6


@swept
@given(st.from_type(Oscillator))
@example(Oscillator(math.nextafter(1, 0), 1.9))
@example(Oscillator(0, math.nextafter(1, 0)))
@example(Oscillator(0, math.nextafter(1, 2)))
@example(Oscillator(0, 7e-12))  # swings for 1e12 steps
@example(Oscillator(0.1, 1.6, -0.5))  # rings ever louder without its coupling
@example(Oscillator(0.2, 1.6, -0.3))  # neither louder nor softer
@example(Oscillator(0, 1, -0.99))  # Nesterov's momentum of 0.99
def test_no_figure_fails_anywhere_in_the_admissible_range(oscillator):
    limited = oscillator.stiffness < 2 * (2 - oscillator.damping)
    assert 0 <= oscillator.overshoot < 2 or not limited
    assert (0 <= oscillator.settling_time < math.inf) == limited
    assert (0 < oscillator.noise_gain < math.inf) == limited
    assert -1 < oscillator.lag < math.inf
    assert 0 < oscillator.slow_mode_lr_factor < math.inf
    assert 0 < oscillator.immediate_lr_factor < math.inf

"""`Oscillator`: its arguments, figures and constructors, over the whole admissible range."""

import dataclasses
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from belay import Oscillator
from belay.coupled import motion

EPS = float(np.finfo(float).eps)
swept = settings(settings.get_profile("belay"))

# decay, damping: poles, lag, noise gain, half-life, damping ratio, natural frequency, overshoot, 2 % settling time
GOLDEN = {
    (0.999, 1.0): ([0.999, 0], 999, 5.002501251e-4, 692.8005492, math.inf, math.inf, 0, 3910),
    (0.99, 1.0): ([0.99, 0], 99, 5.025125628e-3, 68.96756394, math.inf, math.inf, 0, 389),
    (0.99, 0.2): ([0.92701562, 0.86298438], 19, 2.506963788e-2, 9.146248475, 1.055784392, 0.105676667, 0, 60),
    (0.9975, 0.0975): ([0.95, 0.95], 38, 1.282894182e-2, 13.51340733, 1, 0.05129329439, 0, 113),
    (0.99, 0.1): (
        [0.945 + 0.08351647j, 0.945 - 0.08351647j],
        *(9, 5.013192612e-2, 13.15762696, 0.5130009186, 0.1026903772, 0.1531560751, 76),
    ),
    (0.9931, 0.05): (
        [0.97155 + 0.07804228j, 0.97155 - 0.07804228j],
        *(6.246376812, 6.912229329e-2, 27.02681467, 0.3047421947, 0.08415850395, 0.3661774369, 132),
    ),
    (0.9, 0.5): ([0.7 + 0.1j, 0.7 - 0.1j], 4, 0.1034482759, 2, 0.9254374799, 0.3744970328, 4.687942152e-4, 12),
}


@pytest.mark.parametrize(("setting", "figures"), GOLDEN.items(), ids=str)
def test_the_figures_of_known_settings_are_the_golden_ones(setting, figures):
    oscillator = Oscillator(*setting)
    poles, lag, noise_gain, half_life, damping_ratio, natural_frequency, overshoot, settling_time = figures
    assert oscillator.poles == pytest.approx(poles, abs=5e-9)
    assert oscillator.lag == pytest.approx(lag, rel=1e-9)
    assert oscillator.noise_gain == pytest.approx(noise_gain, rel=1e-9)
    assert oscillator.half_life == pytest.approx(half_life, rel=1e-9)
    assert oscillator.damping_ratio == pytest.approx(damping_ratio, rel=1e-9)
    assert oscillator.natural_frequency == pytest.approx(natural_frequency, rel=1e-8)
    assert oscillator.overshoot == pytest.approx(overshoot, rel=1e-9)
    assert oscillator.settling_time == settling_time


TOGETHER = r"model and average must stay together without a gradient, "


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1}, ValueError, r"`decay` must be in \[0, 1\), got decay=1\.0\."),
        ({"decay": -0.1}, ValueError, r"`decay` must be in \[0, 1\), got decay=-0\.1\."),
        ({"decay": math.nan}, ValueError, r"`decay` must be in \[0, 1\), got decay=nan\."),
        ({"decay": math.inf}, ValueError, r"`decay` must be in \[0, 1\), got decay=inf\."),
        ({"decay": True}, TypeError, r"`decay` must be a real number, got True\."),
        ({"decay": "0.9"}, TypeError, r"`decay` must be a real number, got '0\.9'\."),
        ({"decay": None}, TypeError, r"`decay` must be a real number, got None\."),
        ({"decay": 0.9, "damping": 0}, ValueError, r"`damping` must be in \(0, 2\), got damping=0\.0\."),
        ({"decay": 0.9, "damping": 2.5}, ValueError, r"`damping` must be in \(0, 2\), got damping=2\.5\."),
        ({"decay": 0.9, "damping": 1e-17}, ValueError, r"`damping` must be in \(0, 2\), got damping=1e-17\."),
        ({"decay": 0.9, "damping": math.nan}, ValueError, r"`damping` must be in \(0, 2\), got damping=nan\."),
        ({"decay": 0.9, "damping": False}, TypeError, r"`damping` must be a real number, got False\."),
        ({"decay": 0.9, "damping": "1"}, TypeError, r"`damping` must be a real number, got '1'\."),
        ({"decay": 0.9, "coupling": 1}, ValueError, r"`coupling` must be below 1, got coupling=1\.0; lower it\."),
        ({"decay": 0.9, "coupling": math.inf}, ValueError, r"`coupling` must be below 1, got coupling=inf; lower it\."),
        ({"decay": 0.9, "coupling": math.nan}, ValueError, r"`coupling` must be below 1, got coupling=nan; lower it\."),
        ({"decay": 0.9, "coupling": []}, TypeError, r"`coupling` must be a real number, got \[\]\."),
        (
            {"decay": 0.75, "damping": 0.5, "coupling": -0.5},
            ValueError,
            TOGETHER + r"`1 - decay \+ coupling \* damping > 0`, got decay=0\.75, damping=0\.5, coupling=-0\.5; raise "
            r"`coupling` above -0\.5\.",
        ),
        (
            {"decay": 0.75, "coupling": -math.inf},
            ValueError,
            TOGETHER + r"`1 - decay \+ coupling \* damping > 0`, got decay=0\.75, damping=1\.0, coupling=-inf; raise "
            r"`coupling` above -0\.25\.",
        ),
        (
            {"decay": 0.2, "damping": 0.2, "coupling": -0.25},
            ValueError,
            TOGETHER
            + r"`\(1 - coupling\) \* \(1 - damping\) < 1`, got decay=0\.2, damping=0\.2, coupling=-0\.25; raise "
            r"`coupling` above -0\.25 or raise `damping`\.",
        ),
        (
            {"decay": 0.2, "damping": 1.6},
            ValueError,
            TOGETHER
            + r"`1 - decay < \(2 - damping\) \* \(2 - coupling\)`, got decay=0\.2, damping=1\.6, coupling=0\.0; "
            r"raise `decay` or lower `damping`\.",
        ),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Oscillator(**arguments)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_real_numbers_of_any_type_become_floats(number):
    oscillator = Oscillator(number, number, number)
    assert [type(value) for value in dataclasses.astuple(oscillator)] == [float] * 3
    assert oscillator == Oscillator(0.5, 0.5, 0.5)


def test_an_oscillator_is_frozen_hashable_and_survives_pickle():
    oscillator = Oscillator(0.9, 0.5, 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        oscillator.decay = 0.5
    assert {oscillator: 1}[pickle.loads(pickle.dumps(oscillator))] == 1


PUSHED = st.tuples(st.floats(0, 2, exclude_max=True), st.floats(0.01, 1)).map(lambda pair: -pair[0] * pair[1])


@settings(swept, max_examples=400)
@given(
    st.one_of(st.floats(0, 1 - 1e-6), st.just(0.0)),
    st.one_of(st.floats(0.01, 1.99), st.just(1.0), st.floats(1.5, 1.99)),
    st.one_of(st.floats(0, 1, exclude_max=True), PUSHED),
)
def test_a_setting_is_refused_exactly_where_the_free_coupled_system_does_not_come_to_rest(decay, damping, coupling):
    """Without any gradient (x, y, v) has the pole 1 of its common position; no other may reach the unit circle."""
    k, q = 1 - decay, 1 - damping
    distance = np.array([[1 - coupling - k, -q], [k, q]])  # of (x - y, v), from which the common position is taken out
    free = motion(k, damping, coupling, 0)
    rest = abs(np.linalg.eigvals(distance)).max()
    assume(abs(rest - 1) > 1e-6)
    assert max(rest, 1) == pytest.approx(abs(np.linalg.eigvals(free)).max(), abs=1e-5)
    if rest < 1:
        small = min(1e-4, (1 - rest) / 100)
        assert Oscillator(decay, damping, coupling).spectral_radius(small) < 1
    else:
        with pytest.raises(ValueError, match=f"^{TOGETHER}"):
            Oscillator(decay, damping, coupling)


def test_an_average_may_lean_on_its_coupling_where_it_would_ring_ever_louder_alone():
    leaning = Oscillator(decay=0.1, damping=1.6, coupling=-0.5)
    assert abs(leaning.poles[0]) > 1
    assert leaning.spectral_radius(0.1) < 1
    figures = (leaning.half_life, leaning.noise_gain, leaning.overshoot, leaning.settling_time)
    assert figures == (math.inf, math.inf, math.inf, math.inf)
    assert leaning.lag == pytest.approx(1.6 / 0.9 - 1)
    assert abs(leaning.kernel(200)[-1]) > 1


# --- poles and regimes ------------------------------------------------------------------------------------------------


@swept
@given(st.from_type(Oscillator))
@example(Oscillator(0.015625, 1.0078125))  # two poles whose sum nearly cancels
@example(Oscillator(0, 1 - EPS / 2))  # both poles within 1e-8 of 0
@example(Oscillator(1 - EPS / 2, 1.9))  # as slow as a float can tell
def test_the_poles_solve_their_polynomial_and_are_stable(oscillator):
    k, c = oscillator.stiffness, oscillator.damping
    first, second = oscillator.poles
    rounding = 4 * EPS * (1 + k / math.sqrt(1 - c) if c < 1 else 1)  # of c moves the critical stiffness by this much
    assert abs(first + second - (2 - c - k)) <= rounding
    assert abs(first * second - (1 - c)) <= rounding
    for z in (first, second):
        assert abs(z * z - (2 - c - k) * z + (1 - c)) <= 2 * rounding
    assert abs(first) >= abs(second) * (1 - EPS)
    if k >= 2 * (2 - c):
        assert oscillator.half_life == math.inf
        return
    assert abs(first) <= 1
    assert math.isfinite(oscillator.half_life)
    assert oscillator.half_life > 0 or first == 0


@swept
@given(st.from_type(Oscillator))
def test_the_regime_is_what_the_poles_say(oscillator):
    first, second = oscillator.poles
    expected = {
        "overdamped": first.imag == 0 and (first.real > second.real >= 0 or first == second == 0),
        "critical": first == second != 0,
        "underdamped": first.imag > 0 and second == first.conjugate(),
        "alternating": first.imag == 0 and min(first.real, second.real) < 0,
    }
    assert [regime for regime, holds in expected.items() if holds] == [oscillator.regime]


@swept
@given(st.from_type(Oscillator))
def test_the_damping_ratio_agrees_with_the_regime_and_with_the_logarithms_of_the_poles(oscillator):
    ratio, frequency = oscillator.damping_ratio, oscillator.natural_frequency
    if oscillator.regime == "alternating":
        assert math.isnan(ratio)
        assert math.isnan(frequency)
        assert math.isnan(oscillator.critical_stiffness)
    elif oscillator.damping == 1:
        assert ratio == frequency == math.inf
    else:
        assert {"overdamped": ratio >= 1, "critical": ratio == 1, "underdamped": ratio < 1}[oscillator.regime]
        rates = -math.log1p(-oscillator.damping)  # minus the sum of both logarithms
        assert 2 * ratio * frequency == pytest.approx(rates, rel=1e-12)


@swept
@given(st.floats(0.01, 0.99))
def test_the_critical_stiffness_separates_the_regimes(damping):
    stiffness = Oscillator(0.5, damping).critical_stiffness
    assert stiffness == pytest.approx((1 - math.sqrt(1 - damping)) ** 2, rel=1e-10)
    assert Oscillator(1 - stiffness, damping).regime == "critical"
    assert Oscillator(1 - stiffness * (1 - 1e-9), damping).regime == "overdamped"
    assert Oscillator(1 - stiffness * (1 + 1e-9), damping).regime == "underdamped"


# --- constructors by name ---------------------------------------------------------------------------------------------


def test_ema_keeps_its_decay_and_needs_no_velocity():
    assert Oscillator.ema(0.999) == Oscillator(decay=0.999, damping=1, coupling=0)


@swept
@given(st.floats(0.1, 1e6))
def test_from_half_life_is_the_ema_of_that_half_life(steps):
    oscillator = Oscillator.from_half_life(steps)
    assert oscillator.half_life == pytest.approx(steps, rel=4 * EPS * (steps + 1))  # as far as decay can express it
    assert oscillator.damping == 1


@swept
@given(st.floats(1e-3, 1e6))
def test_critical_is_critically_damped_at_the_lag_asked_for(lag):
    oscillator = Oscillator.critical(lag)
    assert oscillator.regime == "critical"
    assert oscillator.damping_ratio == 1
    assert oscillator.lag == pytest.approx(lag, rel=4 * EPS / oscillator.stiffness)


@swept
@given(st.floats(0.05, 20), st.floats(5, 1e4))
def test_from_damping_ratio_has_the_damping_ratio_and_the_lag_asked_for(damping_ratio, lag):
    oscillator = Oscillator.from_damping_ratio(damping_ratio, lag)
    assert oscillator.lag == pytest.approx(lag, rel=16 * EPS / oscillator.stiffness)  # as far as decay can express it
    assume(oscillator.damping < 1)
    rounding = 16 * EPS * (1 / oscillator.stiffness + 1 / (1 - oscillator.damping))
    assert oscillator.damping_ratio == pytest.approx(damping_ratio, rel=rounding)


def test_from_damping_ratio_becomes_the_ema_where_the_fast_mode_vanishes_in_rounding():
    oscillator = Oscillator.from_damping_ratio(50, lag=0.1)
    assert oscillator.damping == 1
    assert oscillator.lag == pytest.approx(0.1, rel=1e-14)


def test_from_damping_ratio_gives_the_named_cases():
    assert Oscillator.from_damping_ratio(math.inf, lag=99) == Oscillator.ema(0.99)
    critical, named = Oscillator.from_damping_ratio(1, lag=38), Oscillator.critical(lag=38)
    assert dataclasses.astuple(critical) == pytest.approx(dataclasses.astuple(named), rel=1e-13)


POSITIVE = r"must be positive and finite, got"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Oscillator.from_half_life(0), ValueError, rf"`steps` {POSITIVE} steps=0\.0\."),
        (lambda: Oscillator.from_half_life(math.inf), ValueError, rf"`steps` {POSITIVE} steps=inf\."),
        (lambda: Oscillator.from_half_life("9"), TypeError, r"`steps` must be a real number, got '9'\."),
        (lambda: Oscillator.critical(-1), ValueError, rf"`lag` {POSITIVE} lag=-1\.0\."),
        (lambda: Oscillator.critical(True), TypeError, r"`lag` must be a real number, got True\."),
        (lambda: Oscillator.from_damping_ratio(1, math.nan), ValueError, rf"`lag` {POSITIVE} lag=nan\."),
        (lambda: Oscillator.from_damping_ratio(0, 9), ValueError, rf"`damping_ratio` {POSITIVE} damping_ratio=0\.0\."),
        (lambda: Oscillator.from_damping_ratio("1", 9), TypeError, r"`damping_ratio` must be a real number, got '1'\."),
    ],
)
def test_a_constructor_refuses_what_it_cannot_make(make, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(("damping_ratio", "lag"), [(0.001, 1e5), (0.01, 1e6), (1.0, 1.4e8)])
def test_a_lag_for_which_no_decay_has_the_digits_is_refused(damping_ratio, lag):
    with pytest.raises(ValueError, match="`lag` must be short enough that 1 - decay has digits left"):
        Oscillator.critical(lag) if damping_ratio == 1 else Oscillator.from_damping_ratio(damping_ratio, lag)
    assert Oscillator.from_damping_ratio(damping_ratio, lag / 100).lag == pytest.approx(lag / 100, rel=1e-3)

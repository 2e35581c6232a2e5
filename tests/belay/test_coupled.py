"""The oscillator coupled to training by plain SGD on a quadratic: stability, learning rates and rest."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from belay import Oscillator
from belay.coupled import motion
from belay.reference import step

swept = settings(settings.get_profile("belay"))


def _motion(oscillator: Oscillator, rate: float) -> np.ndarray:
    return motion(oscillator.stiffness, oscillator.damping, oscillator.coupling, rate)


def _radii(oscillator: Oscillator, rates: np.ndarray) -> np.ndarray:
    return abs(np.linalg.eigvals([_motion(oscillator, rate) for rate in rates])).max(axis=-1)


@pytest.mark.parametrize(
    "setting", [(0.9, 1.0, 0.0), (0.99, 0.2, 0.1), (0.552, 0.054, 0.49), (0.7, 1.5, 0.3), (0.9, 0.5, -0.1)]
)
def test_the_motion_is_an_sgd_step_followed_by_the_reference(setting):
    oscillator = Oscillator(*setting)
    x, y, v = np.eye(3)
    assert _motion(oscillator, 0.3) == pytest.approx(np.array(step((1 - 0.3) * x, y, v, oscillator)), rel=1e-15)


# --- stability --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ((0.999, 1, 0), 2),
        ((0.999, 1, 0.1), 2.111172874),
        ((0.999, 1, 0.3), 2.428877770),
        ((0.999, 1, 0.5), 3.001001001),
        ((0.9, 1, 0.9), 20),
        ((0, 1, -0.9), 3.8 / 2.8),  # Nesterov's momentum of 0.9
        ((0, 1, -0.5), 3 / 2),
    ],
)
def test_the_largest_stable_step_of_known_settings_is_the_golden_one(setting, limit):
    assert Oscillator(*setting).max_stable_step == pytest.approx(limit, rel=1e-9)


@settings(swept, max_examples=200)
@given(st.from_type(Oscillator))
@example(Oscillator(0.1, 1.6, -0.5))  # unstable without its coupling
@example(Oscillator(0.6, 0.1, -0.1))  # leaves as a complex pair
def test_the_largest_stable_step_is_where_the_spectral_radius_first_reaches_one(oscillator):
    assume(oscillator.stiffness > 1e-6 and oscillator.damping > 1e-4 and oscillator.coupling < 1 - 1e-4)
    assume(2 - oscillator.damping > 1e-4)
    k, c, kappa = oscillator.stiffness, oscillator.damping, oscillator.coupling
    margins = (1 + kappa * c / k, 1 - (1 - kappa) * (1 - c), (2 - c) * (2 - kappa) - k)  # of the three conditions
    assume(min(margins) > 1e-4)  # closer to them, rounding decides
    limit = oscillator.max_stable_step
    assert _radii(oscillator, limit * np.linspace(1e-3, 1 - 1e-6, 200)).max() < 1
    assert oscillator.spectral_radius(limit) == pytest.approx(1, abs=1e-6)
    assert oscillator.spectral_radius(limit * (1 + 1e-3)) > 1


def test_a_complex_pair_that_leaves_before_the_real_pole_sets_the_limit():
    oscillator = Oscillator(decay=1 - 0.448, damping=0.054, coupling=0.49)
    limit = oscillator.max_stable_step
    assert limit < 1.32 < 1 + (4 - 0.108 - 0.448) / (0.51 * (4 - 0.108) - 0.448)  # the closed form of the real pole
    leaving = max(np.linalg.eigvals(_motion(oscillator, limit)), key=abs)
    assert abs(leaving) == pytest.approx(1, abs=1e-12)
    assert abs(leaving.imag) > 0.1


@swept
@given(st.from_type(Oscillator))
def test_the_largest_stable_step_is_always_finite_as_the_product_of_the_poles_grows(oscillator):
    limit = oscillator.max_stable_step
    assert 0 < limit < math.inf
    product = (1 - oscillator.coupling) * abs(1 - oscillator.damping)  # times |1 - step|
    assert (limit - 1) * product <= 1 + 1e-9


@swept
@given(st.from_type(Oscillator).filter(lambda oscillator: oscillator.stiffness < 1.999 * (2 - oscillator.damping)))
@example(Oscillator(0.9999999961960719, 3.8039280177163284e-09))  # three roots close to 1
def test_an_uncoupled_average_leaves_the_largest_stable_step_at_two(oscillator):
    assert Oscillator(oscillator.decay, oscillator.damping).max_stable_step == pytest.approx(2, rel=1e-9)


def test_without_coupling_training_converges_below_a_step_of_two_and_diverges_above():
    oscillator = Oscillator(0.9, 0.5)
    assert oscillator.spectral_radius(0) == pytest.approx(1, abs=1e-12)
    assert oscillator.spectral_radius(1.99) < 1 < oscillator.spectral_radius(2.01)


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_the_spectral_radius_refuses_a_step_out_of_range(rate):
    with pytest.raises(ValueError, match=rf"^`step` must be finite and at least 0, got step={rate}\.$"):
        Oscillator(0.9).spectral_radius(rate)


@swept
@given(st.floats(0, 1), st.floats(0, 0.999))
def test_at_damping_one_a_push_lowers_the_largest_stable_step_by_its_closed_form(decay, share):
    """Compared with the spectral radius on either side, to ten digits; Nesterov's momentum is decay 0."""
    k = max(1 - decay, 1e-3)
    pushed = Oscillator(1 - k, coupling=-share * k)
    limit = pushed.max_stable_step
    assert limit == pytest.approx(1 + (2 - k) / (2 - k - 2 * pushed.coupling), rel=1e-12)
    assert limit <= 2
    assert pushed.spectral_radius(limit * (1 - 1e-9)) < 1 < pushed.spectral_radius(limit * (1 + 1e-9))


# --- what it does to training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [(0.99, 1.0, 0.03), (0.99, 0.1, 0.1), (0.9, 0.5, 0.2), (0.9, 1.4, 0.2), (0.0, 1.0, -0.9), (0.9, 0.4, -0.2)],
)
def test_slow_modes_learn_as_if_the_learning_rate_were_multiplied_by_their_factor(setting):
    oscillator = Oscillator(*setting)
    rate = -math.log(oscillator.spectral_radius(1e-6))
    assert rate == pytest.approx(1e-6 * oscillator.slow_mode_lr_factor, rel=1e-4)


@pytest.mark.parametrize("setting", [(0.99, 1.0, 0.03), (0.9, 0.5, 0.2), (0.9, 1.4, 0.0), (0.0, 1.0, -0.9)])
def test_the_gradient_s_immediate_step_is_that_of_a_learning_rate_multiplied_by_its_factor(setting):
    oscillator = Oscillator(*setting)
    moved, _, _ = step(-1.0, 0.0, 0.0, oscillator)  # at rest at 0, then an optimizer step of -1
    assert moved == pytest.approx(-oscillator.immediate_lr_factor, abs=1e-15)


@pytest.mark.parametrize(("decay", "coupling"), [(0.999, 0.5), (0.9, 0.3), (0.5, 0.45)])
def test_at_damping_one_the_largest_stable_step_rises_and_the_immediate_one_within_it_falls(decay, coupling):
    pulled = Oscillator(decay, coupling=coupling)
    assert pulled.immediate_lr_factor * pulled.max_stable_step < 2 < pulled.max_stable_step


@pytest.mark.parametrize("coupling", [0.3, -0.05])
def test_the_spring_conserves_the_centre_of_mass_at_damping_one(coupling):
    oscillator = Oscillator(0.9, 1, coupling)
    x, y, _ = step(2.0, -1.0, 0.0, oscillator)
    assert (x - 2.0) / oscillator.mass_ratio + (y + 1.0) == pytest.approx(0, abs=1e-15)


# --- rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [(0.9, 1.0, 0.0), (0.99, 0.2, 0.1), (0.9, 0.5, 0.2), (0.7, 1.5, 0.3), (0.0, 1.0, -0.9), (0.9, 0.5, -0.1)]
)
@pytest.mark.parametrize("rate", [0.01, 0.5, 1.2])
def test_the_stationary_covariance_solves_the_lyapunov_equation(setting, rate):
    oscillator = Oscillator(*setting)
    kick = np.array([1 - oscillator.coupling, oscillator.stiffness, oscillator.stiffness])
    expected = solve_discrete_lyapunov(_motion(oscillator, rate), np.outer(kick, kick))
    assert oscillator.stationary_covariance(rate) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert oscillator.stationary_variance(rate) == oscillator.stationary_covariance(rate)[1, 1]


@pytest.mark.parametrize("setting", [(0.9, 1.0, 0.0), (0.95, 0.2, 0.1), (0.5, 0.8, -0.4)])
def test_the_stationary_variance_is_that_of_a_long_noisy_run(setting):
    oscillator, rng = Oscillator(*setting), np.random.default_rng(0)
    x, y, v = np.zeros((3, 4000))
    squares = []
    for count in range(1500):
        x, y, v = step(0.7 * x + rng.normal(size=4000), y, v, oscillator)
        if count >= 300:
            squares.append([np.mean(x * x), np.mean(y * y)])
    expected = oscillator.stationary_covariance(0.3)
    assert np.mean(squares, axis=0) == pytest.approx([expected[0, 0], oscillator.stationary_variance(0.3)], rel=0.01)


def test_the_model_alone_rests_at_the_variance_of_plain_sgd():
    assert Oscillator(0.9).stationary_covariance(0.5)[0, 0] == pytest.approx(1 / (1 - 0.5**2), rel=1e-12)


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (2, ValueError, r"`step` must be in \(0, 2\), where training is stable, got step=2\.0\."),
        (0, ValueError, r"`step` must be positive and finite, got step=0\.0\."),
        (math.nan, ValueError, r"`step` must be positive and finite, got step=nan\."),
        ("1", TypeError, r"`step` must be a real number, got '1'\."),
    ],
)
def test_there_is_no_rest_at_a_step_out_of_range(rate, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Oscillator(0.9).stationary_variance(rate)

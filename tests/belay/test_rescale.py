"""`Oscillator.rescale`: one step that does what n did."""

import dataclasses
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from belay import Oscillator

EPS = float(np.finfo(float).eps)
swept = settings(settings.get_profile("belay"))


def _powered(oscillator: Oscillator, n: int) -> tuple[float, float]:
    """Stiffness and damping of the n-th powers of the poles, from traces and determinants in 60 digits."""
    with localcontext(prec=60):
        k, c = Decimal(oscillator.stiffness), Decimal(oscillator.damping)
        total, product = 2 - c - k, 1 - c
        before, trace = Decimal(2), total  # z1^n + z2^n, by its recurrence
        for _ in range(n - 1):
            before, trace = trace, total * trace - product * before
        return float(1 + product**n - trace), float(1 - product**n)


@swept
@given(st.from_type(Oscillator), st.integers(2, 60))
@example(Oscillator(0.99998002, 1.99999), 3)  # two poles near 1 and -1
def test_rescale_raises_the_poles_to_the_nth_power(oscillator, n):
    uncoupled = dataclasses.replace(oscillator, coupling=0)
    stiffness, damping = _powered(uncoupled, n)
    assume(damping > 1e-15 and 1e-15 < stiffness < 1 - 1e-12)
    rescaled = uncoupled.rescale(n)
    critical = 4 * EPS / uncoupled.stiffness if uncoupled.regime == "critical" else 0  # as far as decay can tell
    assert rescaled.stiffness == pytest.approx(stiffness, rel=1e-12 + critical, abs=2 * EPS)
    assert rescaled.damping == pytest.approx(damping, rel=1e-12, abs=4 * EPS)


@swept
@given(st.from_type(Oscillator), st.floats(0.05, 50))
def test_rescale_keeps_the_effective_mass_ratio(oscillator, n):
    try:
        rescaled = oscillator.rescale(n if oscillator.damping <= 1 else max(1, round(n)))
    except ValueError:
        assume(False)
    assert rescaled.effective_mass_ratio == pytest.approx(oscillator.effective_mass_ratio, rel=8 * EPS)
    assert oscillator.effective_mass_ratio == pytest.approx(oscillator.mass_ratio * oscillator.damping, rel=2 * EPS)


@swept
@given(st.floats(0.02, 0.9), st.floats(0.2, 0.9), st.floats(-1e-3, 1e-3), st.floats(1, 3), st.floats(0.4, 3))
def test_rescaling_twice_is_rescaling_by_the_product(stiffness, damping, coupling, first, second):
    oscillator = Oscillator(1 - stiffness, damping, coupling)
    angle = np.angle(oscillator.poles[0])
    assume(angle * first < 1 and angle * first * second < 1)  # a swing slow enough to be told from its alias
    twice, once = oscillator.rescale(first).rescale(second), oscillator.rescale(first * second)
    assert dataclasses.astuple(twice) == pytest.approx(dataclasses.astuple(once), rel=1e-11, abs=1e-15)


@swept
@given(st.floats(0.01, 0.9999), st.floats(1e-2, 1e2))
def test_rescaling_an_ema_raises_its_decay_to_the_nth_power(decay, n):
    assert Oscillator.ema(decay).rescale(n).decay == decay**n
    assert Oscillator(0).rescale(n) == Oscillator(0)


@pytest.mark.parametrize("oscillator", [Oscillator(0.3, 1.5, 0.1), Oscillator(0.1, 1.6, -0.5)])
def test_rescaling_by_one_changes_nothing(oscillator):
    assert oscillator.rescale(1) is oscillator


@pytest.mark.parametrize("setting", [(0.99, 1.0, -0.005), (0.99, 0.3, -0.01), (0.9, 1.3, -0.05)])
def test_a_push_stays_as_strong_in_slow_motion_at_another_interval(setting):
    pushed = Oscillator(*setting)
    once, thrice = pushed.spectral_radius(1e-7), pushed.rescale(3).spectral_radius(3e-7)
    assert math.log(thrice) == pytest.approx(3 * math.log(once), rel=1e-3)
    assert pushed.slow_mode_lr_factor > 1


NO_OSCILLATOR = r"`n` must lead to an oscillator, got n={} for Oscillator\(.*\): {} Take `n` closer to 1\."


@pytest.mark.parametrize(
    ("oscillator", "n", "error", "message"),
    [
        (Oscillator(0.9), 0, ValueError, r"`n` must be positive and finite, got n=0\.0\."),
        (Oscillator(0.9), math.inf, ValueError, r"`n` must be positive and finite, got n=inf\."),
        (Oscillator(0.9), "2", TypeError, r"`n` must be a real number, got '2'\."),
        (
            Oscillator(0.9, 1.5),
            1.5,
            ValueError,
            r"`n` must be a whole number while damping is above 1 \(a pole is negative\), got n=1\.5\.",
        ),
        (
            Oscillator(0.999, 1, 0.5),
            10,
            ValueError,
            NO_OSCILLATOR.format(r"10\.0", r"`coupling` must be below 1, .*=4\.9\d*; lower it\."),
        ),
        (
            Oscillator(0.1, 1.6, -0.5),
            3,
            ValueError,
            r"`n` must be 1 where the average alone is unstable, `1 - decay >= 2 \* \(2 - damping\)`, got n=3\.0 for "
            r"Oscillator\(decay=0\.1, damping=1\.6, coupling=-0\.5\); raise `decay` or lower `damping`\.",
        ),
        (
            Oscillator(0.01, 0.14, -0.144),
            0.0625,
            ValueError,
            NO_OSCILLATOR.format(
                r"0\.0625", r"model .* together .*, `\(1 - coupling\) \* .*; raise `coupling` above .*\."
            ),
        ),
        (Oscillator(0.99, 0.01), 20, ValueError, NO_OSCILLATOR.format(r"20\.0", r"`decay` must be in .*=-.*\.")),
        (Oscillator(0.9), 1e-17, ValueError, NO_OSCILLATOR.format("1e-17", r"`decay` must be in .*=1\.0\.")),
        (Oscillator(0.9, 0.5), 1e-17, ValueError, NO_OSCILLATOR.format("1e-17", r"`d.* must be in .*\.")),
    ],
)
def test_rescale_refuses_what_no_oscillator_can_do(oscillator, n, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        oscillator.rescale(n)

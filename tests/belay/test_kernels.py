"""The fit of an average's kernel by those of stored EMAs, against kernels that are run step by step."""

import numpy as np
import pytest

from belay import Oscillator, PowerProfile, response
from belay.kernels import fit
from belay.snapshots import LAGS

EVERY = 20
STEPS = range(EVERY, 40 * EVERY + 1, EVERY)
DECAYS = [lag * EVERY / (lag * EVERY + 1) for lag in LAGS]
NOISE = 1e-4
TARGETS = {
    "EMA": Oscillator.ema(0.97),
    "long EMA": Oscillator.ema(0.999),
    "critical": Oscillator.critical(lag=EVERY),
    "long critical": Oscillator.critical(lag=10 * EVERY),
    "underdamped": Oscillator.from_damping_ratio(0.3, lag=EVERY),
    "overdamped": Oscillator.from_damping_ratio(3, lag=2 * EVERY),
    "alternating": Oscillator(0.97, 1.5),
}


def _kernel(oscillator, at, steps):
    """Weights on the start and on all iterates of a run of so many steps, of an average as it was at a step."""
    if isinstance(oscillator, PowerProfile):
        powers = np.arange(steps + 1.0) ** oscillator.exponent
        return powers / powers.sum()
    found = np.zeros(steps + 1)
    found[at:0:-1] = response.kernel(oscillator.stiffness, oscillator.damping, at)
    found[0] = 1 - found.sum()
    return found


def _combined(found, decays, stored):
    last = stored[-1]
    total = found.start * np.eye(last + 1)[0]
    for at, row in zip(stored, found.coefficients, strict=True):
        for decay, coefficient in zip(decays, row, strict=True):
            total += coefficient * _kernel(Oscillator.ema(decay), at, last)
    return total


@pytest.mark.parametrize("stored", [list(STEPS), [3, 50, 51, 200, 400]], ids=["even", "uneven"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_kernel_error_is_that_of_the_combination(target, stored):
    found = fit(target, DECAYS, stored, NOISE)
    wanted, got = _kernel(target, stored[-1], stored[-1]), _combined(found, DECAYS, stored)
    assert found.error == pytest.approx(np.linalg.norm(got - wanted) / np.linalg.norm(wanted), rel=1e-6, abs=1e-9)
    assert got[0] == pytest.approx(wanted[0], abs=1e-9)  # nothing is missed at the start
    for begin, end in zip([0, *stored], stored, strict=False):  # nor where the model stands still in a segment
        assert got[begin + 1 : end + 1].sum() == pytest.approx(wanted[begin + 1 : end + 1].sum(), abs=1e-9)


@pytest.mark.parametrize("lag", [2, 2.5, 4, 10, 40])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0, 1.2, 3.0, 6.0, 20.0])
def test_the_default_emas_keep_what_is_promised(ratio, lag):
    for every, intervals in ((2, 200), (20, 10), (300, 50), (5000, 12)):
        decays = [each * every / (each * every + 1) for each in LAGS]
        stored = range(every, intervals * every + 1, every)
        found = fit(Oscillator.from_damping_ratio(ratio, lag=lag * every), decays, stored, NOISE)
        assert found.error <= 0.05
        assert np.linalg.norm(found.coefficients) < 3  # so that rounding of what is stored stays rounding


def test_an_ema_that_is_stored_is_itself():
    found = fit(Oscillator.ema(DECAYS[1]), DECAYS, list(STEPS), 1e-12)
    assert found.error < 1e-9
    assert found.coefficients[-1] == pytest.approx([0, 1, 0], abs=1e-5)


def test_the_error_depends_on_the_lag_in_intervals_and_on_nothing_else():
    def error(every):
        decays = [lag * every / (lag * every + 1) for lag in LAGS]
        return fit(Oscillator.critical(lag=3 * every), decays, range(every, 50 * every + 1, every), 1e-9).error

    assert error(100_000) == pytest.approx(error(1000), rel=0.01)


@pytest.mark.parametrize("relative_std", [0.05, 0.1, 0.15, 0.28])
def test_power_profiles_are_kept_too(relative_std):
    target, last = PowerProfile.from_relative_std(relative_std), 100 * EVERY
    assert target.relative_std == pytest.approx(relative_std)
    stored = range(EVERY, last + 1, EVERY)
    found = fit(target, DECAYS, stored, NOISE)
    assert found.error < 0.04
    got, wanted = _combined(found, DECAYS, list(stored)), _kernel(target, last, last)
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.05  # their sum is here no power, but nearly one
    steps = np.arange(last + 1) / last
    mean = (wanted * steps).sum()
    assert np.sqrt((wanted * (steps - mean) ** 2).sum()) == pytest.approx(relative_std, rel=0.02)


@pytest.mark.parametrize(("made", "value", "message"), [
    (PowerProfile, -1, "`exponent` must be finite and at least 0"),
    (PowerProfile.from_relative_std, 0.3, "`relative_std` must be at most 12"),
    (PowerProfile.from_relative_std, 0, "`relative_std` must be positive"),
])  # fmt: skip
def test_profiles_out_of_range(made, value, message):
    with pytest.raises(ValueError, match=message):
        made(value)

"""The noisy quadratic: what is measured on it is what the oscillator's theory says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from belay import Belay, Oscillator
from belay.coupled import motion
from study.design.tasks.quadratic import Quadratic

SETTINGS = {
    "ema": Oscillator.ema(0.9),
    "damped": Oscillator(0.95, 0.4),
    "belay": Oscillator(0.9, 1.0, 0.2),
    "damped belay": Oscillator(0.9, 0.3, 0.15),
}
COMPLEX_PAIR_FIRST = Oscillator(decay=0.552, damping=0.054, coupling=0.49)  # leaves the circle as a complex pair


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(
    task: Quadratic, oscillator: Oscillator, steps: int, skip: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Trains as the study does; the model's own and the averaged weights after each step but the first `skip`."""
    model = task.build_model(seed)
    optimizer, average = task.describe_optimizer().build(model.parameters()), Belay(model, oscillator)
    live, averaged = [], []
    for step, batch in enumerate(task.batches(seed, 0, steps)):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        average.update()
        if step >= skip:
            with torch.no_grad():
                live.append(model["x"].numpy().copy())
                with average.average_parameters():
                    averaged.append(model["x"].numpy().copy())
    return np.array(live, dtype=float), np.array(averaged, dtype=float)


def relative_error(oscillator: Oscillator, step: float, entry: int, samples: int, dimensions: int) -> float:
    """Standard error of a variance estimated from correlated Gaussian samples, as a share of it.

    With autocorrelation r(s) of the weight, the mean of n squares has variance 2 / n (1 + 2 sum r(s)^2) in units of the
    variance squared; r(s) is the entry of M^s P over that of P, with the motion's matrix M and the covariance P.
    """
    matrix = motion(oscillator.stiffness, oscillator.damping, oscillator.coupling, step)
    covariance = oscillator.stationary_covariance(step)
    moved, squares = covariance, 0.0
    for _ in range(2000):
        moved = matrix @ moved
        squares += (moved[entry, entry] / covariance[entry, entry]) ** 2
    return (2 * (1 + 2 * squares) / (samples * dimensions)) ** 0.5


@pytest.mark.parametrize("curvature", [1.0, 0.2])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_variance_at_rest_is_that_of_theory(name, curvature):
    oscillator, dimensions, steps, skip = SETTINGS[name], 1024, 1000, 400
    task = Quadratic(lr=0.5, curvature=curvature, condition=1, dimensions=dimensions, noise=0.7, start=0)
    step = task.lr * curvature
    assert oscillator.spectral_radius(step) ** skip < 1e-3  # the start is forgotten before anything is measured
    live, averaged = run(task, oscillator, steps, skip)
    expected = oscillator.stationary_covariance(step) * (task.lr * task.noise) ** 2
    for entry, weights in ((0, live), (1, averaged)):
        error = relative_error(oscillator, step, entry, steps - skip, dimensions)
        assert error < 0.02  # else the test says nothing
        assert abs(np.mean(weights**2) / expected[entry, entry] - 1) < 4 * error  # four standard errors
    assert expected[1, 1] == pytest.approx(oscillator.stationary_variance(step) * (task.lr * task.noise) ** 2)


def test_a_spectrum_rests_at_the_variance_of_each_of_its_curvatures():
    oscillator, steps, skip = SETTINGS["damped belay"], 1800, 300
    task = Quadratic(lr=0.5, curvature=2, condition=10, dimensions=4, noise=1, start=0)
    seeds = range(2)
    squares = np.mean([np.mean(run(task, oscillator, steps, skip, seed)[1] ** 2, axis=0) for seed in seeds], axis=0)
    for square, curvature in zip(squares, task.curvatures().tolist(), strict=True):
        step = task.lr * curvature
        expected = oscillator.stationary_variance(step) * task.lr**2
        error = relative_error(oscillator, step, 1, steps - skip, len(seeds))
        assert abs(square / expected - 1) < 4 * error < 0.55


STABILITY = {
    "ema": Oscillator.ema(0.99),
    "damped": Oscillator(0.9, 0.2),
    "alternating": Oscillator(0.9, 1.4),
    "belay": Oscillator(0.9, 1.0, 0.3),
    "damped belay": Oscillator(0.8, 0.5, 0.4),
    "complex pair first": COMPLEX_PAIR_FIRST,
}


def growth(oscillator: Oscillator, step: float) -> float:
    """Size of the weights late in a run without noise over that early in it, in the largest of a few steps."""
    task = Quadratic(lr=step, curvature=1, condition=1, dimensions=1, noise=0, start=1)
    live, averaged = run(task, oscillator, steps=700)
    size = np.abs(np.concatenate([live, averaged], axis=1)).max(axis=1)
    return float(size[-40:].max() / size[20:60].max())


@pytest.mark.parametrize("name", STABILITY)
def test_training_is_stable_just_below_the_largest_stable_step_and_diverges_just_above(name):
    oscillator = STABILITY[name]
    limit = oscillator.max_stable_step
    assert growth(oscillator, 0.98 * limit) < 0.5
    assert growth(oscillator, 1.02 * limit) > 2


def test_the_setting_with_a_complex_pair_does_leave_before_a_real_pole():
    k, c, kappa = COMPLEX_PAIR_FIRST.stiffness, COMPLEX_PAIR_FIRST.damping, COMPLEX_PAIR_FIRST.coupling
    eigenvalues = np.linalg.eigvals(motion(k, c, kappa, COMPLEX_PAIR_FIRST.max_stable_step))
    outermost = eigenvalues[np.abs(eigenvalues).argmax()]
    assert abs(outermost) == pytest.approx(1, abs=1e-9)
    assert abs(outermost.imag) > 0.1


def test_coupling_raises_the_largest_stable_step_and_training_bears_it():
    assert growth(STABILITY["ema"], 2.02) > 2
    assert growth(STABILITY["belay"], 2.02) < 0.5


# --- the task itself --------------------------------------------------------------------------------------------------


def test_curvatures_fall_evenly_in_their_logarithm():
    spectrum = Quadratic(curvature=3, condition=100, dimensions=5).curvatures().numpy()
    assert (spectrum[0], spectrum[-1]) == (pytest.approx(3), pytest.approx(0.03))
    assert np.diff(np.log(spectrum)) == pytest.approx([-np.log(100) / 4] * 4, rel=1e-5)


def test_a_single_weight_has_the_largest_curvature():
    assert Quadratic(curvature=3, condition=100, dimensions=1).curvatures().tolist() == [3.0]


def test_the_gradient_is_curvature_times_weight_plus_noise():
    task = Quadratic(dimensions=3, start=2.0)
    model = task.build_model(0)
    (noise,) = next(task.batches(4, 0, 1))
    task.loss(model, (noise,)).backward()
    assert torch.allclose(model["x"].grad, task.curvatures() * 2 + noise)


def test_metrics_are_the_loss_without_noise_and_the_distance_from_the_minimum():
    task = Quadratic(curvature=2, condition=1, dimensions=4, start=3.0)
    with torch.no_grad():
        measured = task.evaluate(task.build_model(0))
    assert measured == {"excess_loss": pytest.approx(4 * 2 * 9 / 2), "distance": pytest.approx(3)}


def test_a_seed_fixes_the_noise_and_noise_only_scales_it():
    draws = [
        torch.stack([noise for (noise,) in Quadratic(noise=noise).batches(seed, 0, 200)])
        for noise, seed in ((1, 5), (2, 5), (1, 6))
    ]
    assert draws[0].shape == (200, 16)
    assert torch.allclose(2 * draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])
    assert draws[0].std() == pytest.approx(1, abs=4 / (2 * 3200) ** 0.5)  # four standard errors


def test_all_seeds_start_at_the_same_weights_and_there_is_no_data():
    task = Quadratic(start=0.25)
    assert torch.equal(task.build_model(0)["x"], task.build_model(1)["x"])
    assert task.build_model(0)["x"].tolist() == [0.25] * 16
    assert task.data_digest() == ""

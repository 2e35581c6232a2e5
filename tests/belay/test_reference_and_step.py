"""Every kernel against the readable reference: in float64 to rounding, in float32 and half precision within theirs."""

import math

import pytest
import torch

from belay import Oscillator
from belay.groups import grouped
from belay.reference import step
from belay.step import lerp_, step_

OSCILLATORS = {
    "ema": Oscillator.ema(0.99),
    "damped": Oscillator(0.99, 0.1),
    "alternating": Oscillator(0.9, 1.5),
    "belay": Oscillator(0.99, 1.0, 0.05),
    "damped belay": Oscillator(0.99, 0.2, 0.05),
    "push": Oscillator(0.9, 1.0, -0.05),
    "damped push": Oscillator(0.9, 0.4, -0.1),
    "damped belay, strongly coupled": Oscillator(0.9, 0.5, 0.8),
    "nothing remembered": Oscillator(0),
}
SHAPES = [(3, 4), (), (7,), (0,)]


@pytest.fixture(params=OSCILLATORS.values(), ids=OSCILLATORS.keys())
def oscillator(request):
    return request.param


def _state(oscillator, live, kept):
    """The same start for kernel and reference: model weights, averages, velocities (if any)."""
    x = [torch.randn(shape, dtype=torch.float64).to(live) for shape in SHAPES]
    y = [torch.randn(shape, dtype=torch.float64).to(kept) for shape in SHAPES]
    v = None if oscillator.damping == 1 else [torch.zeros_like(average) for average in y]
    return x, y, v


def _step(x, y, v, oscillator):
    """One step of the kernels that suit these tensors."""
    named = [{} if tensors is None else dict(enumerate(tensors)) for tensors in (x, y, v)]
    for group in grouped(*named):
        step_(group, oscillator)


def _run(oscillator, live, kept, steps, sgd=0.1):
    """Kernel and float64 reference side by side, with an optimizer between; yields both after every 20 steps."""
    x, y, v = _state(oscillator, live, kept)
    reference = [(a.double(), b.double(), torch.zeros_like(b.double())) for a, b in zip(x, y, strict=True)]
    for count in range(1, steps + 1):
        for index, weight in enumerate(x):
            kick = torch.randn(weight.shape, dtype=torch.float64)
            weight.mul_(1 - sgd).add_(kick.to(live), alpha=0.1)
            _, b, w = reference[index]
            reference[index] = step(weight.double(), b, w, oscillator)  # from the weights as they really are
        _step(x, y, v, oscillator)
        if count % 20 == 0:
            yield x, y, v, reference


def test_in_float64_the_kernel_is_the_reference_over_many_steps(oscillator):
    for x, y, v, reference in _run(oscillator, torch.float64, torch.float64, steps=500):
        for index, (a, b, w) in enumerate(reference):
            torch.testing.assert_close(x[index], a, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(y[index], b, rtol=1e-12, atol=1e-12)
            if v is not None:
                torch.testing.assert_close(v[index], w, rtol=1e-12, atol=1e-12)


def test_in_float32_the_kernel_stays_within_rounding_of_the_reference(oscillator):
    for x, y, _, reference in _run(oscillator, torch.float32, torch.float32, steps=200):
        for index, (a, b, _) in enumerate(reference):
            torch.testing.assert_close(x[index].double(), a, rtol=0, atol=1e-5)
            torch.testing.assert_close(y[index].double(), b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_of_half_precision_weights_the_float32_average_stays_within_float32_rounding(oscillator, half):
    for x, y, _, reference in _run(oscillator, half, torch.float32, steps=200):
        for index, (a, b, _) in enumerate(reference):
            torch.testing.assert_close(y[index].double(), b, rtol=0, atol=1e-5)
            torch.testing.assert_close(x[index].double(), a, rtol=torch.finfo(half).eps, atol=1e-5)  # the pull, rounded


@pytest.mark.parametrize("setting", [(0.9, 1.0), (0.9, 0.3)])
def test_a_pull_never_rounds_the_model_to_a_narrower_average(setting):
    oscillator = Oscillator(*setting, coupling=1e-9)
    x = [torch.randn(50, dtype=torch.float64)]
    y = [torch.randn(50, dtype=torch.float32)]
    before = x[0].clone()
    _step(x, y, None if oscillator.damping == 1 else [torch.zeros(50)], oscillator)
    change = (x[0] - before).abs().max()
    assert 0 < change < 1e-8  # rounding to float32 alone would be more


@pytest.mark.parametrize("coupling", [0.0, 0.1])
def test_weights_that_rest_with_their_average_stay_bit_for_bit(oscillator, coupling):
    still = Oscillator(oscillator.decay, oscillator.damping, coupling)
    x = [torch.randn(1000)]
    y, v = [x[0].clone()], None if still.damping == 1 else [torch.zeros(1000)]
    start = x[0].clone()
    for _ in range(10):
        _step(x, y, v, still)
    assert torch.equal(x[0], start)
    assert torch.equal(y[0], start)


def test_complex_weights_are_averaged_like_pairs_of_real_ones(oscillator):
    x, y = torch.randn(2, 5, dtype=torch.complex128)
    pairs = [torch.view_as_real(tensor).clone() for tensor in (x, y)]
    moving = oscillator.damping != 1
    v, w = torch.zeros_like(y), torch.zeros_like(pairs[1])
    for _ in range(20):
        _step([x], [y], [v] if moving else None, oscillator)
        _step([pairs[0]], [pairs[1]], [w] if moving else None, oscillator)
    torch.testing.assert_close(torch.view_as_real(y), pairs[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.view_as_real(x), pairs[0], rtol=1e-12, atol=1e-12)


def test_lerp_moves_mixed_dtypes_a_share_of_the_way():
    x = [torch.tensor([1.0, 3.0], dtype=torch.bfloat16), torch.tensor(2.0)]
    y = [torch.tensor([0.0, 1.0]), torch.tensor(1.0, dtype=torch.float64)]
    lerp_(x, y, 0.25)
    assert y[0].tolist() == [0.25, 1.5]
    assert y[1].item() == 1.25


def test_the_reference_works_on_plain_floats():
    x, y, v = step(2.0, 0.0, 1.0, Oscillator(0.5, 0.5, 0.25))
    assert (x, y, v) == (1.5, 1.5, 1.5)


def test_the_kernels_keep_no_graph():
    x, y = torch.ones(2, requires_grad=True), torch.zeros(2)
    _step([x], [y], [torch.zeros(2)], Oscillator(0.75, 0.5, 0.25))
    assert x.is_leaf
    assert not y.requires_grad
    assert math.isfinite(y.sum().item())

"""`Belay`'s options: warm-up, the choice of parameters, buffers and dtype; and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from weights import Weight, averages_of

from belay import Belay, Oscillator

swept = settings(settings.get_profile("belay"))


# --- warm-up ----------------------------------------------------------------------------------------------------------


def test_during_warmup_the_memory_of_an_ema_grows_in_proportion_to_the_steps():
    model = Weight(1.0)
    average = Belay(model, Oscillator.ema(0.99), warmup=50)
    model.set(0.0)
    expected = 1.0
    for count in range(1, 100):
        average.update()
        expected *= 0.99 ** max(1, 50 / count)
        assert averages_of(average)["weight"].item() == pytest.approx(expected, rel=1e-9)


@swept
@given(st.from_type(Oscillator).filter(lambda oscillator: oscillator.damping <= 1), st.integers(1, 10_000))
def test_during_warmup_the_damping_ratio_stays_and_coupling_is_as_asked(oscillator, warmup):
    average = Belay(Weight(1.0), oscillator, warmup=warmup)
    average.steps = warmup // 3
    if average.steps:
        warmed = average._clock.at(average.steps)
        assert warmed.coupling == oscillator.coupling
        assert warmed.stiffness >= oscillator.stiffness * (1 - 1e-9)
        if 1e-3 < warmed.damping < 0.999 and oscillator.stiffness > 1e-9:
            assert warmed.damping_ratio == pytest.approx(oscillator.damping_ratio, rel=1e-5)
    average.update()
    assert math.isfinite(averages_of(average)["weight"].item())


def test_warmup_forgets_a_poor_start_that_would_last_otherwise():
    def left(warmup):
        model = Weight(1.0)
        average = Belay(model, Oscillator(0.9999, 0.02), warmup=warmup)
        model.set(0.0)
        for _ in range(50):
            average.update()
        return abs(averages_of(average)["weight"].item())

    assert left(0) > 0.9
    assert left(200) < 0.3


def test_warmup_counts_steps_and_not_updates():
    model = Weight(1.0)
    average = Belay(model, Oscillator.ema(0.99), warmup=50, update_every=5)
    model.set(0.0)
    expected = 1.0
    for count in range(1, 101):
        average.update()
        if count % 5 == 0:
            expected *= 0.99 ** (5 * max(1, 50 / count))
    assert averages_of(average)["weight"].item() == pytest.approx(expected, rel=1e-9)


# --- which tensors ----------------------------------------------------------------------------------------------------


def test_parameters_left_out_keep_their_live_values_everywhere():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    average = Belay(model, Oscillator(0.5, 1, 0.5), parameters=lambda name, parameter: parameter.requires_grad)
    assert set(averages_of(average)) == {"1.weight", "1.bias"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    live = model[0].weight.clone()
    average.update()
    assert torch.equal(model[0].weight, live)  # not pulled either
    with average.average_parameters():
        assert torch.equal(model[0].weight, live)
    target = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    average.copy_to(target)
    assert torch.equal(target[0].weight, live)
    assert torch.equal(target[1].weight, averages_of(average)["1.weight"])


def test_integer_parameters_are_left_alone_and_complex_ones_averaged():
    model = Weight(0.0)
    model.table = nn.Parameter(torch.tensor([3, 4]), requires_grad=False)
    model.spectrum = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    average = Belay(model, Oscillator.ema(0.75), dtype=torch.float32)
    with torch.no_grad():
        model.spectrum.fill_(4j)
        model.table.add_(1)
    average.update()
    assert set(averages_of(average)) == {"weight", "spectrum"}
    assert averages_of(average)["spectrum"].tolist() == [1j, 1j]
    target = Weight(1.0)
    target.table = nn.Parameter(torch.tensor([0, 0]), requires_grad=False)
    target.spectrum = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    average.copy_to(target)
    assert target.table.tolist() == [4, 5]
    assert target.spectrum.tolist() == [1j, 1j]


def test_the_average_of_a_variance_never_turns_negative_where_the_average_of_a_weight_overshoots():
    model = nn.BatchNorm1d(1)
    average = Belay(model, Oscillator(0.9, 0.02), buffers="average")
    with torch.no_grad():
        model.weight.zero_()
    model.running_var.zero_()
    lowest_weight = lowest_variance = math.inf
    for _ in range(100):
        average.update()
        lowest_weight = min(lowest_weight, averages_of(average)["weight"].item())
        lowest_variance = min(lowest_variance, average.state_dict()["buffers"]["running_var"].item())
    assert lowest_weight < -0.5
    assert lowest_variance >= 0


def test_buffers_that_no_checkpoint_holds_are_not_averaged():
    model = Weight(1.0)
    model.register_buffer("cache", torch.ones(1), persistent=False)
    model.register_buffer("running_mean", torch.ones(1))
    average = Belay(model, Oscillator.ema(0.5), buffers="average")
    assert set(average.state_dict()["buffers"]) == {"running_mean"}


def test_half_precision_buffers_are_averaged_in_float32():
    model = nn.BatchNorm1d(2).bfloat16()
    average = Belay(model, Oscillator.ema(0.999), buffers="average")
    model.running_mean.fill_(1.0)
    average.update()
    assert average.state_dict()["buffers"]["running_mean"].tolist() == pytest.approx([0.001] * 2, rel=1e-4)


# --- what it refuses --------------------------------------------------------------------------------------------------

EMA = Oscillator.ema(0.9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Belay("model", EMA), TypeError, r"`model` must be a torch\.nn\.Module, got str\."),
        (lambda: Belay(Weight(1.0), 0.9), TypeError, r"`oscillator` must be a belay\.Oscillator, got float\."),
        (
            lambda: Belay(nn.Identity(), EMA),
            ValueError,
            r"`model` must have floating-point parameters to average, got none that `parameters` keeps\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, parameters=lambda name, parameter: False),
            ValueError,
            r"`model` must have floating-point parameters to average, got none that `parameters` keeps\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, nonfinite="ignore"),
            ValueError,
            r"`nonfinite` must be one of raise, skip, propagate, got nonfinite='ignore'\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, buffers="mean"),
            ValueError,
            r"`buffers` must be one of copy, average, ignore or a function, got buffers='mean'\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, dtype=torch.bfloat16),
            ValueError,
            r"`dtype` must be torch\.float32, torch\.float64 or None, got dtype=torch\.bfloat16\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, update_every=0),
            ValueError,
            r"`update_every` must be a whole number of at least 1, got 0\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, update_every=2.0),
            ValueError,
            r"`update_every` must be a whole number of at least 1, got 2\.0\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, warmup=-1),
            ValueError,
            r"`warmup` must be a whole number of at least 0, got -1\.",
        ),
        (
            lambda: Belay(Weight(1.0), EMA, warmup=True),
            ValueError,
            r"`warmup` must be a whole number of at least 0, got True\.",
        ),
        (
            lambda: Belay(Weight(1.0), Oscillator(0.9, 1.5), warmup=10),
            ValueError,
            r"`warmup` needs a damping of at most 1, got Oscillator\(decay=0\.9, damping=1\.5, coupling=0\.0\)\.",
        ),
        (
            lambda: Belay(Weight(1.0), Oscillator(0.999, 1, 0.5), update_every=10),
            ValueError,
            r"`update_every` must suit the oscillator, got update_every=10: `n` must lead to an oscillator, .*",
        ),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        make()


def test_a_refused_oscillator_changes_nothing():
    model = Weight(1.0)
    average = Belay(model, Oscillator(0.999, 0.5), update_every=10)
    groups = average._groups
    for refused in (Oscillator(0.999, 1, 0.5), 0.5):
        with pytest.raises((TypeError, ValueError), match=r"^`(update_every|oscillator)` must"):
            average.oscillator = refused
    assert average.oscillator == Oscillator(0.999, 0.5)
    assert average._groups is groups

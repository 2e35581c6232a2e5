"""Where an average starts: weights loaded afterwards, `reset`, and a warm-up that swings no further than it says."""

import math
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from weights import Weight, averages_of

from belay import Bank, Belay, Oscillator


def averages_of_belay(model: nn.Module, update_every: int) -> Belay:
    return Belay(model, Oscillator.ema(0.9), update_every=update_every)


def averages_of_bank(model: nn.Module, update_every: int) -> Bank:
    return Bank(model, [Oscillator.ema(0.9), Oscillator(0.9, 0.5)], update_every=update_every)


swept = settings(settings.get_profile("belay"))


def test_weights_loaded_after_construction_are_warned_of_at_the_first_update():
    model = nn.Linear(20, 20)
    average = Belay(model, Oscillator.ema(0.999))
    model.load_state_dict(nn.Linear(20, 20).state_dict())
    with pytest.warns(
        UserWarning, match=r"changed by 1\d\d% between the making of its average and the first update; if"
    ):
        average.update()


@pytest.mark.filterwarnings("error:the model's weights changed")
def test_an_optimizer_step_is_not_warned_of():
    model = nn.Linear(20, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    average = Belay(model, Oscillator.ema(0.999))
    model(torch.randn(8, 20)).square().mean().backward()
    optimizer.step()
    average.update()


@pytest.mark.parametrize("oscillator", [Oscillator.ema(0.999), Oscillator(0.999, 0.1, 0.1)], ids=str)
@pytest.mark.filterwarnings("error:the model's weights changed")
def test_reset_starts_again_from_the_weights_that_were_loaded(oscillator):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = Belay(model, oscillator, buffers="average")
    model(torch.randn(8, 2))
    average.update()
    loaded = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.load_state_dict(loaded.state_dict())
    average.reset()
    assert average.steps == 0
    for _ in range(50):
        average.update()
    for name, tensor in loaded.named_parameters():
        assert torch.equal(averages_of(average)[name], tensor)
        assert torch.equal(model.get_parameter(name), tensor)  # nothing has pulled it back
    assert torch.equal(average.state_dict()["buffers"]["1.running_var"], torch.ones(3))
    fresh = Belay(model, oscillator, buffers="average")
    assert set(average.state_dict()["velocity"]) == set(fresh.state_dict()["velocity"])


@pytest.mark.parametrize(("warmup", "steps", "left"), [(1000, 10, 0.053), (1000, 1000, 0.00056), (10, 1000, 0.36)])
def test_what_a_warmup_leaves_of_the_start_is_what_the_docs_say(warmup, steps, left):
    """With decay 0.999, where 1 / (1 - decay) is 1,000 steps."""
    model = Weight(1.0)
    average = Belay(model, Oscillator.ema(0.999), warmup=warmup)
    model.set(0.0)
    for _ in range(steps):
        average.update()
    assert averages_of(average)["weight"].item() == pytest.approx(left, rel=0.01)


@swept
@given(
    damping_ratio=st.floats(0.1, 3.0),
    lag=st.floats(5.0, 1000.0),
    warmup=st.integers(1, 1000),
    update_every=st.sampled_from([1, 3]),
)
@example(damping_ratio=0.1, lag=9.6, warmup=107, update_every=3)  # the furthest that was found of all
@example(damping_ratio=0.2, lag=57.4, warmup=298, update_every=3)  # and from 0.2 on
def test_during_warmup_the_average_of_a_constant_model_never_leaves_its_start_and_swings_little_further_than_without(
    damping_ratio, lag, warmup, update_every
):
    model = Weight(1.0)
    oscillator = Oscillator.from_damping_ratio(damping_ratio, lag)
    average = Belay(model, oscillator, warmup=warmup, update_every=update_every)
    model.set(0.0)
    values = []
    for _ in range(3 * warmup):
        average.update()
        values.append(averages_of(average)["weight"].item())
    swing = math.exp(-math.pi * damping_ratio / math.sqrt(1 - damping_ratio**2)) if damping_ratio < 1 else 0.0
    assert max(values) <= 1
    assert -min(values) <= swing + (0.12 if damping_ratio >= 0.2 else 0.2)  # without rescaling the velocity: 83


@pytest.mark.parametrize("make", [averages_of_belay, averages_of_bank])
@pytest.mark.parametrize("update_every", [1, 3])
def test_an_average_of_weights_that_had_no_values_yet_is_refused_at_the_first_update(make, update_every):
    model = nn.Linear(3, 3)
    loaded = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.weight.fill_(float("nan"))  # as `to_empty` may leave it
    average = make(model, update_every)
    model.load_state_dict(loaded)
    with pytest.raises(
        FloatingPointError, match=r"got nan in weight; call `reset\(\)` now that the model has its weights"
    ):
        average.update()
    assert average.steps == 0
    average.reset()
    average.update()
    assert average.steps == 1


def test_steps_before_a_first_update_that_comes_late_are_not_taken_for_loading():
    model = nn.Linear(20, 20)
    average = Belay(model, Oscillator.ema(0.999), update_every=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            with torch.no_grad():
                model.weight.mul_(1.02)
            average.update()

"""Weights that are not finite: refused, skipped or let through, and infinite values that belong there."""

import pytest
import torch
from torch import nn
from weights import Weight, averages_of

from belay import Belay, Oscillator

OSCILLATORS = [
    Oscillator.ema(0.9),
    Oscillator(0.9, 0.3),
    Oscillator(0.9, 1.0, 0.1),
    Oscillator(0.9, 0.3, 0.1),
]
INFINITE = float("inf")


@pytest.fixture(params=OSCILLATORS, ids=str)
def oscillator(request) -> Oscillator:
    return request.param


@pytest.mark.parametrize("bad", [float("nan"), INFINITE, -INFINITE])
def test_a_weight_that_is_not_finite_is_refused_before_anything_is_changed(oscillator, bad):
    model = Weight(1.0, 2.0)
    average = Belay(model, oscillator, buffers="average")
    model.set(1.5)
    average.update()
    before = {name: tensor.clone() for name, tensor in averages_of(average).items()}
    model.set(torch.tensor([bad, 3.0]))
    message = (
        r"^weights must be finite to be averaged, got others after 1 steps: weight; mend the model and go on, or "
        r'choose nonfinite="skip" or "propagate"\.$'
    )
    with pytest.raises(FloatingPointError, match=message):
        average.update()
    assert average.steps == 1
    assert torch.equal(averages_of(average)["weight"], before["weight"])
    assert model.weight[1] == 3.0  # not pulled either
    model.set(1.0)  # it is mended, and both go on
    average.update()
    assert average.steps == 2
    assert averages_of(average)["weight"].isfinite().all()
    assert model.weight.isfinite().all()


def test_skip_leaves_the_average_and_counts(oscillator):
    model, twin = Weight(1.0), Weight(1.0)
    average, expected = Belay(model, oscillator, nonfinite="skip"), Belay(twin, oscillator)
    for value in (1.1, float("nan"), 1.2, INFINITE, 1.3):
        model.set(value)
        average.update()
        if abs(value) < INFINITE:
            twin.set(value)
            expected.update()
    assert (average.skipped, average.steps) == (2, 3)
    assert torch.equal(averages_of(average)["weight"], averages_of(expected)["weight"])
    average.reset()
    assert (average.skipped, average.steps) == (0, 0)


def test_propagate_lets_everything_through_until_a_reset(oscillator):
    model = Weight(1.0)
    average = Belay(model, oscillator, nonfinite="propagate")
    model.set(float("nan"))
    average.update()
    assert averages_of(average)["weight"].isnan().all()
    model.set(1.0)
    average.reset()
    average.update()
    assert averages_of(average)["weight"].item() == 1.0
    assert model.weight.item() == 1.0


def test_only_weights_at_an_update_are_looked_at():
    model = Weight(1.0)
    average = Belay(model, Oscillator.ema(0.9), update_every=2)
    model.set(float("nan"))
    average.update()
    model.set(1.0)
    average.update()
    assert average.steps == 2


def test_infinite_values_that_the_average_started_with_stay_as_they_are(oscillator):
    model = Weight(0.5, -INFINITE, INFINITE)  # a mask
    model.free = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    average = Belay(model, oscillator)
    twin = Weight(0.5)
    expected = Belay(twin, oscillator)
    for value in (0.6, 0.8, 0.9):
        with torch.no_grad():
            model.weight[0].fill_(value)
            twin.weight.fill_(value)
        average.update()
        expected.update()
    assert averages_of(average)["weight"].tolist()[1:] == [-INFINITE, INFINITE]
    torch.testing.assert_close(averages_of(average)["weight"][:1], averages_of(expected)["weight"])
    assert model.weight.tolist()[1:] == [-INFINITE, INFINITE]
    with torch.no_grad():
        model.weight[1] = INFINITE  # not where it was: that is a fault
    with pytest.raises(FloatingPointError, match="weights must be finite to be averaged"):
        average.update()


def test_a_model_of_several_dtypes_is_looked_at_whole():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(0, 2), nn.Linear(2, 2).double())
    average = Belay(model, Oscillator.ema(0.9))
    for layer in (0, 1, 3):
        with torch.no_grad():
            kept = model[layer].weight.clone()
            model[layer].weight[0, 0] = float("nan")
            with pytest.raises(FloatingPointError, match=rf"after 0 steps: {layer}\.weight;"):
                average.update()
            model[layer].weight.copy_(kept)
    average.update()


def test_large_weights_whose_squares_overflow_are_finite():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    average = Belay(model, Oscillator.ema(0.9))
    with torch.no_grad():
        model[0].weight.fill_(1e30)
        model[1].weight.fill_(6e4)
    average.update()
    assert averages_of(average)["0.weight"].isfinite().all()


def test_an_infinite_average_becomes_what_its_weight_is(oscillator):
    model = Weight(0.5, -INFINITE)  # a mask that is lifted
    average = Belay(model, oscillator)
    average.update()
    model.set(0.25)
    for _ in range(3):
        average.update()
        assert averages_of(average)["weight"][1].item() == 0.25
        assert model.weight[1].item() == 0.25


@pytest.mark.parametrize("load", ["load_state_dict", "load_averages"])
def test_infinite_values_that_are_loaded_stay_as_they_are(oscillator, load):
    masked, model = Weight(0.5, -INFINITE), Weight(0.5, 0.0)
    saved, average = Belay(masked, oscillator), Belay(model, oscillator)
    model.load_state_dict(masked.state_dict())
    if load == "load_state_dict":
        average.load_state_dict(saved.state_dict())
    else:
        average.load_averages(saved.averaged_state_dict())
    average.update()
    average.update()
    assert averages_of(average)["weight"].tolist() == [0.5, -INFINITE]


def test_a_readout_shows_infinite_values_as_they_are(oscillator):
    model = Weight(0.5, -INFINITE)
    average = Belay(model, oscillator)
    with average.average_parameters(readout=0.6):
        assert model.weight.tolist() == [0.5, -INFINITE]

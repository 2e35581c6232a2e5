"""`Belay`: what other averaging libraries get wrong, and how it advances."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from weights import Weight, averages_of

from belay import Belay, Oscillator
from belay.reference import step

# --- defects seen in other libraries ----------------------------------------------------------------------------------


def test_a_tied_weight_moves_by_a_tenth_at_decay_nine_tenths_and_not_by_nineteen_hundredths():
    model = nn.ModuleDict({"encoder": Weight(0.0), "decoder": Weight(0.0)})
    model["decoder"].weight = model["encoder"].weight
    average = Belay(model, Oscillator.ema(0.9))
    model["encoder"].set(1.0)
    average.update()
    assert [moved.item() for moved in averages_of(average).values()] == pytest.approx([0.1], rel=1e-12)


@pytest.mark.parametrize(("buffers", "expected"), [("copy", 500), ("average", 500), ("ignore", 0)])
def test_the_batch_counter_is_right_after_five_hundred_updates(buffers, expected):
    model = nn.BatchNorm1d(2)
    average = Belay(model, Oscillator.ema(0.99), buffers=buffers)
    for _ in range(500):
        model(torch.randn(4, 2))
        average.update()
    target = nn.BatchNorm1d(2)
    average.copy_to(target)
    assert target.num_batches_tracked.item() == expected


def test_the_average_of_bfloat16_weights_moves_at_decay_0_999():
    model = Weight(*torch.linspace(1, 2, 100).tolist(), dtype=torch.bfloat16)
    average = Belay(model, Oscillator.ema(0.999))
    start = model.weight.detach().float()
    model.set(start * 1.25)
    for _ in range(1000):
        average.update()
    share = (averages_of(average)["weight"] - start) / (model.weight.detach().float() - start)
    torch.testing.assert_close(share, torch.full((100,), 1 - 0.999**1000), rtol=1e-3, atol=0)


def test_at_decay_0_9999_a_slow_weight_freezes_in_float32_and_reaches_the_ideal_in_float64():
    def reached(dtype):
        model = Weight(*torch.linspace(1, 1.99, 100).tolist(), dtype=torch.float32)
        average = Belay(model, Oscillator.ema(0.9999), dtype=dtype)
        start = model.weight.detach().double()
        model.set(start * (1 + 1e-4))
        for _ in range(20_000):
            average.update()
        return (averages_of(average)["weight"].double() - start) / (model.weight.detach().double() - start)

    assert reached(None).max() == 0  # as documented: (1 - decay) |x - y| is below 3e-8 |y|
    ideal = 1 - 0.9999**20_000
    assert ideal == pytest.approx(0.86, abs=0.005)
    torch.testing.assert_close(reached(torch.float64), torch.full((100,), ideal, dtype=torch.float64))


def test_a_float32_average_of_bfloat16_weights_stays_float32_when_its_state_is_loaded():
    model = nn.Linear(2, 2).bfloat16()
    average = Belay(model, Oscillator.ema(0.9))
    state = average.state_dict()
    state["average"] = {name: tensor.bfloat16() for name, tensor in state["average"].items()}
    average.load_state_dict(state)
    assert {tensor.dtype for tensor in averages_of(average).values()} == {torch.float32}


@pytest.mark.parametrize("update_every", [1, 10])
def test_an_update_every_tenth_step_keeps_the_half_life(update_every):
    model = Weight(0.0)
    average = Belay(model, Oscillator.from_half_life(100), update_every=update_every)
    model.set(1.0)
    for _ in range(100):
        average.update()
    assert averages_of(average)["weight"].item() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("oscillator", [Oscillator(0.999, 0.05), Oscillator(0.999, 0.2), Oscillator.critical(50)])
def test_an_update_every_fifth_step_keeps_the_damped_average(oscillator):
    def distance(update_every):
        model = Weight(0.0)
        average = Belay(model, oscillator, update_every=update_every)
        model.set(1.0)
        rest = []
        for count in range(1, 201):
            average.update()
            if count % 5 == 0:
                rest.append(1 - averages_of(average)["weight"].item())
        return torch.tensor(rest)

    torch.testing.assert_close(distance(5), distance(1), rtol=0, atol=0.04)  # the start is a few steps more abrupt


def test_a_float32_ema_is_the_one_of_torch():
    model = nn.Linear(20, 20)
    average = Belay(model, Oscillator.ema(0.99))
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    torchs.update_parameters(model)  # the first call copies
    for _ in range(1000):
        with torch.no_grad():
            model.weight.add_(torch.randn(20, 20), alpha=0.1)
        average.update()
        torchs.update_parameters(model)
    torch.testing.assert_close(averages_of(average)["weight"], torchs.module.weight.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(averages_of(average)["bias"], torchs.module.bias.detach(), rtol=0, atol=1e-6)


def test_an_update_looks_nothing_up_that_could_be_kept(monkeypatch):
    average = Belay(nn.Linear(2, 2), Oscillator(0.9, 0.5, 0.1))

    def forbidden(*_: object) -> None:
        raise AssertionError("a lookup in every step")

    for place in ("average.grouped", "average.owners_of", "model.parameters_of", "model.owners_of", "model.reshard"):
        monkeypatch.setattr(f"belay.{place}", forbidden)
    average.update()
    assert average.steps == 1


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_skipped_step_takes_no_part_in_the_average():
    model = Weight(0.0)
    average = Belay(model, Oscillator.ema(0.5))
    model.set(1.0)
    for skipped in (False, True, False, True, True):
        if not skipped:
            average.update()
    assert average.steps == 2
    assert averages_of(average)["weight"].item() == 0.75


def test_coupling_pulls_the_model_whatever_its_optimizer():
    model, oscillator = Weight(3.0, -2.0), Oscillator(0.9, 0.5, 0.1)
    average = Belay(model, oscillator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    twin = Weight(3.0, -2.0)
    twins_optimizer = torch.optim.Adam(twin.parameters(), lr=0.1)
    y, v = twin.weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        for weights, optimize in ((model.weight, optimizer), (twin.weight, twins_optimizer)):
            weights.grad = weights.detach().clone()
            optimize.step()
        average.update()
        x, y, v = step(twin.weight.detach().clone(), y, v, oscillator)
        twin.set(x)
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(averages_of(average)["weight"], y, rtol=1e-12, atol=1e-14)
    assert model.weight.abs().max() < 1.5  # and it has trained


def test_the_settings_can_be_changed_in_the_middle_of_a_run():
    model = Weight(0.0)
    average = Belay(model, Oscillator.ema(0.5))
    model.set(1.0)
    average.update()
    average.oscillator = Oscillator(0.5, 0.5)
    average.update()
    average.update()
    state = average.state_dict()
    assert state["average"]["weight"].item() == 0.5 + 0.25 + 0.25
    assert state["velocity"]["weight"].item() == 0.25 * 0.5 + 0.5 * 0.25
    average.oscillator = Oscillator(0.5, 0.25)
    assert average.state_dict()["velocity"]["weight"].item() == 0.25  # a velocity goes on
    average.oscillator = Oscillator.ema(0.9)
    assert average.state_dict()["velocity"] == {}
    assert average.oscillator == Oscillator.ema(0.9)

"""A model that is not what it was when its average was made: nothing is averaged silently, nothing half."""

import operator

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from weights import averages_of

from belay import Belay, Oscillator

OSCILLATORS = [Oscillator.ema(0.9), Oscillator(0.9, 0.3, 0.1)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)


@pytest.fixture(params=OSCILLATORS, ids=str)
def average(request) -> Belay:
    average = Belay(Net(), request.param)
    with torch.no_grad():
        for weight in average._model.module.parameters():
            weight.mul_(0.9)
    average.update()
    return average


def _load_assigned(model: Net) -> None:
    model.load_state_dict(Net().state_dict(), assign=True)


def _replace_layer(model: Net) -> None:
    model.head = nn.Linear(3, 5)


def _add_adapter(model: Net) -> None:
    model.body.adapter = nn.Linear(3, 1)


def _add_parameter(model: Net) -> None:
    model.scale = nn.Parameter(torch.ones(1))


def _remove_layer(model: Net) -> None:
    del model.head


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_load_assigned, "replaced body.bias, body.weight, head.bias and 1 more"),
        (_replace_layer, "replaced head.bias, head.weight"),
        (_add_adapter, "added body.adapter.bias, body.adapter.weight"),
        (_add_parameter, "added scale"),
        (_remove_layer, "removed head.bias, head.weight"),
        (lambda model: model.body.register_module("act", nn.ReLU()), "other modules"),
    ],
)
def test_a_model_with_other_parameters_is_refused_by_name_before_anything_is_changed(average, change, told):
    model = average._model.module
    change(model)
    before = {name: tensor.clone() for name, tensor in averages_of(average).items()}
    for use in (average.update, average.average_parameters().__enter__, average.averaged_state_dict):
        with pytest.raises(RuntimeError) as refused:
            use()
        assert str(refused.value) == (
            f"the model must keep its modules and parameters while it is averaged, got {told}; call `reset()` to start "
            "again from the model as it is, or Belay's `add_parameters()` to go on with it."
        )
    assert average.steps == 1
    for name, tensor in averages_of(average).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("change", [_load_assigned, _replace_layer, _add_adapter, _add_parameter, _remove_layer])
def test_reset_starts_again_from_the_changed_model(average, change):
    model = average._model.module
    change(model)
    average.reset()
    assert averages_of(average).keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.equal(averages_of(average)[name], weight)
    average.update()
    with average.average_parameters():
        pass


def test_add_parameters_keeps_what_fits_starts_what_is_new_and_drops_what_is_gone(average):
    model, moving = average._model.module, average.oscillator.damping != 1
    body, velocity = averages_of(average)["body.weight"].clone(), dict(average.state_dict()["velocity"])
    _add_adapter(model)
    model.head = nn.Linear(3, 5)
    model.body.weight = nn.Parameter(torch.full((3, 3), 5.0))  # another object of the same name and shape
    new = average.add_parameters()
    assert sorted(new) == ["body.adapter.bias", "body.adapter.weight", "head.bias", "head.weight"]
    assert torch.equal(averages_of(average)["body.weight"], body)
    assert torch.equal(averages_of(average)["head.weight"], model.head.weight)
    assert list(averages_of(average)) == [name for name, _ in model.named_parameters()]
    if moving:
        assert torch.equal(average.state_dict()["velocity"]["body.weight"], velocity["body.weight"])
        assert not average.state_dict()["velocity"]["head.weight"].any()
    assert average.steps == 1
    average.update()
    assert (averages_of(average)["body.weight"] > body).all()
    model.body.adapter = None
    assert average.add_parameters() == []
    assert "body.adapter.weight" not in averages_of(average)


def test_a_model_of_which_a_half_is_converted_later_goes_on(average):
    model = average._model.module
    model.head.double()
    before = averages_of(average)["head.weight"].clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    average.update()
    assert torch.all(averages_of(average)["head.weight"] > before)
    assert average.steps == 2


def test_weights_that_are_emptied_later_are_refused_before_anything_is_changed(average):
    model = average._model.module
    kept = model.body.weight.data
    model.body.weight.data = torch.empty(0)  # as DeepSpeed's ZeRO-3 does between steps
    with pytest.raises(
        RuntimeError, match=r"^weights must keep their shapes while they are averaged, changed: body\.w"
    ):
        average.update()
    assert average.steps == 1
    model.body.weight.data = kept
    average.update()


def test_weights_that_zero_3_has_taken_away_are_refused_by_name():
    model = Net()
    model.body.weight.ds_id = 0
    with pytest.raises(
        ValueError, match=r"^`model` must hold its weights, got body\.weight, which DeepSpeed's ZeRO-3 has"
    ):
        Belay(model, Oscillator.ema(0.9))


@pytest.mark.parametrize("parameters", [lambda name, parameter: False, operator.truth], ids=["none", "empty"])
def test_a_model_without_weights_to_average_is_refused(parameters):
    model = nn.Linear(0, 0, bias=False)
    with pytest.raises(
        ValueError, match=r"^`model` must have floating-point parameters to average, got none that `par"
    ):
        Belay(model, Oscillator.ema(0.9), parameters=None if parameters is operator.truth else parameters)


def test_two_parameters_on_one_storage_are_refused_with_coupling_which_would_pull_them_twice():
    model = Net()
    model.head = nn.Linear(3, 3)
    model.head.weight = nn.Parameter(model.body.weight.data.T)
    average = Belay(model, Oscillator.ema(0.9))
    message = (
        r"^coupled weights must not share memory, as both would be pulled, got body\.weight and head\.weight; make "
        r"them one Parameter, or leave one out by `parameters`\.$"
    )
    with pytest.raises(ValueError, match=message):
        average.oscillator = Oscillator(0.9, 1.0, 0.1)
    assert average.oscillator == Oscillator.ema(0.9)
    with pytest.raises(ValueError, match=message):
        Belay(model, Oscillator(0.9, 1.0, 0.1))
    Belay(model, Oscillator(0.9, 1.0, 0.1), parameters=lambda name, parameter: name != "head.weight")


def test_a_reset_to_weights_that_share_memory_is_refused_before_anything_is_changed():
    model = Net()
    model.head = nn.Linear(3, 3)
    average = Belay(model, Oscillator(0.9, 1.0, 0.1))
    average.update()
    model.head.weight = nn.Parameter(model.body.weight.data.T)
    before = averages_of(average)["head.weight"].clone()
    for restart in (average.reset, average.add_parameters):
        with pytest.raises(ValueError, match="coupled weights must not share memory"):
            restart()
    assert average.steps == 1
    assert torch.equal(averages_of(average)["head.weight"], before)


def test_parameters_beside_each_other_in_one_storage_are_taken():
    flat = torch.randn(9)
    model = Net()
    model.body.weight = nn.Parameter(flat[:6].view(2, 3))
    model.body.bias = nn.Parameter(flat[6:])
    Belay(model, Oscillator(0.9, 1.0, 0.1)).update()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_dtype_that_cannot_be_averaged_is_refused_by_name(dtype):
    model = Net()
    model.scale = nn.Parameter(torch.ones(2).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=rf"got scale in {dtype}; leave it out by `parameters`\.$"):
        Belay(model, Oscillator.ema(0.9))
    Belay(model, Oscillator.ema(0.9), parameters=lambda name, parameter: name != "scale").update()


# --- buffers ----------------------------------------------------------------------------------------------------------


def test_average_averages_running_statistics_and_copies_the_other_buffers():
    model = nn.Sequential(spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    model.register_buffer("mask", torch.zeros(3))
    average = Belay(model, Oscillator.ema(0.9), buffers="average")
    assert set(average.state_dict()["buffers"]) == {"1.running_mean", "1.running_var"}
    for _ in range(20):
        model(torch.randn(8, 4))
        with torch.no_grad():
            model[0].parametrizations.weight.original.add_(torch.randn(4, 4), alpha=0.3)
        average.update()
    model.mask.fill_(1.0)
    with average.average_parameters():
        assert model[0].parametrizations.weight[0]._u.norm() == pytest.approx(1.0, abs=1e-6)  # averaged: 0.96
        assert model.mask.tolist() == [1.0] * 3


def test_buffers_are_treated_as_a_function_of_their_names_says():
    def policy(name: str, buffer: torch.Tensor) -> str:
        return {"scale": "average", "mask": "copy", "queue": "ignore"}[name]

    model, target = nn.Linear(1, 1), nn.Linear(1, 1)
    for name in ("scale", "mask", "queue"):
        model.register_buffer(name, torch.zeros(1))
        target.register_buffer(name, torch.full((1,), 7.0))
    average = Belay(model, Oscillator.ema(0.5), buffers=policy)
    for buffer in model.buffers():
        buffer.fill_(1.0)
    average.update()
    average.copy_to(target)
    assert [target.scale.item(), target.mask.item(), target.queue.item()] == [0.5, 1.0, 7.0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("mean", r"^`buffers` must return one of copy, average, ignore, got 'mean' for count\.$"),
        (
            "average",
            r'^`buffers` must average floating-point buffers only, got count in torch\.int64; return "copy"\.$',
        ),
    ],
)
def test_a_function_of_buffers_that_returns_something_else_is_refused(chosen, message):
    model = nn.Linear(1, 1)
    model.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        Belay(model, Oscillator.ema(0.5), buffers=lambda name, buffer: chosen)


def test_buffers_that_grow_disappear_or_come_later_are_followed():
    model = nn.Linear(1, 1)
    model.register_buffer("queue", torch.zeros(2))
    average = Belay(model, Oscillator.ema(0.5), buffers=lambda name, buffer: "average")
    model.queue = torch.ones(5)
    average.update()
    assert average.state_dict()["buffers"]["queue"].tolist() == [1.0] * 5  # it starts again
    model.queue = None
    average.update()
    model.queue = torch.full((5,), 3.0)
    model.register_buffer("later", torch.ones(1))
    average.update()
    assert average.state_dict()["buffers"]["queue"].tolist() == [2.0] * 5
    with average.average_parameters():
        assert model.queue.tolist() == [2.0] * 5
        model.later.fill_(9.0)
    assert model.later.item() == 1.0
    assert model.queue.tolist() == [3.0] * 5


# --- half precision ---------------------------------------------------------------------------------------------------


def test_coupling_to_half_precision_weights_is_warned_of_once():
    model = Net().bfloat16()
    message = (
        "pulls half-precision weights only where its pull exceeds their rounding, got body.bias, body.weight, head"
    )
    with pytest.warns(UserWarning, match=message):
        average = Belay(model, Oscillator(0.9, 1.0, 0.1))
    average.oscillator = Oscillator(0.95, 1.0, 0.1)  # pytest would fail on a warning here
    average = Belay(model, Oscillator.ema(0.9))
    with pytest.warns(UserWarning, match=message):
        average.oscillator = Oscillator(0.9, 1.0, 0.1)


def test_averaging_a_module_of_the_masters_couples_fully_where_the_halves_do_not_feel_it():
    """The advice of that warning: a float32 copy is what the optimizer moves, and what the average pulls."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    masters = nn.Linear(1, 1, bias=False)
    twin = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        masters.weight.fill_(1.0)
        twin.weight.fill_(1.0)
    averages = [Belay(module, Oscillator(0.99, 1.0, 0.3)) for module in (masters, twin)]
    for _ in range(20):
        for module, average in zip((masters, twin), averages, strict=True):
            with torch.no_grad():
                module.weight.mul_(0.9)
            average.update()
        with torch.no_grad():
            model.weight.copy_(masters.weight)
    assert torch.equal(masters.weight, twin.weight)
    assert model.weight.item() == pytest.approx(twin.weight.item(), rel=2**-8)


def test_a_step_hook_counts_only_the_steps_that_a_gradient_scaler_lets_through():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = Belay(model, Oscillator.ema(0.9))
    optimizer.register_step_post_hook(lambda *_: average.update())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for inputs in (torch.ones(1, 2), torch.full((1, 2), float("inf")), torch.ones(1, 2)):
        optimizer.zero_grad()
        scaler.scale(model(inputs).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert average.steps == 2
    assert averages_of(average)["weight"].isfinite().all()


def test_add_parameters_keeps_the_averages_of_buffers_that_were_there():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Belay(model, Oscillator.ema(0.9), buffers="average")
    model[1].running_mean.fill_(5.0)
    average.update()
    model.append(nn.BatchNorm1d(2))
    average.add_parameters()
    kept = average.state_dict()["buffers"]
    assert kept["1.running_mean"].tolist() == pytest.approx([0.5, 0.5])
    assert kept["2.running_mean"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(2, 2, device="meta"), lambda: nn.LazyLinear(2)], ids=["meta", "lazy"]
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_that_has_no_weights_yet_is_refused(make):
    with pytest.raises(ValueError, match=r"must have its weights before they are averaged, got \w+ without; make the"):
        Belay(make(), Oscillator.ema(0.9))


def test_a_state_that_would_pull_shared_memory_twice_changes_nothing():
    flat = torch.zeros(4)
    model, apart = nn.Module(), nn.Module()
    model.a, model.b = nn.Parameter(flat[:3]), nn.Parameter(flat[1:])
    apart.a, apart.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    average, pulling = Belay(model, Oscillator.ema(0.9)), Belay(apart, Oscillator(0.9, 0.3, 0.1))
    pulling.update()
    with pytest.raises(ValueError, match="coupled weights must not share memory"):
        average.load_state_dict(pulling.state_dict())
    assert (average.steps, average.oscillator) == (0, Oscillator.ema(0.9))

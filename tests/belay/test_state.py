"""`Belay`'s state: saving, loading, moving, copying; nothing changes when a state is refused."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from belay import Belay, Oscillator


def _average(oscillator: Oscillator, **options: Any) -> Belay:
    average = Belay(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), oscillator, **options)
    with torch.no_grad():
        average._model.module[0].weight.add_(1.0)
    average.update()
    return average


@pytest.fixture
def average() -> Belay:
    return _average(Oscillator(0.9, 0.5, 0.1), buffers="average", warmup=20)


def _tensors(average: Belay) -> list[torch.Tensor]:
    state = average.state_dict()
    return [tensor.clone() for kind in ("average", "velocity", "buffers") for tensor in state[kind].values()]


def test_the_settings_of_a_state_replace_those_given(average):
    loaded = _average(Oscillator.ema(0.5), buffers="average", update_every=3)
    loaded.load_state_dict(average.state_dict())
    assert repr(loaded) == repr(average)
    assert loaded.state_dict().keys() == average.state_dict().keys()
    for name in ("oscillator", "update_every", "warmup", "steps", "version"):
        assert loaded.state_dict()[name] == average.state_dict()[name]
    for ours, theirs in zip(_tensors(loaded), _tensors(average), strict=True):
        assert torch.equal(ours, theirs)


def test_a_loaded_state_is_a_copy(average):
    loaded = _average(Oscillator.ema(0.5), buffers="average")
    loaded.load_state_dict(average.state_dict())
    before = _tensors(average)
    loaded.update()
    for ours, theirs in zip(_tensors(average), before, strict=True):
        assert torch.equal(ours, theirs)


def test_loading_a_state_without_velocity_drops_the_velocity(average):
    plain = _average(Oscillator.ema(0.5), buffers="average")
    average.load_state_dict(plain.state_dict())
    assert average.state_dict()["velocity"] == {}
    average.update()


def _changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, **changes}


def _in_average(edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], kind: str = "average") -> Any:
    return lambda state: {**state, kind: edit(state[kind])}


NAMES = "must have the names and shapes of the model's"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda state: None,
            r"`state` must come from Belay\.state_dict \(version 1\), got NoneType with nothing; `load_averages` .*",
        ),
        (
            lambda state: {"shadow": 1, "decay": 0.9},
            r"`state` must come from Belay\.state_dict \(version 1\), got dict with decay, shadow; `load_averages` "
            r"takes plain averaged weights\.",
        ),
        (
            _changed(version=2),
            r"`state` must come from Belay\.state_dict \(version 1\), got dict with average, buffers, .*",
        ),
        (_changed(update_every=0), r"`update_every` must be a whole number of at least 1, got 0\."),
        (_changed(warmup=-1), r"`warmup` must be a whole number of at least 0, got -1\."),
        (_changed(steps=1.5), r"`steps` must be a whole number of at least 0, got 1\.5\."),
        (
            _changed(oscillator={"decay": 2.0, "damping": 1.0, "coupling": 0.0}),
            r"`decay` must be in \[0, 1\), got decay=2\.0\.",
        ),
        (
            _changed(oscillator={"decay": 0.9, "damping": 1.5, "coupling": 0.0}),
            r"`warmup` needs a damping of at most 1, got .*\.",
        ),
        (_changed(average={}), rf"`state` {NAMES} average, got missing 0\.bias, 0\.weight, 1\.bias and 1 more\."),
        (_changed(velocity={}), rf"`state` {NAMES} velocity, got missing 0\.bias, 0\.weight, 1\.bias and 1 more\."),
        (
            _in_average(lambda kept: {**kept, "0.weight": torch.zeros(3, 3)}),
            rf"`state` {NAMES} average, got of another shape 0\.weight\.",
        ),
        (
            _in_average(lambda kept: {**kept, "extra": torch.zeros(1)}, "buffers"),
            rf"`state` {NAMES} buffers, got unexpected extra\.",
        ),
        (
            _in_average(lambda kept: {name: tensor.double() for name, tensor in kept.items()}),
            r"`state` must fit this average's dtype, got average 0\.weight in torch\.float64 for torch\.float32: make "
            r"the Belay with dtype=torch\.float64\.",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_changed(average, edit, message):
    other = _average(Oscillator(0.9, 0.5, 0.1), buffers="average", warmup=20)
    other.update()
    before, state = _tensors(average), repr(average)
    with pytest.raises(ValueError, match=f"^{message}$"):
        average.load_state_dict(edit(other.state_dict()))
    assert repr(average) == state
    assert average.state_dict()["warmup"] == 20
    for ours, theirs in zip(_tensors(average), before, strict=True):
        assert torch.equal(ours, theirs)


def test_a_float32_state_continues_in_float64():
    narrow, wide = _average(Oscillator.ema(0.9)), _average(Oscillator.ema(0.9), dtype=torch.float64)
    wide.load_state_dict(narrow.state_dict())
    assert {tensor.dtype for tensor in _tensors(wide)} == {torch.float64}
    for ours, theirs in zip(_tensors(wide), _tensors(narrow), strict=True):
        assert torch.equal(ours, theirs.double())


# --- moving and copying -----------------------------------------------------------------------------------------------


def test_to_moves_the_averages_and_returns_the_average(average):
    before = _tensors(average)
    assert average.to("cpu") is average
    assert average.to(torch.device("cpu")) is average
    average.update()
    assert not torch.equal(_tensors(average)[0], before[0])


def test_an_average_on_another_device_is_updated_there():
    average = _average(Oscillator(0.9, 0.5), buffers="average").to("meta")  # a device that every machine has
    average.update()
    assert {tensor.device.type for group in average._groups for tensor in group.average} == {"meta"}
    assert {tensor.device.type for tensor in _tensors(average)} == {"meta"}
    assert {parameter.device.type for parameter in average._model.module.parameters()} == {"cpu"}


def test_to_refuses_a_dtype_which_would_round_the_averages(average):
    with pytest.raises(TypeError):
        average.to(torch.bfloat16)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_made_with_its_model_stays_joined_to_it(average, duplicate):
    model, twin = duplicate((average._model.module, average))
    with torch.no_grad():
        model[0].weight.add_(5.0)
    twin.update()
    average.update()
    assert twin.steps == average.steps == 2
    assert not torch.equal(_tensors(twin)[0], _tensors(average)[0])
    with twin.average_parameters():
        assert torch.equal(model[0].weight, _tensors(twin)[0])


def test_its_repr_tells_the_settings_the_steps_and_the_size(average):
    assert repr(average) == (
        "Belay(Oscillator(decay=0.9, damping=0.5, coupling=0.1), update_every=1, steps=1, weights=10)"
    )


# --- what fits in part ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_changed(oscillator=None), r"`state` must have an oscillator of decay, damping and coupling, got None\."),
        (
            _changed(oscillator={"decay": 0.9}),
            r"`state` must have an oscillator of decay, damping and coupling, got {'decay': 0\.9}\.",
        ),
        (
            _changed(oscillator={"decay": "0.9", "damping": 1.0, "coupling": 0.0}),
            r"`state` must have an oscillator of three numbers, got .*: `decay` must be a real number, got '0\.9'\.",
        ),
        (_changed(average=None), r"`state` must hold average by name, got NoneType\."),
        (
            _changed(velocity={"0.weight": [1.0]}),
            r"`state` must hold velocity as tensors by name, got something else for 0\.weight\.",
        ),
        (
            _changed(buffers={0: torch.ones(1)}),
            r"`state` must hold buffers as tensors by name, got something else for 0\.",
        ),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_damaged_state_is_refused_before_anything_is_changed(average, edit, message, strict):
    before, state = _tensors(average), repr(average)
    with pytest.raises(ValueError, match=f"^{message}$"):
        average.load_state_dict(edit(average.state_dict()), strict=strict)
    assert repr(average) == state
    for ours, theirs in zip(_tensors(average), before, strict=True):
        assert torch.equal(ours, theirs)


def _with_head(outputs: int) -> tuple[nn.Sequential, Belay]:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, outputs))
    return model, Belay(model, Oscillator(0.9, 0.5, 0.1))


def test_a_state_of_a_model_with_another_head_is_loaded_where_it_fits():
    old, old_average = _with_head(2)
    with torch.no_grad():
        old[0].weight.add_(1.0)
    old_average.update()
    state = old_average.state_dict()
    _, average = _with_head(3)
    head = average.state_dict()["average"]["1.weight"].clone()
    with pytest.raises(ValueError, match=r"got of another shape 1\.bias, 1\.weight\.$"):
        average.load_state_dict(state)
    assert average.load_state_dict(state, strict=False) == ["1.weight", "1.bias"]
    assert torch.equal(average.state_dict()["average"]["0.weight"], state["average"]["0.weight"])
    assert torch.equal(average.state_dict()["velocity"]["0.weight"], state["velocity"]["0.weight"])
    assert torch.equal(average.state_dict()["average"]["1.weight"], head)
    assert not average.state_dict()["velocity"]["1.weight"].any()
    average.update()


def test_plain_averaged_weights_of_another_library_are_taken_up():
    model, average = _with_head(2)
    other = torch.optim.swa_utils.AveragedModel(_with_head(2)[0])
    assert average.load_averages(other.state_dict()) == []  # named module.*, beside n_averaged
    for name, tensor in other.module.state_dict().items():
        assert torch.equal(average.state_dict()["average"][name], tensor)
        assert not average.state_dict()["velocity"][name].any()
    assert average.load_averages(model.state_dict()) == []
    average.update()


def test_plain_weights_that_do_not_fit_are_refused_or_left_out_by_name():
    _, average = _with_head(3)
    weights = _with_head(2)[0].state_dict()
    before = average.state_dict()["average"]["1.weight"].clone()
    with pytest.raises(
        ValueError, match=r"^`weights` must have the names and shapes of the model's averages, got of an"
    ):
        average.load_averages(weights)
    assert average.load_averages(weights, strict=False) == ["1.weight", "1.bias"]
    assert torch.equal(average.state_dict()["average"]["0.weight"], weights["0.weight"])
    assert torch.equal(average.state_dict()["average"]["1.weight"], before)
    with pytest.raises(ValueError, match=r"^`weights` must hold weights by name, got list\.$"):
        average.load_averages([1])


def test_update_every_can_be_changed_in_the_middle_of_a_run():
    model, average = _with_head(2)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update()
    velocity = average.state_dict()["velocity"]["0.weight"].clone()
    average.update_every = 2
    assert average.update_every == 2
    assert torch.equal(average.state_dict()["velocity"]["0.weight"], 2 * velocity)  # a distance an update
    assert average.steps == 1
    with pytest.raises(ValueError, match=r"^`update_every` must be a whole number of at least 1, got 0\.$"):
        average.update_every = 0
    assert average.update_every == 2


def test_the_shadow_parameters_of_torch_ema_and_diffusers_are_taken_up_as_the_readme_says():
    model, average = _with_head(2)
    saved = {"shadow_params": [torch.full_like(parameter, 3.0) for parameter in model.parameters()]}
    average.load_averages(dict(zip(dict(model.named_parameters()), saved["shadow_params"], strict=True)))
    assert all((tensor == 3.0).all() for tensor in average.state_dict()["average"].values())

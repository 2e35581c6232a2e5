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
        average._model[0].weight.add_(1.0)
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
        (lambda state: None, r"`state` must come from Belay\.state_dict \(version 1\), got NoneType with nothing\."),
        (
            lambda state: {"shadow": 1, "decay": 0.9},
            r"`state` must come from Belay\.state_dict \(version 1\), got dict with decay, shadow\.",
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
    assert {parameter.device.type for parameter in average._model.parameters()} == {"cpu"}


def test_to_refuses_a_dtype_which_would_round_the_averages(average):
    with pytest.raises(TypeError):
        average.to(torch.bfloat16)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_made_with_its_model_stays_joined_to_it(average, duplicate):
    model, twin = duplicate((average._model, average))
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

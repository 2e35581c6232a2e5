"""`average_parameters` and `copy_to`: the averages go into a model, and nothing else changes."""

import pytest
import torch
from torch import nn

from belay import Belay, Oscillator


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture
def model() -> nn.Module:
    return _model()


@pytest.fixture
def average(model) -> Belay:
    """An average that differs from its model."""
    average = Belay(model, Oscillator(0.9, 0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    average.update()
    return average


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_blocks_may_be_nested(model, average):
    before = _copy(model)
    with average.average_parameters():
        inside = _copy(model)
        with average.average_parameters():
            _assert_equal(_copy(model), inside)
        _assert_equal(_copy(model), inside)
        with pytest.raises(RuntimeError, match="outside `average_parameters`"):
            average.update()
    _assert_equal(_copy(model), before)
    assert not torch.equal(inside["0.weight"], before["0.weight"])


def test_an_update_inside_a_block_is_refused_and_possible_after_it(average):
    message = r"^`update` must be called outside `average_parameters`, where the model holds its own weights\.$"
    with average.average_parameters():
        with pytest.raises(RuntimeError, match=message):
            average.update()
        assert average.steps == 1
    average.update()
    assert average.steps == 2


def test_buffers_changed_inside_a_block_come_back(model, average):
    before = _copy(model)
    with average.average_parameters():
        model(torch.randn(4, 2))
    _assert_equal(_copy(model), before)


def test_buffers_come_back_also_if_the_model_is_converted_inside_a_block(model, average):
    before = _copy(model)
    with average.average_parameters():
        model.double().float()  # each makes new buffers
        model(torch.randn(4, 2))
    _assert_equal(_copy(model), before)


def test_ignored_buffers_are_neither_saved_nor_restored(model):
    average = Belay(model, Oscillator.ema(0.9), buffers="ignore")
    with average.average_parameters():
        model(torch.randn(4, 2))
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("setting", [(0.9, 1.0, 0.0), (0.9, 0.5, 0.1)])
def test_everything_works_inside_inference_mode_and_goes_on_outside(model, setting):
    inputs = torch.randn(4, 2)
    with torch.inference_mode():
        average = Belay(model, Oscillator(*setting), buffers="average")
        average.update()
        with average.average_parameters():
            model(inputs)
    with average.average_parameters(), torch.inference_mode():
        model(inputs)
    average.update()
    average.oscillator = Oscillator(0.9, 0.3)
    average.update()
    model(inputs).sum().backward()
    assert average.steps == 3


def test_a_model_converted_after_construction_goes_on_with_the_average_it_has(model):
    average = Belay(model, Oscillator(0.9, 0.5, coupling=1e-9))
    model.double()
    with torch.no_grad():
        model[0].weight.add_(1 / 3)
    before = model[0].weight.clone()
    average.update()
    assert average.state_dict()["average"]["0.weight"].dtype == torch.float32
    assert 0 < (model[0].weight - before).abs().max() < 1e-9  # pulled in float64, not rounded to float32
    with average.average_parameters():
        assert torch.equal(model[0].weight, average.state_dict()["average"]["0.weight"].double())


def test_a_replaced_parameter_is_reported_by_name(model, average):
    model[0].weight = nn.Parameter(torch.zeros(3, 2))
    message = r"^the model must keep the parameters that are averaged, replaced: 0\.weight; make a new Belay\.$"
    with pytest.raises(RuntimeError, match=message), average.average_parameters():
        pass
    with pytest.raises(RuntimeError, match=message):
        average.copy_to(_model())


def test_copy_to_the_model_in_training_ends_its_own_weights(model, average):
    average.copy_to(model)
    _assert_equal(average.state_dict()["average"], _copy(model))


def test_copy_to_rounds_to_the_dtype_of_its_target(average):
    target = _model().bfloat16()
    average.copy_to(target)
    assert torch.equal(target[0].weight, average.state_dict()["average"]["0.weight"].bfloat16())


WRONG = {
    "a parameter too few": (
        lambda: nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3)),
        r"`model` must have the names and shapes of the averaged model's parameters, got missing 0\.bias\.",
    ),
    "a parameter too many": (
        lambda: _model().append(nn.Linear(3, 1, bias=False)),
        r"`model` must have the names and shapes of the averaged model's parameters, got unexpected 2\.weight\.",
    ),
    "other shapes": (
        lambda: nn.Sequential(nn.Linear(9, 3), nn.BatchNorm1d(3)),
        r"`model` must have .* the averaged model's parameters, got of another shape 0\.weight\.",
    ),
    "all wrong": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))),
        r"`model` must have .*, got missing 1\.bias, 1\.weight; unexpected 1\.0\.bias, 1\.0\.weight, 1\.1\.bias and "
        r"1 more; of another shape 0\.bias, 0\.weight\.",
    ),
    "no buffers": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)),
        r"`model` must have the names and shapes of the averaged model's buffers, got missing 1\.num_batches_tracked, "
        r"1\.running_mean, 1\.running_var\.",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG.keys())
def test_copy_to_checks_every_name_before_it_changes_anything(average, make, message):
    target = make()
    before = _copy(target)
    with pytest.raises(ValueError, match=f"^{message}$"):
        average.copy_to(target)
    _assert_equal(_copy(target), before)


def test_copy_to_refuses_what_is_no_module(average):
    with pytest.raises(TypeError, match=r"^`model` must be a torch\.nn\.Module, got dict\.$"):
        average.copy_to({})

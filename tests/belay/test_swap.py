"""`average_parameters` and `copy_to`: the averages go into a model, and nothing else changes."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

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
    message = (
        r"^`update` must be called outside `average_parameters`, where the model holds averages; leave .* first\.$"
    )
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
    message = (
        r"^the model must keep its modules and parameters while it is averaged, got replaced 0\.weight; call "
        r"`reset\(\)` to start again from the model as it is, or Belay's `add_parameters\(\)` to go on with it\.$"
    )
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


# --- one swap at a time, always left cleanly --------------------------------------------------------------------------


@pytest.fixture
def other(model) -> Belay:
    """Another average of the same model."""
    return Belay(model, Oscillator.ema(0.5))


def test_another_averages_block_and_update_are_refused_inside_a_block(model, average, other):
    before = _copy(model)
    message = r"^`average_parameters` must find the model's own weights, got a block of another average .*first\.$"
    with average.average_parameters():
        inside = _copy(model)
        with pytest.raises(RuntimeError, match=message), other.average_parameters():
            pass
        with pytest.raises(RuntimeError, match="outside `average_parameters`"):
            other.update()
        with pytest.raises(RuntimeError, match="outside `average_parameters`"):
            other.reset()
        with pytest.raises(RuntimeError, match="outside `average_parameters`"):
            other.add_parameters()
        _assert_equal(_copy(model), inside)
    _assert_equal(_copy(model), before)
    with other.average_parameters():
        _assert_equal(other.state_dict()["average"], _copy(model))


def test_an_average_of_a_part_of_the_model_is_refused_inside_the_whole_models_block(model, average):
    part = Belay(model[0], Oscillator.ema(0.5))
    with average.average_parameters(), pytest.raises(RuntimeError, match="outside `average_parameters`"):
        part.update()
    part.update()


def test_a_second_threads_block_is_refused(average):
    with average.average_parameters(), ThreadPoolExecutor(1) as threads:
        entered = threads.submit(lambda: average.average_parameters().__enter__())
        with pytest.raises(RuntimeError, match="got a block of another thread around it or beside it"):
            entered.result()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model[1], "running_mean", torch.ones(7)),
        lambda model: setattr(model[1], "running_mean", None),
        lambda model: delattr(model[1], "running_mean"),
        lambda model: model.double(),
        lambda model: setattr(model[0].weight, "data", torch.zeros(0)),
    ],
    ids=["grows", "is set to None", "is deleted", "is converted", "is emptied"],
)
def test_a_block_is_left_cleanly_whatever_it_does_to_the_tensors(model, average, change):
    before = _copy(model)
    with average.average_parameters():
        change(model)
    _assert_equal({name: tensor.float() if tensor.is_floating_point() else tensor
                   for name, tensor in _copy(model).items()}, before)  # fmt: skip
    with average.average_parameters():
        assert torch.equal(model[0].weight.float(), average.state_dict()["average"]["0.weight"])
    average.update()


def test_a_copy_made_inside_a_block_is_not_inside_one(model, average):
    with average.average_parameters():
        twin, its_average = copy.deepcopy((model, average))
    with torch.no_grad():
        twin[0].weight.add_(1.0)
    its_average.update()
    with its_average.average_parameters():
        _assert_equal(its_average.state_dict()["average"], _copy(twin))


def test_a_checkpoint_written_inside_a_block_is_warned_of(average):
    with average.average_parameters(), pytest.warns(UserWarning, match="holds averages in place of the model's wei"):
        average.state_dict()
    average.state_dict()


def test_an_averaged_state_lasts_beyond_the_block_and_fits_the_model(model, average):
    with average.average_parameters():
        inside = _copy(model)
    state = average.averaged_state_dict()
    _assert_equal(state, inside)
    average.update()
    _assert_equal(state, inside)
    target = _model()
    target.load_state_dict(state)
    _assert_equal(_copy(target), inside)


# --- what others keep of the weights ----------------------------------------------------------------------------------


def test_inside_autocast_a_block_computes_with_the_averages_and_training_after_it_with_the_weights():
    model = nn.Linear(4, 4, bias=False)
    average = Belay(model, Oscillator.ema(0.5))
    with torch.no_grad():
        model.weight.mul_(-3.0)
    average.update()
    inputs = torch.eye(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(inputs)  # autocast keeps a bfloat16 copy of the weights
        with average.average_parameters():
            shown = model(inputs)
        after = model(inputs)
    torch.testing.assert_close(shown.float(), average.state_dict()["average"]["weight"].T, rtol=1e-2, atol=0)
    torch.testing.assert_close(after.float(), model.weight.detach().T, rtol=1e-2, atol=0)


def test_a_block_inside_cached_parametrizations_computes_with_the_averages():
    model = weight_norm(nn.Linear(4, 4, bias=False))
    average = Belay(model, Oscillator.ema(0.5))
    with torch.no_grad():
        model.parametrizations.weight.original1.mul_(-1.5)
    average.update()
    inputs = torch.eye(4)
    live = model(inputs)
    with average.average_parameters():
        expected = model(inputs)
    with parametrize.cached():
        model(inputs)
        with average.average_parameters():
            assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), live)


def test_a_call_is_the_averaged_model_between_a_students_forward_and_backward_pass(model, average):
    inputs = torch.randn(8, 2)
    with average.average_parameters():
        before = _copy(model)
        expected = model(inputs)
        model[1].running_mean.copy_(before["1.running_mean"])
    before = _copy(model)
    student = model(inputs)
    moved = _copy(model)
    teacher = average(inputs)
    assert torch.equal(teacher, expected)
    assert not teacher.requires_grad
    _assert_equal(_copy(model), moved)  # its statistics too
    (student - teacher).square().mean().backward()
    assert model[0].weight.grad is not None


def test_a_readout_lies_between_the_weights_and_the_averages(model, average):
    live, state = _copy(model), average.state_dict()["average"]
    with average.average_parameters(readout=0.25):
        for name, y in state.items():
            torch.testing.assert_close(_copy(model)[name], y + 0.75 * (live[name] - y))
        with pytest.raises(RuntimeError, match=r"got a block of readout=0\.25 around it"), average.average_parameters():
            pass
    with average.average_parameters(readout=0.0):
        for name in state:
            torch.testing.assert_close(_copy(model)[name], live[name])
    with pytest.raises(ValueError, match=r"^`readout` must be finite, got readout=inf\.$"):
        average.average_parameters(readout=float("inf")).__enter__()


def test_a_call_inside_cached_parametrizations_keeps_teacher_and_student_apart():
    model = weight_norm(nn.Linear(2, 3))
    average = Belay(model, Oscillator.ema(0.9))
    teacher = average(torch.ones(2))
    with torch.no_grad():
        model.parametrizations.weight.original1.add_(1)
    student = model(torch.ones(2))
    with parametrize.cached():
        for first in (model, average):
            second = average if first is model else model
            outputs = {first: first(torch.ones(2)), second: second(torch.ones(2))}
            torch.testing.assert_close(outputs[average], teacher)
            torch.testing.assert_close(outputs[model], student)
            assert outputs[model].requires_grad


def test_copy_to_a_model_that_holds_averages_is_refused(model, average):
    with average.average_parameters(), pytest.raises(RuntimeError, match="`copy_to` must be called outside"):
        average.copy_to(model)


@pytest.mark.parametrize("method", ["reset", "add_parameters"])
def test_what_is_refused_inside_a_block_is_called_by_its_name(average, method):
    with average.average_parameters(), pytest.raises(RuntimeError, match=f"`{method}` must be called outside"):
        getattr(average, method)()


def test_a_readout_goes_without_a_buffer_that_is_gone():
    model = _model()
    average = Belay(model, Oscillator.ema(0.9), buffers="average")
    average.update()
    model[1].running_mean = None
    with average.average_parameters(readout=0.5):
        assert model[1].running_mean is None


class Counted(nn.Linear):
    """A layer with something of its own in its checkpoints."""

    calls = 0

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_an_averaged_state_is_loaded_strictly_with_shared_modules_and_states_of_their_own(buffers):
    norm, counted = nn.BatchNorm1d(3), Counted(3, 3)
    counted.calls = 7
    model = nn.ModuleDict({"first": norm, "second": norm, "counted": counted})
    average = Belay(model, Oscillator.ema(0.9), buffers=buffers)
    with torch.no_grad():
        norm.weight.add_(1)
        norm.running_mean.add_(1)
    average.update()
    saved = average.averaged_state_dict()
    other = nn.ModuleDict({"first": (twin := nn.BatchNorm1d(3)), "second": twin, "counted": Counted(3, 3)})
    other.load_state_dict(saved)
    assert other["counted"].calls == 7
    torch.testing.assert_close(twin.weight.data, torch.full((3,), 1.1))
    torch.testing.assert_close(twin.running_mean, torch.full((3,), 0.1 if buffers == "average" else 1.0))

"""The contract that every average keeps: each oscillator, on each dtype of weights, in each kind of model."""

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from belay import Bank, Belay, Oscillator
from belay.names import parameters_of, unwrap
from belay.reference import step

OSCILLATORS = {
    "ema": Oscillator.ema(0.95),
    "damped": Oscillator(0.95, 0.2),
    "belay": Oscillator(0.95, 1.0, 0.05),
    "damped-belay": Oscillator(0.95, 0.2, 0.05),
    "push": Oscillator(0.9, 1.0, -0.05),
    "damped-push": Oscillator(0.9, 0.5, -0.1),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class Tied(nn.Module):
    """Two names for one weight, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(inputs)))


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4))


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def _frozen() -> nn.Module:
    model = _plain()
    model[0].requires_grad_(False)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": _plain,
    "tied": Tied,
    "batch-norm": _batch_norm,
    "frozen": _frozen,
    "compiled": _plain,
}


class Run:
    """A model in training with its optimizer and its average."""

    def __init__(self, kind: str, dtype: torch.dtype, oscillator: Oscillator, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.dtype = dtype
        self.bare = MODELS[kind]().to(dtype)
        self.model = torch.compile(self.bare, backend="eager") if kind == "compiled" else self.bare
        self.optimizer = torch.optim.SGD([p for p in self.bare.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        self.average = Belay(self.model, oscillator, buffers="average")

    def optimize(self, index: int) -> None:
        """One optimizer step, on a batch that its index decides."""
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(index)).to(self.dtype)
        (self.model(inputs) - inputs.flip(0)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, first: int, last: int) -> None:
        for index in range(first, last):
            self.optimize(index)
            self.average.update()


@pytest.fixture(autouse=True)
def _no_compiled_code_is_left() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture(params=MODELS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=DTYPES.values(), ids=DTYPES.keys())
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=OSCILLATORS.values(), ids=OSCILLATORS.keys())
def oscillator(request) -> Oscillator:
    return request.param


@pytest.fixture
def run(kind, dtype, oscillator) -> Run:
    return Run(kind, dtype, oscillator)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unwrap(module).state_dict().items()}


def _exactly(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)


def _assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_every_update_follows_the_reference(run, oscillator):
    parameters = parameters_of(run.bare)
    y = {name: _exactly(weight) for name, weight in parameters.items()}
    v = {name: torch.zeros_like(average) for name, average in y.items()}
    for index in range(5):
        run.optimize(index)
        expected = {}
        for name, weight in parameters.items():
            expected[name], y[name], v[name] = step(_exactly(weight), y[name], v[name], oscillator)
        run.average.update()
        averages = run.average.state_dict()["average"]
        assert averages.keys() == parameters.keys()
        rounding = 1e-13 if run.dtype == torch.float64 else 1e-6
        for name, weight in parameters.items():
            torch.testing.assert_close(averages[name].double(), y[name], rtol=0, atol=rounding)
            pulled = rounding if run.dtype != torch.bfloat16 else torch.finfo(torch.bfloat16).eps
            torch.testing.assert_close(weight.double(), expected[name], rtol=pulled, atol=rounding)


def test_the_average_is_kept_in_float32_or_better(run):
    for tensor in run.average.state_dict()["average"].values():
        assert tensor.dtype == torch.promote_types(run.dtype, torch.float32)


def test_a_velocity_is_kept_only_where_damping_is_not_one(run, oscillator):
    velocity = run.average.state_dict()["velocity"]
    assert (len(velocity) == 0) == (oscillator.damping == 1)


def test_a_swap_shows_the_averages_and_restores_the_weights_bit_for_bit_also_after_an_exception(run):
    run.train(0, 4)
    before = _tensors(run.model)

    def evaluate() -> None:
        with run.average.average_parameters():
            state = run.average.state_dict()
            for name, live in parameters_of(run.bare).items():
                assert torch.equal(live, state["average"][name].to(run.dtype))
            run.model(torch.ones(8, 4, dtype=run.dtype))  # moves the statistics of BatchNorm
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    _assert_equal(_tensors(run.model), before)


def test_training_goes_on_after_a_swap_as_if_there_had_been_none(run, kind, dtype, oscillator):
    run.train(0, 4)
    with run.average.average_parameters(), torch.inference_mode():
        run.model(torch.ones(8, 4, dtype=dtype))
    run.train(4, 8)
    undisturbed = Run(kind, dtype, oscillator)
    undisturbed.train(0, 8)
    _assert_equal(_tensors(run.model), _tensors(undisturbed.model))
    _assert_equal(run.average.state_dict()["average"], undisturbed.average.state_dict()["average"])


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, kind, dtype, oscillator):
    run.train(0, 4)
    file = io.BytesIO()
    states = {"model": run.bare, "optimizer": run.optimizer, "average": run.average}
    torch.save({name: part.state_dict() for name, part in states.items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Run(kind, dtype, Oscillator.ema(0.5), seed=1)  # all of it comes from the state
    resumed.bare.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.average.load_state_dict(saved["average"])
    assert resumed.average.oscillator == oscillator
    run.train(4, 8)
    resumed.train(4, 8)
    _assert_equal(_tensors(resumed.model), _tensors(run.model))
    for part in ("average", "velocity", "buffers"):
        _assert_equal(resumed.average.state_dict()[part], run.average.state_dict()[part])
    assert resumed.average.steps == run.average.steps == 8


def test_a_bank_keeps_the_same_averages_and_shows_and_restores_the_same(run, oscillator):
    uncoupled = Oscillator(oscillator.decay, oscillator.damping)
    run.average = Belay(run.model, uncoupled, buffers="average")
    bank = Bank(run.model, [Oscillator.ema(0.5), uncoupled], buffers="average")
    for index in range(4):
        run.optimize(index)
        run.average.update()
        bank.update()
    ours, theirs = bank.state_dict()["averages"][1], run.average.state_dict()
    for part in ("average", "velocity", "buffers"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in theirs[part].items():
            rounding = torch.finfo(tensor.dtype).eps
            torch.testing.assert_close(ours[part][name], tensor, rtol=4 * rounding, atol=rounding)
    before = _tensors(run.model)
    with bank.average_parameters(1):
        shown = _tensors(run.model)
    _assert_equal(_tensors(run.model), before)
    _assert_equal({name: shown[name] for name in bank.averaged_state_dict(1)}, bank.averaged_state_dict(1))


def test_copy_to_makes_a_model_that_computes_with_the_averages(run, kind, dtype, oscillator):
    run.train(0, 4)
    target = Run(kind, dtype, oscillator, seed=1).model
    before = _tensors(run.model)
    run.average.copy_to(target)
    _assert_equal(_tensors(run.model), before)
    with run.average.average_parameters():
        _assert_equal(_tensors(target), _tensors(run.model))
        inputs = torch.randn(8, 4).to(dtype)
        with torch.no_grad():
            assert torch.equal(target.eval()(inputs), run.model.eval()(inputs))


def test_a_copy_of_model_and_average_goes_on_by_itself(run):
    run.train(0, 3)
    twin = copy.deepcopy((run.bare, run.average))
    before = {name: tensor.clone() for name, tensor in run.average.state_dict()["average"].items()}
    with torch.no_grad():
        for parameter in twin[0].parameters():
            parameter.add_(1.0)
    twin[1].update()
    _assert_equal(run.average.state_dict()["average"], before)
    changed = twin[1].state_dict()["average"]
    assert all(not torch.equal(changed[name], before[name]) for name in before)


# --- what only some models have ---------------------------------------------------------------------------------------


def test_a_tied_weight_is_updated_once(dtype, oscillator):
    run = Run("tied", dtype, Oscillator(0.9, oscillator.damping, oscillator.coupling))
    assert set(run.average.state_dict()["average"]) == {"first.weight", "first.bias"}
    with torch.no_grad():
        run.bare.first.weight.copy_(run.average.state_dict()["average"]["first.weight"] + 1)
    gap = run.bare.first.weight.detach().float() - run.average.state_dict()["average"]["first.weight"]
    start = run.average.state_dict()["average"]["first.weight"].clone()
    run.average.update()
    moved = run.average.state_dict()["average"]["first.weight"] - start
    torch.testing.assert_close(moved, 0.1 * gap.to(moved.dtype), rtol=1e-4, atol=0)  # twice would be 0.19
    with run.average.average_parameters():
        assert run.bare.head.weight is run.bare.first.weight


def test_a_frozen_weight_stays_where_it_is(dtype, oscillator):
    run = Run("frozen", dtype, oscillator)
    before = run.bare[0].weight.clone()
    run.train(0, 6)
    assert torch.equal(run.bare[0].weight, before)
    assert torch.equal(run.average.state_dict()["average"]["0.weight"].to(dtype), before)
    assert not run.bare[0].weight.requires_grad


@pytest.mark.parametrize("buffers", ["copy", "average", "ignore"])
def test_after_copy_to_buffers_are_what_their_policy_says(dtype, oscillator, buffers):
    run = Run("batch-norm", dtype, oscillator)
    run.average = Belay(run.model, oscillator, buffers=buffers)
    statistics = run.bare[1]
    expected = _exactly(statistics.running_mean)
    share = oscillator.stiffness / oscillator.damping  # of the EMA of equal lag
    for index in range(5):
        run.optimize(index)
        run.average.update()
        expected += share * (statistics.running_mean.double() - expected)
    target = _batch_norm().to(dtype)
    run.average.copy_to(target)
    assert target[1].num_batches_tracked == (0 if buffers == "ignore" else 5)
    if buffers == "average":
        rounding = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
        torch.testing.assert_close(target[1].running_mean.double(), expected, rtol=rounding, atol=rounding * 0.1)
    else:
        latest = torch.zeros(5, dtype=dtype) if buffers == "ignore" else statistics.running_mean
        assert torch.equal(target[1].running_mean, latest)

"""`belay.methods`: each through the real `Belay` and optimizer, against its published recursion written out here."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from belay import Belay, Oscillator, methods
from belay.methods import Method

STEPS = 45
LR = {"sgd": 0.1, "adam": 0.01}
Gradient = Callable[[Tensor, int], Tensor]
Recursion = Iterator[dict[str, Tensor]]


class Problem:
    """A small network on noisy batches in float64, which the step number decides; its weights as one vector."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.start = self.weights

    @property
    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])

    def loss(self, step: int, weights: Tensor | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        targets = inputs.prod(dim=1, keepdim=True) + torch.randn(8, 1, generator=generator, dtype=torch.float64)
        if weights is None:
            return (self.model(inputs) - targets).square().mean()
        return (torch.func.functional_call(self.model, self.named(weights), inputs) - targets).square().mean()

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        parts = weights.split([parameter.numel() for parameter in self.model.parameters()])
        return {name: part.view_as(p) for (name, p), part in zip(self.model.named_parameters(), parts, strict=True)}

    def optimizer(self, base: str, factor: float) -> torch.optim.Optimizer:
        kind = torch.optim.SGD if base == "sgd" else torch.optim.Adam
        return kind(self.model.parameters(), lr=LR[base] * factor)

    def moves(self, base: str) -> Gradient:
        """The optimizer's step, -lr x direction, at any weights: from a weight of 0 that is put back each time."""
        origin = nn.Parameter(torch.zeros_like(self.start))
        optimizer = (torch.optim.SGD if base == "sgd" else torch.optim.Adam)([origin], lr=LR[base])

        def move(weights: Tensor, step: int) -> Tensor:
            at = weights.clone().requires_grad_()
            (origin.grad,) = torch.autograd.grad(self.loss(step, at), at)
            optimizer.step()
            moved = origin.detach().clone()
            origin.data.zero_()
            return moved

        return move


def averaged(problem: Problem, average: Belay) -> Tensor:
    kept = average.state_dict()["average"]
    return torch.cat([kept[name].flatten() for name, _ in problem.model.named_parameters()])


def run(problem: Problem, base: str, method: Method, choose: Callable[[int], Method] | None = None) -> Recursion:
    """Trains with `Belay`; after each update: model, average, readout, and what ``optimizer.step()`` had left."""
    optimizer = problem.optimizer(base, method.lr_factor)
    average = Belay(problem.model, method.oscillator, update_every=method.update_every)
    for step in range(STEPS):
        optimizer.zero_grad()
        problem.loss(step).backward()
        optimizer.step()
        stepped = problem.weights
        if choose:
            average.oscillator = choose(average.steps).oscillator
        average.update()
        with average.average_parameters(readout=method.readout):
            readout = problem.weights
        yield {"model": problem.weights, "average": averaged(problem, average), "readout": readout, "stepped": stepped}


def assert_same(found: Recursion, published: Recursion) -> None:
    """Every sequence that the published recursion names, at every step, to 1e-12 of its size."""
    count = 0
    for ours, theirs in zip(found, published, strict=False):
        for name, expected in theirs.items():
            error = (ours[name] - expected).abs().max() / expected.abs().max()
            assert error <= 1e-12, (count, name, float(error))
        count += 1
    assert count == STEPS


# --- the published recursions: what they hold after each step ---------------------------------------------------------


def _nesterov(move: Gradient, start: Tensor, momentum: float) -> Recursion:
    iterate, ahead = start, start
    for step in range(STEPS):
        before, iterate = iterate, ahead + move(ahead, step)
        ahead = iterate + momentum * (iterate - before)
        yield {"model": ahead, "average": iterate, "readout": iterate}


def _lookahead(move: Gradient, start: Tensor, alpha: float, every: int) -> Recursion:
    slow, fast = start, start
    for step in range(STEPS):
        fast = fast + move(fast, step)
        if (step + 1) % every == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow
        yield {"model": fast, "average": slow, "readout": slow}


def _ema_of_ema(move: Gradient, start: Tensor, first: float, second: float) -> Recursion:
    model, inner, outer = start, start, start
    for step in range(STEPS):
        model = model + move(model, step)
        inner = first * inner + (1 - first) * model
        outer = second * outer + (1 - second) * inner
        yield {"model": model, "average": outer, "readout": outer}


def _elastic(move: Gradient, start: Tensor, alpha: float, beta: float) -> Recursion:
    worker, centre = start, start
    for step in range(STEPS):
        pull = worker - centre
        worker, centre = worker + move(worker, step) - alpha * pull, centre + beta * pull
        ahead = centre + beta * (worker - centre)  # the centre of the next step
        yield {"model": worker, "average": ahead, "readout": ahead}


def _pace(move: Gradient, start: Tensor, pull: float, rate: float) -> Recursion:
    model, ema = start, start
    for step in range(STEPS):
        model = model + move(model, step) - pull * (model - ema)
        ema = ema + rate * (model - ema)
        yield {"model": model, "average": ema, "readout": ema}


def _primal_averaging(move: Gradient, start: Tensor, mu_x: float, mu_y: float) -> Recursion:
    average, unseen, point = start, start, start
    for step in range(STEPS):
        unseen = unseen + move(point, step)
        average = mu_x * average + (1 - mu_x) * unseen
        point = mu_y * average + (1 - mu_y) * unseen
        yield {"model": point, "average": average, "readout": average}


def _ema_nesterov(move: Gradient, start: Tensor, gamma: float, beta: float) -> Recursion:
    point, ema = start, start
    for step in range(STEPS):
        model = point + move(point, step)
        before, ema = ema, gamma * ema + (1 - gamma) * model
        point = model + beta * (ema - before)
        yield {"model": point, "average": ema, "readout": model, "stepped": model}


METHODS = {
    methods.nesterov: (_nesterov, [(0.9,), (0.5,), (0.0,)]),
    methods.lookahead: (_lookahead, [(0.5, 5), (0.8, 6), (1.0, 3), (0.3, 1), (0.01, 20)]),
    methods.ema_of_ema: (_ema_of_ema, [(0.9, 0.5), (0.5, 0.99), (0.9, 0.9), (0.7, 0.0), (0.0, 0.0)]),
    methods.elastic: (_elastic, [(0.1, 0.1), (0.01, 0.9), (0.0, 0.3), (0.5, 0.2)]),
    methods.pace: (_pace, [(0.1, 0.1), (0.01, 1.0), (0.0, 0.3), (0.9, 0.2)]),
    methods.primal_averaging: (_primal_averaging, [(0.9, 0.8), (0.99, 0.5), (0.9, 0.9), (0.5, 0.0)]),
    methods.ema_nesterov: (_ema_nesterov, [(0.9, 0.9), (0.5, 0.3), (0.0, 0.9), (0.9, 0.0), (0.0, 0.0)]),
}
CASES = [(make, published, values) for make, (published, lists) in METHODS.items() for values in lists]


@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("make", "published", "values"), CASES, ids=lambda case: getattr(case, "__name__", str(case)).lstrip("_")
)
def test_a_method_is_its_published_recursion_to_rounding(make, published, values, base):
    problem = Problem()
    assert_same(run(problem, base, make(*values)), published(problem.moves(base), problem.start, *values))
    assert (problem.weights - problem.start).abs().max() > 1e-3


# --- Schedule-Free, which varies with time ----------------------------------------------------------------------------


def _schedule_free(move: Gradient, start: Tensor, beta: float, first: int) -> Recursion:
    average, unseen, point = start, start, start
    for step in range(STEPS):
        unseen = unseen + move(point, step)
        average = average + (unseen - average) / (first + step + 1)
        point = beta * average + (1 - beta) * unseen
        yield {"model": point, "average": average, "readout": average}


@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize(("beta", "first"), [(0.9, 9), (0.98, 49), (0.5, 1), (0.0, 0), (0.95, 30)])
def test_schedule_free_is_its_published_recursion_from_the_first_step_that_it_exists_at(beta, first, base):
    problem, method = Problem(), methods.schedule_free(beta)
    assert method.first <= first
    found = run(problem, base, method(first), lambda done: method(first + done))
    assert_same(found, _schedule_free(problem.moves(base), problem.start, beta, first))


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999])
def test_schedule_free_exists_from_the_step_at_which_its_stiffness_is_at_most_one(beta):
    method = methods.schedule_free(beta)
    assert method.first == math.ceil(round(1 / (1 - beta), 9)) - 1
    assert method(method.first).oscillator.stiffness <= 1
    if method.first:
        assert 1 / (method.first * (1 - beta)) > 1  # the stiffness of the step before
        with pytest.raises(ValueError, match=rf"^`step` must be at least {method.first} for beta={beta}, got step="):
            method(method.first - 1)


@pytest.mark.parametrize("done", [9, 25])
def test_a_run_of_the_package_schedulefree_goes_on_as_one_of_belay(done):
    package = pytest.importorskip("schedulefree")
    problem, method = Problem(), methods.schedule_free(0.9)
    theirs = package.SGDScheduleFree(problem.model.parameters(), lr=LR["sgd"], momentum=0.9)

    theirs.train()
    for step in range(done):
        theirs.zero_grad()
        problem.loss(step).backward()
        theirs.step()
    theirs.eval()
    handed_over = Problem()
    handed_over.model.load_state_dict(problem.model.state_dict())
    average = Belay(handed_over.model, method(done).oscillator)  # starts at their averages
    theirs.train()
    handed_over.model.load_state_dict(problem.model.state_dict())
    ours = torch.optim.SGD(handed_over.model.parameters(), lr=LR["sgd"] * method(done).lr_factor)
    for step in range(done, done + STEPS):
        for side, optimizer in ((problem, theirs), (handed_over, ours)):
            optimizer.zero_grad()
            side.loss(step).backward()
            optimizer.step()
        average.oscillator = method(step).oscillator
        average.update()
        torch.testing.assert_close(handed_over.weights, problem.weights, rtol=1e-12, atol=1e-12)
        theirs.eval()
        torch.testing.assert_close(averaged(handed_over, average), problem.weights, rtol=1e-12, atol=1e-12)
        theirs.train()


# --- against torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_nesterov_s_model_is_the_parameters_of_torch_sgd_with_nesterov(momentum):
    torch_run = Problem()
    optimizer = torch.optim.SGD(torch_run.model.parameters(), lr=LR["sgd"], momentum=momentum, nesterov=True)

    def published() -> Recursion:
        for step in range(STEPS):
            optimizer.zero_grad()
            torch_run.loss(step).backward()
            optimizer.step()
            yield {"model": torch_run.weights}

    assert_same(run(Problem(), "sgd", methods.nesterov(momentum)), published())


def test_switch_ema_is_a_coupling_of_decay_at_the_last_step_of_each_epoch():
    problem, epoch = Problem(), 10
    move, plain = problem.moves("sgd"), Oscillator.ema(0.9)
    switch = Oscillator(0.9, coupling=0.9)

    def published() -> Recursion:
        model = ema = problem.start
        for step in range(STEPS):
            model = model + move(model, step)
            ema = 0.9 * ema + 0.1 * model
            model = ema if (step + 1) % epoch == 0 else model
            yield {"model": model, "average": ema}

    def choose(done: int) -> Method:
        return Method(switch if (done + 1) % epoch == 0 else plain)

    assert_same(run(problem, "sgd", Method(plain), choose), published())


# --- what the oscillator says of them ---------------------------------------------------------------------------------


@given(st.floats(0, 0.999))
def test_nesterov_s_figures_are_the_known_ones(momentum):
    oscillator = methods.nesterov(momentum).oscillator
    assert oscillator.max_stable_step == pytest.approx((2 + 2 * momentum) / (1 + 2 * momentum), rel=1e-12)
    assert oscillator.slow_mode_lr_factor == pytest.approx(1 / (1 - momentum), rel=1e-12)
    assert oscillator.immediate_lr_factor == 1 + momentum


@given(st.floats(0.001, 1), st.integers(1, 1000))
def test_lookahead_s_oscillator_is_its_own_rescaled_to_one_update(alpha, every):
    each = methods.lookahead(alpha, every).oscillator.rescale(every)
    assert each.stiffness == pytest.approx(alpha, rel=1e-9)
    assert each.coupling == pytest.approx(1 - alpha, rel=1e-9, abs=1e-15)


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_poles_of_an_ema_of_an_ema_are_the_two_decays(first, second):
    oscillator = methods.ema_of_ema(first, second).oscillator
    slow, fast = oscillator.poles
    assert [slow.real, fast.real] == pytest.approx(sorted((first, second), reverse=True), abs=1e-6)
    assert oscillator.regime in ("overdamped", "critical")


@given(st.floats(0.001, 0.999), st.floats(0, 0.999))
def test_pushing_methods_push_and_pulling_ones_pull_wherever_they_are_defined(mu, share):
    assert methods.primal_averaging(mu, share * mu).oscillator.coupling <= 0
    assert methods.ema_nesterov(mu, share).oscillator.coupling <= 0
    assert methods.pace(share, 1 - mu).oscillator.coupling >= 0
    assert methods.elastic(share * mu, 1 - mu).oscillator.coupling >= 0


# --- arguments --------------------------------------------------------------------------------------------------------


BELOW_ONE, PART = r"must be in \[0, 1\), got", r"must be in \(0, 1\], got"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: methods.nesterov(1), ValueError, rf"`momentum` {BELOW_ONE} momentum=1\.0\."),
        (lambda: methods.nesterov(-0.1), ValueError, rf"`momentum` {BELOW_ONE} momentum=-0\.1\."),
        (lambda: methods.nesterov(math.nan), ValueError, rf"`momentum` {BELOW_ONE} momentum=nan\."),
        (lambda: methods.nesterov("0.9"), TypeError, r"`momentum` must be a real number, got '0\.9'\."),
        (lambda: methods.lookahead(0, 5), ValueError, rf"`alpha` {PART} alpha=0\.0\."),
        (lambda: methods.lookahead(1.5, 5), ValueError, rf"`alpha` {PART} alpha=1\.5\."),
        (lambda: methods.lookahead(0.5, 0), ValueError, r"`every` must be a whole number of at least 1, got 0\."),
        (lambda: methods.ema_of_ema(1, 0), ValueError, rf"`first` {BELOW_ONE} first=1\.0\."),
        (lambda: methods.ema_of_ema(0, 1), ValueError, rf"`second` {BELOW_ONE} second=1\.0\."),
        (lambda: methods.elastic(0.1, 0), ValueError, r"`beta` must be in \(0, 1\), got beta=0\.0\."),
        (
            lambda: methods.elastic(0.5, 0.5),
            ValueError,
            r"`alpha` must be in \[0, 1 - beta\), got alpha=0\.5, beta=0\.5; lower one of them\.",
        ),
        (lambda: methods.pace(1, 0.1), ValueError, rf"`pull` {BELOW_ONE} pull=1\.0\."),
        (lambda: methods.pace(0.1, 0), ValueError, rf"`rate` {PART} rate=0\.0\."),
        (
            lambda: methods.primal_averaging(0.8, 0.9),
            ValueError,
            r"`mu_x` must be in \[mu_y, 1\), got mu_x=0\.8, mu_y=0\.9; raise `mu_x` or lower `mu_y`\.",
        ),
        (lambda: methods.ema_nesterov(0.9, 1), ValueError, rf"`beta` {BELOW_ONE} beta=1\.0\."),
        (lambda: methods.ema_nesterov(1, 0.9), ValueError, rf"`gamma` {BELOW_ONE} gamma=1\.0\."),
        (lambda: methods.schedule_free(1), ValueError, rf"`beta` {BELOW_ONE} beta=1\.0\."),
        (lambda: methods.schedule_free(0.9)(-1), ValueError, r"`step` must be a whole number of at least 0, got -1\."),
        (
            lambda: methods.schedule_free(0.9)(8),
            ValueError,
            r"`step` must be at least 9 for beta=0\.9, got step=8; begin to count at `first`\.",
        ),
    ],
)
def test_a_method_refuses_what_it_is_not_defined_for(make, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        make()


def test_a_method_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods.nesterov(0.9).lr_factor = 2.0

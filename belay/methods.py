"""Known training methods as settings of the oscillator: each by its own name, with its own paper's parameters.

To rounding, a method of this file is `Belay` beside any optimizer that moves the model by learning rate times direction
(SGD, Adam, ...):

    m = methods.lookahead(alpha=0.5, every=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=m.lr_factor * lr)
    average = Belay(model, m.oscillator, update_every=m.update_every)

Below, x are the model's weights, y the averages, g the direction at x, lr the method's own learning rate; all start at
the same weights. x' is the model between ``optimizer.step()`` and ``average.update()``.

Not members:

- heavy ball (torch's SGD with ``momentum`` and without ``nesterov``): the limit of a coupling to minus infinity;
- SlowMo: sets the model to an average that keeps a velocity, so that it moves by no fixed share of the stretch;
- DEMA, Holt's method: their filter has a zero, this one has none;
- BEMA: adds a multiple of ``x - x_0``, which varies with time, to what is read out;
- LAWA, WSM: kernels of finite length, over the last checkpoints only;
- AdEMAMix, MARS: filter gradients, not weights;
- Switch EMA: its coupling varies with time. It is 0, and `decay` at the last step of each epoch, where the model is set
  to its average: assign ``average.oscillator = Oscillator(decay, coupling=decay)`` for that step's ``update``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from belay.checks import real, whole
from belay.oscillator import Oscillator

__all__ = [
    "Method",
    "ScheduleFree",
    "elastic",
    "ema_nesterov",
    "ema_of_ema",
    "lookahead",
    "nesterov",
    "pace",
    "primal_averaging",
    "schedule_free",
]


@dataclass(frozen=True, slots=True)
class Method:
    """What makes `Belay` and an optimizer a known method.

    Attributes:
        oscillator: Decay, damping and coupling in optimizer steps, for `Belay`.
        lr_factor: What the method's learning rate is multiplied by for the optimizer, > 0.
        update_every: For `Belay`.
        readout: Where the weights that the method returns lie, after ``update``, between model and average, in [0, 1]:
            ``y + (1 - readout) (x - y)``, so that 1 is the average and 0 the model.
    """

    oscillator: Oscillator
    lr_factor: float = 1.0
    update_every: int = 1
    readout: float = 1.0


def nesterov(momentum: float) -> Method:
    """Nesterov's momentum: ``y <- x - lr g; x <- y + momentum (y - y before)``.

    After ``update`` the average is the iterate y that the theory is about. The model is the look-ahead point x: that is
    what ``torch.optim.SGD(momentum=momentum, nesterov=True)`` keeps in its parameters.

    Args:
        momentum: In [0, 1).

    Returns:
        Decay 0, damping 1, coupling ``-momentum``.

    Raises:
        ValueError: `momentum` is out of range.

    Source: Y. Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k^2)", 1983.

    >>> nesterov(0.9).oscillator
    Oscillator(decay=0.0, damping=1.0, coupling=-0.9)
    """
    return Method(Oscillator(0.0, coupling=-_below_one("momentum", momentum)))


def lookahead(alpha: float, every: int) -> Method:
    """Lookahead: after each `every` steps ``y <- y + alpha (x' - y); x <- y``; also Reptile on one task.

    The average is the slow weights at any time. The oscillator is that of one step, ``decay = (1 - alpha)^(1/every)``
    and ``coupling = (1 - alpha) (1 - decay) / alpha``: `Belay` with the method's `update_every` rescales it to
    stiffness `alpha` and coupling ``1 - alpha`` for each update.

    Args:
        alpha: Step of the slow weights, in (0, 1].
        every: Fast steps for each slow one, >= 1.

    Returns:
        Damping 1, coupling at least 0; `update_every` is `every`.

    Raises:
        ValueError: An argument is out of range.

    Source: M. Zhang, J. Lucas, G. Hinton, J. Ba, "Lookahead optimizer: k steps forward, 1 step back", arXiv 1907.08610;
    A. Nichol, J. Achiam, J. Schulman, "On first-order meta-learning algorithms" (Reptile), arXiv 1803.02999.

    >>> lookahead(0.5, every=1).oscillator
    Oscillator(decay=0.5, damping=1.0, coupling=0.5)
    """
    alpha, every = _part("alpha", alpha), whole("every", every, least=1)
    uncoupled = Oscillator((1 - alpha) ** (1 / every))
    coupling = (1 - alpha) * uncoupled.stiffness / alpha
    return Method(Oscillator(uncoupled.decay, coupling=coupling), update_every=every)


def ema_of_ema(first: float, second: float) -> Method:
    """An EMA of an EMA: ``e <- first e + (1 - first) x; y <- second y + (1 - second) e``.

    Every damped average that has a damping below 1 and does not swing is one of these.

    Args:
        first: Decay of the inner EMA, in [0, 1).
        second: Decay of the outer EMA, in [0, 1); the two may be exchanged.

    Returns:
        ``decay = 1 - (1 - first) (1 - second)``, ``damping = 1 - first second``, coupling 0.

    Raises:
        ValueError: An argument is out of range.

    Source: two first-order filters in a row are one of second order; its poles are `first` and `second`.

    >>> ema_of_ema(0.5, 0.75).oscillator
    Oscillator(decay=0.875, damping=0.625, coupling=0.0)
    """
    first, second = _below_one("first", first), _below_one("second", second)
    return Method(Oscillator(1 - (1 - first) * (1 - second), damping=1 - first * second))


def elastic(alpha: float, beta: float) -> Method:
    """Elastic averaging SGD of one worker: ``x <- x - lr g - alpha (x - z); z <- z + beta (x before - z)``.

    The average is the centre z one step ahead: after ``update`` it is the centre that the published recursion, in which
    worker and centre move at once, has after one step more.

    Args:
        alpha: Elastic pull on the worker, in [0, 1 - beta).
        beta: Step of the centre, in (0, 1).

    Returns:
        ``coupling = alpha / (1 - beta)``, stiffness ``beta (1 - coupling)``, damping 1; learning rate times
        ``1 / (1 - coupling)``.

    Raises:
        ValueError: An argument is out of range.

    Source: S. Zhang, A. Choromanska, Y. LeCun, "Deep learning with elastic averaging SGD", arXiv 1412.6651.

    >>> elastic(alpha=0.25, beta=0.5)
    Method(oscillator=Oscillator(decay=0.75, damping=1.0, coupling=0.5), lr_factor=2.0, update_every=1, readout=1.0)
    """
    alpha, beta = _below_one("alpha", alpha), _below_one("beta", beta)
    if beta == 0:
        raise ValueError(f"`beta` must be in (0, 1), got {beta=}.")
    if not alpha < 1 - beta:
        raise ValueError(f"`alpha` must be in [0, 1 - beta), got {alpha=}, {beta=}; lower one of them.")
    return pace(alpha / (1 - beta), beta)


def pace(pull: float, rate: float) -> Method:
    """PACE with a constant pull: ``x <- x - lr g - pull (x - y); y <- y + rate (x - y)``, the new x in the second.

    The published method limits the pull for each coordinate; this does not.

    Args:
        pull: Share by which the model is drawn to its EMA each step, in [0, 1).
        rate: 1 - decay of the EMA, in (0, 1].

    Returns:
        Stiffness ``rate (1 - pull)``, damping 1, ``coupling = pull``; learning rate times ``1 / (1 - pull)``.

    Raises:
        ValueError: An argument is out of range.

    Source: PACE, arXiv 2606.25086.

    >>> pace(pull=0.5, rate=0.5).oscillator
    Oscillator(decay=0.75, damping=1.0, coupling=0.5)
    """
    pull, rate = _below_one("pull", pull), _part("rate", rate)
    return Method(Oscillator(1 - rate * (1 - pull), coupling=pull), lr_factor=1 / (1 - pull))


def primal_averaging(mu_x: float, mu_y: float) -> Method:
    """Generalized primal averaging (GPA): gradients between the average y and an unseen iterate z.

    ``x = mu_y y + (1 - mu_y) z; z <- z - lr g; y <- mu_x y + (1 - mu_x) z``: the model is the point x at which the
    gradient is taken. (The paper calls the average x and that point y.)

    Args:
        mu_x: Decay of the average, in [mu_y, 1).
        mu_y: Share of the average in the point of the gradient, in [0, 1).

    Returns:
        Stiffness ``k = (1 - mu_x) / (1 - mu_y)``, damping 1, ``coupling = -mu_y k``; learning rate times ``1 - mu_y``.

    Raises:
        ValueError: An argument is out of range; with `mu_x` below `mu_y` the stiffness would be above 1.

    Source: generalized primal averaging, arXiv 2512.17131.

    >>> primal_averaging(mu_x=0.75, mu_y=0.5).oscillator
    Oscillator(decay=0.5, damping=1.0, coupling=-0.25)
    """
    mu_x, mu_y = _below_one("mu_x", mu_x), _below_one("mu_y", mu_y)
    if mu_x < mu_y:
        raise ValueError(f"`mu_x` must be in [mu_y, 1), got {mu_x=}, {mu_y=}; raise `mu_x` or lower `mu_y`.")
    uncoupled = Oscillator((mu_x - mu_y) / (1 - mu_y))
    return Method(Oscillator(uncoupled.decay, coupling=-mu_y * uncoupled.stiffness), lr_factor=1 - mu_y)


def ema_nesterov(gamma: float, beta: float) -> Method:
    """EMA-Nesterov: ``x' = x - lr g; y <- gamma y + (1 - gamma) x'; x <- x' + beta (y - y before)``.

    It returns x', what ``optimizer.step()`` left. After ``update`` this lies between model and average, where `readout`
    says: ``beta (1 - gamma) / (gamma + beta (1 - gamma))``.

    Args:
        gamma: Decay of the EMA, in [0, 1).
        beta: Share of the EMA's step that is added to the model's, in [0, 1).

    Returns:
        ``decay = gamma``, damping 1, ``coupling = -beta (1 - gamma)``.

    Raises:
        ValueError: An argument is out of range.

    Source: EMA-Nesterov, arXiv 2605.25395.

    >>> method = ema_nesterov(gamma=0.75, beta=0.5)
    >>> method.oscillator, round(method.readout, 6)
    (Oscillator(decay=0.75, damping=1.0, coupling=-0.125), 0.142857)
    """
    gamma, beta = _below_one("gamma", gamma), _below_one("beta", beta)
    push = beta * (1 - gamma)
    return Method(Oscillator(gamma, coupling=-push), readout=push / (gamma + push) if gamma else 1.0)


@dataclass(frozen=True, slots=True)
class ScheduleFree:
    """Schedule-Free at each step; made by `schedule_free`.

    Attributes:
        beta: Share of the average in the point of the gradient, in [0, 1).
    """

    beta: float

    @property
    def first(self) -> int:
        """The first step (from 0) at which it is an oscillator, where ``1 / (step + 1) <= 1 - beta``: 9 for 0.9."""
        return math.ceil((1 - 1e-12) / (1 - self.beta)) - 1  # 1 / (1 - 0.9) is a little above 10 in floating point

    def __call__(self, step: int) -> Method:
        """The method of one step.

        Args:
            step: Optimizer steps done before it, >= `first`.

        Returns:
            Stiffness ``k = 1 / ((step + 1) (1 - beta))``, damping 1, ``coupling = -beta k``; learning rate times
            ``1 - beta``.

        Raises:
            ValueError: `step` is less than `first`, where the stiffness would be above 1.
        """
        first, step = self.first, whole("step", step, least=0)
        if step < first:
            raise ValueError(
                f"`step` must be at least {first} for beta={self.beta}, got {step=}; begin to count at `first`."
            )
        uncoupled = Oscillator(max(0.0, 1 - 1 / ((step + 1) * (1 - self.beta))))
        return Method(Oscillator(uncoupled.decay, coupling=-self.beta * uncoupled.stiffness), lr_factor=1 - self.beta)


def schedule_free(beta: float) -> ScheduleFree:
    """Schedule-Free: ``x = beta y + (1 - beta) z; z <- z - lr g; y <- y + (z - y) / (step + 1)``.

    It is `primal_averaging` whose decay varies with time, so that y is the mean of all z. Give `Belay` the oscillator
    of each step:

        method = schedule_free(0.9)
        optimizer = torch.optim.SGD(model.parameters(), lr=method(method.first).lr_factor * lr)
        average = Belay(model, method(method.first).oscillator)
        ...
            optimizer.step()
            average.oscillator = method(method.first + average.steps).oscillator
            average.update()

    **It exists from step `first` on**, ``1 / (1 - beta) - 1`` rounded up: before, the stiffness would be above 1. So
    the count begins there, which gives the start the weight of `first` steps in the mean of all. To go on with a run of
    the package ``schedulefree``, make the `Belay` after its ``optimizer.eval()``, then call its ``optimizer.train()``,
    and count the steps it has done. The model is the point x of the gradient, the average is what the method returns.
    All steps weigh the same here; the package gives those of a warm-up less weight.

    Args:
        beta: Share of the average in the point of the gradient, in [0, 1); 0 is Polyak's average of all iterates.

    Returns:
        A callable of the step number that returns that step's `Method`.

    Raises:
        ValueError: `beta` is out of range.

    Source: A. Defazio et al., "The road less scheduled", arXiv 2405.15682.

    >>> schedule_free(0.5)(3).oscillator
    Oscillator(decay=0.5, damping=1.0, coupling=-0.25)
    """
    return ScheduleFree(_below_one("beta", beta))


def _below_one(name: str, value: object) -> float:
    """A real number in [0, 1)."""
    number = real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {name}={number}.")
    return number


def _part(name: str, value: object) -> float:
    """A real number in (0, 1]."""
    number = real(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"`{name}` must be in (0, 1], got {name}={number}.")
    return number

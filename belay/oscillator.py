"""The averaged weights as a damped oscillator: decay, damping and coupling, and everything that follows from them.

Model weights ``x``, averaged weights ``y`` (mass 1) and the velocity ``v`` of ``y``, joined by a zero-length spring of
stiffness ``k = 1 - decay`` with friction ``c = damping``; time is counted in optimizer steps. After the optimizer has
moved ``x`` to ``x'``:

    d = x' - y                  the stretch of the spring
    v <- (1 - c) v + k d
    y <- y + v
    x <- x' - coupling d        the reaction on the model weights

``damping = 1, coupling = 0`` is the exponential moving average (EMA), exactly. ``coupling > 0`` pulls the model back to
its average: BELAY. ``coupling < 0`` pushes it on, ahead of its average: Nesterov's momentum is of this half
(`belay.methods` has it and its relatives by name).

Source: J. Patsenker, H. Li, Y. Kluger, "Exponential weight averaging as damped harmonic motion", 2023,
arXiv 2310.13854, for the oscillator and for BELAY. This discretisation and what is derived from it are this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from belay import coupled, response
from belay.checks import nonnegative, positive, real, whole

ROUNDED = 1e-3  # share of a lag by which rounding may have changed it
Regime = Literal["overdamped", "critical", "underdamped", "alternating"]


@dataclass(frozen=True, slots=True)
class Oscillator:
    """One weight average: how long it remembers, how it is damped, and how hard it pulls or pushes the model.

    Model and average must stay together when there is no gradient. They do exactly where

        (1 - decay) + coupling damping > 0
        (1 - coupling) (1 - damping) < 1
        1 - decay < (2 - damping) (2 - coupling)

    Args:
        decay: EMA decay, in [0, 1); the spring's stiffness is ``1 - decay``.
        damping: Share of the velocity lost to friction each step, in (0, 2); 1 is EMA.
        coupling: Share of the stretch by which the model is pulled back (above 0) or pushed on (below 0) each step, in
            (-(1 - decay) / damping, 1); 0 leaves training alone.

    Raises:
        ValueError: An argument is out of range, or one of the three conditions is broken.
        TypeError: An argument is not a real number.

    >>> Oscillator(decay=0.99, damping=0.1).regime
    'underdamped'
    """

    decay: float
    damping: float = 1.0
    coupling: float = 0.0

    def __post_init__(self) -> None:
        for name in ("decay", "damping", "coupling"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        decay, damping, coupling = self.decay, self.damping, self.coupling
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay=}.")
        if not abs(1 - damping) < 1:
            raise ValueError(f"`damping` must be in (0, 2), got {damping=}.")
        if not coupling < 1:
            raise ValueError(f"`coupling` must be below 1, got {coupling=}; lower it.")
        if broken := coupled.broken_condition(self.stiffness, damping, coupling):
            condition, advice = broken
            raise ValueError(
                f"model and average must stay together without a gradient, `{condition}`, got {decay=}, {damping=}, "
                f"{coupling=}; {advice}."
            )

    # --- constructors ------------------------------------------------------------------------------------------------

    @classmethod
    def ema(cls, decay: float) -> Oscillator:
        """The exponential moving average: ``y <- decay y + (1 - decay) x``, with `decay` in [0, 1)."""
        return cls(decay)

    @classmethod
    def from_half_life(cls, steps: float) -> Oscillator:
        """The EMA that forgets half of the past in `steps` optimizer steps (> 0): ``decay = 2 ** (-1 / steps)``."""
        return cls(2 ** (-1 / positive("steps", steps)))

    @classmethod
    def critical(cls, lag: float) -> Oscillator:
        """The critically damped average of mean age `lag` steps (> 0).

        Its double pole is ``p = lag / (lag + 2)``. It forgets the start twice as fast as the EMA of equal lag, at equal
        noise.

        Raises:
            ValueError: `lag` is out of range, or no decay in double precision has it to a thousandth.
        """
        gap = 2 / (positive("lag", lag) + 2)
        return cls(1 - gap * gap, damping=gap * (2 - gap))._of_lag(lag)

    @classmethod
    def from_damping_ratio(cls, damping_ratio: float, lag: float) -> Oscillator:
        """The average of the given damping ratio and mean age.

        Args:
            damping_ratio: zeta of the poles' logarithms, > 0: below 1 underdamped, 1 critical, above overdamped,
                ``math.inf`` the EMA.
            lag: Mean age of the averaged weights in steps, > 0.

        Returns:
            The uncoupled oscillator with these two figures; the EMA where the fast mode vanishes in rounding.

        Raises:
            ValueError: An argument is out of range, or no decay in double precision has that lag to a thousandth.

        >>> round(Oscillator.from_damping_ratio(0.5, lag=20).damping_ratio, 12)
        0.5
        """
        lag = positive("lag", lag)
        if damping_ratio == math.inf:
            return cls(lag / (lag + 1))
        stiffness, damping = response.solve_lag(positive("damping_ratio", damping_ratio), lag)
        return cls(1 - stiffness, damping=damping)._of_lag(lag)

    def _of_lag(self, lag: float) -> Oscillator:
        """Itself, unless rounding has left it another lag than was asked for."""
        if not abs(self.lag - lag) <= ROUNDED * (lag + 1):
            raise ValueError(
                f"`lag` must be short enough that 1 - decay has digits left, got {lag=} with a stiffness of "
                f"{self.stiffness:.3g}, whose lag is {self.lag:.4g}; average every n-th step (`update_every`) instead."
            )
        return self

    # --- the average as a filter of the model's weights ---------------------------------------------------------------

    @property
    def stiffness(self) -> float:
        """Spring constant ``k = 1 - decay``, in (0, 1]."""
        return 1 - self.decay

    @property
    def poles(self) -> tuple[complex, complex]:
        """Roots of ``z^2 - (2 - c - k) z + (1 - c)``, slowest first; of a pair the one above the real axis first."""
        return response.poles(self.stiffness, self.damping)

    @property
    def critical_stiffness(self) -> float:
        """Stiffness at which this damping is critical, ``(1 - sqrt(1 - c))^2``; nan above damping 1, where none is."""
        if self.damping > 1:
            return math.nan
        return response.critical_stiffness(self.damping)

    @property
    def regime(self) -> Regime:
        """How the average comes to rest; EMA (damping 1) is overdamped, the massless limit.

        It counts as critical as far as floating point can tell. Above damping 1 it rings with alternating sign.
        """
        if self.damping > 1:
            return "alternating"
        if response.is_critical(self.stiffness, self.damping):
            return "critical"
        return "underdamped" if response.is_underdamped(self.stiffness, self.damping) else "overdamped"

    @property
    def lag(self) -> float:
        """Mean age of the averaged weights, in steps: ``c / k - 1``. Negative where the average runs ahead.

        By as many steps the average trails a model that drifts steadily; with coupling, the model as the optimizer left
        it, before the pull.
        """
        return self.damping / self.stiffness - 1

    @property
    def half_life(self) -> float:
        """Steps in which the slowest mode halves: ``ln 2 / -ln max|pole|``; 0 if nothing is remembered.

        It is inf, as are noise gain, overshoot and settling time, where only a coupling below 0 keeps the average from
        ringing ever louder: ``1 - decay >= 2 (2 - damping)``, which needs a damping of 1.5 or more.
        """
        slowest = abs(self.poles[0])
        if slowest == 0:
            return 0.0
        if not response.is_stable(self.stiffness, self.damping):
            return math.inf
        return math.log(2) / -response.log_modulus(self.stiffness, self.damping)

    @property
    def noise_gain(self) -> float:
        """Variance of the average over the variance of white noise in the model: ``k (2-c) / (c (4-2c-k))``."""
        k, c = self.stiffness, self.damping
        if not response.is_stable(k, c):
            return math.inf
        return k * (2 - c) / (c * (4 - 2 * c - k))

    @property
    def natural_frequency(self) -> float:
        """Undamped frequency of the poles' logarithms, in radians a step; inf for EMA, nan above damping 1."""
        return response.frequency_and_ratio(self.stiffness, self.damping)[0]

    @property
    def damping_ratio(self) -> float:
        """Damping ratio of the poles' logarithms (1 is critical); inf for EMA, nan above damping 1.

        Read from ``s = log z``, as control toolboxes do for discrete systems. The continuous-time formula
        ``c / (2 sqrt(k))`` agrees with it only where damping and stiffness are small.
        """
        return response.frequency_and_ratio(self.stiffness, self.damping)[1]

    @property
    def overshoot(self) -> float:
        """How far the average of a unit step rises above 1, as a share of the step; 0 unless it swings."""
        return response.overshoot(self.stiffness, self.damping)

    @property
    def settling_time(self) -> int | float:
        """First step from which the average of a unit step stays within 2 % of it; the step itself is step 0.

        A whole number, or inf (see `half_life`).
        """
        return response.settling_time(self.stiffness, self.damping, band=0.02)

    def kernel(self, n: int) -> NDArray[np.float64]:
        """Weights of the average on the last `n` iterates of the model.

        Args:
            n: Number of iterates, >= 0.

        Returns:
            Array of shape (n,), the newest iterate first: the filter's impulse response. Over all steps it sums to 1.
            With coupling, the iterates are the weights as the optimizer leaves them, before the average moves them.
        """
        return response.kernel(self.stiffness, self.damping, whole("n", n, least=0))

    # --- the average coupled to training ------------------------------------------------------------------------------

    @property
    def mass_ratio(self) -> float:
        """Mass of the average over mass of the model, ``coupling / k``; the centre of mass rests at damping 1.

        Below 0 where the average pushes.
        """
        return self.coupling / self.stiffness

    @property
    def effective_mass_ratio(self) -> float:
        """``coupling c / k = coupling (lag + 1)``, above -1: what the average adds to the model's mass in slow motion.

        Below 0 the model moves as if it were lighter.
        """
        return self.coupling * self.damping / self.stiffness

    @property
    def immediate_lr_factor(self) -> float:
        """Factor on the learning rate in the gradient's immediate step: ``1 - coupling``, above 0.

        The optimizer moves the model by learning rate times gradient; in the same step the average pulls it back, or
        pushes it on, by the coupling's share of that. `slow_mode_lr_factor` is the factor in the long run.

        >>> Oscillator(decay=0.9, coupling=0.25).immediate_lr_factor
        0.75
        >>> Oscillator(decay=0, coupling=-0.5).immediate_lr_factor  # Nesterov's momentum of 0.5
        1.5
        """
        return 1 - self.coupling

    @property
    def slow_mode_lr_factor(self) -> float:
        """Slow modes learn as if the learning rate were multiplied by this: ``1 / (1 + effective_mass_ratio)``.

        Slow modes are the directions of low curvature, in which many steps add up: there model and average move as one
        body, which is heavier than the model alone where the average pulls, and lighter where it pushes. The factor is
        1 without coupling.

        >>> round(Oscillator(decay=0.9, coupling=0.3).slow_mode_lr_factor, 12)  # the average weighs 3 models
        0.25
        >>> Oscillator(decay=0, coupling=-0.5).slow_mode_lr_factor  # Nesterov's 1 / (1 - momentum)
        2.0
        """
        return 1 / (1 + self.effective_mass_ratio)

    @property
    def max_stable_step(self) -> float:
        """Largest stable step of plain SGD on a quadratic, learning rate times curvature; 2 if uncoupled.

        Every step in (0, limit) is stable, at either sign of the coupling (there is no lower limit), and the limit is
        always finite. It is reached where a real pole meets -1, or earlier where a complex pair meets the unit circle;
        both are solved exactly. At damping 1 and coupling at most 0 it is ``1 + (2 - k) / (2 - k - 2 coupling)``: for
        Nesterov's momentum mu ``(2 + 2 mu) / (1 + 2 mu)``.

        That it rises with the coupling is partly a change of units: of the learning rate, only `immediate_lr_factor`
        reaches the model at once and `slow_mode_lr_factor` in the long run. At damping 1 and coupling above 0,
        ``immediate_lr_factor * max_stable_step`` is below 2 wherever ``coupling < decay``.

        >>> pulled = Oscillator(decay=0.999, coupling=0.5)
        >>> round(pulled.max_stable_step, 3), round(pulled.immediate_lr_factor * pulled.max_stable_step, 3)
        (3.001, 1.501)
        """
        return coupled.max_stable_step(self.stiffness, self.damping, self.coupling)

    def spectral_radius(self, step: float) -> float:
        """Factor by which the slowest mode of (x, y, v) grows in each step on a quadratic.

        Args:
            step: Learning rate times curvature, >= 0.

        Returns:
            The largest modulus of an eigenvalue; below 1 training converges, above 1 it diverges.
        """
        return coupled.spectral_radius(self.stiffness, self.damping, self.coupling, nonnegative("step", step))

    def stationary_covariance(self, step: float) -> NDArray[np.float64]:
        """Stationary covariance of (x, y, v) on a quadratic, per unit variance of the noise in each SGD step.

        Solves ``P = M P M' + b b'`` with ``b = (1 - coupling, k, k)``.

        Args:
            step: Learning rate times curvature, in (0, max_stable_step).

        Returns:
            Array of shape (3, 3): model, average, velocity.

        Raises:
            ValueError: Training is unstable at this step.
        """
        step = positive("step", step)
        if self.spectral_radius(step) >= 1:
            limit = self.max_stable_step
            raise ValueError(f"`step` must be in (0, {limit:.6g}), where training is stable, got {step=}.")
        return coupled.stationary_covariance(self.stiffness, self.damping, self.coupling, step)

    def stationary_variance(self, step: float) -> float:
        """Stationary variance of the averaged weight on a quadratic, per unit variance of the noise in each SGD step.

        Args:
            step: Learning rate times curvature, in (0, max_stable_step).

        Returns:
            The average's entry of `stationary_covariance`, whose first entry is the model's own variance.
        """
        return float(self.stationary_covariance(step)[1, 1])

    # --- the same average at another rate -----------------------------------------------------------------------------

    def rescale(self, n: float) -> Oscillator:
        """The oscillator whose one step does what `n` steps of this one do.

        The poles are raised to the n-th power and the effective mass ratio is kept, so that it means the same average
        when it is updated every n steps, when a batch is n times as large, or when a run is n times as short.
        For EMA this is ``decay ** n`` ("How to Scale Your EMA", arXiv 2307.13813).

        Args:
            n: Factor, > 0; may be fractional unless a pole is negative (damping above 1).

        Returns:
            The rescaled oscillator.

        Raises:
            ValueError: No such oscillator exists: a negative pole with fractional `n`, a swing too fast for steps so
                long (stiffness above 1), a coupling that reaches 1 or breaks a condition of `Oscillator`, a figure that
                rounds to its bound, or an average that is unstable without its coupling.

        >>> Oscillator.ema(0.9).rescale(2).decay == 0.9**2
        True
        """
        n = positive("n", n)
        if self.damping > 1 and not n.is_integer():
            raise ValueError(f"`n` must be a whole number while damping is above 1 (a pole is negative), got {n=}.")
        if n == 1:
            return self
        if not response.is_stable(self.stiffness, self.damping):
            raise ValueError(
                "`n` must be 1 where the average alone is unstable, `1 - decay >= 2 * (2 - damping)`, got "
                f"{n=} for {self}; raise `decay` or lower `damping`."
            )
        if self.damping == 1:
            decay, damping = self.decay**n, 1.0
        else:
            stiffness, damping = response.power(self.stiffness, self.damping, n)
            decay = 1 - stiffness
        try:
            uncoupled = Oscillator(decay, damping)  # checked first: what is wrong without coupling is not its fault
            return replace(uncoupled, coupling=self.effective_mass_ratio * uncoupled.stiffness / damping)
        except ValueError as error:
            message = f"`n` must lead to an oscillator, got {n=} for {self}: {error} Take `n` closer to 1."
            raise ValueError(message) from error

"""One step of the oscillator, out of place: the readable definition that `belay.step` is tested against.

It works on anything with arithmetic (floats, NumPy arrays, tensors) and is meant for float64.
"""

from __future__ import annotations

from typing import Any, TypeVar

from belay.oscillator import Oscillator

Weights = TypeVar("Weights", bound=Any)


def step(x: Weights, y: Weights, v: Weights, oscillator: Oscillator) -> tuple[Weights, Weights, Weights]:
    """Moves the average towards the model, and the model towards its average or, with coupling below 0, away from it.

    Args:
        x: Model weights, as the optimizer left them; any shape.
        y: Averaged weights, shaped like `x`.
        v: Velocity of the average in weights a step, shaped like `x`; start with zeros.
        oscillator: The average's settings.

    Returns:
        The new (x, y, v).

    >>> step(1.0, 0.0, 0.0, Oscillator(decay=0.75, damping=0.5, coupling=0.25))
    (0.75, 0.25, 0.25)
    >>> step(1.0, 0.0, 0.0, Oscillator(decay=0.75, coupling=-0.125))
    (1.125, 0.25, 0.25)
    """
    k, c, kappa = oscillator.stiffness, oscillator.damping, oscillator.coupling
    d = x - y
    v = (1 - c) * v + k * d
    y = y + v
    x = x - kappa * d
    return x, y, v

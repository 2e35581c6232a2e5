"""The oscillator coupled to training by plain SGD on a quadratic: stability limit and stationary covariance.

The state is (x, y, v): model, average, velocity; ``step`` is learning rate times curvature. Arguments are taken as
valid: `belay.oscillator.Oscillator` checks them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def broken_condition(k: float, c: float, kappa: float) -> tuple[str, str] | None:
    """The condition broken by which model and average stay together without a gradient, and what to do; None if none.

    Without a gradient their distance and the velocity move by [[1 - kappa - k, -(1 - c)], [k, 1 - c]]. Both its
    eigenvalues are inside the unit circle exactly where all three hold (Jury's criterion).
    """
    if not k + kappa * c > 0:
        return "1 - decay + coupling * damping > 0", f"raise `coupling` above {-k / c:.6g}"
    if not (1 - kappa) * (1 - c) < 1:
        return "(1 - coupling) * (1 - damping) < 1", f"raise `coupling` above {-c / (1 - c):.6g} or raise `damping`"
    if not k < (2 - c) * (2 - kappa):
        return "1 - decay < (2 - damping) * (2 - coupling)", "raise `decay` or lower `damping`"
    return None


def motion(k: float, c: float, kappa: float, step: float) -> Matrix:
    """The matrix that takes the state one step on, without noise."""
    q, r = 1 - c, 1 - step
    return np.array([[(1 - kappa) * r, kappa, 0], [k * r, 1 - k, q], [k * r, -k, q]])


def spectral_radius(k: float, c: float, kappa: float, step: float) -> float:
    """Largest modulus of the motion's eigenvalues."""
    return float(np.abs(np.linalg.eigvals(motion(k, c, kappa, step))).max())


def stationary_covariance(k: float, c: float, kappa: float, step: float) -> Matrix:
    """Solves ``P = M P M' + b b'`` with ``b = (1 - kappa, k, k)``, where noise enters; M must be stable."""
    matrix, kick = motion(k, c, kappa, step), np.array([1 - kappa, k, k])
    return np.linalg.solve(np.eye(9) - np.kron(matrix, matrix), np.outer(kick, kick).ravel()).reshape(3, 3)


def max_stable_step(k: float, c: float, kappa: float) -> float:
    """Smallest step at which a root leaves the unit circle; one must, as the product of all three grows with the step.

    All steps below it are stable: at step 0 one root is 1 and moves inwards (as ``1 - s / (1 + kappa c / k)``), the
    others are inside as `broken_condition` says, and no root passes 1 again. With m = 1 - kappa, q = 1 - c and s the
    step: a real root leaves through -1 where ``(m (4 - 2c) - k) (s - 1) = 4 - 2c - k``; a complex pair where the
    product of all 1 - z_i z_j vanishes, which is
    ``m^2 q c s^2 + (m c (c + 2 kappa q) - k (c + kappa q)) s + (k + kappa c) (c + kappa q)``.
    """
    m, q = 1 - kappa, 1 - c
    slope, rest = m * (4 - 2 * c) - k, c + kappa * q
    real = [1 + (4 - 2 * c - k) / slope] if slope > 0 else []
    pair = _real_roots(m * m * q * c, m * c * (c + 2 * kappa * q) - k * rest, (k + kappa * c) * rest)
    return min(s for s in real + pair if s > 0)


def _real_roots(a: float, b: float, d: float) -> list[float]:
    """Real roots of ``a s^2 + b s + d``, without cancellation; a may be 0."""
    discriminant = b * b - 4 * a * d
    if discriminant < 0:
        return []
    q = -(b + math.copysign(math.sqrt(discriminant), b)) / 2
    return [top / bottom for top, bottom in ((q, a), (d, q)) if bottom != 0]

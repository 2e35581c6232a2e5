"""The update kernels: one step of the oscillator on lists of tensors, in place.

The only file that knows torch's multi-tensor functions. Letters as in `belay.reference`, which is what these compute:
``x`` model weights, ``y`` averaged weights, ``v`` velocity, ``d`` stretch; ``k, c, kappa`` stiffness, damping, coupling.
"""

from __future__ import annotations

import torch
from torch import Tensor

from belay.oscillator import Oscillator


@torch.no_grad()
def step_(x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, oscillator: Oscillator) -> None:
    """Advances averages, velocities and (if coupled) model weights by one step.

    Args:
        x: Model weights; if of another dtype or device than `y`, they are converted to it and back.
        y: Averages, shaped like `x`, all of one dtype and device.
        v: Velocities, like `y`; None if damping is 1, where the average keeps none.
        oscillator: The average's settings.
    """
    if not x:
        return
    alike = x[0].dtype == y[0].dtype and x[0].device == y[0].device
    live = x if alike else [weight.to(device=y[0].device, dtype=y[0].dtype) for weight in x]
    if v is None and not oscillator.coupling:
        torch._foreach_lerp_(y, live, oscillator.stiffness)
        return
    d = torch._foreach_sub(live, y)
    if v is None:
        torch._foreach_add_(y, d, alpha=oscillator.stiffness)
    else:
        torch._foreach_mul_(v, 1 - oscillator.damping)
        torch._foreach_add_(v, d, alpha=oscillator.stiffness)
        torch._foreach_add_(y, v)
    if oscillator.coupling:
        torch._foreach_sub_(live, d, alpha=oscillator.coupling)
        if not alike:
            torch._foreach_copy_(x, live)


@torch.no_grad()
def lerp_(x: list[Tensor], y: list[Tensor], stiffness: float) -> None:
    """Moves each `y` a share `stiffness` of the way to its `x`; dtypes and devices may be mixed."""
    torch._foreach_lerp_(
        y, [live.to(device=kept.device, dtype=kept.dtype) for live, kept in zip(x, y, strict=True)], stiffness
    )

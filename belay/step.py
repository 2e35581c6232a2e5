"""The update kernels: one step of the oscillator on lists of tensors, in place.

The only file that knows torch's multi-tensor functions. Letters as in `belay.reference`, which is what these compute:
``x`` model weights, ``y`` averaged weights, ``v`` velocity, ``d`` stretch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from belay.oscillator import Oscillator

CHUNK = 1 << 24  # weights updated together: bounds the memory of temporaries without costing launches


@dataclasses.dataclass(slots=True)
class Group:
    """Tensors of one dtype and device that one call updates; the lists are made once, not each step."""

    live: list[Tensor] = dataclasses.field(default_factory=list)
    average: list[Tensor] = dataclasses.field(default_factory=list)
    velocity: list[Tensor] | None = None
    size: int = 0


def grouped(live: Mapping[str, Tensor], average: Mapping[str, Tensor], velocity: Mapping[str, Tensor]) -> list[Group]:
    """Sorts tensors into groups of at most `CHUNK` weights (a larger tensor alone); `velocity` may be empty."""
    groups: list[Group] = []
    filling: dict[object, Group] = {}
    for name, y in average.items():
        x = live[name]
        kind = (x.dtype, x.device, y.dtype, y.device)
        group = filling.get(kind)
        if group is None or group.size + y.numel() > CHUNK:
            group = filling[kind] = Group(velocity=[] if velocity else None)
            groups.append(group)
        group.size += y.numel()
        group.live.append(x)
        group.average.append(y)
        if group.velocity is not None:
            group.velocity.append(velocity[name])
    return groups


@torch.no_grad()
def step_(x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, oscillator: Oscillator) -> None:
    """Advances averages, velocities and (if coupled) model weights by one step.

    Args:
        x: Model weights; where their dtype or device is another than `y`'s, the arithmetic is done in `y`'s.
        y: Averages, shaped like `x`, all of one dtype and device.
        v: Velocities, like `y`; None if damping is 1, where the average keeps none.
        oscillator: The average's settings.
    """
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
    if oscillator.coupling:  # from x itself, which would lose digits if it were converted to y's dtype
        pull = d if alike else [stretch.to(weight.device) for stretch, weight in zip(d, x, strict=True)]
        torch._foreach_sub_(x, pull, alpha=oscillator.coupling)


@torch.no_grad()
def lerp_(x: list[Tensor], y: list[Tensor], share: float) -> None:
    """Moves each `y` a share of the way to its `x`; dtypes and devices may be mixed."""
    live = [new.to(device=kept.device, dtype=kept.dtype) for new, kept in zip(x, y, strict=True)]
    torch._foreach_lerp_(y, live, share)

"""The update kernels: one step of the oscillator on lists of tensors, in place.

The only file that knows torch's multi-tensor functions. Letters as in `belay.reference`, which is what these compute:
``x`` model weights, ``y`` averaged weights, ``v`` velocity, ``d`` stretch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from belay.oscillator import Oscillator
from belay.shards import local

CHUNK = 1 << 24  # weights updated together: bounds the memory of temporaries without costing launches


@dataclasses.dataclass(slots=True)
class Group:
    """Tensors of one dtype and device that one call updates; the lists are made once, not each step.

    Of sharded tensors they hold this process's parts.

    Attributes:
        live: Model weights.
        average: Averages, shaped like them.
        velocity: Velocities; None where damping is 1.
        infinite: Whether averages hold infinite values, which must stay where the weight is equal.
        size: Weights in it.
    """

    live: list[Tensor] = dataclasses.field(default_factory=list)
    average: list[Tensor] = dataclasses.field(default_factory=list)
    velocity: list[Tensor] | None = None
    infinite: bool = False
    size: int = 0


def grouped(
    live: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    velocity: Mapping[str, Tensor],
    infinite: Collection[str] = (),
) -> list[Group]:
    """Sorts tensors into groups of at most `CHUNK` weights (a larger tensor alone).

    Args:
        live: Model weights by name.
        average: Averages by name.
        velocity: Velocities by name; empty where damping is 1.
        infinite: Names of averages that hold infinite values.
    """
    groups: list[Group] = []
    filling: dict[object, Group] = {}
    for name in average:
        x, y = local(live[name]), local(average[name])
        kind = (x.dtype, x.device, y.dtype, y.device, name in infinite)
        group = filling.get(kind)
        if group is None or group.size + y.numel() > CHUNK:
            group = filling[kind] = Group(velocity=[] if velocity else None, infinite=name in infinite)
            groups.append(group)
        group.size += y.numel()
        group.live.append(x)
        group.average.append(y)
        if group.velocity is not None:
            group.velocity.append(local(velocity[name]))
    return groups


@torch.no_grad()
def step_(
    x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, oscillator: Oscillator, infinite: bool = False
) -> None:
    """Advances averages, velocities and (if coupled) model weights by one step.

    Args:
        x: Model weights; where their dtype or device is another than `y`'s, the arithmetic is done in `y`'s.
        y: Averages, shaped like `x`, all of one dtype and device.
        v: Velocities, like `y`; None if damping is 1, where the average keeps none.
        oscillator: The average's settings.
        infinite: Whether equal infinite values must stay, for one more pass over the weights.
    """
    alike = x[0].dtype == y[0].dtype and x[0].device == y[0].device
    live = x if alike else [weight.to(device=y[0].device, dtype=y[0].dtype) for weight in x]
    if v is None and not oscillator.coupling and not infinite:
        torch._foreach_lerp_(y, live, oscillator.stiffness)
        return
    d = torch._foreach_sub(live, y)
    if infinite:  # inf - inf is nan
        for stretch, weight, average in zip(d, live, y, strict=True):
            stretch.masked_fill_(weight == average, 0)
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


@torch.no_grad()
def scale_(groups: Sequence[Group], factor: float) -> None:
    """Multiplies all velocities."""
    for group in groups:
        if group.velocity:
            torch._foreach_mul_(group.velocity, factor)


@torch.no_grad()
def stretched(groups: Sequence[Group]) -> float:
    """How far the model is from its average, as a share of the average's norm; 0 where that is 0 or not finite.

    Of sharded weights it is this process's part that counts.
    """
    distance = size = 0.0
    for group in groups:
        for weight, average in zip(group.live, group.average, strict=True):
            live = weight.to(device=average.device, dtype=average.dtype)
            distance += float((live - average).abs().square().sum())
            size += float(average.abs().square().sum())
    return math.sqrt(distance / size) if 0 < size < math.inf and distance < math.inf else 0.0


@torch.no_grad()
def all_finite(groups: Sequence[Group], shared: bool) -> bool:
    """Whether every model weight is finite, or infinite like its average; one pass over the weights, and a wait for it.

    Args:
        groups: The weights.
        shared: Whether processes hold them in shards; all of them get the same answer then, and must call this.
    """
    norms = [norm for group in groups if not group.infinite for norm in _norms(group.live)]
    device = groups[0].live[0].device
    good = not norms or bool(torch.stack([norm.to(device) for norm in norms]).isfinite().all())
    if not good or any(group.infinite for group in groups):  # the sum of squares may be infinite by itself
        good = all(_finite_or_equal(x, y) for group in groups for x, y in zip(group.live, group.average, strict=True))
    if shared:
        everywhere = torch.tensor(int(good), device=device)
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        good = bool(everywhere)
    return good


def _norms(weights: list[Tensor]) -> Sequence[Tensor]:
    """The norm of each weight, half-precision ones summed in float32: a pass over the weights at full speed."""
    wide = torch.float32 if weights[0].dtype.itemsize < 4 else None
    return cast(Sequence[Tensor], torch._foreach_norm(weights, 2, wide))


def _finite_or_equal(weight: Tensor, average: Tensor) -> bool:
    return bool((weight.isfinite() | (weight == average.to(weight.device))).all())

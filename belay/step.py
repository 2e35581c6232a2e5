"""The update kernels: one step of the oscillator on lists of tensors, in place.

The only file that knows torch's multi-tensor functions. Letters as in `belay.reference`, which is what these compute:
``x`` model weights, ``y`` averaged weights, ``v`` velocity, ``d`` stretch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from belay.groups import Group, is_dense
from belay.oscillator import Oscillator
from belay.shards import agreed

ONE_PASS = 0.5  # stiffness and coupling below which one-pass kernels round as finely as the reference


@torch.no_grad()
def step_(group: Group, oscillator: Oscillator) -> None:
    """Advances averages, velocities and (if coupled) model weights by one step.

    Args:
        group: The tensors; where the weights' dtype or device is another than the averages', the arithmetic is done in
            the averages'. Velocities are None if damping is 1, where the average keeps none.
        oscillator: The average's settings.
    """
    if not _goes_in_one_pass(group, oscillator):
        for x, y, v in group.blocks():
            _step_in_passes(x, y, v, oscillator, group.infinite)
    elif not oscillator.coupling:
        _approach(group.live, group.average, group.velocity, oscillator.stiffness, oscillator.damping)
    else:
        for x, y, v in group.blocks():
            _step_coupled(x, y, v, oscillator)


def _goes_in_one_pass(group: Group, oscillator: Oscillator) -> bool:
    """Whether `_approach` may be used, and is better than `_step_in_passes`."""
    slow = oscillator.stiffness < ONE_PASS and oscillator.coupling < ONE_PASS
    suited = group.dense and not group.infinite and slow
    if group.velocity is None:  # on a GPU, a lerp of many tensors is one pass already, and one in float32
        return suited and oscillator.damping == 1 and group.average[0].is_cpu
    return suited and oscillator.damping < 1  # torch's kernel on CUDA takes no negative momentum, that on CPU not 0


def _approach(x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, k: float, c: float = 1.0) -> None:
    """Draws `y` towards `x` in one pass over memory: ``v <- (1 - c) v + k (x - y)``, ``y <- y + v``.

    That is SGD with momentum on ``(x - y)^2 / 2``, for which torch has a fused kernel: `x` as the gradient of `y`, a
    weight decay of -1, which subtracts `y` from it, and a learning rate of -1.

    Args:
        x: Aims; stay as they are.
        y: What moves, shaped like `x`; all tensors are dense and of one dtype and device.
        v: Velocities, like `y`; None if c = 1, where ``v = k (x - y)`` needs no memory.
        k: Stiffness, 0 to 1.
        c: Damping, above 0 and below 1 if there are velocities, else 1.

    Numbers are those of `_step_in_passes` to the last bits, as the kernel rounds a sum of two products once less.
    """
    keep, gain, rate = (0.0, 1.0, k) if v is None else (1 - c, k, 1.0)
    torch._fused_sgd_(
        y, x, v or [], weight_decay=-1.0, momentum=keep, dampening=1 - gain, lr=-rate,
        nesterov=False, maximize=False, is_first_step=False,
    )  # fmt: skip
    torch.autograd.graph.increment_version(y)  # the kernel does not tell autograd that they changed


def _step_coupled(x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, oscillator: Oscillator) -> None:
    """Pulls the weights first, so that nothing has to be kept of before: no temporaries.

    ``x' = x - kappa (x - y)`` leaves ``x' - y = (1 - kappa) (x - y)``, so that a stiffness of ``k / (1 - kappa)`` gives
    the velocity its due. Arguments as in `_approach`; the weights move too.
    """
    _approach(y, x, None, oscillator.coupling)
    _approach(x, y, v, oscillator.stiffness / (1 - oscillator.coupling), oscillator.damping)


def _step_in_passes(
    x: list[Tensor], y: list[Tensor], v: list[Tensor] | None, oscillator: Oscillator, infinite: bool
) -> None:
    """The step in an operation a pass, for any tensors and settings; temporaries are as large as `y`.

    Args:
        x: Model weights, of any dtype and device.
        y: Averages, shaped like `x`, all of one dtype and device.
        v: Velocities, like `y`; None if damping is 1.
        oscillator: The average's settings.
        infinite: Whether averages hold infinite values, which become what the weights are, for more passes.
    """
    alike = x[0].dtype == y[0].dtype and x[0].device == y[0].device
    live = x if alike else [weight.to(device=y[0].device, dtype=y[0].dtype) for weight in x]
    if v is None and not oscillator.coupling and not infinite:
        torch._foreach_lerp_(y, live, oscillator.stiffness)
        return
    d = torch._foreach_sub(live, y)
    held = [average.isinf() for average in y] if infinite else []
    if infinite:
        for stretch, where in zip(d, held, strict=True):
            stretch.masked_fill_(where, 0)
    if v is None:
        torch._foreach_add_(y, d, alpha=oscillator.stiffness)
    else:
        torch._foreach_mul_(v, 1 - oscillator.damping)
        torch._foreach_add_(v, d, alpha=oscillator.stiffness)
        torch._foreach_add_(y, v)
    if infinite:
        for average, weight, where in zip(y, live, held, strict=True):
            average.copy_(torch.where(where, weight, average))
    if oscillator.coupling:  # from x itself, which would lose digits if it were converted to y's dtype
        pull = d if alike else [stretch.to(weight.device) for stretch, weight in zip(d, x, strict=True)]
        torch._foreach_sub_(x, pull, alpha=oscillator.coupling)


@torch.no_grad()
def step_all_(
    x: Tensor, y: Tensor, v: Sequence[Tensor | None], oscillators: Sequence[Oscillator], infinite: bool
) -> None:
    """Advances K averages of the same n weights by one step; neighbours without velocity in one call.

    Args:
        x: Model weights (n), of the averages' dtype and device.
        y: Averages (K, n).
        v: K velocities (n); None where damping is 1.
        oscillators: K settings without coupling.
        infinite: Whether averages hold infinite values, which become what the weights are.
    """
    dense = is_dense([x, y[0]])
    members = range(len(oscillators))
    for plain, run in itertools.groupby(members, lambda index: v[index] is None and not infinite):
        indices = list(run)
        if plain:
            stiffness = tuple(oscillators[index].stiffness for index in indices)
            y[indices[0] : indices[-1] + 1].lerp_(x, _column(stiffness, y.dtype, y.device))
            continue
        for index in indices:
            velocity = v[index]
            group = Group([x], [y[index]], None if velocity is None else [velocity], infinite, dense)
            step_(group, oscillators[index])


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values as a tensor (K, 1), sent to the device once."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None]


@torch.no_grad()
def gather_(x: list[Tensor], packed: list[Tensor]) -> None:
    """Copies weights to where they lie side by side; dtypes and devices may be mixed."""
    torch._foreach_copy_(packed, x)


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
    for x, y, _ in (block for group in groups for block in group.blocks()):
        for weight, average in zip(x, y, strict=True):
            live = weight.to(device=average.device, dtype=average.dtype)
            distance += float((live - average).abs().square().sum())
            size += float(average.abs().square().sum())
    return math.sqrt(distance / size) if 0 < size < math.inf and distance < math.inf else 0.0


@torch.no_grad()
def has_no_nan(groups: Sequence[Group]) -> bool:
    """Whether every average is a number, be it an infinite one."""
    return not any(y.isnan().any() for group in groups for _, averages, _ in group.blocks() for y in averages)


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
        blocks = (block for group in groups for block in group.blocks())
        good = all(_finite_or_equal(*pair) for x, y, _ in blocks for pair in zip(x, y, strict=True))
    return agreed(good, device) if shared else good


def _norms(weights: list[Tensor]) -> Sequence[Tensor]:
    """The norm of each weight, half-precision ones summed in float32: a pass over the weights at full speed."""
    wide = torch.float32 if weights[0].dtype.itemsize < 4 else None
    return cast(Sequence[Tensor], torch._foreach_norm(weights, 2, wide))


def _finite_or_equal(weight: Tensor, average: Tensor) -> bool:
    return bool((weight.isfinite() | (weight == average.to(weight.device))).all())

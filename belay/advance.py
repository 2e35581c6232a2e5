"""One update at a step of the clock: the kernels of `belay.step`, with the figures that the clock has by then.

In code that `torch.compile` makes, the kernels run inside operators that it does not look into: the same numbers as
eager code, bit for bit, and no temporaries. In warm-up each step has figures of its own, and settings may change, which
compiled code would hold as constants and be made anew at each step; this code is compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from belay.clock import Clock
from belay.groups import Group
from belay.oscillator import Oscillator
from belay.step import lerp_, scale_, step_


def advance_(groups: Sequence[Group], live: list[Tensor], kept: list[Tensor], clock: Clock, steps: int) -> None:
    """Updates weights and buffers in place.

    Args:
        groups: Model weights, averages and velocities.
        live: The model's buffers that are averaged; may be empty.
        kept: Their averages.
        clock: When and how fast the average is updated.
        steps: The step that this update is at, counted from 1.
    """
    oscillator, slowing = clock.at(steps), clock.slowing(steps)
    if slowing != 1:
        scale_(groups, slowing)
    for group in groups:
        step_(group, oscillator)
    if live:
        lerp_(live, kept, share_of(oscillator))


def share_of(oscillator: Oscillator) -> float:
    """Stiffness of the EMA of the oscillator's lag; 1, an EMA without memory, where that lag is negative."""
    return min(1.0, oscillator.stiffness / oscillator.damping)


# --- hidden from the compiler -----------------------------------------------------------------------------------------


def settings_of(oscillator: Oscillator) -> Tensor:
    """Decay, damping and coupling as a tensor: compiled code takes it as an input, and numbers as constants."""
    settings = oscillator.decay, oscillator.damping, oscillator.coupling
    with torch.inference_mode(False):
        return torch.tensor(settings, dtype=torch.float64, device="cpu")


def advance_compiled_(
    groups: Sequence[Group], live: list[Tensor], kept: list[Tensor], clock: Clock, settings: Tensor, steps: int
) -> None:
    """`advance_` as operators, which take plain values and tensors: a clock is put together again inside.

    Args:
        groups: As in `advance_`, like `live`, `kept` and `steps`.
        live: The model's buffers.
        kept: Their averages.
        clock: Only its whole numbers and whether it is coupled are read; where these change code is compiled anew.
        settings: Those of the clock's oscillator, by `settings_of`.
        steps: The step.
    """
    rest = settings, clock.update_every, clock.warmup
    advance_weights = _coupled if clock.coupled else _uncoupled
    for group in groups:
        advance_weights(group.live, group.average, group.velocity or [], group.infinite, group.dense, steps, *rest)
    if live:
        _buffers(live, kept, steps, *rest)


def _advance_weights(
    x: list[Tensor],
    y: list[Tensor],
    v: list[Tensor],
    infinite: bool,
    dense: bool,
    steps: int,
    settings: Tensor,
    update_every: int,
    warmup: int,
) -> None:
    clock = Clock(Oscillator(*settings.tolist()), update_every, warmup)
    advance_([Group(x, y, v or None, infinite, dense)], [], [], clock, steps)


def _advance_buffers(
    live: list[Tensor], kept: list[Tensor], steps: int, settings: Tensor, update_every: int, warmup: int
) -> None:
    advance_([], live, kept, Clock(Oscillator(*settings.tolist()), update_every, warmup), steps)


_uncoupled = torch.library.custom_op("belay::advance_uncoupled", _advance_weights, mutates_args=("y", "v"))
_coupled = torch.library.custom_op("belay::advance_coupled", _advance_weights, mutates_args=("x", "y", "v"))
_buffers = torch.library.custom_op("belay::advance_buffers", _advance_buffers, mutates_args=("kept",))

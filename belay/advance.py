"""One update at a step of the clock: the kernels of `belay.step`, with the figures that the clock has by then.

In code that `torch.compile` makes, the kernels run inside operators that it does not look into: the same numbers as
eager code, bit for bit, and no temporaries. In warm-up each step has figures of its own, which compiled code would hold
as constants and be made anew at each step; this code is compiled once.
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
    if torch.compiler.is_compiling():
        _advance_hidden(groups, live, kept, clock, steps)
        return
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


def _advance_hidden(groups: Sequence[Group], live: list[Tensor], kept: list[Tensor], clock: Clock, steps: int) -> None:
    """`advance_` as operators, which take plain values: a clock is taken apart, and put together again inside."""
    own = clock.oscillator
    settings = own.decay, own.damping, own.coupling, clock.update_every, clock.warmup
    advance_weights = _coupled if own.coupling else _uncoupled
    for group in groups:
        advance_weights(group.live, group.average, group.velocity or [], group.infinite, group.dense, steps, *settings)
    if live:
        _buffers(live, kept, steps, *settings)


def _advance_weights(
    x: list[Tensor],
    y: list[Tensor],
    v: list[Tensor],
    infinite: bool,
    dense: bool,
    steps: int,
    decay: float,
    damping: float,
    coupling: float,
    update_every: int,
    warmup: int,
) -> None:
    clock = Clock(Oscillator(decay, damping, coupling), update_every, warmup)
    advance_([Group(x, y, v or None, infinite, dense)], [], [], clock, steps)


def _advance_buffers(
    live: list[Tensor],
    kept: list[Tensor],
    steps: int,
    decay: float,
    damping: float,
    coupling: float,
    update_every: int,
    warmup: int,
) -> None:
    advance_([], live, kept, Clock(Oscillator(decay, damping, coupling), update_every, warmup), steps)


_uncoupled = torch.library.custom_op("belay::advance_uncoupled", _advance_weights, mutates_args=("y", "v"))
_coupled = torch.library.custom_op("belay::advance_coupled", _advance_weights, mutates_args=("x", "y", "v"))
_buffers = torch.library.custom_op("belay::advance_buffers", _advance_buffers, mutates_args=("kept",))

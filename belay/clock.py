"""When and how fast an average is updated: every how many steps, and at what speed while it warms up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from belay.oscillator import Oscillator


@dataclass(frozen=True)
class Clock:
    """An oscillator with the steps between its updates and the steps of its warm-up.

    Args:
        oscillator: Decay, damping and coupling, in optimizer steps.
        update_every: Steps from one update to the next, >= 1.
        warmup: Steps over which the memory grows in proportion to the steps done, >= 0.

    Attributes:
        per_update: The oscillator of one update at full memory.
        coupled: Whether the average pulls or pushes the model. It is kept, as compiled code that computed it would be
            made anew for each coupling.

    Raises:
        TypeError: `oscillator` is none.
        ValueError: It does not exist at `update_every`, or cannot warm up.
    """

    oscillator: Oscillator
    update_every: int
    warmup: int
    per_update: Oscillator = field(init=False)
    coupled: bool = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.oscillator, Oscillator):
            raise TypeError(f"`oscillator` must be a belay.Oscillator, got {type(self.oscillator).__name__}.")
        if self.warmup and self.oscillator.damping > 1:
            raise ValueError(f"`warmup` needs a damping of at most 1, got {self.oscillator}.")
        try:
            object.__setattr__(self, "per_update", self.oscillator.rescale(self.update_every))
        except ValueError as error:
            raise ValueError(
                f"`update_every` must suit the oscillator, got update_every={self.update_every}: {error}"
            ) from error
        object.__setattr__(self, "coupled", self.oscillator.coupling != 0)

    @property
    def moving(self) -> bool:
        """Whether averages have velocities, as they do at any damping but 1."""
        return self.per_update.damping != 1

    def due(self, steps: int) -> bool:
        """Whether the average is updated at this step, counted from 1."""
        return steps % self.update_every == 0

    def at(self, steps: int) -> Oscillator:
        """The oscillator of the update at this step: during warm-up of a shorter memory and the same damping ratio."""
        speed = self._speed(steps)
        if speed == 1:
            return self.per_update
        uncoupled = replace(self.per_update, coupling=0.0).rescale(speed)
        return replace(uncoupled, coupling=self.per_update.coupling)

    def slowing(self, steps: int) -> float:
        """What velocities are multiplied by before the update at this step.

        A velocity is a distance an update, so it shrinks as the clock slows; without that an underdamped average would
        swing to many times its start.
        """
        return self._speed(steps) / self._speed(max(steps - self.update_every, 1))

    def _speed(self, steps: int) -> float:
        """How much faster than at full memory the average is at this step."""
        if steps >= self.warmup:
            return 1.0
        speed, slowest = self.warmup / steps, self.per_update.poles[0]
        if slowest.imag:  # a faster swing would need a stiffness above 1
            speed = min(speed, max(1.0, 1 / math.atan2(slowest.imag, slowest.real)))
        return speed

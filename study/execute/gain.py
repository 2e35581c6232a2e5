"""How long a search has gone on without coming to anything better."""

from __future__ import annotations

import math

from study.design.riders import values_of
from study.design.schema import Outcome
from study.design.study import Study


class Gain:
    """Counts the settings since the best one, of settings in the order in which they were asked.

    A setting is as good as the best of itself and its riders; one that was not completed is no gain.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._best = study, math.inf
        self._since: list[int] = []

    def __len__(self) -> int:
        """How many settings have been added."""
        return len(self._since)

    def add(self, outcome: Outcome) -> None:
        """Takes what the next setting came to."""
        value = self._value(outcome)
        self._since.append(0 if value < self._best else self.without(len(self)) + 1)
        self._best = min(value, self._best)

    def without(self, settings: int) -> int:
        """How many of so many settings, the first ones, have come since the best of these."""
        return self._since[settings - 1] if settings else 0

    def _value(self, outcome: Outcome) -> float:
        """What a setting and its riders came to, smaller the better; inf without a result."""
        if outcome.state != "complete":
            return math.inf
        found = [outcome.value(self._study.config.objective.metric), *values_of(self._study, outcome)]
        sign = -1 if self._study.mode == "max" else 1
        return min((sign * value for value in found if not math.isnan(value)), default=math.inf)

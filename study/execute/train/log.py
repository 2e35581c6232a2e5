"""What a run measures as it goes, and when it has diverged: the same for runs alone and side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

from study.design.schema import METRIC, History, SeedResult
from study.design.study import Study
from study.errors import LONGEST, printable
from study.execute.plan import Bars

DIVERGED_LOSS = 1e6  # times the first loss or 1, whichever is larger; training does not recover from such a loss


class Ended(Exception):
    """A run ends before its last step, after this one."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Diverged(Ended):
    """The loss or a metric is infinite, nan or far too large."""


class Pruned(Ended):
    """The objective is worse than a bar that is to be reached at this step."""


def raised(error: BaseException) -> str:
    """What a task raised, on one line that every database and terminal takes."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:LONGEST]


class Log:
    """The history of one seed of a setting, and how it ended.

    Args:
        seed: The seed.
        study: The study, whose objective it has to report.
        bars: What the objective has to reach, and at which steps, so that training goes on.
    """

    def __init__(self, seed: int, study: Study, bars: Bars = ()) -> None:
        self.seed, self._metric, self._steps = seed, study.config.objective.metric, study.config.steps
        self._bars, self._sign, self._judged = list(bars), 1 if study.mode == "max" else -1, bool(bars)
        self._history: History = []
        self._ended: SeedResult | None = None
        self.riders: dict[str, list[float]] = {}  # as a SeedResult has them

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes what was measured at a step; nothing more once it has ended.

        Raises:
            ValueError: A name is no metric's.
            Diverged: A value is not finite.
            Pruned: The objective is worse than a bar.
        """
        if self.ended:
            return
        if unknown := [name for name in metrics if not METRIC.fullmatch(str(name))]:
            raise ValueError(f"`report` takes metrics named average/NAME or live/NAME, got {str(unknown[0])[:300]!r}.")
        values = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise Diverged(step)
        self._history.append((step, values))
        if self._metric in values and step < self._steps:
            self._judge(step, values[self._metric])

    def _judge(self, step: int, value: float) -> None:
        """Raises Pruned if the value is worse than a bar that is due."""
        while self._bars and step >= self._bars[0][0]:
            _, bar = self._bars.pop(0)
            if self._sign * value < self._sign * bar:
                raise Pruned(step)

    @property
    def ended(self) -> bool:
        """Whether it diverged, was pruned or failed."""
        return self._ended is not None

    def end(self, error: BaseException) -> None:
        """Ends it as diverged, pruned or, by whatever else its task raised, failed; one that has ended stays as it is.

        A seed that is pruned for what another one came to has no history.
        """
        if isinstance(error, Diverged):
            ended = SeedResult(self.seed, self._history, "diverged", diverged_at=error.step)
        elif isinstance(error, Pruned):
            ended = SeedResult(self.seed, self._history if self._judged else [], "pruned")
        else:
            ended = SeedResult(self.seed, self._history, "failed", raised(error))
        self._ended = self._ended or ended

    def result(self) -> SeedResult:
        """What it came to; failed if it never reported the objective."""
        if self._ended is not None:
            return self._ended
        reported = {name for _, metrics in self._history for name in metrics}
        if self._metric not in reported:
            found = ", ".join(sorted(reported)) or "none"
            message = f"objective.metric must be reported, got {found}: no {self._metric!r}."
            return SeedResult(self.seed, self._history, "failed", message)
        return SeedResult(self.seed, self._history, riders=self.riders)

"""What a run measures as it goes, and when it has diverged: the same for runs alone and side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

from study.design.schema import METRIC, History, SeedResult
from study.errors import LONGEST, printable

DIVERGED_LOSS = 1e6  # times the first loss or 1, whichever is larger; training does not recover from such a loss


class Diverged(Exception):
    """At this step the loss or a metric is infinite, nan or far too large."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def raised(error: BaseException) -> str:
    """What a task raised, on one line that every database and terminal takes."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:LONGEST]


class Log:
    """The history of one seed of a setting, and how it ended.

    Args:
        seed: The seed.
        metric: The study's objective, which it has to report.
    """

    def __init__(self, seed: int, metric: str) -> None:
        self.seed, self._metric = seed, metric
        self._history: History = []
        self._ended: SeedResult | None = None
        self.riders: dict[str, list[float]] = {}  # as a SeedResult has them

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes what was measured at a step; nothing more once it has ended.

        Raises:
            ValueError: A name is no metric's.
            Diverged: A value is not finite.
        """
        if self.ended:
            return
        if unknown := [name for name in metrics if not METRIC.fullmatch(str(name))]:
            raise ValueError(f"`report` takes metrics named average/NAME or live/NAME, got {str(unknown[0])[:300]!r}.")
        values = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise Diverged(step)
        self._history.append((step, values))

    @property
    def ended(self) -> bool:
        """Whether it diverged or failed."""
        return self._ended is not None

    def end(self, error: BaseException) -> None:
        """Ends it as diverged or, by whatever else its task raised, failed; one that ended before stays as it was."""
        if isinstance(error, Diverged):
            ended = SeedResult(self.seed, self._history, "diverged", diverged_at=error.step)
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

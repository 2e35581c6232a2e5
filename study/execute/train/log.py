"""What a run measures as it goes, and when it has diverged: the same for runs alone and side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pydantic import ValidationError

from study.design.faults import shown
from study.design.schema import LARGEST_METRIC, LARGEST_STEP, METRIC, METRIC_NAMES, History, SeedResult
from study.design.study import Study
from study.errors import printable, shortened
from study.execute.plan import Bars

KEPT = 10_000  # characters of what a task raised, its beginning and its end
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
    try:
        text = str(error)
    except Exception as fault:  # whatever the text of a task's own exception may raise
        text = f"a text that cannot be made ({type(fault).__name__})"
    if isinstance(error, ValidationError) and (kept := _kept_in_a_task(error)):
        text = f"a task keeps nothing between calls, got {kept} assigned; keep it in the model or a cached function"
    return shortened(printable(" ".join(f"{type(error).__name__}: {text}".split())), KEPT)


def _kept_in_a_task(error: ValidationError) -> str:
    """The attribute of a task that was assigned to, if that is what is wrong."""
    return next((f"`self.{fault['loc'][0]}`" for fault in error.errors() if fault["type"] == "frozen_instance"), "")


def whole_step(step: Any) -> int:
    """A step as a task reports it, of whatever type.

    Raises:
        ValueError: It is no whole number, or too large.
    """
    with suppress(TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor of several numbers
        number = int(step)
        if number == step and 0 <= number <= LARGEST_STEP:
            return number
    raise ValueError(f"`report` takes a whole number from 0 to {LARGEST_STEP:,} as step, got {shown(step)}; change it.")


def numbers(metrics: Any) -> dict[str, float]:
    """Metrics as a task reports them, of whatever type; inf for a number beyond floats.

    Raises:
        ValueError: They are no mapping of metrics' names to numbers.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"`report` takes a mapping of metrics to numbers, got {shown(metrics)}; change it.")
    for name in metrics:
        if not (isinstance(name, str) and METRIC.fullmatch(name)):
            raise ValueError(
                f"`report` takes metrics named average/NAME or live/NAME, of {METRIC_NAMES}, got "
                f"{shown(name)}; rename it."
            )
    return {str(name): _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, torch.Tensor):
        value = value.detach()  # torch warns of one that is still to be differentiated
    if not isinstance(value, str | bytes):  # which `float` would read
        with suppress(TypeError, ValueError, RuntimeError):
            try:
                return float(value)
            except OverflowError:
                return math.inf
    raise ValueError(f"`report` takes one number for each metric, got {shown(value)} for {shown(name)}; change it.")


def in_range(value: float) -> bool:
    """Whether a metric's value is one; beyond it a run has diverged."""
    return abs(value) <= LARGEST_METRIC


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
        self.note = ""  # likewise

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes what was measured at a step; nothing more once it has ended.

        Raises:
            ValueError: The step is no whole number, or not one that comes now, a name no metric's or a value no number.
            Diverged: A value is not finite, or out of range.
            Pruned: The objective is worse than a bar.
        """
        if self.ended:
            return
        step, values = self._next(whole_step(step)), numbers(metrics)
        if not all(map(in_range, values.values())):
            raise Diverged(step)
        self._history.append((step, values))
        if self._metric in values and step < self._steps:
            self._judge(step, values[self._metric])

    def _next(self, step: int) -> int:
        """The step, unless it lies beyond the run or before one that was reported."""
        before = self._history[-1][0] if self._history else 0
        if not before <= step <= self._steps:
            raise ValueError(
                f"`report` takes steps in their order, up to the run's last, {self._steps:,}, got {step:,} after "
                f"{before:,}; change it."
            )
        return step

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
        """What it came to; failed if it never reported the objective, or not at the last step that it reported."""
        if self._ended is not None:
            return self._ended
        reported = {name for _, metrics in self._history for name in metrics}
        if self._metric not in reported:
            found = ", ".join(sorted(reported)) or "none"
            message = f"objective.metric must be reported, got {found}: no {self._metric!r}."
            return SeedResult(self.seed, self._history, "failed", message)
        last = self._history[-1][0]
        at = max(step for step, metrics in self._history if self._metric in metrics)
        if at < last:
            message = f"{self._metric!r} must be reported at the last step that is, {last}, got it at {at} last."
            return SeedResult(self.seed, self._history, "failed", message)
        return SeedResult(self.seed, self._history, riders=self.riders, note=self.note)

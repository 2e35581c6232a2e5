"""Shows a running study's progress on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from study.design.schema import regime_of
from study.errors import counted, printable
from study.show import number

if TYPE_CHECKING:
    from study.design.study import Study
    from study.execute.packs import Progress

EVERY = 5.0  # seconds between lines


class LiveView:
    """Shows a study's progress while it is entered; call `show` whenever something has changed.

    Args:
        metric: The objective's name.
        text: What to show until the first progress.
        clock: Tells the seconds between lines.
    """

    def __init__(self, metric: str, text: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._metric, self._clock = metric, clock
        self._console = Console(file=sys.stderr, markup=False, emoji=False)
        self._on_terminal = self._console.is_terminal
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, console=self._console, transient=True, redirect_stdout=False)
        self._task = self._bar.add_task(text, total=None)
        self._text, self._last = text, 0.0

    def __enter__(self) -> LiveView:
        if self._on_terminal:
            self._bar.start()
        else:
            self.say(self._text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_terminal:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Shows a progress; where there is no terminal, only every few seconds, and the last."""
        text = describe(progress, self._metric)
        if self._on_terminal:
            self._bar.update(self._task, completed=progress.done, total=progress.planned, description=text)
        elif progress.finished or self._clock() - self._last > EVERY:
            self.say(f"{progress.done}/{progress.planned} settings, {text}")

    def say(self, text: str) -> None:
        """Prints a line; a bar stays below it."""
        self._last = self._clock()
        self._console.print(printable(text), soft_wrap=True, highlight=False)


def opening(study: Study, inline: bool) -> str:
    """What a study is about to run, and what is started for it."""
    from study.execute.plan import plan

    config = study.config
    seeds = counted(config.seeds, "seed")
    if config.search.race:
        seeds = f"{config.first_seeds} to {config.stages[-1].stop} seeds"
    size = f"{counted(plan(study).settings, 'setting')} x {seeds} of {counted(config.steps, 'step')}"
    return f"{config.name}: {size}; starting {'MLflow' if inline else 'Ray and MLflow'}"


def describe(progress: Progress, metric: str) -> str:
    """Best so far and its regime, what went wrong, and the time left."""
    parts = []
    if progress.best is not None:
        setting, value = progress.best
        parts.append(f"best {metric} {number(value)} ({regime_of(setting.oscillator)})")
    parts += [
        f"{count} {what}"
        for what, count in (("pruned", progress.pruned), ("diverged", progress.diverged), ("failed", progress.failed))
        if count
    ]
    if progress.racing:
        parts.append(f"{progress.raced} of {progress.racing} in the race")
    if progress.finalists:
        parts.append(f"{progress.confirmed} of {progress.finalists} finalists confirmed")
    left = progress.seconds_left
    if left is not None and progress.done < progress.planned:
        parts.append(f"about {left:.0f} s left")
    return ", ".join(parts) or "training"

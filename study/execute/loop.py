"""Trains one pack and yields what it measured. Knows neither Ray nor Optuna nor MLflow."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from belay import Belay
from study.design.faults import shown
from study.design.schema import AVERAGE, LIVE, METRIC, Outcome, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Report, Task
from study.errors import LONGEST, printable
from study.execute.plan import Pack

DIVERGED_LOSS = 1e6  # times the first loss or 1, whichever is larger; training does not recover from such a loss


KEPT = (Exception, SystemExit)  # whatever a task may raise, but for Ctrl-C


class Diverged(Exception):
    """At this step the loss or a metric is infinite, nan or far too large."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def train_pack(study: Study, pack: Pack) -> Iterator[Outcome]:
    """Trains every setting of a pack with every seed.

    A seed that diverges or raises ends alone: it is part of the outcome, with the step or the message.
    """
    for setting in pack.settings:
        yield Outcome(setting.number, [_timed(study, setting, seed) for seed in pack.seeds])


def _timed(study: Study, setting: Setting, seed: int) -> SeedResult:
    started = time.perf_counter()
    result = train_seed(study, setting, seed)
    return replace(result, seconds=time.perf_counter() - started, finished=time.time())


def lost(pack: Pack, message: str) -> list[Outcome]:
    """The outcomes of a pack that could not be trained: every seed failed with this message."""
    results = [SeedResult(seed, state="failed", message=message, finished=time.time()) for seed in pack.seeds]
    return [Outcome(setting.number, results) for setting in pack.settings]


def train_seed(study: Study, setting: Setting, seed: int, kept: tuple[type[BaseException], ...] = KEPT) -> SeedResult:
    """Trains one seed of a setting.

    Args:
        study: The study.
        setting: One of its settings.
        seed: Of initial weights, order of the data and noise.
        kept: Exceptions that are the seed's result and do not end the study; with () a debugger sees them where they
            are raised.

    Returns:
        What it measured, until it diverged or raised.
    """
    history: list[tuple[int, dict[str, float]]] = []

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if unknown := [name for name in metrics if not METRIC.fullmatch(str(name))]:
            raise ValueError(f"`report` takes metrics named average/NAME or live/NAME, got {str(unknown[0])[:300]!r}.")
        values = {name: float(value) for name, value in metrics.items()}
        if not all(map(math.isfinite, values.values())):
            raise Diverged(step)
        history.append((step, values))

    try:
        loop = partial(_train, evaluations=study.config.evaluations)
        study.task_of(setting).train(setting, seed, report, loop)
    except Diverged as divergence:
        return SeedResult(seed, history, "diverged", diverged_at=divergence.step)
    except kept as error:
        return SeedResult(seed, history, "failed", _message(error))
    metric, reported = study.config.objective.metric, {name for _, metrics in history for name in metrics}
    if metric not in reported:
        found = ", ".join(sorted(reported)) or "none"
        return SeedResult(seed, history, "failed", f"objective.metric must be reported, got {found}: no {metric!r}.")
    return SeedResult(seed, history)


def _message(error: BaseException) -> str:
    """What a task raised, on one line that every database and terminal takes."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))[:LONGEST]


def _train(task: Task, setting: Setting, seed: int, report: Report, evaluations: int) -> None:
    steps = int(setting["steps"])
    due = {round(steps * part / evaluations) for part in range(1, evaluations + 1)}
    model = task.build_model(seed)
    optimizer = task.describe_optimizer().build(model.parameters())
    average = Belay(model, setting.oscillator, nonfinite="propagate")  # what diverges is seen below
    limit = math.inf
    for step, batch in enumerate(task.batches(seed, 0, steps), start=1):
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        value = abs(loss.item())
        if step == 1:
            limit = DIVERGED_LOSS * max(1.0, value)
        if not value <= limit:  # also where it is nan
            raise Diverged(step)
        optimizer.step()
        with warnings.catch_warnings():  # a first step that goes far is a setting that diverges
            warnings.simplefilter("ignore", UserWarning)
            average.update()
        if step in due:
            report(step, _evaluate(task, model, average))


def _evaluate(task: Task, model: torch.nn.Module, average: Belay) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        measured = {LIVE + name: _number(name, value) for name, value in task.evaluate(model).items()}
        with average.average_parameters():
            measured |= {AVERAGE + name: _number(name, value) for name, value in task.evaluate(model).items()}
    model.train()
    return measured


def _number(name: str, value: torch.Tensor) -> float:
    """A metric as a number, refused if it would not do for models side by side."""
    if not isinstance(value, torch.Tensor) or value.dim():
        found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else shown(value)
        raise TypeError(f"`evaluate` must return 0-d tensors, got {found} for {name!r}; leave out `float` or `item()`.")
    return value.item()

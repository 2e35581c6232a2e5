"""Trains one seed of a setting by itself: by the task's own loop or, where it has none, by this one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from belay import Belay
from study.design.faults import shown
from study.design.schema import AVERAGE, LIVE, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Report, Task
from study.execute.train.log import DIVERGED_LOSS, Diverged, Log

KEPT = (Exception, SystemExit)  # whatever a task may raise, but for Ctrl-C


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
    log = Log(seed, study.config.objective.metric)
    try:
        loop = partial(_train, evaluations=study.config.evaluations)
        study.task_of(setting).train(setting, seed, log.report, loop)
    except Diverged as divergence:
        return log.diverged(divergence.step)
    except kept as error:
        return log.failed(error)
    return log.complete()


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """The steps after which a run is measured, evenly spaced, the last one among them."""
    return {round(steps * part / evaluations) for part in range(1, evaluations + 1)}


def steps_of(task: Task, setting: Setting, seed: int) -> Iterator[tuple[nn.Module, Belay]]:
    """Trains a seed of a setting, and gives the model and its average after each step.

    Raises:
        Diverged: The loss has left what training recovers from.
    """
    model = task.build_model(seed)
    optimizer = task.describe_optimizer().build(model.parameters())
    average = Belay(model, setting.oscillator, nonfinite="propagate")  # what diverges is seen below
    limit = math.inf
    for step, batch in enumerate(task.batches(seed, 0, int(setting["steps"])), start=1):
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
        yield model, average


def _train(task: Task, setting: Setting, seed: int, report: Report, evaluations: int) -> None:
    due = evaluation_steps(int(setting["steps"]), evaluations)
    for step, (model, average) in enumerate(steps_of(task, setting, seed), start=1):
        if step in due:
            report(step, _evaluate(task, model, average))


def _evaluate(task: Task, model: nn.Module, average: Belay) -> dict[str, float]:
    measured = {LIVE + name: value for name, value in measure(task, model).items()}
    with average.average_parameters():
        return measured | {AVERAGE + name: value for name, value in measure(task, model).items()}


def measure(task: Task, model: nn.Module) -> dict[str, float]:
    """A task's metrics of a model."""
    model.eval()
    with torch.no_grad():
        measured = {name: _number(name, value) for name, value in task.evaluate(model).items()}
    model.train()
    return measured


def _number(name: str, value: torch.Tensor) -> float:
    """A metric as a number, refused if it would not do for models side by side."""
    if not isinstance(value, torch.Tensor) or value.dim():
        found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else shown(value)
        raise TypeError(f"`evaluate` must return 0-d tensors, got {found} for {name!r}; leave out `float` or `item()`.")
    return value.item()

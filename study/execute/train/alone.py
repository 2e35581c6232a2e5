"""Trains one seed of settings that share a trajectory: a task by its parts, a train function by its own loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from belay import Bank, Belay, Oscillator
from study.design.config import StudyConfig
from study.design.schema import AVERAGE, LIVE, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.plan import JUDGED, Bars
from study.execute.train.log import DIVERGED_LOSS, Diverged, Ended, Log, in_range, raised
from study.execute.train.memory import NoMemory, is_lack_of_memory
from study.execute.train.parts import batches_of, loss_of, measure, model_of, optimizer_of
from study.execute.train.undisturbed import TRAINING, defaults_kept, seeded

Errors = tuple[type[BaseException], ...]
KEPT: Errors = (Exception, SystemExit)  # whatever a task may raise, but for Ctrl-C


def train_alone(
    study: Study,
    settings: Sequence[Setting],
    seed: int,
    riders: Sequence[Oscillator] = (),
    bars: Mapping[int, Bars] | None = None,
    kept: Errors = KEPT,
) -> list[SeedResult]:
    """Trains one seed of settings that share a trajectory; of a train function, which has its own average, of one.

    Args:
        study: The study.
        settings: Some of its settings.
        seed: Of initial weights, order of the data and noise.
        riders: Averages without coupling that watch it too; what they measure is part of the first setting's result.
        bars: By number, what a setting has to reach at each rung.
        kept: Exceptions that are the seed's result and do not end the study; with () a debugger sees them where they
            are raised.

    Returns:
        What each measured, until it diverged, was pruned or raised.

    Raises:
        NoMemory: Several averages do not fit into memory; fewer may.
    """
    logs = [log_of(study, setting, seed, bars or {}) for setting in settings]
    endings = Endings((Ended, *kept), several=len(settings) + len(riders) > 1)
    with endings.of(*logs), defaults_kept(), seeded(TRAINING, seed):
        task = study.task_of(settings[0])
        if isinstance(task, Task):
            _train(study, task, settings, riders, logs, endings)
        else:
            (setting,), (log,) = settings, logs
            task.train(setting, seed, log.report)
    return [log.result() for log in logs]


@dataclass(frozen=True)
class Endings:
    """What ends a run, and is its result.

    Attributes:
        kinds: Exceptions.
        several: Whether there are several averages, so that a lack of memory is no result: fewer may fit.
    """

    kinds: Errors
    several: bool

    @contextmanager
    def of(self, *logs: Log) -> Iterator[None]:
        """Ends runs where the block raises."""
        try:
            yield
        except NoMemory:  # of a block inside
            raise
        except self.kinds as error:
            if self.several and is_lack_of_memory(error):
                raise NoMemory(raised(error)) from error
            for log in logs:
                log.end(error)


def log_of(study: Study, setting: Setting, seed: int, bars: Mapping[int, Bars]) -> Log:
    """The log of a run, with the bars that it has to reach."""
    return Log(seed, study, bars.get(setting.number, ()) if seed == JUDGED else ())


def evaluation_steps(config: StudyConfig) -> set[int]:
    """The steps after which a run is measured: evenly spaced, the last one among them, and the rungs."""
    steps, evaluations = config.steps, config.evaluations
    return {round(steps * part / evaluations) for part in range(1, evaluations + 1)} | {*config.rung_steps}


def steps_of(
    task: Task, settings: Sequence[Setting], seed: int, riders: Sequence[Oscillator] = ()
) -> Iterator[tuple[nn.Module, list[Belay], Bank | None]]:
    """Trains a seed of settings that share a trajectory, and gives the model, its averages and riders after each step.

    Raises:
        Diverged: The loss has left what training recovers from.
    """
    model, spec = model_of(task, seed), optimizer_of(task)
    optimizer, steps = spec.build(model.parameters()), int(settings[0]["steps"])
    averages = [Belay(model, each.oscillator, nonfinite="propagate") for each in settings]  # divergence is seen below
    bank = Bank(model, riders, nonfinite="propagate") if riders else None
    limit = math.inf
    for step, batch in enumerate(batches_of(task, seed, steps), start=1):
        optimizer.zero_grad()
        loss = loss_of(task, model, batch)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        value = abs(loss.item())
        if step == 1:
            limit = DIVERGED_LOSS * max(1.0, value)
        if not value <= limit:  # also where it is nan
            raise Diverged(step)
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * lr_factor(task, step, steps)
        optimizer.step()
        with warnings.catch_warnings():  # a first step that goes far is a setting that diverges
            warnings.simplefilter("ignore", UserWarning)
            for average in averages:
                average.update()
            if bank is not None:
                bank.update()
        yield model, averages, bank


def lr_factor(task: Task, step: int, steps: int) -> float:
    """What a task's schedule says.

    Raises:
        ValueError: It is no finite number, or below 0.
    """
    factor = float(task.lr_factor(step, steps))
    if not 0 <= factor < math.inf:
        raise ValueError(f"`lr_factor` must be finite and at least 0, got {factor} at step {step} of {steps}.")
    return factor


def _train(
    study: Study,
    task: Task,
    settings: Sequence[Setting],
    riders: Sequence[Oscillator],
    logs: Sequence[Log],
    endings: Endings,
) -> None:
    """Trains a seed of settings that share a trajectory, and measures it as often as the config says."""
    due = evaluation_steps(study.config)
    for step, (model, averages, bank) in enumerate(steps_of(task, settings, logs[0].seed, riders), start=1):
        if step in due:
            live = {LIVE + name: value for name, value in measure(task, model).items()}
            for average, log in zip(averages, logs, strict=True):
                with endings.of(log), average.average_parameters():
                    log.report(step, live | _averaged(task, model))
        if step == study.config.steps and bank is not None:
            apart = Log(logs[0].seed, study)
            with endings.of(apart):  # riders must not cost their host
                logs[0].riders = _measured(task, model, bank)
            if apart.ended:
                logs[0].note = f"riders are left out: {apart.result().message}"
        if all(log.ended for log in logs):
            return


def _measured(task: Task, model: nn.Module, bank: Bank) -> dict[str, list[float]]:
    """What the riders measure, by metric; nan where it is out of range.

    Raises:
        ValueError: Some lack a metric that others have.
    """
    columns: dict[str, list[float]] = {}
    for index in range(len(bank)):
        with bank.average_parameters(index):
            for name, value in _averaged(task, model).items():
                columns.setdefault(name, []).append(value if in_range(value) else math.nan)
    if lacking := [name for name, values in columns.items() if len(values) < len(bank)]:
        raise ValueError(f"`evaluate` must give every model the same metrics, got {lacking[0]!r} of some.")
    return columns


def _averaged(task: Task, model: nn.Module) -> dict[str, float]:
    return {AVERAGE + name: value for name, value in measure(task, model).items()}

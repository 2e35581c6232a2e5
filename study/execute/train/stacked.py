"""Trains runs side by side: each trajectory is a row of one batched model (``torch.func.vmap``).

What a run measures is what the same run measures alone, to rounding: the same initial weights, batches and noise. As
only its task can promise that, it is checked after the first steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parameters_to_vector

from study.design.schema import AVERAGE, LIVE, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.plan import Bars
from study.execute.train.alone import KEPT, evaluation_steps, log_of, lr_factor, measure, steps_of
from study.execute.train.log import DIVERGED_LOSS, Diverged, Ended, Pruned, in_range, raised
from study.execute.train.memory import NoMemory, is_lack_of_memory
from study.execute.train.rows import Averages, Watchers, optimizer
from study.execute.train.undisturbed import TRAINING, defaults_kept, drawn, seeded

Run = tuple[Setting, int]  # a setting and a seed
Traced = Callable[..., tuple[Tensor, Tensor]]

TRIED = 3  # steps after which rows are compared with the same runs alone
AGREE = 1e-2  # the largest difference, as a share of the way gone: far above rounding, far below a wrong equation
ROUNDING = 16  # units in the last place of the largest weight that are no difference, however short the way
TOGETHER = 16  # rows that are evaluated at once
MOST_TRACED = 16  # sequences of operations that are kept for further packs
TRACED: dict[object, Traced] = {}  # of this process, by all that they depend on, oldest first


class NotStackable(Exception):
    """Runs cannot be trained side by side; its text says why."""


def train_stacked(
    study: Study, runs: Sequence[Run], hosts: Collection[int] = (), bars: Mapping[int, Bars] | None = None
) -> list[SeedResult]:
    """Trains runs of a stackable task to their end.

    Args:
        study: The study.
        runs: Some of its runs.
        hosts: The numbers of the settings whose trainings riders watch.
        bars: By number, what a setting has to reach at each rung.

    Returns:
        Each one's result, with riders where its setting is a host.

    Raises:
        NotStackable: They cannot be trained side by side, or do not come to what they come to alone.
        NoMemory: They do not fit into memory together.
    """
    return _attempt(study, runs, study.config.steps, hosts, bars or {})


def try_stacked(study: Study, runs: Sequence[Run]) -> None:
    """Trains runs of a stackable task for the first steps and compares the first and the last with the same runs alone.

    Raises:
        NotStackable: They cannot be trained side by side, or do not come to what they come to alone.
        NoMemory: They do not fit into memory together.
    """
    _attempt(study, runs, min(TRIED, study.config.steps), (), {})


def _attempt(
    study: Study, runs: Sequence[Run], steps: int, hosts: Collection[int], bars: Mapping[int, Bars]
) -> list[SeedResult]:
    try:
        with defaults_kept():
            return _Stack(study, runs, hosts, bars).train(steps)
    except (NotStackable, NoMemory):
        raise
    except KEPT as error:  # whatever a task may raise; torch names the operation
        raise (NoMemory if is_lack_of_memory(error) else NotStackable)(raised(error)) from error


class _Stack:
    """Runs in training: a row for each trajectory, until some time after its runs have ended."""

    def __init__(self, study: Study, runs: Sequence[Run], hosts: Collection[int], bars: Mapping[int, Bars]) -> None:
        self._study, self._runs = study, runs
        # Alone first: what a task keeps between calls, as its data, must not be made while rows are traced.
        self._alone = {run: _alone(study, *runs[run]) for run in {0, len(runs) - 1}}
        self._logs = [log_of(study, setting, seed, bars) for setting, seed in runs]
        self._run_of = list(range(len(runs)))  # each average's run
        places: dict[tuple[str, int], int] = {}
        self._row_of = [places.setdefault((setting.trajectory, seed), len(places)) for setting, seed in runs]
        first = [runs[self._row_of.index(row)] for row in range(len(places))]
        tasks, seeds = [_task(study, setting) for setting, _ in first], [seed for _, seed in first]
        self._rows = _Rows(tasks, seeds)
        self._averages = Averages([setting.oscillator for setting, _ in runs], self._row_of, self._rows.x)
        self._hosts = [run for run, (setting, _) in enumerate(runs) if setting.number in hosts]
        self._riders = Watchers(study.riders, self._rows_of(self._hosts), self._rows.x) if self._hosts else None
        self._optimizer, self._tasks = optimizer([task.describe_optimizer() for task in tasks], self._rows.x), tasks
        self._streams, self._stream_of = _streams(tasks, seeds)
        self._limit: Tensor  # of each row's loss, beyond which it has diverged
        self._to_leave = False  # whether runs have ended whose rows may be left behind

    def train(self, steps: int) -> list[SeedResult]:
        """Trains all rows for so many steps; each run's result."""
        due, before = evaluation_steps(self._study.config), drawn()
        for step, batch in enumerate(self._batches(steps), start=1):
            self._advance(batch, step)
            if step == min(TRIED, self._study.config.steps):
                self._check()
                _check_drawn(before)
            if step in due:
                self._evaluate(step)
            self._leave_ended()
            if not self._run_of:
                break
        if self._riders is not None and steps == self._study.config.steps:
            self._evaluate_riders(self._riders.averages())
        _check_drawn(before)
        return [log.result() for log in self._logs]

    def _advance(self, batch: tuple[Tensor, ...], step: int) -> None:
        """One step of all rows and averages."""
        gradient, loss = self._rows.gradient(batch)
        if step == 1:
            self._limit = DIVERGED_LOSS * loss.abs().clamp(min=1)
        if too_large := (~(loss.abs() <= self._limit)).nonzero().flatten().tolist():  # also where it is nan
            ended = [run for run, row in zip(self._run_of, self._row_of, strict=True) if row in too_large]
            self._end(ended, Diverged(step))
        self._optimizer.schedule([lr_factor(task, step, self._study.config.steps) for task in self._tasks])
        self._optimizer.step(self._rows.x, gradient)
        self._averages.update(self._rows.x)
        if self._riders is not None:
            self._riders.watch(self._rows.x)

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The parts of the batches of each step, shapes (rows, ...)."""
        drawn = [task.batches(seed, 0, self._study.config.steps) for task, seed in self._streams]
        for batches in islice(zip(*drawn, strict=True), steps):
            yield tuple(
                torch.stack([parts[stream] for stream in self._stream_of]) for parts in zip(*batches, strict=True)
            )

    def _evaluate(self, step: int) -> None:
        live, averaged = self._rows.metrics(self._rows.x), self._rows.metrics(self._averages.y, self._row_of)
        for run, row, values in zip(self._run_of, self._row_of, averaged, strict=True):
            measured = {LIVE + name: value for name, value in live[row].items()}
            measured |= {AVERAGE + name: value for name, value in values.items()}
            try:
                self._logs[run].report(step, measured)
            except Diverged as divergence:
                self._end([run], divergence)
            except Pruned as pruned:  # with all seeds of its setting
                setting, _ = self._runs[run]
                self._end([other for other, (one, _) in enumerate(self._runs) if one.number == setting.number], pruned)

    def _evaluate_riders(self, averages: Tensor) -> None:
        """Measures the riders of each host, shape (hosts, riders, weights)."""
        for run, row, riders in zip(self._hosts, self._rows_of(self._hosts), averages, strict=True):
            measured = self._rows.metrics(riders, [row] * len(riders))
            self._logs[run].riders = {
                AVERAGE + name: [each[name] if in_range(each[name]) else math.nan for each in measured]
                for name in measured[0]
            }

    def _rows_of(self, runs: Sequence[int]) -> list[int]:
        return [self._row_of[self._run_of.index(run)] for run in runs]

    def _end(self, runs: Iterable[int], ending: Ended) -> None:
        """Ends runs; those that ended before stay as they were."""
        for run in runs:
            self._logs[run].end(ending)
            self._to_leave = True

    def _leave_ended(self) -> None:
        """Drops the rows of ended runs once they are a third of all; not one by one, as fewer rows are traced anew."""
        if not self._to_leave:
            return
        self._to_leave = False
        going = sorted({row for run, row in zip(self._run_of, self._row_of, strict=True) if not self._logs[run].ended})
        if 3 * len(going) > 2 * len(self._rows.x):
            return
        self._stream_of = [self._stream_of[row] for row in going]
        self._tasks = [self._tasks[row] for row in going]
        rows = torch.tensor(going, dtype=torch.long, device=self._rows.x.device)
        self._limit = self._limit[rows]
        self._rows.keep(rows)
        self._optimizer.keep(rows)
        kept = [place for place, row in enumerate(self._row_of) if row in going]
        self._run_of = [self._run_of[place] for place in kept]
        self._row_of = [going.index(self._row_of[place]) for place in kept]
        self._averages.keep(torch.tensor(kept, dtype=torch.long, device=rows.device), self._row_of, self._rows.x)
        if self._riders is not None:
            carrying = [place for place, run in enumerate(self._hosts) if run in self._run_of]
            self._hosts = [self._hosts[place] for place in carrying]
            watched = torch.tensor(carrying, dtype=torch.long, device=rows.device)
            self._riders.keep(watched, self._rows_of(self._hosts))

    def _check(self) -> None:
        """Compares the first and the last run with what they came to alone.

        Raises:
            NotStackable: They differ by more than rounding.
        """
        measured = self._rows.metrics(self._rows.x)
        for run, alone in self._alone.items():
            if alone is not None and not self._logs[run].ended:
                place = self._run_of.index(run)
                row = self._row_of[place]
                _compare("weights", self._rows.x[row], alone.weights, alone.begun)
                _compare("averaged weights", self._averages.y[place], alone.averaged, alone.begun)
                for name, value in measured[row].items():
                    if not abs(value - alone.metrics[name]) <= AGREE * max(1.0, abs(alone.metrics[name])):
                        raise NotStackable(f"{name} is {value:.4g} side by side and {alone.metrics[name]:.4g} alone")


@dataclass(frozen=True)
class _Alone:
    """What the first steps of a run come to by themselves; weights are vectors."""

    begun: Tensor
    weights: Tensor
    averaged: Tensor
    metrics: dict[str, float]


def _alone(study: Study, setting: Setting, seed: int) -> _Alone | None:
    """The first steps of a run by itself; None if it diverges in them.

    Raises:
        NotStackable: Training changes more of the model than its parameters.
    """
    task = _task(study, setting)
    begun = _built(task, seed)
    try:
        with seeded(TRAINING, seed):
            *_, (model, (average,), _) = islice(steps_of(task, [setting], seed), TRIED)
    except Diverged:
        return None
    buffers = dict(model.named_buffers())
    if changed := [name for name, buffer in begun.named_buffers() if not torch.equal(buffer, buffers[name])]:
        raise NotStackable(f"training changes the model's buffer {changed[0]}, as BatchNorm does")
    with average.average_parameters():
        averaged = _vector(model)
    return _Alone(_vector(begun), _vector(model), averaged, measure(task, model))


class _Rows:
    """The weights of trajectories as rows, and their task's functions of a row.

    Args:
        tasks: Each row's own task; the first one's functions serve all.
        seeds: Each row's seed.

    Attributes:
        x: Weights that are trained, shape (rows, weights).

    Raises:
        NotStackable: The tasks or their models are not alike.
    """

    def __init__(self, tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        _check_alike(tasks)
        models = [_built(task, seed) for task, seed in zip(tasks, seeds, strict=True)]
        self._whole = _Whole(tasks[0], models[0])
        self._kind = type(tasks[0]), _reads(tasks[0], without=tasks[0].stackable or ()), str(models[0])
        trained = [dict(_trained(model)) for model in models]
        kinds = {weight.dtype for weights in trained for weight in weights.values()}
        if len({str(model) for model in models}) > 1 or len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
            raise NotStackable("the models differ, or their weights are not all float32 or all float64")
        self._shapes = {name: weight.shape for name, weight in trained[0].items()}
        self.x = torch.stack([parameters_to_vector(weights.values()).detach() for weights in trained])
        fixed = [dict(_fixed(model)) for model in models]
        self._fixed = {name: torch.stack([row[name].detach() for row in fixed]) for name in fixed[0]}
        self._batch: list[torch.Size] = []
        self._traced: Traced | None = None

    def gradient(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Of the loss of each row's batch, shapes (rows, ...): the gradient (rows, weights) and the loss (rows,).

        The operations of the first batch are noted and gone through anew for each that follows, which takes half the
        time of `vmap` for a small model.
        """
        shapes = [part.shape for part in batch]
        if self._traced is None:
            self._traced, self._batch = self._trace(batch), shapes
        if shapes != self._batch:
            raise NotStackable("`batches` gives batches of different shapes")
        return self._traced(self.x, self._fixed, batch)

    def metrics(self, weights: Tensor, row_of: Sequence[int] | None = None) -> list[dict[str, float]]:
        """The task's metrics of weights (n, weights), a mapping each.

        Args:
            weights: In place of those of rows.
            row_of: Of which row each is; left out, there is one for each row.
        """
        fixed = self._fixed if row_of is None else {name: rows[row_of] for name, rows in self._fixed.items()}
        self._whole.eval()
        with torch.no_grad():
            found: dict[str, Tensor] = vmap(self._measure, chunk_size=TOGETHER)(weights, fixed)
        self._whole.train()
        columns = {name: value.tolist() for name, value in found.items()}
        return [{name: column[place] for name, column in columns.items()} for place in range(len(weights))]

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone."""
        self.x, self._traced = self.x[rows], None
        self._fixed = {name: values[rows] for name, values in self._fixed.items()}

    def _trace(self, batch: tuple[Tensor, ...]) -> Traced:
        """The operations of `gradient`: those of an earlier pack that was the same but for its numbers, or new ones."""
        tensors = [self.x, *self._fixed.values(), *batch]
        key = self._kind, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if key not in TRACED:
            if len(TRACED) == MOST_TRACED:
                TRACED.pop(next(iter(TRACED)))
            side_by_side = vmap(grad_and_value(self._loss))
            TRACED[key] = make_fx(lambda x, fixed, parts: side_by_side(x, fixed, parts))(self.x, self._fixed, batch)
        return TRACED[key]

    def _loss(self, row: Tensor, fixed: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return self._call(row, fixed, "loss", batch)  # type: ignore[no-any-return]

    def _measure(self, row: Tensor, fixed: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._call(row, fixed, "evaluate")  # type: ignore[no-any-return]

    def _call(self, row: Tensor, fixed: Mapping[str, Tensor], function: str, *arguments: Any) -> Any:
        parts = torch.split(row, [shape.numel() for shape in self._shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        tensors = {f"model.{name}": tensor for name, tensor in {**weights, **fixed}.items()}
        return functional_call(self._whole, tensors, (function, *arguments))


class _Whole(nn.Module):
    """A task and its model as one module, so that torch puts a row's weights where the task's functions find them."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, function: str, *arguments: Any) -> Any:
        return getattr(self._task, function)(self.model, *arguments)


def _task(study: Study, setting: Setting) -> Task:
    task = study.task_of(setting)
    assert isinstance(task, Task)
    return task


def _built(task: Task, seed: int) -> nn.Module:
    """A run's model, as it is built alone."""
    with seeded(TRAINING, seed):
        return task.build_model(seed)


def _check_drawn(before: list[bytes]) -> None:
    """Raises NotStackable if global generators are not what they were: a run draws other numbers beside others."""
    if drawn() != before:
        raise NotStackable("`batches` or `evaluate` draws from a global random generator; give it one of its own")


def _check_alike(tasks: Sequence[Task]) -> None:
    """Raises NotStackable if tasks differ in more than they say they may."""
    kinds = {(_reads(task, without=task.stackable or ()), task.describe_optimizer().kind) for task in tasks}
    if len(kinds) > 1:
        raise NotStackable("the settings differ in more than `stackable` names")


def _compare(what: str, ours: Tensor, theirs: Tensor, begun: Tensor) -> None:
    """Raises NotStackable if a row is not what the same run is alone."""
    gap, gone = ((theirs - other).abs().max() for other in (ours, begun))
    if not gap <= AGREE * gone + ROUNDING * torch.finfo(theirs.dtype).eps * theirs.abs().max():
        raise NotStackable(
            f"after {TRIED} steps the {what} are {gap:.2g} from those of the same run alone, which have gone "
            f"{gone:.2g}: `loss` or `batches` reads more than `stackable` says"
        )


def _streams(tasks: Sequence[Task], seeds: Sequence[int]) -> tuple[list[tuple[Task, int]], list[int]]:
    """The batches that have to be drawn, by task and seed, and which of them each row takes.

    Rows of one seed share them where they differ in nothing but what their optimizers read.
    """
    read = {name for name in tasks[0].stackable or () if _is_read_by_optimizer(name, tasks)}
    keys = [(_reads(task, without=read), seed) for task, seed in zip(tasks, seeds, strict=True)]
    streams: dict[tuple[str, int], tuple[Task, int]] = {}
    for key, task, seed in zip(keys, tasks, seeds, strict=True):
        streams.setdefault(key, (task, seed))
    places = {key: place for place, key in enumerate(streams)}
    return list(streams.values()), [places[key] for key in keys]


def _is_read_by_optimizer(name: str, tasks: Sequence[Task]) -> bool:
    """Whether a hyperparameter's values, put into the first task, make as many different optimizers."""
    first, values = tasks[0], {getattr(task, name) for task in tasks}
    return len({first.having({**first.values(), name: value}).describe_optimizer() for value in values}) == len(values)


def _reads(task: Task, without: Collection[str]) -> str:
    """The values of a task's hyperparameters but for some, as text."""
    return json.dumps({name: value for name, value in task.values().items() if name not in without}, sort_keys=True)


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters that the optimizer moves."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _fixed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What stays as it was built: frozen parameters and buffers."""
    yield from ((name, weight) for name, weight in model.named_parameters() if not weight.requires_grad)
    yield from model.named_buffers()


def _vector(model: nn.Module) -> Tensor:
    return parameters_to_vector(weight for _, weight in _trained(model)).detach().clone()

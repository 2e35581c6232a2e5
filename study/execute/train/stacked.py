"""Trains runs side by side: each trajectory is a row of one batched model (``torch.func.vmap``).

What a run measures is what the same run measures alone, to rounding: the same initial weights, batches and noise. As
only its task can promise that, it is checked after the first steps.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils._pytree import tree_leaves

from study.design.schema import AVERAGE, LIVE, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.plan import Bars
from study.execute.train.alone import KEPT, evaluation_steps, log_of, lr_factor
from study.execute.train.log import DIVERGED_LOSS, Diverged, Ended, Pruned, in_range, raised
from study.execute.train.memory import NoMemory, is_lack_of_memory
from study.execute.train.parts import batches_of, evaluating, loss_of, measure, model_of, optimizer_of
from study.execute.train.rows import Averages, Watchers, optimizer
from study.execute.train.traced import Traced, traced
from study.execute.train.uncompiled import grad_and_value
from study.execute.train.undisturbed import TRAINING, defaults_kept, drawn, seeded

Run = tuple[Setting, int]  # a setting and a seed

TRIED = 3  # first steps, in which rows are compared with the same weights alone
ROUNDING = 1000  # units in the last place by which gradients may differ, of the largest: far below a wrong equation
COARSE = 1e-2  # the same on a GPU, whose kernels may take float32 with 11 bits
AGREE, LEAST = 1e-2, 1e-6  # share of a metric, in which few examples count, and value that are no difference
RANDOM = "called random operation"  # what torch says under `vmap`
SLOWER = "There is a performance drop"  # what it warns of, with an appeal to its users
TOGETHER = 16  # rows that are evaluated at once


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
        with defaults_kept(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", SLOWER, UserWarning)
            return _Stack(study, runs, hosts, bars).train(steps)
    except (NotStackable, NoMemory):
        raise
    except KEPT as error:  # whatever a task may raise; torch names the operation
        raise (NoMemory if is_lack_of_memory(error) else NotStackable)(raised(error)) from error


class _Stack:
    """Runs in training: a row for each trajectory, until some time after its runs have ended."""

    def __init__(self, study: Study, runs: Sequence[Run], hosts: Collection[int], bars: Mapping[int, Bars]) -> None:
        self._study, self._runs = study, runs
        self._logs = [log_of(study, setting, seed, bars) for setting, seed in runs]
        self._run_of = list(range(len(runs)))  # each average's run
        places: dict[tuple[str, int], int] = {}
        self._row_of = [places.setdefault((setting.trajectory, seed), len(places)) for setting, seed in runs]
        first = [runs[self._row_of.index(row)] for row in range(len(places))]
        tasks, seeds = [_task(study, setting) for setting, _ in first], [seed for _, seed in first]
        # Alone first: what a task keeps between calls, as its data, must not be made while rows are traced.
        self._alone = {row: _Alone(tasks[row], seeds[row], study.config.steps) for row in {0, len(first) - 1}}
        if len({alone.unused for alone in self._alone.values()}) > 1:
            raise NotStackable("a parameter has a gradient in some runs and none in others")
        self._rows = _Rows(tasks, seeds, self._alone[0].unused)
        self._averages = Averages([setting.oscillator for setting, _ in runs], self._row_of, self._rows.x)
        self._hosts = [run for run, (setting, _) in enumerate(runs) if setting.number in hosts]
        self._riders = Watchers([study.riders] * len(self._hosts), self._rows_of(self._hosts), self._rows.x)
        self._optimizer, self._tasks = optimizer([optimizer_of(task) for task in tasks], self._rows.x), tasks
        self._streams, self._stream_of = _streams(tasks, seeds)
        self._limit: Tensor  # of each row's loss, beyond which it has diverged
        self._to_leave = False  # whether runs have ended whose rows may be left behind

    def train(self, steps: int) -> list[SeedResult]:
        """Trains all rows for so many steps; each run's result."""
        due, before = evaluation_steps(self._study.config), drawn()
        for step, batch in enumerate(self._batches(steps), start=1):
            self._advance(batch, step)
            if step == min(TRIED, self._study.config.steps):
                self._check_metrics()
                self._alone = {}  # and the memory that they take
                _check_drawn(before)
            if step in due:
                self._evaluate(step)
            self._leave_ended()
            if not self._run_of:
                break
        if self._hosts and steps == self._study.config.steps:
            self._evaluate_riders(self._riders.averages())
        _check_drawn(before)
        return [log.result() for log in self._logs]

    def _advance(self, batch: tuple[Tensor, ...], step: int) -> None:
        """One step of all rows and averages."""
        gradient, loss = self._rows.gradient(batch)
        if step <= TRIED:
            for row, alone in self._alone.items():
                alone.check(step, self._rows.x[row], [part[row] for part in batch], gradient[row])
        if step == 1:
            self._limit = DIVERGED_LOSS * loss.abs().clamp(min=1)
        if too_large := (~(loss.abs() <= self._limit)).nonzero().flatten().tolist():  # also where it is nan
            ended = [run for run, row in zip(self._run_of, self._row_of, strict=True) if row in too_large]
            self._end(ended, Diverged(step))
        self._optimizer.schedule([lr_factor(task, step, self._study.config.steps) for task in self._tasks])
        self._optimizer.step(self._rows.x, gradient)
        self._averages.update(self._rows.x)
        if self._hosts:
            self._riders.watch(self._rows.x)

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The parts of the batches of each step, shapes (rows, ...)."""
        drawn = [batches_of(task, seed, self._study.config.steps) for task, seed in self._streams]
        for batches in islice(zip(*drawn, strict=True), steps):
            yield tuple(
                torch.stack([parts[stream] for stream in self._stream_of]) for parts in zip(*batches, strict=True)
            )

    def _evaluate(self, step: int) -> None:
        live, averaged = self._rows.metrics(self._rows.x), self._rows.metrics(self._averages.values(), self._row_of)
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

    def _evaluate_riders(self, averages: Sequence[Tensor]) -> None:
        """Measures the riders of each host, shape (riders, weights)."""
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
        self._alone = {going.index(row): alone for row, alone in self._alone.items() if row in going}
        rows = torch.tensor(going, dtype=torch.long, device=self._rows.x.device)
        self._limit = self._limit[rows]
        self._rows.keep(rows)
        self._optimizer.keep(rows)
        kept = [place for place, row in enumerate(self._row_of) if row in going]
        self._run_of = [self._run_of[place] for place in kept]
        self._row_of = [going.index(self._row_of[place]) for place in kept]
        self._averages.keep(kept, self._row_of, self._rows.x)
        if self._hosts:
            carrying = [place for place, run in enumerate(self._hosts) if run in self._run_of]
            self._hosts = [self._hosts[place] for place in carrying]
            self._riders.keep(carrying, self._rows_of(self._hosts))

    def _check_metrics(self) -> None:
        """Compares what some rows measure with what the same weights measure alone.

        Raises:
            NotStackable: They differ by more than rounding.
        """
        rows = list(self._alone)
        for row, measured in zip(rows, self._rows.metrics(self._rows.x[rows], rows), strict=True):
            for name, theirs in self._alone[row].metrics(self._rows.x[row]).items():
                ours = measured[name]
                if in_range(theirs) and not abs(ours - theirs) <= AGREE * abs(theirs) + LEAST:
                    raise NotStackable(
                        f"{name} is {ours:.4g} side by side and {theirs:.4g} alone: `evaluate` reads more than "
                        "`stackable` says"
                    )


class _Alone:
    """A row's run by itself: what its task makes of the row's weights, one step at a time.

    Args:
        task: The run's own.
        seed: Its seed.
        steps: Of the run.

    Attributes:
        unused: The parameters that get no gradient, which no optimizer moves.
    """

    def __init__(self, task: Task, seed: int, steps: int) -> None:
        self._task, self._seed, self._model = task, seed, _built(task, seed)
        self._batches = batches_of(task, seed, steps)
        with seeded(TRAINING, seed):
            (first,) = islice(batches_of(task, seed, steps), 1)
        self.unused = frozenset(name for name, slope in self._differentiate(first).items() if slope is None)
        measure(task, self._model)

    def check(self, step: int, weights: Tensor, batch: Sequence[Tensor], gradient: Tensor) -> None:
        """Compares a step's batch and gradient, at the weights that the row has before it.

        Raises:
            NotStackable: They differ by more than rounding, or the loss changes the model.
        """
        with seeded(TRAINING, self._seed):
            own = next(self._batches)
        if not all(_is_same(ours, theirs) for ours, theirs in zip(batch, own, strict=True)):
            raise NotStackable(
                f"step {step} has another batch alone: `batches` reads more than `stackable` says, or not only its seed"
            )
        self._load(weights)
        slopes = self._differentiate(own)
        if changing := [name for name, slope in slopes.items() if (slope is None) != (name in self.unused)]:
            raise NotStackable(f"the parameter {changing[0]} has a gradient in some steps and none in others")
        theirs = parameters_to_vector([slope for slope in slopes.values() if slope is not None])
        gap, size = (theirs - gradient).abs().max(), theirs.abs().max()
        if size.isfinite() and not gap <= _rounding(theirs) * size:
            raise NotStackable(
                f"the gradient of step {step} is {gap:.2g} from that of the same run alone, the largest of which is "
                f"{size:.2g}: `loss` reads more than `stackable` says"
            )

    def metrics(self, weights: Tensor) -> dict[str, float]:
        """What weights measure."""
        self._load(weights)
        return measure(self._task, self._model)

    def _load(self, weights: Tensor) -> None:
        with torch.no_grad():
            vector_to_parameters(weights.clone(), [weight for _, weight in _trained(self._model, self.unused)])

    def _differentiate(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor | None]:
        """The gradient of a batch's loss by parameter; None for one that the loss does not read.

        Raises:
            NotStackable: The loss changes the model.
        """
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._model.zero_grad()
        with seeded(TRAINING, self._seed):
            loss_of(self._task, self._model, batch).backward()  # type: ignore[no-untyped-call] # torch's own
        if changed := [name for name, tensor in tensors.items() if not _is_same(tensor, before[name])]:
            raise NotStackable(f"`loss` changes the model's {changed[0]}, as BatchNorm does its statistics")
        return {name: weight.grad for name, weight in _trained(self._model)}


class _Rows:
    """The weights of trajectories as rows, and their task's functions of a row.

    Args:
        tasks: Each row's own task; the first one's functions serve all.
        seeds: Each row's seed.
        unused: Parameters that no optimizer moves, as the loss does not read them.

    Attributes:
        x: Weights that are trained, shape (rows, weights).

    Raises:
        NotStackable: The tasks or their models are not alike.
    """

    def __init__(self, tasks: Sequence[Task], seeds: Sequence[int], unused: Collection[str]) -> None:
        _check_alike(tasks)
        models = [_built(task, seed) for task, seed in zip(tasks, seeds, strict=True)]
        self._whole = _Whole(tasks[0], models[0])
        trained = [dict(_trained(model, unused)) for model in models]
        kinds = {weight.dtype for weights in trained for weight in weights.values()}
        if len({str(model) for model in models}) > 1 or len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
            raise NotStackable("the models differ, or their weights are not all float32 or all float64")
        self._shapes = {name: weight.shape for name, weight in trained[0].items()}
        modes = [module.training for module in models[0].modules()]
        reads = _reads(tasks[0], without=tasks[0].stackable or ())
        self._kind = type(tasks[0]), reads, str(models[0]), *modes, *self._shapes
        self.x = torch.stack([parameters_to_vector(weights.values()).detach() for weights in trained])
        fixed = [dict(_fixed(model, unused)) for model in models]
        self._fixed = {name: torch.stack([row[name].detach() for row in fixed]) for name in fixed[0]}
        self._batch: list[torch.Size] = []
        self._traced: Traced | None = None

    def gradient(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Of the loss of each row's batch, shapes (rows, ...): the gradient (rows, weights) and the loss (rows,).

        The operations of the first batch are gone through anew for each that follows, also in a further pack that
        differs in numbers alone.
        """
        shapes = [part.shape for part in batch]
        if self._traced is None:
            self._batch, self._traced = shapes, self._operations(grad_and_value(self._loss), self.x, self._fixed, batch)
        if shapes != self._batch:
            raise NotStackable("`batches` gives batches of different shapes")
        found: tuple[Tensor, Tensor] = self._traced(self.x, self._fixed, batch)
        return found

    def metrics(self, weights: Tensor, row_of: Sequence[int] | None = None) -> list[dict[str, float]]:
        """The task's metrics of weights (n, weights), a mapping each, by operations that are gone through like those.

        Args:
            weights: In place of those of rows.
            row_of: Of which row each is; left out, there is one for each row.
        """
        fixed = self._fixed if row_of is None else {name: rows[row_of] for name, rows in self._fixed.items()}
        found: list[dict[str, float]] = []
        with evaluating(self._whole), torch.no_grad():
            for begin in range(0, len(weights), TOGETHER):
                some = slice(begin, begin + TOGETHER)
                few = {name: rows[some] for name, rows in fixed.items()}
                measured = self._operations(self._measure, weights[some], few)(weights[some], few)
                columns = {name: value.tolist() for name, value in measured.items()}
                found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return found

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone."""
        self.x, self._traced = self.x[rows], None
        self._fixed = {name: values[rows] for name, values in self._fixed.items()}

    def _operations(self, function: Callable[..., Any], *arguments: Any) -> Traced:
        """The operations of a function of one row, for rows of these shapes."""
        shapes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tree_leaves(arguments)]
        return traced((function.__name__, self._kind, *shapes), vmap(function), *arguments)

    def _loss(self, row: Tensor, fixed: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return self._call(row, fixed, "loss", batch)  # type: ignore[no-any-return]

    def _measure(self, row: Tensor, fixed: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._call(row, fixed, "evaluate")  # type: ignore[no-any-return]

    def _call(self, row: Tensor, fixed: Mapping[str, Tensor], function: str, *arguments: Any) -> Any:
        parts = torch.split(row, [shape.numel() for shape in self._shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        tensors = {f"model.{name}": tensor for name, tensor in {**weights, **fixed}.items()}
        try:
            return functional_call(self._whole, tensors, (function, *arguments))
        except RuntimeError as error:
            if RANDOM in str(error):
                raise NotStackable(
                    f"`{function}` draws random numbers, as dropout does, or data that is made at each call"
                ) from error
            raise


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
        return model_of(task, seed)


def _check_drawn(before: list[bytes]) -> None:
    """Raises NotStackable if global generators are not what they were: a run draws other numbers beside others."""
    if drawn() != before:
        raise NotStackable("`batches` or `evaluate` draws from a global random generator; give it one of its own")


def _check_alike(tasks: Sequence[Task]) -> None:
    """Raises NotStackable if tasks differ in more than they say they may."""
    kinds = {(_reads(task, without=task.stackable or ()), optimizer_of(task).kind) for task in tasks}
    if len(kinds) > 1:
        raise NotStackable("the settings differ in more than `stackable` names")


def _is_same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether all values are equal, or nan in both."""
    return ours.shape == theirs.shape and bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


def _rounding(values: Tensor) -> float:
    """The largest difference that is rounding, as a share of the largest of some values."""
    finest = ROUNDING * torch.finfo(values.dtype).eps
    return finest if values.is_cpu else max(finest, COARSE)


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
    first, values = tasks[0], {json.dumps(value): value for value in (task.values()[name] for task in tasks)}
    made = {repr(optimizer_of(first.having({**first.values(), name: value}))) for value in values.values()}
    return len(made) == len(values)


def _reads(task: Task, without: Collection[str]) -> str:
    """The values of a task's hyperparameters but for some, as text."""
    return json.dumps({name: value for name, value in task.values().items() if name not in without}, sort_keys=True)


def _trained(model: nn.Module, unused: Collection[str] = ()) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that the optimizer moves."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and name not in unused:
            yield name, weight


def _fixed(model: nn.Module, unused: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """What stays as it was built: other parameters and buffers."""
    trained = dict(_trained(model, unused))
    yield from ((name, weight) for name, weight in model.named_parameters() if name not in trained)
    yield from model.named_buffers()

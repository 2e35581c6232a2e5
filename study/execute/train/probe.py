"""Tries, before a study relies on it, how many runs of its task train side by side."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice

import torch

from study.design.dimension import Choice
from study.design.schema import COORDINATES, Setting, Value
from study.design.space import applying
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.train.alone import KEPT
from study.execute.train.apart import room_apart
from study.execute.train.memory import NoMemory
from study.execute.train.parts import batches_of, loss_of, model_of, optimizer_of
from study.execute.train.stacked import NotStackable, try_stacked
from study.execute.train.uncompiled import count_operations
from study.execute.train.undisturbed import TRAINING, defaults_kept, seeded

PROBED = 4  # runs that are tried, at most
WEIGHTS, OPERATIONS = 2**15, 2**24  # of a run and of its step, above which a processor gains nothing by stacking


@dataclass(frozen=True)
class Room:
    """How many runs a pack of a study may hold.

    Attributes:
        runs: As many; 1 where a pack is a setting whose seeds are trained one by one.
        reason: Why no more are trained side by side; "" where they are.
        broken: Whether the task says that its runs can be stacked, and they cannot.
    """

    runs: int
    reason: str = ""
    broken: bool = False


def room(study: Study) -> Room:
    """Tries runs from opposite ends of the study's space, two by two: a few steps side by side, and alone.

    What is found depends on the study alone, neither on the machine nor on time, unless they take longer than
    `limits.setting_seconds`: then settings train one by one, and those that hang fail.
    """
    task, most = study.task, study.config.resources.side_by_side
    if not isinstance(task, Task):
        return Room(1, "a train function makes its own loop")
    if task.stackable is None:
        return Room(1, f"{type(task).__name__} does not say in what its runs may differ (`stackable`)")
    if most == 1:
        return Room(1, "resources.side_by_side is 1")
    if study.config.limits.setting_seconds is not None:
        return Room(*room_apart(study))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # what a task prints is said of its runs
        return tried(study)


def tried(study: Study) -> Room:
    """The room of a study whose task says that its runs can be stacked, as some of them show; it may hang."""
    pairs, most = _pairs(study), study.config.resources.side_by_side
    try:
        with defaults_kept():
            found = [_too_large(study, setting) for setting, _ in pairs]
            _too_large(study, pairs[0][1])  # is of the first one's size, but may not train
    except KEPT:  # the task cannot train here, perhaps for want of a GPU; the workers try again
        return Room(most)
    if large := next(filter(None, found), ""):
        return Room(1, large)
    try:
        for place in sorted({0, len(pairs) - 1}):
            try_stacked(study, [(setting, seed) for seed, setting in enumerate(pairs[place])])
    except NotStackable as error:
        return Room(1, str(error), broken=True)
    except NoMemory as error:
        return Room(1, f"two runs do not fit into memory side by side: {error}")
    return Room(most)


def _pairs(study: Study) -> list[tuple[Setting, Setting]]:
    """Pairs of settings from opposite ends of all that may differ between runs side by side.

    The two of a pair are alike in all other hyperparameters. The first pair has the first value of each of these, each
    further pair another value of one of them, and the last pair the last value of all.
    """
    assert isinstance(study.task, Task)
    space, differing = study.spaces["main"], COORDINATES | (study.task.stackable or frozenset())
    values = {
        name: list(dimension.choice if isinstance(dimension, Choice) else dimension.probes()[:2])
        for name, dimension in space.items()
    }
    first, last = ({name: each[place] for name, each in values.items()} for place in (0, -1))
    alike = [name for name in space if name not in differing]
    shapes: list[dict[str, Value]] = [{name: value} for name in alike for value in values[name][1:]]
    shapes = [{}, *shapes, *([{name: last[name] for name in alike}] if len(alike) > 1 else [])]
    far = {name: last[name] for name in space if name in differing}
    return [
        (study.setting(0, applying(space, first | shape)), study.setting(0, applying(space, first | far | shape)))
        for shape in shapes
    ]


def _too_large(study: Study, setting: Setting) -> str:
    """Why a step takes more of a processor's time than what stacking saves; "" if it does not, or is not on one."""
    task = study.task_of(setting)
    assert isinstance(task, Task)
    optimizer_of(task)
    with seeded(TRAINING, 0):
        model = model_of(task, 0)
        (batch,) = islice(batches_of(task, 0, study.config.steps), 1)
        operations = count_operations(lambda: loss_of(task, model, batch).backward())  # type: ignore[no-untyped-call] # torch's
    weights = list(model.parameters())
    if any(weight.device != torch.device("cpu") for weight in weights):
        return ""
    if (size := sum(weight.numel() for weight in weights)) > WEIGHTS:
        return f"its models have {size:,} weights: with more than {WEIGHTS:,} a processor gains nothing by it"
    if operations > OPERATIONS:
        return f"a step takes {operations:,} operations: with more than {OPERATIONS:,} a processor gains nothing by it"
    return ""

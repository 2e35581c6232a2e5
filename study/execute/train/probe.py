"""Tries, before a study relies on it, how many runs of its task train side by side."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from study.design.dimension import Choice
from study.design.schema import COORDINATES, Setting
from study.design.space import applying
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.train.alone import KEPT, steps_of
from study.execute.train.apart import room_apart
from study.execute.train.memory import NoMemory
from study.execute.train.stacked import NotStackable, try_stacked

PROBED = 2  # runs that are tried
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
    """Tries two runs from opposite ends of the study's space: a few steps side by side, and alone.

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
    with redirect_stdout(sys.stderr):  # what a task prints; stdout is for answers
        return tried(study)


def tried(study: Study) -> Room:
    """The room of a study whose task says that its runs can be stacked, as two of them show; it may hang."""
    ends, most = _ends(study), study.config.resources.side_by_side
    try:
        large, _ = (_too_large(study, setting) for setting in ends)  # of one size: the other shows that it trains
    except KEPT:  # the task cannot train here, perhaps for want of a GPU; the workers try again
        return Room(most)
    if large:
        return Room(1, large)
    try:
        try_stacked(study, [(setting, seed) for seed, setting in enumerate(ends)])
    except NotStackable as error:
        return Room(1, str(error), broken=True)
    except NoMemory as error:
        return Room(1, f"two runs do not fit into memory side by side: {error}")
    return Room(most)


def _ends(study: Study) -> tuple[Setting, Setting]:
    """Two settings from opposite ends of all that may differ between runs side by side."""
    assert isinstance(study.task, Task)
    differing = COORDINATES | (study.task.stackable or frozenset())
    low, high = {}, {}
    space = study.spaces["main"]
    for name, dimension in space.items():
        low[name], *others = dimension.choice if isinstance(dimension, Choice) else dimension.probes()[:2]
        high[name] = others[-1] if others and name in differing else low[name]
    return study.setting(0, applying(space, low)), study.setting(0, applying(space, high))


def _too_large(study: Study, setting: Setting) -> str:
    """Why a step takes more of a processor's time than what stacking saves; "" if it does not, or is not on one."""
    task = study.task_of(setting)
    assert isinstance(task, Task)
    with FlopCounterMode(display=False) as counted:
        ((model, *_),) = islice(steps_of(task, [setting], 0), 1)
    weights = list(model.parameters())
    if any(weight.device != torch.device("cpu") for weight in weights):
        return ""
    if (size := sum(weight.numel() for weight in weights)) > WEIGHTS:
        return f"its models have {size:,} weights: with more than {WEIGHTS:,} a processor gains nothing by it"
    if (operations := counted.get_total_flops()) > OPERATIONS:
        return f"a step takes {operations:,} operations: with more than {OPERATIONS:,} a processor gains nothing by it"
    return ""

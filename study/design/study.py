"""A study ready to run: its config held against its task, and the settings it may ask for."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from belay import Oscillator
from study.design.config import StudyConfig
from study.design.schema import AVERAGE, LIVE, PARAMETERS, PLAIN, Scalar, Setting, oscillator_of
from study.design.space import Choice, Dimension, only
from study.design.tasks import make_task
from study.design.tasks.base import Direction, Task, TrainFunction
from study.errors import BadInput

Space = Mapping[str, Dimension]


@dataclass(frozen=True)
class Study:
    """A config and its task, found to fit each other."""

    config: StudyConfig
    task: Task | TrainFunction
    mode: Direction

    @classmethod
    def of(cls, config: StudyConfig) -> Study:
        """Checks a config against its task, before anything is trained or written.

        Raises:
            BadInput: The task, metric, a parameter or a range is not possible.
        """
        task = make_task(config.task.name, config.task.options)
        mode = _direction(config, task)
        study = cls(config, task, mode)
        study._check_parameters()
        study._check_averages()
        study._check_hyperparameters()
        return study

    @property
    def spaces(self) -> dict[str, Space]:
        """The space of each search by name: the study's own and, where that is more, plain EMA beside it."""
        main = dict(self.config.space)
        plain = main | {name: only(value) for name, value in PLAIN.items()}
        fixed = all(main.get(name, only(value)) == only(value) for name, value in PLAIN.items())
        return {"main": main} if fixed or self.config.search.baseline == 0 else {"main": main, "ema": plain}

    def setting(self, number: int, drawn: Mapping[str, Scalar]) -> Setting:
        """The whole setting of what a search drew: with ``steps`` and the values that do not vary."""
        values: dict[str, Scalar] = {**PLAIN, **self.config.task.options, **drawn}
        for name in PARAMETERS:
            values[name] = float(values[name])
        if isinstance(self.task, Task):  # takes the defaults, and the type, that the task declares
            options = {name: value for name, value in values.items() if name not in PARAMETERS}
            values |= type(self.task)(**options).model_dump()
        ordered = [*PARAMETERS, *(name for name in values if name not in PARAMETERS)]
        return Setting(number, {**{name: values[name] for name in ordered}, "steps": self.config.steps})

    def task_of(self, setting: Mapping[str, Any]) -> Task | TrainFunction:
        """The task with the setting's hyperparameters."""
        if not isinstance(self.task, Task):
            return self.task
        return type(self.task)(**{name: setting[name] for name in type(self.task).model_fields})

    def data_digest(self) -> str:
        """Hash of the task's data; "" where it has none or does not say."""
        return self.task.data_digest() if isinstance(self.task, Task) else ""

    def _check_parameters(self) -> None:
        space, options = self.config.space, self.config.task.options
        if "decay" not in space:
            raise BadInput("`space.decay` must be given, got nothing; add e.g. `decay: {log_gap: [0.9, 0.9999]}`.")
        for name in space:
            if name in options:
                raise BadInput(
                    f"`space.{name}` must not be fixed in `task` too, got {options[name]!r} there; remove one."
                )
        for name in ({"steps"} | PARAMETERS.keys()) & (options.keys() | (space.keys() - PARAMETERS.keys())):
            raise BadInput(
                f"`{name}` must not be a hyperparameter of the task; give it as its own entry of the config."
            )
        if self.config.search.sampler == "grid":
            for name, dimension in space.items():
                if not isinstance(dimension, Choice):
                    raise BadInput(
                        f"`space.{name}` must be a choice for the grid sampler, got {dimension!r}; list the values."
                    )

    def _check_averages(self) -> None:
        """Holds every corner of decay, damping and coupling against what an `Oscillator` may be."""
        probes = {"decay": 0.999, **PLAIN}
        corners = {name: [value] for name, value in probes.items()}
        for name in PARAMETERS.keys() & self.config.space.keys():
            corners[name] = []
            for value in self.config.space[name].extremes():
                _probe(f"space.{name}", probes | {name: value})
                corners[name].append(float(value))
        for values in itertools.product(*corners.values()):
            _probe("space", dict(zip(corners, values, strict=True)))

    def _check_hyperparameters(self) -> None:
        if not isinstance(self.task, Task):
            return
        fields = type(self.task).model_fields
        for name, dimension in self.config.space.items():
            if name in PARAMETERS:
                continue
            if name not in fields:
                raise BadInput(
                    f"`space.{name}` must be decay, damping, coupling or a hyperparameter of the task "
                    f"({', '.join(fields)}), got {name!r}; see `belay-study tasks`."
                )
            for value in dimension.extremes():
                make_task(self.config.task.name, {**self.config.task.options, name: value})


def _probe(key: str, values: Mapping[str, Any]) -> Oscillator:
    try:
        return oscillator_of(values)
    except (ValueError, TypeError) as error:
        raise BadInput(f"`{key}`: {error}") from error


def _direction(config: StudyConfig, task: Task | TrainFunction) -> Direction:
    """Which direction of the objective is better, as far as the task or the config says."""
    metric, asked = config.objective.metric, config.objective.mode
    if inspect.isfunction(task):
        if asked is None:
            raise BadInput("`objective.mode` must be max or min where the task is a function, got nothing; add it.")
        return asked
    assert isinstance(task, Task)
    known = {prefix + name: direction for name, direction in task.metrics.items() for prefix in (AVERAGE, LIVE)}
    if metric not in known:
        raise BadInput(f"`objective.metric` must be one of {', '.join(known)}, got {metric!r}.")
    if asked not in (None, known[metric]):
        raise BadInput(f"`objective.mode` must be {known[metric]} for {metric}, got {asked!r}; leave it out.")
    return known[metric]

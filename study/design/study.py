"""A study ready to run: its config, checked against its task, and the settings that it may try."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from belay import Oscillator
from study.design.averages import check_averages, check_coordinates
from study.design.config import MOST_SETTINGS, StudyConfig
from study.design.dimension import Choice, only
from study.design.faults import shown
from study.design.schema import (
    AVERAGE,
    COORDINATES,
    LIVE,
    METRIC,
    METRIC_NAMES,
    NATURAL,
    NATURAL_PLAIN,
    PARAMETERS,
    PLAIN,
    RESERVED,
    Direction,
    Setting,
    Value,
    from_natural,
    oscillator_of,
)
from study.design.space import Space, combinations, needs, ordered
from study.design.start import check_start
from study.design.tasks import check_value, make_task
from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec
from study.design.tasks.plain import AnyTask
from study.errors import BadInput

MOST_INTEGERS = 1_000_000  # that the gp sampler lists
HYPERPARAMETER = re.compile(r"[^\W\d]\w{0,99}")  # its name, by Python's own rule


@dataclass(frozen=True)
class Study:
    """A config and its task, checked against each other."""

    config: StudyConfig
    task: AnyTask
    mode: Direction

    @classmethod
    def of(cls, config: StudyConfig) -> Study:
        """Checks a config against its task, before anything is trained or written.

        Raises:
            BadInput: The task, metric, a parameter or a range is not possible.
        """
        drawn = {name: dimension.probes()[0] for name, dimension in config.space.items()}
        task = make_task(config.task.name, config.task.options, drawn)
        mode = _direction(config, task)
        study = cls(config, task, mode)
        study._check_names()
        study._check_conditions()
        study._check_grid()
        study._check_gp()
        check_averages(config.space, config.steps)
        if (asked := config.search.riders).carried == "always":
            riders: Space = {"memory": Choice(choice=asked.memory), "damping_ratio": Choice(choice=asked.damping_ratio)}
            check_averages(riders, config.steps, where="search.riders")
        study._check_hyperparameters()
        check_start(config.search.start, study.spaces["main"])
        return study

    @property
    def spaces(self) -> dict[str, Space]:
        """The space of each search by name: the study's own and, unless that is plain EMA alone, one of plain EMA."""
        main = ordered(self.config.space)
        ema = {name: only(value) for name, value in (NATURAL_PLAIN if "memory" in main else PLAIN).items()}
        fixed = all(main.get(name, value) == value for name, value in ema.items())
        return {"main": main} if fixed or self.config.search.baseline == 0 else {"main": main, "ema": main | ema}

    @property
    def is_plain_sgd(self) -> bool:
        """Whether theory knows which learning rates are stable: the task's `lr`, of SGD alone, is all that varies."""
        if not isinstance(self.task, Task) or not self.config.space.keys() - COORDINATES <= {"lr"}:
            return False
        try:
            spec = self.task.describe_optimizer()
        except Exception:  # whatever a task may raise; its trainings say it
            return False
        plain = isinstance(spec, OptimizerSpec) and (spec.kind, spec.momentum, spec.weight_decay) == ("sgd", 0, 0)
        return plain and "lr" in self.task.hyperparameters

    @functools.cached_property
    def riders(self) -> tuple[Oscillator, ...]:
        """The averages that watch each training that no average pulls; none where the objective is no average's.

        Of pairs that come to the same average, as short memories do at large damping ratios, there is one. What is
        carried unasked has a memory of two steps or more.
        """
        config, asked = self.config, self.config.search.riders
        if (
            asked.carried == "none"
            or not config.objective.metric.startswith(AVERAGE)
            or not isinstance(self.task, Task)
        ):
            return ()
        memories = [memory for memory in asked.memory if asked.carried == "always" or memory * config.steps >= 2]
        pairs = [{"memory": memory, "damping_ratio": ratio} for memory in memories for ratio in asked.damping_ratio]
        return tuple(dict.fromkeys(from_natural(pair, config.steps) for pair in pairs))

    def setting(self, number: int, drawn: Mapping[str, Value]) -> Setting:
        """The whole setting of what a search drew: with ``steps`` and the values that do not vary.

        It holds decay, damping and coupling, whichever coordinates were drawn. A parameter that was not drawn, as its
        conditions do not hold, is as the config's ``task`` entry or the task has it, else None. The task adds types;
        values that it refuses in combination stay as they are, and training fails.
        """
        given = {name: drawn[name] for name in COORDINATES & drawn.keys()}
        average = from_natural(given, self.config.steps) if "memory" in given else oscillator_of(given)
        values: dict[str, Value] = {name: None for name, each in self.config.space.items() if each.when}
        values |= self.task.values() | self.config.task.options
        values |= {name: value for name, value in drawn.items() if name not in COORDINATES}
        with contextlib.suppress(ValidationError):
            values |= self.task.having(values).values()
        own = {name: getattr(average, name) for name in PARAMETERS}
        return Setting(number, {**own, **values, "steps": self.config.steps})

    def task_of(self, setting: Mapping[str, Any]) -> AnyTask:
        """The task with the setting's hyperparameters."""
        return self.task.having(setting)

    def data_digest(self) -> str:
        """Hash of the task's data; "" where it has none or does not say.

        Raises:
            BadInput: The data cannot be read.
        """
        try:
            return self.task.data_digest()
        except Exception as error:  # whatever a task may raise
            raise BadInput(
                f"the task's data must be readable, got {type(error).__name__}: {error} from "
                f"{self.config.task.name}; mend it."
            ) from error

    def _check_names(self) -> None:
        space, options = self.config.space, self.config.task.options
        check_coordinates(space)
        for name in space:
            if name in options and not space[name].when:
                raise BadInput(
                    f"`space.{name}` must not be fixed in `task` too, got {options[name]!r} there; remove one."
                )
        for name in options.keys() | (space.keys() - COORDINATES):
            if name in COORDINATES:
                raise BadInput(f"`{name}` must be given in `space`, got `task.{name}`; move it there.")
            if name in RESERVED or not HYPERPARAMETER.fullmatch(name):
                raise BadInput(
                    f"a hyperparameter's name must be letters, digits and `_` and none of the study's own "
                    f"({', '.join(sorted(RESERVED))}), got {shown(name)}; rename it."
                )

    def _check_conditions(self) -> None:
        """Refuses conditions that cannot hold, or a parameter without a value where they do not."""
        ordered(self.config.space)
        if self.config.search.sampler == "gp" and (bound := [n for n, d in self.config.space.items() if d.when]):
            raise BadInput(
                f"`space.{bound[0]}` must have no `when` for the gp sampler, which would draw it at random; remove it, "
                "or take another sampler."
            )
        for name, dimension in self.config.space.items():
            field = type(self.task).model_fields.get(name) if isinstance(self.task, Task) else None
            if dimension.when and field and field.is_required() and name not in self.config.task.options:
                raise BadInput(
                    f"`space.{name}` must have a value where its `when` does not hold, got none; add `task.{name}`, or "
                    "a default to the task."
                )

    def _check_grid(self) -> None:
        if self.config.search.sampler == "grid":
            for name, dimension in self.config.space.items():
                if not isinstance(dimension, Choice):
                    raise BadInput(
                        f"`space.{name}` must be {{choice: [...]}} for the grid sampler, got "
                        f"{shown(dimension.model_dump())}; list the values."
                    )
            if (count := sum(map(combinations, self.spaces.values()))) > MOST_SETTINGS:
                raise BadInput(
                    f"`space` must have at most {MOST_SETTINGS} combinations for the grid sampler, those of plain EMA "
                    f"included, got {count:.0f}; list fewer values or take another sampler."
                )

    def _check_gp(self) -> None:
        """Refuses long ranges of whole numbers for Optuna's GP sampler, which lists them all in memory."""
        if self.config.search.sampler == "gp":
            for name, dimension in self.config.space.items():
                if MOST_INTEGERS < dimension.count < math.inf:
                    raise BadInput(
                        f"`space.{name}` must have at most {MOST_INTEGERS} values for the gp sampler, got "
                        f"{dimension.count}; "
                        "narrow it, take {uniform: [a, b]}, or take another sampler."
                    )

    def _check_hyperparameters(self) -> None:
        fields = self.task.hyperparameters
        if fields is None:
            return
        needed = needs(self.spaces["main"])
        for name, dimension in self.config.space.items():
            if name in COORDINATES:
                continue
            if name not in fields:
                raise BadInput(
                    f"`space.{name}` must be {', '.join([*PARAMETERS, *NATURAL])} or a hyperparameter of the task "
                    f"({', '.join(fields)}), got {shown(name)}; see `belay-study tasks`."
                )
            beside = {other: values[0] for other, values in needed[name].items()}
            for value in dimension.probes():
                check_value(self.task, name, value, beside)


def _direction(config: StudyConfig, task: AnyTask) -> Direction:
    """Which direction of the objective is better, as far as the task or the config says."""
    metric, asked = config.objective.metric, config.objective.mode
    if task.metrics is None:
        if not METRIC.fullmatch(metric):
            raise BadInput(
                f"`objective.metric` must be average/NAME or live/NAME, of {METRIC_NAMES}, got "
                f"{shown(metric)}; change it."
            )
        if asked is None:
            raise BadInput("`objective.mode` must be max or min where the task is a function, got nothing; add it.")
        return asked
    known = {prefix + name: direction for name, direction in task.metrics.items() for prefix in (AVERAGE, LIVE)}
    if metric not in known:
        raise BadInput(f"`objective.metric` must be one of {', '.join(known)}, got {shown(metric)}; change it.")
    if asked not in (None, known[metric]):
        raise BadInput(f"`objective.mode` must be {known[metric]} for {metric}, got {asked!r}; leave it out.")
    return known[metric]

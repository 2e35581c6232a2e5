"""The tasks by name, and how a study finds those of its user."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from study.design.faults import explain, shown
from study.design.schema import AVERAGE, METRIC, METRIC_NAMES, PARAMETERS, RESERVED, Direction, Value
from study.design.tasks.base import Task, TrainFunction
from study.design.tasks.plain import AnyTask, PlainTask
from study.errors import BadInput, printable, shortened

BUILT_IN = {"digits": "study.design.tasks.digits:Digits", "quadratic": "study.design.tasks.quadratic:Quadratic"}


def find_task(name: str) -> type[Task] | TrainFunction:
    """The task class or train function of a name.

    Args:
        name: A built-in name, or ``package.module:attribute``, looked for in the working directory too.

    Raises:
        BadInput: There is no such task, it is neither a `Task` subclass nor a function, or its file in the working
            directory is named like another module.
    """
    path = BUILT_IN.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        known = ", ".join(BUILT_IN)
        raise BadInput(
            f"`task.name` must be one of {known}, or `package.module:Task`, got {name!r}; see `belay-study tasks`."
        )
    if name not in BUILT_IN:
        _look_here_too()
    here = Path.cwd()  # where the records go, whatever the user's module does as it is imported
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # whatever the user's module may raise
        raise BadInput(
            f"`task.name` must be importable from {here}, got {name!r}: {type(error).__name__}: {error}; mend it."
        ) from error
    finally:  # another module of this name may be what lacks the attribute
        os.chdir(here)
        if name not in BUILT_IN:
            check_names(Path.cwd(), [module_name.partition(".")[0]])
    if inspect.isclass(found) and issubclass(found, Task):
        _check_class(name, found)
    elif inspect.isfunction(found):
        _check_function(name, found)
    else:
        raise BadInput(
            f"`task.name` must be a subclass of study.design.tasks.base.Task or a function, got {name!r}: "
            f"{shown(found)}; name another."
        )
    return cast("type[Task] | TrainFunction", found)


def make_task(name: str, options: Mapping[str, Any], drawn: Mapping[str, Any]) -> AnyTask:
    """The task of a name with these hyperparameters; a train function takes them from its setting instead.

    Args:
        name: As `find_task` takes it.
        options: Hyperparameters that the study fixes.
        drawn: A value of each that it varies, for those that the task has no default of.

    Raises:
        BadInput: There is no such task or hyperparameter, or a value is out of range.
    """
    found = find_task(name)
    if not (inspect.isclass(found) and issubclass(found, Task)):
        return PlainTask(cast(TrainFunction, found))
    try:
        needed = {name for name, field in found.model_fields.items() if field.is_required()}
        task = found(**{**{name: drawn[name] for name in needed & drawn.keys()}, **options})
        if lacking := set(task.hyperparameters) - task.values().keys():
            raise AttributeError(f"it has no {min(lacking)}")
    except ValidationError as error:
        raise BadInput(explain(error, found, where="task.")) from error
    except Exception as error:  # of an `__init__` or a validator of the user's
        raise BadInput(
            f"`task.name` must be a Task that is made of its hyperparameters, got {name!r}: {type(error).__name__}: "
            f"{shortened(printable(str(error)), 200)}; leave out its `__init__`, or have it call `super().__init__`."
        ) from error
    return task


def check_value(task: AnyTask, name: str, value: Value, beside: Mapping[str, Value]) -> None:
    """Raises BadInput if the task refuses this value of a hyperparameter beside these, the others as they are."""
    try:
        task.having({**task.values(), **beside, name: value})
    except ValidationError as error:
        if error.errors()[0]["type"] == "int_from_float":
            raise BadInput(
                f"`space.{name}` must draw whole numbers, got values like {value:.4g}; use {{integers: [a, b]}}."
            ) from error
        raise BadInput(explain(error, cast(type[Task], type(task)), where="space.")) from error


def imported() -> list[str]:
    """The top-level modules that this process has loaded, but for its script."""
    return sorted({name.partition(".")[0] for name in list(sys.modules)} - {"__main__"})


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Makes sure that a folder and the modules that this process has loaded do not hide each other.

    Args:
        folder: Where Python looks for modules, too: here last, in Ray's workers first.
        names: Of top-level modules.

    Raises:
        BadInput: A file of the folder has the name of a module that was loaded from elsewhere.
    """
    for name in names:
        loaded = getattr(sys.modules.get(name), "__file__", None)
        for file in (folder / f"{name}.py", folder / name / "__init__.py"):
            if loaded and file.is_file() and not Path(loaded).resolve().is_relative_to(folder.resolve()):
                raise BadInput(
                    f"a file must not be named like a module that the study imports, got {file} and {loaded}; rename "
                    "the former."
                )


def _look_here_too() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, as the folder may have an optuna.py of its own


def _check_class(name: str, task: type[Task]) -> None:
    """Raises BadInput if a task class is not whole, or has a field with a name that is taken."""
    if missing := sorted(task.__abstractmethods__):
        raise BadInput(f"`task.name` must be a whole Task, got {name!r} without {', '.join(missing)}; define them.")
    metrics = getattr(task, "metrics", None)
    if not isinstance(metrics, Mapping) or not metrics or not set(metrics.values()) <= set(get_args(Direction)):
        raise BadInput(f"`metrics` of {name} must map each metric to max or min, got {shown(metrics)}; mend the class.")
    for metric in metrics:
        if not METRIC.fullmatch(AVERAGE + metric):
            raise BadInput(f"`metrics` of {name} must be named by {METRIC_NAMES}, got {shown(metric)}; rename it.")
    _check_fields(name, task)


def _check_fields(name: str, task: type[Task]) -> None:
    for field in task.model_fields:
        if field in RESERVED or field in PARAMETERS:
            raise BadInput(
                f"a hyperparameter must not have a name of the study's own, got {field!r} of {name}; rename it."
            )
        if field in vars(Task):
            raise BadInput(
                f"a hyperparameter must not be named like a part of Task, got {field!r} of {name}; rename it."
            )
    if not isinstance(task.stackable, frozenset | set | None):
        raise BadInput(f"`stackable` of {name} must be a set of names, got {shown(task.stackable)}; mend the class.")
    if unknown := sorted((task.stackable or frozenset()) - task.model_fields.keys()):
        raise BadInput(f"`stackable` of {name} must name hyperparameters, got {unknown[0]!r}; mend the class.")


def _check_function(name: str, function: TrainFunction) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise BadInput(
            f"`task.name` must be a function that trains when it is called, got {name!r}, which is async or yields; "
            "call `report` in a plain one."
        )
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:
        raise BadInput(
            f"`task.name` must be a function of (setting, seed, report), got {name!r}: {error}; change its arguments."
        ) from error


def catalogue() -> list[dict[str, Any]]:
    """The built-in tasks: name, summary, hyperparameters (name, default, description) and metrics (name, direction)."""
    found = {name: find_task(name) for name in BUILT_IN}
    return [
        {
            "name": name,
            "summary": task.summary,
            "hyperparameters": [
                {"name": field, "default": info.default, "description": info.description}
                for field, info in task.model_fields.items()
            ],
            "metrics": dict(task.metrics),
        }
        for name, task in found.items()
        if inspect.isclass(task) and issubclass(task, Task)
    ]

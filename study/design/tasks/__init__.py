"""The tasks by name, and how a study finds those of its user."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from study.design.faults import explain
from study.design.tasks.base import Task, TrainFunction
from study.errors import BadInput

BUILT_IN = {"digits": "study.design.tasks.digits:Digits", "quadratic": "study.design.tasks.quadratic:Quadratic"}


def find_task(name: str) -> type[Task] | TrainFunction:
    """The task class or train function of a name.

    Args:
        name: A built-in name, or ``package.module:attribute``, looked for in the working directory first.

    Raises:
        BadInput: There is no such task, or it is neither a `Task` subclass nor a function.
    """
    path = BUILT_IN.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        known = ", ".join(BUILT_IN)
        raise BadInput(
            f"`task.name` must be one of {known}, or `package.module:Task`, got {name!r}; see `belay-study tasks`."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise BadInput(f"`task.name` must be importable from {here}, got {name!r}: {error}.") from error
    if (inspect.isclass(found) and issubclass(found, Task)) or inspect.isfunction(found):
        return cast("type[Task] | TrainFunction", found)
    raise BadInput(
        f"`task.name` must be a subclass of study.design.tasks.base.Task or a function, got {name!r}: {found!r}."
    )


def make_task(name: str, options: Mapping[str, Any]) -> Task | TrainFunction:
    """The task of a name with these hyperparameters; a train function takes them from its setting instead.

    Raises:
        BadInput: There is no such task or hyperparameter, or a value is out of range.
    """
    found = find_task(name)
    if not (inspect.isclass(found) and issubclass(found, Task)):
        return cast(TrainFunction, found)
    try:
        return found(**options)
    except ValidationError as error:
        raise BadInput(explain(error, found, where="task.")) from error


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

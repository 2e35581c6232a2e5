"""A plain train function as a task like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from study.design.schema import Setting
from study.design.tasks.base import Report, Task, TrainFunction


@dataclass(frozen=True)
class PlainTask:
    """What a study asks of its task, of a train function: it names neither metrics nor hyperparameters."""

    function: TrainFunction
    metrics: ClassVar[None] = None
    hyperparameters: ClassVar[None] = None

    def values(self) -> dict[str, Any]:
        """None: its hyperparameters are those of the setting."""
        return {}

    def having(self, values: Mapping[str, Any]) -> Self:
        """Itself."""
        return self

    def data_digest(self) -> str:
        """It does not say."""
        return ""

    def train(self, setting: Setting, seed: int, report: Report) -> None:
        """Has the function train one seed of a setting."""
        self.function(setting, seed, report)


AnyTask = Task | PlainTask

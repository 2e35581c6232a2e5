"""The protocol of a task: the parts of training and measuring that a study puts together into a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, final

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from study.design.schema import Direction
from study.design.tasks.optimizers import OptimizerSpec

Predictor = Callable[[Tensor], Tensor]
Report = Callable[[int, Mapping[str, float]], None]
TrainFunction = Callable[[Mapping[str, Any], int, Report], None]
"""A plain task: ``train(setting, seed, report)``.

It builds `Belay` itself from ``setting.oscillator``, trains ``setting["steps"]`` steps as it likes and calls
``report(step, {"average/val_loss": ..., "live/val_loss": ...})`` once or more, in the order of the steps; what it
reports at the last step counts.
Every metric's name begins with ``average/`` or ``live/``.
"""


class Task(BaseModel, ABC):
    """A task; its fields are its hyperparameters, which a study's `task` entry fixes and its `space` may vary.

    A seed fixes the initial weights, the order of the data and every noise, whatever the setting, so that settings can
    be compared seed by seed. By it the global generators of torch, NumPy and Python are seeded too before a run; in an
    evaluation they give the same numbers to every model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    summary: ClassVar[str]
    """One line for ``belay-study tasks``."""
    metrics: ClassVar[Mapping[str, Direction]]
    """What `evaluate` measures, and which direction is better."""
    stackable: ClassVar[frozenset[str] | None] = None
    """The hyperparameters in which runs that are trained side by side, as one batched model, may differ.

    To name any, or none by an empty set, promises: `loss` and `evaluate` are functions of tensors that
    ``torch.func.vmap`` takes (no ``item()``, no branch on a tensor's values, nothing changed in place in the model, as
    BatchNorm does), the same operations at each call, and read none of those named; nor does the shape of a weight or
    a batch, or the optimizer's kind, depend on them; its values and `lr_factor` may.
    None: every run is trained alone.
    """

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """A model with the seed's initial weights."""

    @abstractmethod
    def describe_optimizer(self) -> OptimizerSpec:
        """The optimizer of all parameters of the model."""

    def lr_factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by in a step: a schedule, where a task has one.

        Args:
            step: Counted from 1.
            steps: Of the whole run.

        Returns:
            A finite number, at least 0.
        """
        return 1.0

    @abstractmethod
    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The seed's batches number `start` to `steps` - 1, counted from 0: what is left of a run of `steps` steps.

        They are those that a run from 0 meets there, whatever `steps` is.

        Args:
            seed: Of the data's order and noise.
            start: Steps that are done, in [0, steps].
            steps: Of the whole run.

        Yields:
            Tensors as `loss` takes them, each shaped (batch, ...), the same shapes in every step.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The loss of a batch, a 0-d tensor that is differentiated in the model's parameters."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        """The `metrics` of a model in evaluation mode, without gradients, each a 0-d tensor."""

    @abstractmethod
    def data_digest(self) -> str:
        """A short hash of the data, so that results on other data are not taken for these; "" if there is none."""

    @final
    @property
    def hyperparameters(self) -> Sequence[str]:
        """The names of its fields."""
        return list(type(self).model_fields)

    @final
    def values(self) -> dict[str, Any]:
        """Its hyperparameters as plain data."""
        return self.model_dump(mode="json")

    @final
    def having(self, values: Mapping[str, Any]) -> Self:
        """The same task with its hyperparameters taken from `values`, which may hold more.

        One that `values` lacks stays as it is: a setting may have been asked before the task got it.

        Raises:
            ValidationError: The task refuses them.
        """
        return type(self)(**{name: values.get(name, getattr(self, name)) for name in self.hyperparameters})

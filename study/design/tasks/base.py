"""The protocol of a task: the parts of training and measuring that a study puts together into a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

Direction = Literal["max", "min"]
Predictor = Callable[[Tensor], Tensor]


class Task(BaseModel, ABC):
    """A task; its fields are its hyperparameters, which a study's `task` entry fixes and its `space` may vary.

    A seed fixes the initial weights, the order of the data and every noise, whatever the setting, so that settings can
    be compared seed by seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    summary: ClassVar[str]
    """One line for ``belay-study tasks``."""
    metrics: ClassVar[Mapping[str, Direction]]
    """What `evaluate` measures, and which direction is better."""

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """A model with the seed's initial weights."""

    @abstractmethod
    def build_optimizer(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters."""

    @abstractmethod
    def batches(self, seed: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The seed's `steps` batches, each a tuple of tensors that `loss` takes."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The loss of a batch, a scalar that is differentiated in the model's parameters."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The `metrics` of a model in evaluation mode, without gradients."""

    @abstractmethod
    def data_digest(self) -> str:
        """A short hash of the data, so that results on other data are not taken for these; "" if there is none."""


Report = Callable[[int, Mapping[str, float]], None]
TrainFunction = Callable[[Mapping[str, Any], int, Report], None]
"""A plain task: ``train(setting, seed, report)``.

It builds `Belay` itself from ``setting.oscillator``, trains ``setting["steps"]`` steps as it likes and calls
``report(step, {"average/val_loss": ..., "live/val_loss": ...})`` once or more; the last value of a metric counts.
Every metric's name begins with ``average/`` or ``live/``.
"""

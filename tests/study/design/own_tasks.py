"""Tasks as a study's user writes them, named by the tests by import path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec


class Whole(Task):
    """A task with a required hyperparameter, a default, and a rule that joins two."""

    summary = "for tests"
    metrics = {"val_loss": "min"}  # noqa: RUF012 # as a user would write it

    lr: float = Field(gt=0)
    width: int = Field(8, ge=1, le=64)
    sizes: tuple[int, ...] = (4, 2)

    @model_validator(mode="after")
    def _together(self) -> Whole:
        if self.lr * self.width > 64:
            raise ValueError("lr times width must stay below 64")
        return self

    def build_model(self, seed: int) -> nn.Module:
        return nn.Linear(self.width, 1)

    def describe_optimizer(self) -> OptimizerSpec:
        return OptimizerSpec("sgd", self.lr)

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        yield from ()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {"val_loss": torch.zeros(())}

    def data_digest(self) -> str:
        return "0123"


class MakesItself(Whole):
    """An `__init__` of its own, which leaves the hyperparameters out."""

    lr: float = 0.1

    def __init__(self, **values: Any) -> None:
        pass


class UnsetOptimizer(Whole):
    """Its default optimizer does not exist; each setting gives one that does."""

    lr: float = 0.1
    kind: str = "unset"

    def describe_optimizer(self) -> OptimizerSpec:
        return OptimizerSpec(self.kind, self.lr)  # type: ignore[arg-type] # as a user would write it


class Layer(BaseModel):
    """A part of a hyperparameter."""

    model_config = ConfigDict(extra="forbid")
    units: int = 1


class Layered(Whole):
    """A hyperparameter that is a list of models."""

    layers: list[Layer] = []  # noqa: RUF012 # pydantic copies it
    matrix: list[list[int]] = [[1]]  # noqa: RUF012


class DataMissing(Whole):
    """Its data is not where it should be."""

    def data_digest(self) -> str:
        raise FileNotFoundError("no images.npy")


class Floats(Whole):
    """Measures plain numbers, which do not come out of models side by side."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        yield from [(torch.ones(2, self.width),)] * (steps - start)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return model(*batch).square().mean()

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {"val_loss": 0.5}  # type: ignore[dict-item] # as a user would write it


class Rows(Floats):
    """Measures a value a row."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {"val_loss": torch.ones(3)}


class HalfDone(Task):
    """Lacks most of its methods."""

    metrics: ClassVar[dict[str, str]] = {"val_loss": "min"}

    def build_model(self, seed: int) -> nn.Module:
        return nn.Linear(1, 1)


class NoMetrics(Whole):
    metrics: ClassVar[dict[str, str]] = {}


class BadDirection(Whole):
    metrics: ClassVar[dict[str, str]] = {"val_loss": "minimise"}


class BadMetric(Whole):
    metrics: ClassVar[dict[str, str]] = {"error %": "min"}


class OwnDecay(Whole):
    decay: float = 0.5


class OwnSeed(Whole):
    seed: int = 1


class NamedLikeAPart(Whole):
    values: tuple[int, ...] = ()


class StacksNothing(Whole):
    stackable: ClassVar[frozenset[str]] = frozenset({"lrr"})


class StacksAList(Whole):
    stackable: ClassVar[list[str]] = ["lr"]  # it should be a frozenset


class CannotTrain(Whole):
    """Raises as soon as it is trained."""

    stackable: ClassVar[frozenset[str]] = frozenset({"lr"})

    def build_model(self, seed: int) -> nn.Module:
        raise RuntimeError("no GPU here")


def train(setting: Any, seed: int, report: Any) -> None:
    """A plain train function."""


def too_few(setting: Any) -> None:
    """Not called as the study calls."""


def more_with_defaults(setting: Any, seed: int, report: Any, verbose: bool = False) -> None:
    """Called as the study calls."""


number = 3

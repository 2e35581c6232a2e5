"""Tasks of which a part gives what a run cannot go on with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import torch
from execute.train.stackable_tasks import Net
from torch import Tensor, nn

from study.design.schema import Direction

Batch = tuple[Tensor, ...]


class EndsEarly(Net):
    """Its data has an epoch of 20 batches, and it does not begin it anew."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[Batch]:
        yield from islice(super().batches(seed, start, steps), max(0, 20 - start))


class GoesOn(Net):
    """Its batches do not end with the run, and one too many is a fault."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[Batch]:
        yield from super().batches(seed, start, steps)
        raise AssertionError("a batch beyond the run was asked for")


class GivesNoBatches(Net):
    def batches(self, seed: int, start: int, steps: int) -> Any:
        return None


class GivesNoModel(Net):
    def build_model(self, seed: int) -> Any:
        return None


class DescribesNoOptimizer(Net):
    def describe_optimizer(self) -> Any:
        return torch.optim.SGD


class HasManyLosses(Net):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).expand(16)


class HasNoLoss(Net):
    def loss(self, model: nn.Module, batch: Batch) -> Any:
        super().loss(model, batch)


class LosesItsGradient(Net):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).detach()


class MeasuresAList(Net):
    def evaluate(self, model: nn.Module) -> Any:
        return list(super().evaluate(model).values())


class ForgetsAMetric(Net):
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min", "accuracy": "max"}


class ShrinksWhatItMeasures(Net):
    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        next(weight for weight in model.parameters() if weight.requires_grad).mul_(0.5)
        return super().evaluate(model)


class KeepsItsModel(Net):
    model: Any = None

    def build_model(self, seed: int) -> nn.Module:
        self.model = super().build_model(seed)
        return self.model

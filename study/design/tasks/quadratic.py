"""A noisy quadratic with a chosen spectrum: the task whose answer theory knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from study.design.schema import Direction
from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec


class Quadratic(Task):
    """Minimises ``sum_i a_i x_i^2 / 2`` by SGD whose gradients carry white noise; curvatures a_i spaced evenly in log.

    On it `Oscillator.stationary_variance` and `Oscillator.max_stable_step` hold exactly, with step ``lr a_i`` and a
    noise of variance ``(lr noise)^2`` in each step.
    """

    summary: ClassVar[str] = "noisy quadratic with a chosen spectrum, plain SGD: theory knows the answer"
    metrics: ClassVar[dict[str, Direction]] = {"excess_loss": "min", "distance": "min"}
    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "noise", "start"})

    lr: float = Field(0.1, gt=0, le=1e6, description="learning rate, at most 1e6")
    curvature: float = Field(1.0, gt=0, le=1e6, description="largest curvature, at most 1e6")
    condition: float = Field(100.0, ge=1, le=1e12, description="largest curvature over smallest, at most 1e12")
    dimensions: int = Field(16, ge=1, le=1_000_000, description="number of weights, at most 1,000,000")
    noise: float = Field(1.0, ge=0, le=1e6, description="standard deviation of each gradient's noise, at most 1e6")
    start: float = Field(1.0, ge=-1e6, le=1e6, description="initial value of every weight, at most 1e6 in size")

    def build_model(self, seed: int) -> nn.Module:
        """All weights at `start`."""
        return nn.ParameterDict({"x": nn.Parameter(torch.full((self.dimensions,), self.start))})

    def describe_optimizer(self) -> OptimizerSpec:
        """Plain SGD."""
        return OptimizerSpec("sgd", self.lr)

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The gradients' noise, one draw a step; those of the steps before `start` are drawn and dropped.

        Yields:
            The noise of each weight, shape (dimensions,).
        """
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            noise = torch.randn(self.dimensions, generator=generator)
            if step >= start:
                yield (self.noise * noise,)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The quadratic, tilted by the noise so that its gradient is ``a x + noise``."""
        (noise,) = batch
        x = _weights(model)
        return (self.curvatures() * x * x / 2 + noise * x).sum()

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        """The loss above its minimum, without noise, and the root mean square distance from the minimum."""
        x = _weights(model)
        excess = (self.curvatures() * x * x / 2).sum()
        return {"excess_loss": excess, "distance": x.square().mean().sqrt()}

    def data_digest(self) -> str:
        """There is no data."""
        return ""

    def curvatures(self) -> Tensor:
        """The spectrum, largest first, shape (dimensions,)."""
        exponents = torch.linspace(0, 1, self.dimensions) if self.dimensions > 1 else torch.zeros(1)
        return self.curvature * self.condition**-exponents


def _weights(model: nn.Module) -> Tensor:
    return cast(Tensor, model["x"])  # type: ignore[index] # a ParameterDict

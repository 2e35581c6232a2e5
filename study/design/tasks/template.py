"""A task of your own: what a study trains and measures. It runs as it is; change it part by part into yours.

Comments that begin with "Change:" say what is yours to write. For each seed of each setting that it tries, a study
builds the model and its optimizer, trains on the batches, and evaluates a few times on the way. A task keeps nothing
between calls: load your data in a function with `functools.cache`, and use that in `batches` and `evaluate`. The study
moves nothing between devices: model, batches and validation data must be on the same one.

A seed must fix all that is random, whatever the hyperparameters are: settings are compared seed by seed, and one of
them must not be lucky.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from study.design.schema import Direction
from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec

INPUTS, VALIDATION_ROWS = 4, 512
VALIDATION_SEED = 2**40  # far from the seeds that a study counts up from 0


class MyTask(Task):
    """A small network that learns a function of 4 numbers from noisy examples."""

    # Change: one line that says what the task is.
    summary: ClassVar[str] = "regression on synthetic data, a small network"
    # Change: what `evaluate` measures, and whether "min" or "max" is better. The study's `objective` names one, as
    # average/val_loss (the averaged weights) or live/val_loss (the model's own).
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min"}

    # Change: the hyperparameters that runs may differ in which are trained side by side, as one batched model: several
    # times as fast where models are small. `loss` and `evaluate` must then be functions of tensors (no `item()`, no
    # branch on a tensor's values, no dropout or BatchNorm) and read none of these; the study checks that. Remove the
    # line if they are not: every run is then trained alone.
    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "noise"})

    # Change: the hyperparameters, each with its default and its range. A study fixes them in `task` or tries values of
    # them in `space`; one out of range is refused before anything is trained.
    lr: float = Field(0.02, gt=0, le=1e6, description="learning rate, at most 1e6")
    width: int = Field(32, ge=1, le=4096, description="hidden units, at most 4,096")
    noise: float = Field(1.0, ge=0, le=1e6, description="standard deviation of the noise in the targets, at most 1e6")
    batch_size: int = Field(32, ge=1, le=4096, description="examples a step, at most 4,096")

    def build_model(self, seed: int) -> nn.Module:
        """A new model with initial weights that the seed alone fixes; (rows, INPUTS) in, (rows, 1) out."""
        with torch.random.fork_rng(devices=[]):  # leaves the random numbers of others as they were
            torch.manual_seed(seed)
            # Change: your model.
            return nn.Sequential(nn.Linear(INPUTS, self.width), nn.Tanh(), nn.Linear(self.width, 1))

    def describe_optimizer(self) -> OptimizerSpec:
        """The optimizer of all parameters, by its values: the study builds it.

        A method `lr_factor(step, steps)` gives the learning rate a schedule: what it is multiplied by in each step.
        """
        # Change: "sgd", "adam" or "adamw", with its momentum, nesterov, weight_decay or betas.
        return OptimizerSpec("sgd", self.lr, momentum=0.9)

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of steps `start` to `steps` - 1, counted from 0, one a step.

        They are the same as those that a run from step 0 meets there, so that it can go on in the middle: here those
        before `start` are drawn and dropped.

        Yields:
            Inputs (batch_size, INPUTS) and targets (batch_size, 1): a tuple of tensors, the same shapes in every step.
        """
        # Change: your training data, in an order that the seed alone fixes, epoch after epoch until `steps` is reached.
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            inputs = torch.randn(self.batch_size, INPUTS, generator=generator)
            noise = torch.randn(self.batch_size, 1, generator=generator)
            if step >= start:
                yield inputs, _truth(inputs) + self.noise * noise

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The loss of one batch as `batches` yields it, a 0-d tensor; the study takes its gradient."""
        inputs, targets = batch
        # Change: your loss.
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        """Each of `metrics`, a 0-d tensor; the model is in evaluation mode, and no gradients are kept.

        It is called with the model's own weights and with the averaged ones.
        """
        inputs, targets = _validation_data()
        return {"val_loss": functional.mse_loss(model(inputs), targets)}

    def data_digest(self) -> str:
        """A short hash of the data, kept with the results, so that those of other data are not taken for these."""
        # Change: e.g. hashlib.sha256(Path("data.npz").read_bytes()).hexdigest()[:16]; "" where there is no file.
        return ""


@cache
def _validation_data() -> tuple[Tensor, Tensor]:
    """Inputs (rows, INPUTS) and targets (rows, 1)."""
    # Change: your validation data, the same for every seed, none of it in `batches`.
    inputs = torch.randn(VALIDATION_ROWS, INPUTS, generator=torch.Generator().manual_seed(VALIDATION_SEED))
    return inputs, _truth(inputs)


def _truth(inputs: Tensor) -> Tensor:
    """What the network is to learn, (rows, INPUTS) to (rows, 1). Change: remove it, where your data has its targets."""
    return torch.sin(inputs).sum(dim=1, keepdim=True)

"""Tasks that say that their runs can be trained side by side, some of them falsely."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from study.design.schema import Direction
from study.design.tasks.base import Task
from study.design.tasks.digits import Digits
from study.design.tasks.optimizers import Kind, OptimizerSpec
from study.design.tasks.quadratic import Quadratic
from study.design.tasks.template import MyTask

INPUTS = 3


class Net(Task):
    """A small network with a frozen layer and a buffer, on noisy examples."""

    summary: ClassVar[str] = "for tests"
    metrics: ClassVar[dict[str, Direction]] = {"val_loss": "min"}
    stackable: ClassVar[frozenset[str] | None] = frozenset(
        {"lr", "momentum", "nesterov", "weight_decay", "beta1", "beta2", "noise", "warmup"}
    )

    lr: float = 0.05
    kind: Kind = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    noise: float = 0.1
    warmup: int = 0
    double: bool = False
    width: int = Field(8, ge=1)

    def build_model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            frozen = nn.Linear(INPUTS, self.width).requires_grad_(False)
            model = nn.Sequential(Scaled(), frozen, nn.Tanh(), nn.Linear(self.width, 1))
        return model.double() if self.double else model

    def describe_optimizer(self) -> OptimizerSpec:
        if self.kind == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return OptimizerSpec("sgd", self.lr, self.momentum, nesterov, self.weight_decay)
        return OptimizerSpec(self.kind, self.lr, weight_decay=self.weight_decay, betas=(self.beta1, self.beta2))

    def lr_factor(self, step: int, steps: int) -> float:
        return min(1.0, step / self.warmup) * (1 - (step - 1) / steps) if self.warmup else 1.0

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            inputs, noise = torch.randn(16, INPUTS, generator=generator), torch.randn(16, 1, generator=generator)
            if step >= start:
                batch = inputs, inputs.sum(dim=1, keepdim=True).sin() + self.noise * noise
                yield tuple(part.double() for part in batch) if self.double else batch

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        inputs = torch.linspace(-1, 1, 32, dtype=torch.float64 if self.double else torch.float32)[:, None]
        inputs = inputs.expand(-1, INPUTS)
        return {"val_loss": functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True).sin())}

    def data_digest(self) -> str:
        return ""


class Scaled(nn.Module):
    """Multiplies by a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


class Dropping(Net):
    """Draws random numbers that no seed of the task fixes."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return functional.dropout(super().loss(model, batch)[None], 0.5).sum()


class DropsLater(Dropping):
    """Draws them where a hyperparameter says so."""

    drops: bool = False

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss(model, batch) if self.drops else Net.loss(self, model, batch)


class Bending(Net):
    """Has a gradient in its loss as autograd takes it, which `vmap` does not know."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        inputs, targets = batch[0].clone().requires_grad_(True), batch[1]
        outputs = model(inputs)
        (slopes,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
        return functional.mse_loss(outputs, targets) + 0.01 * slopes.square().mean()


class Widening(Net):
    """Sets torch's default dtype as it builds a model."""

    def build_model(self, seed: int) -> nn.Module:
        model = super().build_model(seed)
        torch.set_default_dtype(torch.float64)
        return model


class Shuffling(Net):
    """Draws a number from torch's global generator for each batch."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        for batch in super().batches(seed, start, steps):
            torch.rand(())
            yield batch


class Branching(Net):
    """Looks at a tensor's value."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        loss = super().loss(model, batch)
        return loss * 2 if loss.item() > 1 else loss


class Clamping(Net):
    """Moves weights in its loss."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            for weight in model.parameters():
                weight.clamp_(-0.1, 0.1)
        return super().loss(model, batch)


class Listing(Net):
    """Has a hyperparameter that is a list."""

    stackable: ClassVar[frozenset[str] | None] = frozenset({"lr", "betas"})
    betas: list[float] = Field(default=[0.9, 0.999])  # pydantic copies it

    def describe_optimizer(self) -> OptimizerSpec:
        return OptimizerSpec("adam", self.lr, betas=(self.betas[0], self.betas[1]))


class Normalising(Net):
    """Keeps statistics of its batches in buffers."""

    def build_model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().build_model(seed), nn.BatchNorm1d(1))


def doubled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A model of float64 that takes what a task gives one of float32."""
    return lambda inputs: function(inputs.double())


class DoubleDigits(Digits):
    """The built-in task in float64."""

    def build_model(self, seed: int) -> nn.Module:
        return super().build_model(seed).double()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss(doubled(model), batch)

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return super().evaluate(doubled(model))


class DoubleQuadratic(Quadratic):
    """The built-in task in float64."""

    def build_model(self, seed: int) -> nn.Module:
        return super().build_model(seed).double()


class DoubleMyTask(MyTask):
    """The task that ``init`` writes, in float64."""

    def build_model(self, seed: int) -> nn.Module:
        return super().build_model(seed).double()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss(doubled(model), tuple(part.double() for part in batch))

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return super().evaluate(doubled(model))


class ReadsMore(Net):
    """Reads a hyperparameter in its loss that it says runs may differ in."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss(model, batch) * (1 + self.lr)


class MeasuresMore(Net):
    """Reads one where it measures."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {"val_loss": torch.tensor(self.noise)}


class ReadsLittle(Net):
    """Reads one so that the gradient is another by a thousandth at most."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss(model, batch) + 1e-3 * self.noise * sum(w.square().sum() for w in model.parameters())


class MeasuresLittle(Net):
    """Reads one where it measures small values."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: 0.005 * (1 + self.lr) * value for name, value in super().evaluate(model).items()}


class Fading(Net):
    """Measures something else at each call."""

    calls: ClassVar[Iterator[int]] = count(1)

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: value / next(self.calls) for name, value in super().evaluate(model).items()}


class Attentive(Net):
    """Has parameters whose gradient is nothing but rounding, of which Adam makes whole steps: attention's key bias."""

    def build_model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(Attending(), nn.Linear(4, 1))


class Attending(nn.Module):
    """Attention of a row's inputs to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.attention = nn.Linear(1, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.inside(inputs[..., None])
        return self.attention(words, words, words, need_weights=False)[0].mean(dim=1)


class Unread(Net):
    """Has a parameter that the loss does not read, so that no optimizer moves it, and that is measured."""

    def build_model(self, seed: int) -> nn.Module:
        model = super().build_model(seed)
        model.register_parameter("unread", nn.Parameter(torch.full((3,), 2.0)))
        return model

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return super().evaluate(model) | {"unread": model.unread.sum()}


class Gappy(Net):
    """Has batches in which a value is missing."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        for inputs, targets in super().batches(seed, start, steps):
            yield inputs, targets.index_fill(0, torch.tensor([3]), torch.nan)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        inputs, targets = batch
        return super().loss(model, (inputs, torch.where(targets.isnan(), model(inputs), targets)))


class Asleep(Net):
    """Has BatchNorm and dropout in evaluation mode while it trains, as fine-tuning does."""

    def build_model(self, seed: int) -> nn.Module:
        first, *others = super().build_model(seed)
        norm, dropout = nn.BatchNorm1d(INPUTS).eval(), nn.Dropout(0.5).eval()
        return nn.Sequential(first, norm, dropout, *others)


class MeasuresRows(Net):
    """Measures a value a batch row."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {"val_loss": torch.ones(3)}


class Shaped(Net):
    """Has models of different shapes."""

    stackable: ClassVar[frozenset[str] | None] = frozenset({"lr", "width"})


class Uneven(Net):
    """Ends with a batch that is smaller."""

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        for step, (inputs, targets) in enumerate(super().batches(seed, start, steps), start=start + 1):
            yield (inputs, targets) if step < steps else (inputs[:5], targets[:5])


class Silent(Net):
    """Does not say whether its runs can be stacked."""

    stackable: ClassVar[frozenset[str] | None] = None


class Talking(Net):
    """Prints."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        print("hello from the task")  # noqa: T201
        return super().loss(model, batch)


class Deadly(Net):
    """Takes its process down at one learning rate."""

    def describe_optimizer(self) -> OptimizerSpec:
        if self.lr == 1.5:
            os._exit(1)
        return super().describe_optimizer()


class Stuck(Net):
    """Waits for ever at learning rates above 0.02, or ends its process."""

    exit_code: int = 0

    def describe_optimizer(self) -> OptimizerSpec:
        if self.lr > 0.02:
            if self.exit_code:
                os._exit(self.exit_code)
            threading.Event().wait()
        return super().describe_optimizer()


class Backwards(Net):
    """Has a schedule that goes below 0."""

    def lr_factor(self, step: int, steps: int) -> float:
        return 3.0 - step


def run_out_of_memory(where: str) -> None:
    """Asks for more than there is: of a processor and of Python in earnest, of a GPU as if there were one."""
    if where == "gpu":
        raise torch.OutOfMemoryError("Tried to allocate 12 GiB, of which 3 GiB are free")
    torch.empty(2**60, dtype=torch.uint8) if where == "processor" else bytearray(2**62)


class Large(Net):
    """Has memory for three runs side by side."""

    where: str = "gpu"

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        if rows_of(batch[0]) > 3:
            run_out_of_memory(self.where)
        return super().loss(model, batch)


def rows_of(tensor: Tensor) -> int:
    """How many rows a tensor stands for under ``vmap``."""
    torch_s = torch._C._functorch
    rows = 1
    while torch_s.is_functorch_wrapped_tensor(tensor):
        inside = torch_s.get_unwrapped(tensor)
        if torch_s.is_batchedtensor(tensor):
            rows *= inside.shape[torch_s.maybe_get_bdim(tensor)]
        tensor = inside
    return rows


class Breaking(Net):
    """Raises at one learning rate."""

    def describe_optimizer(self) -> OptimizerSpec:
        if self.lr == 0.5:
            raise RuntimeError("no optimizer at 0.5")
        return super().describe_optimizer()

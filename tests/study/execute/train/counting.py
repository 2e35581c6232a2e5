"""Tasks that note when they are trained, and that fail at some of their averages."""

from __future__ import annotations

import gc
import os
import signal

import torch
from execute.train.stackable_tasks import Net, run_out_of_memory
from torch import Tensor, nn
from torch.nn import functional

from belay import Bank, Belay

TRAININGS: list[int] = []  # the seeds of all that were begun


class Counted(Net):
    """Notes each training."""

    def build_model(self, seed: int) -> nn.Module:
        TRAININGS.append(seed)
        return super().build_model(seed)


class Drawing(Counted):
    """Draws from torch's global generator as it trains and as it is measured."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return functional.dropout(super().loss(model, batch)[None], 0.5).sum()

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: value + torch.rand(()) for name, value in super().evaluate(model).items()}


class Choosy(Net):
    """Cannot measure the third of its averages."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        MEASURED.append(1)
        if len(MEASURED) == 4:  # after the live weights and two averages
            raise RuntimeError("not this one")
        return super().evaluate(model)


MEASURED: list[int] = []


class Cramped(Counted):
    """Has memory to measure two averages, and live weights beside any number of them."""

    where: str = "gpu"

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        is_first = EVALUATED[-1:] != [len(TRAININGS)]  # of this training: of the live weights
        EVALUATED.append(len(TRAININGS))
        if not is_first and sum(type(each) is Belay for each in gc.get_objects()) > 2:
            run_out_of_memory(self.where)
        return super().evaluate(model)


EVALUATED: list[int] = []  # how many trainings had begun, at each evaluation


class Riderless(Counted):
    """Has memory for no bank."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        if any(type(each) is Bank for each in gc.get_objects()):
            raise torch.OutOfMemoryError("12 GiB are missing")
        return super().evaluate(model)


class Picky(Net):
    """Cannot measure what is not the model's own or the first average."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        SEEN.append(1)
        if len(SEEN) > 2:
            raise RuntimeError("not this one")
        return super().evaluate(model)


SEEN: list[int] = []


class Uneven(Net):
    """Gives every second model one metric more."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        COUNTED.append(1)
        return super().evaluate(model) | ({"odd": torch.ones(())} if len(COUNTED) % 2 else {})


COUNTED: list[int] = []


class Deadly(Net):
    """Takes its process down where lr is above 1."""

    def build_model(self, seed: int) -> nn.Module:
        if self.lr > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build_model(seed)


class TooLarge(Net):
    """Has memory for none."""

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("12 GiB are missing")

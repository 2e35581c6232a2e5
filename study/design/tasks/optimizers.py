"""An optimizer as values, so that runs alone and runs side by side can take the same steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

Kind = Literal["sgd", "adam", "adamw"]
BETAS = (0.9, 0.999)  # torch's own


@dataclass(frozen=True)
class OptimizerSpec:
    """What SGD, Adam or AdamW is made with; the equations are those of ``torch.optim``, options not named are off.

    Args:
        kind: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate, at least 0.
        momentum: Of SGD, in [0, 1).
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: At least 0. It is added to the gradient in SGD and Adam, and shrinks the weights in AdamW.
        betas: Decays of Adam's and AdamW's averages of the gradient and of its square, each in [0, 1).

    Raises:
        ValueError: A value is out of range, or the kind does not read it.
    """

    kind: Kind
    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = BETAS

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {', '.join(get_args(Kind))}, got {self.kind!r}; change it.")
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be finite and at least 0, got {value!r}; change it.")
        for name, value in (("momentum", self.momentum), ("betas", self.betas[0]), ("betas", self.betas[1])):
            if not 0 <= value < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {value!r}; change it.")
        self._check_kind()

    def _check_kind(self) -> None:
        """Raises ValueError if the kind does not read a value that is given."""
        if self.kind != "sgd" and (self.momentum or self.nesterov):
            raise ValueError(f"`momentum` and `nesterov` must be left out for {self.kind}; it has `betas`.")
        if self.kind == "sgd" and self.betas != BETAS:
            raise ValueError(f"`betas` must be left out for sgd, got {self.betas!r}; it has `momentum`.")
        if self.nesterov and not self.momentum:
            raise ValueError("`momentum` must be above 0 with `nesterov`, got 0; give it.")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of ``torch.optim`` for these parameters, for a run that is trained alone."""
        if self.kind == "sgd":
            return torch.optim.SGD(
                parameters, self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
            )
        kind = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return kind(parameters, self.lr, betas=self.betas, weight_decay=self.weight_decay)

"""Handwritten digits: a small ReLU network on 600 images, some of them mislabelled, validated on the other 1,197.

Data: scikit-learn's ``load_digits``, the test part of UCI's Optical Recognition of Handwritten Digits (CC BY 4.0).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from study.design.schema import Direction
from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec

TRAINING_IMAGES, PIXELS, CLASSES = 600, 64, 10
SPLIT_SEED = 0  # of the one split into training and validation images that all runs share


class Digits(Task):
    """A multi-layer perceptron on scikit-learn's digits."""

    summary: ClassVar[str] = "handwritten digits (scikit-learn), 600 training images, multi-layer perceptron"
    metrics: ClassVar[dict[str, Direction]] = {"val_accuracy": "max", "val_loss": "min"}
    stackable: ClassVar[frozenset[str]] = frozenset({"lr", "label_noise", "schedule"})

    lr: float = Field(0.1, gt=0, le=1e6, description="learning rate, at most 1e6")
    label_noise: float = Field(0.0, ge=0, lt=1, description="share of training images given a wrong label")
    width: int = Field(64, ge=1, le=4096, description="units in each hidden layer, at most 4,096")
    depth: int = Field(1, ge=0, le=64, description="number of hidden layers, at most 64")
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = Field(
        "sgd", description="optimizer (momentum is SGD, 0.9)"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls to 0 over the run, if it does"
    )
    batch_size: int = Field(32, ge=1, le=TRAINING_IMAGES, description="images a step")

    def build_model(self, seed: int) -> nn.Module:
        """A ReLU network with torch's default initialisation, drawn from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the processor, where the weights are drawn
            layers: list[nn.Module] = []
            inputs = PIXELS
            for _ in range(self.depth):
                layers += [nn.Linear(inputs, self.width), nn.ReLU()]
                inputs = self.width
            return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))

    def describe_optimizer(self) -> OptimizerSpec:
        """SGD, SGD with momentum 0.9, Adam, or AdamW with torch's weight decay, at the learning rate."""
        if self.optimizer == "adam":
            return OptimizerSpec("adam", self.lr)
        if self.optimizer == "adamw":
            return OptimizerSpec("adamw", self.lr, weight_decay=0.01)
        return OptimizerSpec("sgd", self.lr, momentum=0.9 if self.optimizer == "momentum" else 0.0)

    def lr_factor(self, step: int, steps: int) -> float:
        """1, or a straight line or half a cosine from 1 in the first step towards 0 after the last."""
        left = 1 - (step - 1) / steps
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.schedule]

    def batches(self, seed: int, start: int, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """Epoch after epoch in a new order, the last incomplete batch of each dropped.

        Yields:
            Images (batch_size, PIXELS) in [0, 1], and labels (batch_size,), whole numbers below CLASSES.
        """
        images, labels, _, _ = _data()
        labels = _mislabelled(labels, self.label_noise, seed)
        generator = torch.Generator().manual_seed(seed)
        each = TRAINING_IMAGES // self.batch_size
        for begun in range(0, steps, each):  # steps before this epoch
            order = torch.randperm(TRAINING_IMAGES, generator=generator)
            if begun + each > start:
                batches = zip(*(torch.split(data[order], self.batch_size) for data in (images, labels)), strict=True)
                yield from islice(batches, max(start - begun, 0), min(steps - begun, each))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean cross-entropy in nats."""
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        """Accuracy (share) and mean cross-entropy (nats) on the validation images."""
        _, _, images, labels = _data()
        logits = model(images)
        right = (logits.argmax(dim=1) == labels).float().mean()
        return {"val_accuracy": right, "val_loss": functional.cross_entropy(logits, labels)}

    def data_digest(self) -> str:
        """Hash of all images and labels as split."""
        digest = hashlib.sha256()
        for tensor in _data():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


@cache
def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, validation images and labels; pixels in [0, 1]."""
    table = np.loadtxt(_file(), delimiter=",")
    images = torch.as_tensor(table[:, :PIXELS], dtype=torch.float32) / 16
    labels = torch.as_tensor(table[:, PIXELS], dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    training, validation = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    return images[training], labels[training], images[validation], labels[validation]


def _file() -> Path:
    """The file that ``load_digits`` reads: its import would cost each process more than a second."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"


def _mislabelled(labels: Tensor, share: float, seed: int) -> Tensor:
    """A copy in which a share of the labels, drawn by the seed, is moved to another class."""
    generator = torch.Generator().manual_seed(seed + 1_000_003)  # not the stream that orders the batches
    wrong = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, CLASSES, (len(labels),), generator=generator)
    return torch.where(wrong, (labels + shift) % CLASSES, labels)

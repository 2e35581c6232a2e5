"""The largest curvature of a task's loss, against the whole Hessian."""

from __future__ import annotations

from typing import ClassVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from study.design.tasks import curvature
from study.design.tasks.curvature import BATCHES, largest_curvature
from study.design.tasks.digits import Digits
from study.design.tasks.quadratic import Quadratic


def test_of_a_quadratic_it_is_the_largest_of_its_spectrum() -> None:
    assert largest_curvature(Quadratic(curvature=7.0), seed=0) == pytest.approx(7, rel=5e-3)


def test_of_a_network_it_is_the_largest_eigenvalue_of_the_hessian_of_some_batches() -> None:
    task, seed = Digits(width=3, batch_size=20), 5
    model = task.build_model(seed)
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(*values: Tensor) -> Tensor:
        tried = dict(zip(names, values, strict=True))
        losses = [
            nn.functional.cross_entropy(functional_call(model, tried, images), labels)
            for images, labels in task.batches(seed, 0, BATCHES)
        ]
        return torch.stack(losses).mean()

    rows = torch.autograd.functional.hessian(loss, tuple(weights))
    sizes = [weight.numel() for weight in weights]
    whole = torch.cat(
        [torch.cat([block.reshape(size, -1) for block in row], 1) for row, size in zip(rows, sizes, strict=True)]
    )
    assert largest_curvature(task, seed) == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=0.02)


class Saddle(Quadratic):
    """Curves up by 1 and down by 3."""

    summary: ClassVar[str] = "a saddle"

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x = cast(Tensor, model["x"])  # type: ignore[index]
        return (torch.tensor([1.0, -3.0]) * x * x).sum() / 2


class Slope(Quadratic):
    """Does not curve, and autograd knows no second derivative."""

    summary: ClassVar[str] = "a slope"

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return cast(Tensor, model["x"]).sum()  # type: ignore[index]


def test_where_the_loss_curves_down_more_than_up_it_is_still_the_upward_one() -> None:
    assert largest_curvature(Saddle(dimensions=2), seed=0) == pytest.approx(1, rel=0.02)


def test_a_model_for_which_it_would_take_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "LARGEST", 2000)
    with pytest.raises(ValueError, match="the model has 2,001 weights, more than 2,000"):
        largest_curvature(Quadratic(dimensions=2001), seed=0)


def test_a_loss_that_cannot_be_differentiated_twice_has_none() -> None:
    with pytest.raises(RuntimeError, match="grad"):
        largest_curvature(Slope(dimensions=2), seed=0)

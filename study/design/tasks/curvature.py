"""How sharply a task's loss curves where training starts, which says up to which learning rate plain SGD is stable."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from study.design.tasks.base import Task

BATCHES = 4  # whose mean loss is taken
LARGEST = 2**20  # weights of a model for which this takes no more than seconds
MOST, CLOSE = 50, 1e-3  # iterations at most, and the relative change from which they end


def largest_curvature(task: Task, seed: int) -> float:
    """The largest eigenvalue of the Hessian of the loss at a seed's initial weights, by power iteration.

    It starts from a vector that torch's generator draws.

    Args:
        task: Its loss has to be differentiable twice.
        seed: Of the weights and of the first batches, whose mean loss is taken.

    Returns:
        At least 0.

    Raises:
        RuntimeError: The loss cannot be differentiated twice.
        ValueError: The model has more than `LARGEST` weights, or the Hessian is not finite.
    """
    multiply, weights = _hessian(task, seed)
    found = _dominant(multiply, weights)
    if found < 0:  # measured from the most negative one, the largest is the largest in size too
        found += _dominant(lambda vector: multiply(vector) - found * vector, weights)
    if not math.isfinite(found):
        raise ValueError("the Hessian is not finite")
    return max(found, 0.0)


def _hessian(task: Task, seed: int) -> tuple[Callable[[Tensor], Tensor], int]:
    """What multiplies the Hessian by a vector of all trained weights; how many weights there are."""
    model = task.build_model(seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    sizes = [weight.numel() for weight in weights]
    if sum(sizes) > LARGEST:
        raise ValueError(f"the model has {sum(sizes):,} weights, more than {LARGEST:,}")
    batches = islice(task.batches(seed, 0, BATCHES), BATCHES)
    loss = torch.stack([task.loss(model, batch) for batch in batches]).mean()
    slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)

    def multiply(vector: Tensor) -> Tensor:
        parts = [part.view_as(weight) for part, weight in zip(torch.split(vector, sizes), weights, strict=True)]
        return parameters_to_vector(
            torch.autograd.grad(slopes, weights, parts, retain_graph=True, materialize_grads=True)
        )

    return multiply, sum(sizes)


def _dominant(multiply: Callable[[Tensor], Tensor], weights: int) -> float:
    """The eigenvalue that is largest in size."""
    vector, found = torch.randn(weights), math.inf
    for _ in range(MOST):
        vector = vector / vector.norm()
        product = multiply(vector)
        before, found = found, float(vector @ product)
        if not abs(found - before) > CLOSE * abs(found):  # also where it is nan
            break
        vector = product
    return found

"""What the parts of a task give: refused by its name where it is not what a run can go on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from study.design.faults import shown
from study.design.tasks.base import Task
from study.design.tasks.optimizers import OptimizerSpec
from study.execute.train.undisturbed import EVALUATION, seeded

Batch = tuple[Tensor, ...]


def model_of(task: Task, seed: int) -> nn.Module:
    """The model of a seed.

    Raises:
        TypeError: It is none.
    """
    model = task.build_model(seed)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`build_model` must return a torch.nn.Module, got {shown(model)}.")
    return model


def optimizer_of(task: Task) -> OptimizerSpec:
    """What the optimizer is.

    Raises:
        TypeError: It is not described.
    """
    described = task.describe_optimizer()
    if not isinstance(described, OptimizerSpec):
        raise TypeError(f"`describe_optimizer` must return an OptimizerSpec, got {shown(described)}.")
    return described


def batches_of(task: Task, seed: int, steps: int) -> Iterator[Batch]:
    """The batches of a run, one for each of its steps.

    Raises:
        TypeError: There are none.
        ValueError: They end before the run does: what it came to then would be taken for what all of it comes to.
    """
    given, found = task.batches(seed, 0, steps), 0
    if not isinstance(given, Iterable):
        raise TypeError(f"`batches` must yield batches, got {shown(given)}.")
    for found, batch in enumerate(islice(given, steps), start=1):  # noqa: B007 # read after the loop
        yield batch
    if found < steps:
        raise ValueError(
            f"`batches` must yield one for each of {steps} steps, got {found}; begin the data anew at its end."
        )


def loss_of(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch.

    Raises:
        TypeError: It is not one number of a tensor.
        ValueError: No weight has a part in it.
    """
    loss = task.loss(model, batch)
    if not isinstance(loss, Tensor) or loss.dim():
        raise TypeError(f"`loss` must return a 0-d tensor, got {_kind(loss)}.")
    if not loss.requires_grad:
        raise ValueError("`loss` must depend on a weight that is trained, got one without a gradient.")
    return loss


def measure(task: Task, model: nn.Module) -> dict[str, float]:
    """A task's metrics of a model; what it draws from global generators is the same for every model.

    Raises:
        TypeError: They are not 0-d tensors by name.
        ValueError: One is missing, or weights or buffers of the model were changed.
    """
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor._version for name, tensor in kept.items()}
    with evaluating(model), torch.no_grad(), seeded(EVALUATION):
        found = task.evaluate(model)
    if not isinstance(found, Mapping):
        raise TypeError(f"`evaluate` must return tensors by metric, got {shown(found)}.")
    if missing := [name for name in task.metrics if name not in found]:
        raise ValueError(f"`evaluate` must give every one of `metrics` each time, got none of {missing[0]!r}.")
    if changed := [name for name, tensor in kept.items() if tensor._version != before[name]]:
        raise ValueError(f"`evaluate` must leave the model as it is, got a change of {changed[0]}.")
    return {name: _number(name, value) for name, value in found.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Has a model in evaluation mode, and each of its modules in its own mode again at the end."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _number(name: str, value: Tensor) -> float:
    """A metric as a number, refused if it would not do for models side by side."""
    if not isinstance(value, Tensor) or value.dim():
        raise TypeError(
            f"`evaluate` must return 0-d tensors, got {_kind(value)} for {name!r}; leave out `float` or `item()`."
        )
    return value.item()


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)

"""What every built-in task promises: batches that begin anywhere, and runs that can be stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from study.design.tasks import BUILT_IN, find_task
from study.design.tasks.base import Task
from study.design.tasks.digits import Digits
from study.design.tasks.template import MyTask

TASKS: dict[str, type[Task]] = {name: find_task(name) for name in BUILT_IN}  # type: ignore[misc] # all classes
VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.1, 0.3, 0.5),
    "label_noise": (0.0, 0.2, 0.4),
    "noise": (0.0, 0.5, 1.0),
    "start": (-1.0, 0.5, 2.0),
    "schedule": ("constant", "linear", "cosine"),
}


@pytest.mark.parametrize("task", [*(kind() for kind in TASKS.values()), Digits(batch_size=400), MyTask()], ids=repr)
@pytest.mark.parametrize("start", [0, 1, 17, 18, 19, 40])
def test_batches_begin_anywhere_with_those_that_a_run_from_the_start_meets_there(task: Task, start: int) -> None:
    whole, rest = list(task.batches(3, 0, 40))[start:], list(task.batches(3, start, 40))
    assert len(rest) == len(whole) == 40 - start
    for batch, same in zip(whole, rest, strict=True):
        assert all(map(torch.equal, batch, same))


class Applied(nn.Module):
    """A function of a model and more as a module, so that the model's weights can be handed in."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *more: Any) -> Any:
        return self.function(self.model, *more)


@pytest.mark.parametrize("name", [name for name, kind in TASKS.items() if kind.stackable is not None])
def test_a_stackable_task_gives_members_side_by_side_what_each_gives_alone(name: str) -> None:
    kind = TASKS[name]
    members = [kind(**{field: VALUES[field][number] for field in kind.stackable or ()}) for number in range(3)]
    models = [task.build_model(seed) for seed, task in enumerate(members)]
    batches = [next(task.batches(seed, 0, 1)) for seed, task in enumerate(members)]
    shared, stacked = members[0], tuple(map(torch.stack, zip(*batches, strict=True)))
    weights, _ = stack_module_state([Applied(model, shared.loss) for model in models])

    def loss(member: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return functional_call(Applied(models[0], shared.loss), member, (batch,))

    def metrics(member: dict[str, Tensor]) -> dict[str, Tensor]:
        return functional_call(Applied(models[0], shared.evaluate), member, ())

    gradients, losses = vmap(grad_and_value(loss))(weights, stacked)
    with torch.no_grad():
        measured = vmap(metrics)(weights)
    assert measured.keys() == kind.metrics.keys()
    for number, (task, model, batch) in enumerate(zip(members, models, batches, strict=True)):
        alone = task.loss(model, batch)
        alone.backward()
        assert torch.allclose(losses[number], alone)
        for key, parameter in model.named_parameters():
            assert torch.allclose(gradients[f"model.{key}"][number], parameter.grad, atol=1e-6)
        with torch.no_grad():
            for metric, value in task.evaluate(model).items():
                assert value.dim() == 0
                assert torch.allclose(measured[metric][number], value)

"""Parts of torch, written again: the first use of its own imports its compiler, which takes a second."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# The parts of ``torch.func.grad_and_value``, which have no public names.
from torch._functorch.eager_transforms import (
    _create_differentiable,
    _undo_create_differentiable,
    _wrap_all_tensors,
    grad_increment_nesting,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call] # its `__init_subclass__`
    """Sees each operation that is done while it is entered."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here."""
        return False


class _Counting(Operations):
    """Counts sums and products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def count_operations(step: Callable[[], object]) -> int:
    """How many sums and products matrix products and convolutions take, as ``FlopCounterMode`` counts them."""
    with _Counting() as counting:
        step()
    total: int = counting.total
    return total


def grad_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``torch.func.grad_and_value``: of a scalar function the gradient by its first argument, and its value."""

    @functools.wraps(function)
    def differentiated(*arguments: Any) -> tuple[Tensor, Tensor]:
        with grad_increment_nesting() as level, torch.enable_grad():
            x, *others = _wrap_all_tensors(arguments, level)
            _create_differentiable(x)
            value = function(x, *others)
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            found: tuple[Tensor, Tensor] = _undo_create_differentiable((gradient, value), level)
            return found

    return differentiated

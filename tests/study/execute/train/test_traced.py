"""Operations that are gone through anew give what the function gives, and none of them is idle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from study.execute.train.traced import traced


@pytest.fixture(autouse=True)
def _nothing_noted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.execute.train.traced.TRACED", {})


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.found[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Counter[str]]:
    with Counting() as counting:
        found = function(*arguments)
    return found, counting.found


def idle(x: Tensor, row: Tensor) -> Tensor:
    same = x.view(3, 4).expand(3, 4).transpose(0, 1).transpose(0, 1)
    return same.ne(0) * row.expand(3, 4) + x.ne(0) * row.expand(3, 4) + x.t().transpose(0, 1).view(12).sum()


def test_what_changes_nothing_or_was_done_before_is_left_out() -> None:
    first, row = torch.arange(12.0).view(3, 4), torch.ones(1, 4)
    operations = traced("idle", idle, first, row)
    x = torch.randn(3, 4)
    found, done = counted(operations, x, row)
    assert torch.equal(found, idle(x, row))
    assert counted(idle, x, row)[1]["ne"] == 2
    assert {name: done[name] for name in ("ne", "mul", "expand", "view")} == {"ne": 1, "mul": 1, "expand": 1, "view": 1}


def changing(x: Tensor) -> Tensor:
    y = x.clone()
    before = y.sum()
    y.view(3, 4).mul_(2)
    return before + 10 * y.sum() + 100 * x.sum()


def test_a_function_that_changes_tensors_in_between_is_gone_through_as_it_is() -> None:
    operations = traced("changing", changing, torch.ones(3, 4))
    x = torch.arange(12.0).view(3, 4)
    assert operations(x).item() == changing(x).item() == 66 + 10 * 132 + 100 * 66
    assert x.sum() == 66


def test_a_processor_takes_logarithms_of_few_numbers_by_their_parts() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.log_softmax(x, 1)

    x = torch.randn(5, 10, dtype=torch.float64)
    found, done = counted(traced("softmax", function, torch.zeros_like(x)), x)
    torch.testing.assert_close(found, function(x))
    assert "_log_softmax" not in done
    assert "exp" in done


def test_operations_are_noted_once_for_each_key() -> None:
    calls: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        calls.append(x)
        return x + 1

    for _ in range(2):
        assert traced("once", function, torch.zeros(2))(torch.ones(2)).tolist() == [2, 2]
    assert len(calls) == 1

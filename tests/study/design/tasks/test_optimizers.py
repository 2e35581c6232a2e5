"""An optimizer as values: what torch makes of it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from study.design.tasks.optimizers import OptimizerSpec


@pytest.mark.parametrize(
    ("spec", "kind", "options"),
    [
        (
            OptimizerSpec("sgd", 0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
        ),
        (
            OptimizerSpec("adam", 0.1, betas=(0.5, 0.9)),
            torch.optim.Adam,
            {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0},
        ),
        (
            OptimizerSpec("adamw", 0.1, weight_decay=0.3),
            torch.optim.AdamW,
            {"betas": (0.9, 0.999), "weight_decay": 0.3},
        ),
    ],
)
def test_torch_s_optimizer_has_the_values_described(spec: OptimizerSpec, kind: type, options: dict[str, Any]) -> None:
    built = spec.build(torch.nn.Linear(2, 1).parameters())
    assert type(built) is kind
    assert {name: built.param_groups[0][name] for name in options} == options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lion"}, "`kind` must be one of sgd, adam, adamw, got 'lion'; change it."),
        ({"lr": -1.0}, "`lr` must be finite and at least 0, got -1.0; change it."),
        ({"weight_decay": float("nan")}, "`weight_decay` must be finite and at least 0, got nan; change it."),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0; change it."),
        ({"kind": "adam", "betas": (0.9, 1.0)}, r"`betas` must be in \[0, 1\), got 1.0; change it."),
        ({"kind": "adam", "momentum": 0.9}, "`momentum` and `nesterov` must be left out for adam; it has `betas`."),
        ({"betas": (0.5, 0.9)}, r"`betas` must be left out for sgd, got \(0.5, 0.9\); it has `momentum`."),
        ({"nesterov": True}, "`momentum` must be above 0 with `nesterov`, got 0; give it."),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSpec(**({"kind": "sgd", "lr": 0.1} | values))

"""What an update of the average costs beside the least that any average could cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from belay import Belay, Oscillator
from belay.average import Nonfinite


@pytest.mark.parametrize(("oscillator", "nonfinite", "asked"), [
    (Oscillator.ema(0.999), "propagate", 1.1),
    (Oscillator.ema(0.999), "raise", 1.5),  # reads 1 array more than the 3 that it reads and writes
    (Oscillator(0.999, damping=0.1), "propagate", 2.2),  # reads and writes 5 arrays instead of 3: 1.7 times as much
], ids=["ema", "ema checked", "damped"])  # fmt: skip
def test_update(
    oscillator: Oscillator,
    nonfinite: Nonfinite,
    asked: float,
    figure: Callable[..., None],
    medians: Callable[..., dict[str, float]],
) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8)))
    average = Belay(model, oscillator, nonfinite=nonfinite)
    weights = [parameter.detach() for parameter in model.parameters()]
    copies = [weight.clone() for weight in weights]
    seconds = medians({"update": average.update, "lerp": lambda: torch._foreach_lerp_(copies, weights, 0.001)})
    name = "EMA" if oscillator.damping == 1 else "damped average"
    checked = ", finite weights checked" if nonfinite == "raise" else ""
    figure(
        f"update of {name}, 8 M weights{checked}", "torch._foreach_lerp_", seconds["update"] / seconds["lerp"], asked
    )

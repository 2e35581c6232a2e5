"""What an update of the average costs beside the least that any average could cost.

``BELAY_BENCHMARK_SIZE=full`` measures 96 and 48 million weights, else a hundredth of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from belay import Bank, Belay, Oscillator
from belay.finite import Nonfinite

EDGE = 1000 if os.environ.get("BELAY_BENCHMARK_SIZE") == "full" else 100  # of large tensors, which are square
EMA, DAMPED = Oscillator.ema(0.999), Oscillator(0.999, damping=0.1)
COUPLED, BOTH = Oscillator(0.999, coupling=0.01), Oscillator(0.999, damping=0.1, coupling=0.01)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _lerps(weights: list[Tensor], count: int) -> Callable[[], None]:
    """Towards the weights, and back if there are two: what reads and writes as much as a coupled EMA."""
    copies, aims = [weight.clone() for weight in weights], [weight.clone() for weight in weights]

    def lerps() -> None:
        torch._foreach_lerp_(copies, aims, 0.001)
        if count == 2:
            torch._foreach_lerp_(aims, copies, 0.01)

    return lerps


@pytest.mark.parametrize(("name", "oscillator", "nonfinite", "tensors", "lerps", "asked"), [
    ("EMA", EMA, "propagate", 96, 1, 1.05),
    ("EMA, finite weights checked", EMA, "raise", 96, 1, 1.5),  # reads 1 array more than the 3 that it reads and writes
    ("damped average", DAMPED, "propagate", 48, 1, 2.2),  # reads and writes 5 arrays instead of 3: 1.7 times as much
    ("coupled EMA", COUPLED, "propagate", 48, 2, 1.0),
    ("damped coupled average", BOTH, "propagate", 48, 2, 1.3),
])  # fmt: skip
def test_update_of_large_tensors(
    name: str,
    oscillator: Oscillator,
    nonfinite: Nonfinite,
    tensors: int,
    lerps: int,
    asked: float,
    figure: Callable[..., None],
    medians: Callable[..., dict[str, float]],
) -> None:
    model = nn.ParameterList([nn.Parameter(torch.randn(EDGE, EDGE)) for _ in range(tensors)])
    average = Belay(model, oscillator, nonfinite=nonfinite)
    least = _lerps([parameter.detach() for parameter in model], lerps)
    seconds = medians({"update": average.update, "least": least})
    against = "torch._foreach_lerp_" if lerps == 1 else "two torch._foreach_lerp_"
    what = f"update of {name}, {tensors * EDGE**2 / 1e6:g} M weights"
    figure(what, against, seconds["update"] / seconds["least"], asked)


@pytest.mark.parametrize(("name", "oscillator", "asked"), [
    ("EMA", EMA, 0.12),
    ("damped coupled average", BOTH, 0.3),
], ids=["ema", "damped coupled"])  # fmt: skip
def test_update_of_tiny_tensors(
    name: str,
    oscillator: Oscillator,
    asked: float,
    figure: Callable[..., None],
    medians: Callable[..., dict[str, float]],
) -> None:
    model = nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(600)])
    average = Belay(model, oscillator, nonfinite="propagate")
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    seconds = medians({"update": average.update, "theirs": lambda: theirs.update_parameters(model)}, repetitions=50)
    figure(
        f"update of {name}, 600 tiny tensors",
        "AveragedModel, multi_avg_fn",
        seconds["update"] / seconds["theirs"],
        asked,
    )


def _large() -> torch.nn.Module:
    return torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(5)))


def _tiny() -> torch.nn.Module:
    return torch.nn.ParameterList([torch.nn.Parameter(torch.randn(50)) for _ in range(600)])


@pytest.mark.parametrize(("what", "make", "damping", "asked"), [
    ("32 EMAs, 5 M weights", _large, 1.0, 0.75),  # 65 accesses to memory a weight instead of 96: 0.68
    ("32 EMAs, 600 tensors of 50 weights", _tiny, 1.0, 0.1),
    ("32 damped averages, 5 M weights", _large, 0.1, 0.9),
    ("32 damped averages, 600 tensors of 50 weights", _tiny, 0.1, 0.1),
])  # fmt: skip
def test_a_bank(
    what: str,
    make: Callable[[], torch.nn.Module],
    damping: float,
    asked: float,
    figure: Callable[..., None],
    medians: Callable[..., dict[str, float]],
) -> None:
    model = make()
    oscillators = [Oscillator(1 - 0.5 ** (2 + index / 4), damping) for index in range(32)]
    bank = Bank(model, oscillators, nonfinite="propagate")
    separate = [Belay(model, oscillator, nonfinite="propagate") for oscillator in oscillators]
    seconds = medians({"bank": bank.update, "separate": lambda: [average.update() for average in separate]})
    figure(f"update of a bank of {what}", "32 separate averages", seconds["bank"] / seconds["separate"], asked)


@pytest.mark.parametrize(("what", "make"), [
    ("10,000 tensors of 50 weights", lambda: nn.ParameterList([nn.Parameter(torch.randn(50)) for _ in range(10_000)])),
    ("20 tensors of 1 M weights", lambda: nn.ParameterList([nn.Parameter(torch.randn(1000, 1000)) for _ in range(20)])),
])  # fmt: skip
def test_showing_averages(
    what: str, make: Callable[[], nn.Module], figure: Callable[..., None], medians: Callable[..., dict[str, float]]
) -> None:
    model = make()
    average = Belay(model, EMA)
    average.update()
    weights = [parameter.detach() for parameter in model.parameters()]
    copies = [weight.clone() for weight in weights]

    def show() -> None:
        with average.average_parameters():
            pass

    def copy() -> None:
        torch._foreach_copy_(weights, copies)
        torch._foreach_copy_(weights, copies)

    seconds = medians({"show": show, "copy": copy})
    figure(f"showing averages, {what}", "copying once each way", seconds["show"] / seconds["copy"], 1.2)

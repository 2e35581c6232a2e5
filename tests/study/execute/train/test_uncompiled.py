"""What is had without torch's compiler is what torch has with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from study.execute.train.uncompiled import count_operations, grad_and_value

TRAINING = """
import sys
from study.design.config import parse_config
from study.design.study import Study
from study.execute.train.probe import room
from study.execute.train.stacked import train_stacked

study = Study.of(parse_config({
    "name": "plain", "task": "digits", "steps": 5, "seeds": 2, "objective": {"metric": "average/val_accuracy"},
    "space": {"decay": {"log_gap": [0.9, 0.99]}, "lr": 0.1}, "search": {"settings": 2},
}))
assert room(study).runs > 1
train_stacked(study, [(study.setting(0, {"decay": 0.9, "lr": 0.1}), seed) for seed in (0, 1)])
print("torch._dynamo" in sys.modules)
"""


def bent(x: Tensor, scale: dict[str, Tensor], shift: tuple[Tensor]) -> Tensor:
    return ((x.sin() * scale["a"]).sum() + shift[0]).square()


@pytest.mark.parametrize("batched", [False, True], ids=["one", "rows"])
def test_a_gradient_is_torch_s_own(batched: bool) -> None:
    rows = (3,) if batched else ()
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn((*rows, *shape), generator=generator) for shape in ((5,), (5,), ()))
    ours, theirs = grad_and_value(bent), torch.func.grad_and_value(bent)
    if batched:
        ours, theirs = torch.vmap(ours), torch.vmap(theirs)
    for one, other in zip(ours(x, {"a": a}, (b,)), theirs(x, {"a": a}, (b,)), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_no_gradient_of_what_is_no_number() -> None:
    with pytest.raises(RuntimeError, match="scalar"):
        grad_and_value(torch.sin)(torch.ones(2))


@pytest.mark.parametrize(("model", "shape"), [
    (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), (4, 8)),
    (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)), (2, 2, 8, 8)),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 6, 8)),
], ids=["layers", "convolution", "attention"])  # fmt: skip
def test_operations_are_counted_as_torch_counts_them(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    with FlopCounterMode(display=False) as counting:
        model(x).sum().backward()
    assert count_operations(lambda: model(x).sum().backward()) == counting.get_total_flops() > 0


def test_training_side_by_side_does_not_import_the_compiler() -> None:
    found = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=600, check=True)
    assert found.stdout == "False\n"

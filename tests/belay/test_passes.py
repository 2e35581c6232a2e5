"""How an update goes through memory: which kernels run, what they allocate, and that blocks change no number."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from belay import Belay, Oscillator
from belay.groups import BLOCK, grouped
from belay.reference import step
from belay.step import step_

ONE_PASS = {
    "ema": Oscillator.ema(0.99),
    "damped": Oscillator(0.99, 0.1),
    "belay": Oscillator(0.99, 1.0, 0.05),
    "damped belay": Oscillator(0.99, 0.2, 0.05),
    "damped push": Oscillator(0.9, 0.4, -0.1),
}
SEVERAL = {
    "alternating": Oscillator(0.9, 1.5),  # torch's kernel on CUDA takes no negative momentum
    "strongly coupled": Oscillator(0.9, 0.5, 0.8),
    "nothing remembered": Oscillator(0),
}
ALL = ONE_PASS | SEVERAL


class Watch(TorchDispatchMode):
    """Notes the operations that run, and the weights in the largest tensor that one of them makes."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.fixture
def block():
    return BLOCK * torch.get_num_threads()


def _group(oscillator, x, kept=torch.float32, infinite=False):
    """A group with an average and, where it needs one, a velocity of its own."""
    y = (x.detach() + torch.randn_like(x)).to(kept)
    v = {} if oscillator.damping == 1 else {"x": 0.1 * torch.randn_like(y)}
    (group,) = grouped({"x": x}, {"x": y}, v, {"x"} if infinite else ())
    return group


def _watched(group, oscillator):
    group.blocks()  # made once, not each step
    with Watch() as watch:
        step_(group, oscillator)
    return watch


@pytest.mark.parametrize("name", ALL)
def test_dense_weights_go_in_one_pass_where_the_settings_allow(name):
    watch = _watched(_group(ALL[name], torch.randn(50)), ALL[name])
    assert (set(watch.names) == {"_fused_sgd_"}) == (name in ONE_PASS)


@pytest.mark.parametrize("name", ONE_PASS)
@pytest.mark.parametrize("kind", ["strided", "mixed", "infinite", "complex"])
def test_other_weights_never_reach_the_fused_kernel(name, kind):
    x = torch.randn(4, 6, dtype=torch.complex64 if kind == "complex" else torch.float32)
    x = x.t() if kind == "strided" else x.bfloat16() if kind == "mixed" else x
    watch = _watched(_group(ONE_PASS[name], x, torch.promote_types(x.dtype, torch.float32), kind == "infinite"),
                     ONE_PASS[name])  # fmt: skip
    assert "_fused_sgd_" not in watch.names


@pytest.mark.parametrize("name", ONE_PASS)
def test_an_update_of_dense_weights_allocates_nothing(name, block):
    assert _watched(_group(ONE_PASS[name], torch.randn(3 * block)), ONE_PASS[name]).largest == 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_no_update_allocates_more_than_a_block(name, dtype, strided, block):
    x = torch.randn(3, block, dtype=dtype)
    group = _group(ALL[name], x.t() if strided else x, torch.promote_types(dtype, torch.float32))
    assert _watched(group, ALL[name]).largest <= block


@pytest.mark.filterwarnings("ignore:an average pulls half-precision")
@pytest.mark.parametrize("bad", [0.0, float("inf")])
def test_neither_the_check_of_finite_weights_nor_the_first_update_allocates_more_than_a_block(bad, block):
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(3 * block))
    with torch.no_grad():
        model.weight[0] = bad
    average = Belay(model, Oscillator(0.99, 0.1))
    average._groups[0].blocks()
    with Watch() as watch:
        average.update()
    assert watch.largest <= block


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strided", [False, True])
def test_weights_of_several_blocks_are_the_reference_everywhere(name, strided, block):
    oscillator, x = ALL[name], torch.randn(2, block + 7, dtype=torch.float64)
    group = _group(oscillator, x.t() if strided else x, torch.float64)
    y = group.average[0].clone()
    v = torch.zeros_like(y) if group.velocity is None else group.velocity[0].clone()
    a, b, w = step(group.live[0].clone(), y, v, oscillator)
    step_(group, oscillator)
    torch.testing.assert_close(group.live[0], a, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(group.average[0], b, rtol=1e-13, atol=1e-13)
    if group.velocity is not None:
        torch.testing.assert_close(group.velocity[0], w, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_equal_infinite_values_stay_in_every_block(name, block):
    x = torch.randn(2 * block)
    x[::1000] = float("inf")
    group = _group(ALL[name], x, infinite=True)
    step_(group, ALL[name])
    assert x.isinf().sum() == group.average[0].isinf().sum() == len(x[::1000])
    assert not x.isnan().any()
    assert not group.average[0].isnan().any()


@pytest.mark.parametrize("name", ONE_PASS)
def test_autograd_is_told_of_the_tensors_that_change_and_of_no_others(name):
    oscillator, x = ONE_PASS[name], nn.Parameter(torch.randn(50))
    loss = (x * x).sum()
    group = _group(oscillator, x)
    before = group.average[0]._version
    step_(group, oscillator)
    assert group.average[0]._version > before
    if oscillator.coupling:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    else:
        loss.backward()

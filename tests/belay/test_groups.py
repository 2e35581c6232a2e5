"""Groups of one kind, and the blocks that they are cut into."""

import copy

import pytest
import torch
from torch import nn

from belay.groups import BLOCK, CHUNK, grouped


@pytest.fixture
def block():
    """Weights of a block on CPU."""
    return BLOCK * torch.get_num_threads()


def _groups(weights, moving=True):
    live = {str(index): weight for index, weight in enumerate(weights)}
    average = {name: weight.detach().clone() for name, weight in live.items()}
    velocity = {name: torch.zeros_like(weight) for name, weight in average.items()} if moving else {}
    return grouped(live, average, velocity)


def test_groups_hold_weights_of_one_dtype_and_of_one_place_in_memory():
    weights = [torch.ones(2, 3), torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 3).t(), torch.ones(())]
    groups = _groups(weights)
    assert [(group.dense, [tuple(weight.shape) for weight in group.live]) for group in groups] == [
        (True, [(2, 3), ()]), (False, [(3,)]), (False, [(3, 2)])
    ]  # fmt: skip


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16], ids=str)
def test_a_group_whose_average_has_another_dtype_is_not_dense(other):
    (group,) = grouped({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=other)}, {})
    assert not group.dense


def test_groups_keep_weights_averages_and_velocities_of_a_name_together():
    live = {name: torch.full((2,), float(index)) for index, name in enumerate("abc")}
    average = {name: live[name] + 10 for name in reversed("abc")}
    velocity = {name: live[name] + 20 for name in "bca"}
    (group,) = grouped(live, average, velocity)
    for x, y, v in zip(group.live, group.average, group.velocity, strict=True):
        assert torch.equal(x + 10, y)
        assert torch.equal(x + 20, v)


@pytest.mark.parametrize("moving", [True, False])
def test_blocks_hold_every_weight_once_and_in_its_own_memory(block, moving):
    shapes = [(block + 5,), (3,), (2, block), (0,), (), (7, block // 3), (block,)]
    weights = [torch.randn(shape) for shape in shapes]
    weights += [torch.randn(5, block).t(), torch.randn(2, 2 * block)[:, ::2]]
    for group in _groups(weights, moving):
        blocks = group.blocks()
        for lists, whole in zip(zip(*blocks, strict=True), (group.live, group.average, group.velocity), strict=True):
            if whole is None:
                assert set(lists) == {None}
                continue
            parts = [part for tensors in lists for part in tensors]
            torch.testing.assert_close(sum(p.double().sum() for p in parts), sum(w.double().sum() for w in whole))
            for part in parts:
                part.fill_(7)  # seen in the whole ones: the same memory
            assert all((weight == 7).all() for weight in whole)
        for x, y, _ in blocks:
            assert [part.shape for part in x] == [part.shape for part in y]
            assert sum(part.numel() for part in x) <= block


def test_small_tensors_share_a_block_and_large_ones_are_cut(block):
    (group,) = _groups([torch.ones(10)] * 100 + [torch.ones(2 * block + 1)])
    assert [sum(part.numel() for part in x) for x, _, _ in group.blocks()] == [1000, block, block, 1]
    (group,) = _groups([torch.ones(100, 20)])
    assert group.blocks()[0][0][0] is group.live[0]


def test_on_other_devices_blocks_are_chunks():
    (group,) = _groups([torch.empty(CHUNK + 1, device="meta"), torch.empty(5, device="meta")])
    assert [sum(part.numel() for part in x) for x, _, _ in group.blocks()] == [CHUNK, 6]


def test_tensors_of_another_class_are_neither_dense_nor_cut(block):
    class Own(torch.Tensor):
        pass

    (group,) = _groups([torch.ones(2 * block).as_subclass(Own)])
    assert not group.dense
    assert len(group.blocks()) == 1


def test_a_copied_group_cuts_its_own_tensors(block):
    (group,) = _groups([nn.Parameter(torch.ones(2 * block))])
    group.blocks()
    twin = copy.deepcopy(group)
    with torch.no_grad():
        twin.blocks()[0][0][0].fill_(3)
    assert twin.live[0][0] == 3
    assert group.live[0][0] == 1

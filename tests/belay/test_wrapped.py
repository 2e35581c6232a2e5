"""Models inside wrappers: compiled submodules, DistributedDataParallel and FSDP2, the latter two in a group of one."""

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from belay import Belay, Oscillator

OSCILLATOR = Oscillator(0.9, 0.5, 0.1)


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


@pytest.fixture
def _group_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _train(model: nn.Module, average: Belay, steps: int = 4) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model(torch.randn(8, 2, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update()


def _pair(wrap) -> tuple[nn.Module, Belay, nn.Module, Belay]:
    """A wrapped model and a plain one, trained alike."""
    plain = _model()
    inner = _model()
    inner.load_state_dict(plain.state_dict())
    wrapped = wrap(inner)
    averages = Belay(wrapped, OSCILLATOR), Belay(plain, OSCILLATOR)
    for model, average in zip((wrapped, plain), averages, strict=True):
        _train(model, average)
    return wrapped, averages[0], plain, averages[1]


def test_compiled_submodules_keep_their_plain_names():
    model = _model()
    model[2] = torch.compile(model[2], backend="eager")
    average = Belay(model, OSCILLATOR)
    assert set(average.state_dict()["average"]) == {name for name, _ in _model().named_parameters()}
    target = _model()
    average.copy_to(target)
    assert torch.equal(target[2].weight, model[2].weight)


@pytest.mark.usefixtures("_group_of_one")
def test_a_distributed_data_parallel_model_is_averaged_like_the_one_inside():
    wrapped, average, _, expected = _pair(DistributedDataParallel)
    state, plain_state = average.state_dict()["average"], expected.state_dict()["average"]
    assert state.keys() == plain_state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, plain_state[name])
    target = _model()
    average.copy_to(target)
    with average.average_parameters():
        inputs = torch.randn(4, 2)
        assert torch.equal(wrapped.eval()(inputs), target.eval()(inputs))


@pytest.mark.usefixtures("_group_of_one")
def test_the_shards_of_fsdp2_are_averaged_and_evaluated_with_also_right_after_a_forward_pass():
    def shard(model: nn.Sequential) -> nn.Module:
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model[0], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    wrapped, average, plain, expected = _pair(shard)
    for name, tensor in average.state_dict()["average"].items():
        torch.testing.assert_close(tensor.full_tensor(), expected.state_dict()["average"][name])
    inputs = torch.randn(4, 2)
    wrapped.eval()
    plain.eval()
    with torch.no_grad():
        live = wrapped(inputs)  # the root stays gathered after this
        with average.average_parameters(), expected.average_parameters():
            torch.testing.assert_close(wrapped(inputs), plain(inputs))
        assert torch.equal(wrapped(inputs), live)
        average.copy_to(wrapped)
        expected.copy_to(plain)
        torch.testing.assert_close(wrapped(inputs), plain(inputs))

"""Models inside wrappers, and in shards (in a group of one process)."""

import pytest
import torch
import torch.distributed
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from belay import Belay, Oscillator
from belay.shards import whole

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


# --- names ------------------------------------------------------------------------------------------------------------


def _checkpointed(model: nn.Sequential) -> nn.Module:
    model[1] = checkpoint_wrapper(model[1])
    return checkpoint_wrapper(model)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, _checkpointed, lambda model: nn.DataParallel(_checkpointed(model))],
    ids=["data parallel", "checkpointed", "both"],
)
def test_wrappers_change_neither_names_nor_what_is_averaged(wrap):
    plain = _model()
    inner = _model()
    inner.load_state_dict(plain.state_dict())
    wrapped = wrap(inner)
    average, expected = (Belay(model, OSCILLATOR, buffers="average") for model in (wrapped, plain))
    _train(wrapped, average)
    _train(plain, expected)
    assert set(average.state_dict()["buffers"]) == {"1.running_mean", "1.running_var"}
    for part in ("average", "velocity"):  # a checkpointed BatchNorm sees each batch twice
        ours, theirs = average.state_dict()[part], expected.state_dict()[part]
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])
    expected.load_state_dict(average.state_dict())
    average.copy_to(plain)
    expected.copy_to(wrapped)
    seen = inner[1].num_batches_tracked.clone()
    with average.average_parameters():
        wrapped(torch.randn(8, 2))
    assert inner[1].num_batches_tracked == seen


def test_plain_weights_with_wrappers_names_are_taken_up():
    average = Belay(_model(), OSCILLATOR)
    weights = {f"module._orig_mod.{name}": tensor + 1 for name, tensor in _model().state_dict().items()}
    assert average.load_averages(weights) == []


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_group_of_one")
def test_fsdp1_is_refused_with_the_reason():
    wrapped = FullyShardedDataParallel(_model(), device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(TypeError, match=r"^`model` must not be wrapped in FullyShardedDataParallel \(FSDP1\), whose"):
        Belay(wrapped, OSCILLATOR)


def _partly_sharded(model: nn.Sequential) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    return model


def _without_some(model: nn.Sequential) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)), ignored_params=set(model[2].parameters()))


def _tensor_parallel(model: nn.Sequential) -> nn.Module:
    return parallelize_module(model, init_device_mesh("cpu", (1,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})


@pytest.mark.parametrize("wrap", [_partly_sharded, _without_some, _tensor_parallel])
@pytest.mark.usefixtures("_group_of_one")
def test_sharded_and_plain_weights_are_averaged_together_saved_and_copied_both_ways(wrap):
    wrapped, average, plain, expected = _pair(wrap)
    kinds = {type(weight).__name__ for weight in average.state_dict()["average"].values()}
    assert kinds == {"DTensor", "Tensor"}
    for name, tensor in average.state_dict()["average"].items():
        torch.testing.assert_close(whole(tensor), expected.state_dict()["average"][name])
    again = Belay(wrapped, OSCILLATOR)
    again.load_state_dict(expected.state_dict())  # whole into shards
    Belay(plain, OSCILLATOR).load_state_dict(average.state_dict())  # shards into whole
    for name, tensor in again.state_dict()["average"].items():
        assert torch.equal(whole(tensor), expected.state_dict()["average"][name])
    target = _model()
    average.copy_to(target)
    for name, tensor in target.named_parameters():
        assert torch.equal(tensor, whole(average.state_dict()["average"][name]))
    expected.copy_to(wrapped)
    for name, tensor in wrapped.named_parameters():
        assert torch.equal(whole(tensor.detach()), expected.state_dict()["average"][name])
    with pytest.raises(RuntimeError, match="must hold whole weights to be called, got shards"):
        average(torch.randn(1, 2))


@pytest.mark.usefixtures("_group_of_one")
def test_a_model_sharded_after_its_average_was_made_is_refused_and_taken_up_by_reset():
    model = _model()
    average = Belay(model, OSCILLATOR)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(RuntimeError, match="must keep its modules and parameters while it is averaged, got replaced"):
        average.update()
    average.reset()
    _train(model, average)


@pytest.mark.usefixtures("_group_of_one")
def test_shards_that_are_not_finite_are_refused():
    model = _model()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    average = Belay(model, OSCILLATOR)
    with torch.no_grad():
        model[0].bias.to_local().fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"after 0 steps: 0\.bias;"):
        average.update()


def test_weights_saved_in_several_wrappers_are_taken_up_and_a_part_called_module_too():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    for model in (nn.Linear(2, 2), Holder()):
        saved = {name: torch.full_like(tensor, 3.0) for name, tensor in model.state_dict().items()}
        for wrapper in ("", "module.", "module.module.", "_orig_mod.module.", "module._orig_mod."):
            average = Belay(model, Oscillator.ema(0.9))
            assert average.load_averages({wrapper + name: tensor for name, tensor in saved.items()}) == []
            assert all((tensor == 3).all() for tensor in average.averaged_state_dict().values()), wrapper


def test_a_model_with_a_scripted_part_is_averaged():
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Linear(2, 2)))
    average = Belay(model, Oscillator.ema(0.5))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
    average.reset()
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    average.update()
    with average.average_parameters():
        assert model[1].weight[0, 0] == 2
    model.load_state_dict(average.averaged_state_dict())

"""`Snapshots` and `reconstruct`: an average made after the run is the one that was kept during it."""

import re

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from belay import Belay, Oscillator, Snapshots, reconstruct
from belay.snapshots import files_in

EVERY, STEPS = 10, 200
TARGETS = {
    "EMA": Oscillator.ema(0.95),
    "critical": Oscillator.critical(lag=20),
    "underdamped": Oscillator.from_damping_ratio(0.3, lag=20),
    "alternating": Oscillator(0.95, 1.2),
}


def _model(dtype=torch.float32):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 2, bias=False))
    return model.to(dtype)


def _step(model, index):
    """A random walk, which has all frequencies."""
    generator = torch.Generator().manual_seed(index)
    with torch.no_grad():
        for tensor in [*model.parameters(), model[1].running_mean]:
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype), alpha=0.1)
        model[1].num_batches_tracked.add_(1)


def _train(model, *averages, first=0, last=STEPS):
    for index in range(first, last):
        _step(model, index)
        for average in averages:
            average.update()


@pytest.fixture
def run(tmp_path):
    """A run with its folder, and what `Belay` kept of every target during it."""
    model = _model()
    kept = {name: Belay(model, target, buffers="average") for name, target in TARGETS.items()}
    snapshots = Snapshots(model, tmp_path / "run", every=EVERY, buffers="average")
    _train(model, snapshots, *kept.values())
    return model, tmp_path / "run", kept


@pytest.mark.parametrize("name", TARGETS)
def test_an_average_made_after_the_run_is_the_one_kept_during_it(run, name):
    model, folder, kept = run
    found = reconstruct(folder, TARGETS[name], tolerance=0.5)
    ours, theirs = found.state_dict(), kept[name].averaged_state_dict()
    assert ours.keys() == theirs.keys()
    live = model.state_dict()
    for key, tensor in theirs.items():
        if tensor.is_floating_point():
            assert ours[key].dtype == tensor.dtype
            gap = (ours[key] - tensor).norm()
            assert gap <= max(2 * found.kernel_error, 0.01) * (live[key] - tensor).norm() + 1e-6, key
        else:
            assert torch.equal(ours[key], tensor), key
    if name != "alternating":
        assert found.kernel_error <= 0.05


def test_in_float64_it_is_exact_where_the_ema_was_stored(tmp_path):
    model, ema = _model(torch.float64), Oscillator.ema(0.9)
    kept = Belay(model, ema)
    _train(model, kept, Snapshots(model, tmp_path, every=EVERY, emas=[ema]))
    found = reconstruct(tmp_path, ema)
    assert found.kernel_error < 1e-9
    for name, tensor in kept.averaged_state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)


def test_it_goes_into_the_model_or_its_like(run):
    model, folder, _ = run
    other = torch.compile(_model())
    found = reconstruct(folder, TARGETS["critical"])
    found.copy_to(other)
    model.load_state_dict(found.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(other._orig_mod.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="`model` must have the names and shapes of the snapshots' weights"):
        found.copy_to(nn.Linear(2, 1))


def test_tied_and_frozen_weights(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    walking = [model["a"].weight, model["b"].bias]
    snapshots = Snapshots(model, tmp_path, every=2, parameters=lambda name, _: name != "a.bias")
    for _ in range(20):
        for weight in walking:
            weight.data.add_(torch.randn(weight.shape), alpha=0.1)
        snapshots.update()
    found = reconstruct(tmp_path, Oscillator.critical(lag=4))
    assert set(found.state_dict()) == {"a.weight", "b.bias"}
    before = model["a"].bias.detach().clone()
    found.copy_to(model)
    assert torch.equal(model["b"].weight, found.weights["a.weight"])
    assert torch.equal(model["a"].bias, before)


def test_an_earlier_step_and_fewer_files(run):
    _, folder, _ = run
    target = Oscillator.ema(0.95)
    whole = reconstruct(folder, target, step=STEPS // 2)
    assert whole.step == STEPS // 2
    for step, path in files_in(folder).items():
        if step % 40 and step < STEPS // 2:
            path.unlink()
    fewer = reconstruct(folder, target, step=STEPS // 2, tolerance=0.5)
    assert whole.kernel_error < fewer.kernel_error < 0.5


def test_what_the_snapshots_cannot_make_is_refused_with_the_figure(run):
    _, folder, _ = run
    with pytest.raises(ValueError, match=r"got a kernel error of 0\.\d+ for .* ask for a longer lag"):
        reconstruct(folder, Oscillator.critical(lag=3), tolerance=0.001)


def test_resumed_from_a_checkpoint_it_writes_what_it_would_have_written(tmp_path):
    def begun(folder):
        torch.manual_seed(0)
        model = _model()
        return model, Snapshots(model, tmp_path / folder, every=EVERY)

    model, through = begun("through")
    _train(model, through)
    model, stopped = begun("stopped")
    _train(model, stopped, last=95)
    torch.save({"model": model.state_dict(), "snapshots": stopped.state_dict()}, tmp_path / "checkpoint.pt")
    _train(model, stopped, first=95, last=120)  # lost with the process
    model, resumed = begun("stopped")
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    resumed.load_state_dict(checkpoint["snapshots"])
    assert max(files_in(tmp_path / "stopped")) == 90
    _train(model, resumed, first=95)
    ours, theirs = (reconstruct(tmp_path / name, TARGETS["critical"]) for name in ("stopped", "through"))
    assert all(torch.equal(ours.weights[name], tensor) for name, tensor in theirs.weights.items())


def test_a_snapshot_takes_the_weights_as_often_as_there_are_emas_and_the_start_once(tmp_path):
    model = nn.Linear(100, 1000)
    snapshots = Snapshots(model, tmp_path, every=1)
    snapshots.update()
    sizes = [path.stat().st_size / (4 * 101_000) for path in files_in(tmp_path).values()]
    assert sizes == pytest.approx([1, 3], rel=0.02)


def test_a_last_snapshot_may_be_asked_for(tmp_path):
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=EVERY)
    with pytest.raises(RuntimeError, match="`save` must come after an `update`"):
        snapshots.save()
    _train(model, snapshots, last=25)
    assert max(files_in(tmp_path)) == 20
    snapshots.save()
    assert reconstruct(tmp_path, Oscillator.ema(0.9), tolerance=0.5).step == 25


def test_skipped_steps_are_no_steps(tmp_path):
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=2, nonfinite="skip")
    weight = model[0].weight.detach().clone()
    model[0].weight.data.fill_(torch.nan)
    snapshots.update()
    model[0].weight.data.copy_(weight)
    _train(model, snapshots, last=2)
    assert (snapshots.steps, list(files_in(tmp_path))) == (2, [0, 2])


def test_a_folder_holds_one_run(tmp_path, run):
    _, folder, _ = run
    second = Snapshots(_model(), folder, every=EVERY)
    with pytest.raises(ValueError, match="`folder` must hold no snapshots before the first update"):
        second.update()
    elsewhere = Snapshots(_model(), tmp_path / "other", every=EVERY)
    elsewhere.update()
    with pytest.raises(ValueError, match="`folder` must hold the snapshots of the run that `state` is of"):
        second.load_state_dict(elsewhere.state_dict())
    elsewhere.save()
    max(files_in(tmp_path / "other").values()).rename(folder / "step-000000001.pt")
    with pytest.raises(ValueError, match=r"snapshots of one run, got .* with step 1 of another"):
        reconstruct(folder, TARGETS["EMA"])


def test_files_whose_names_were_exchanged_are_refused_with_the_right_name(run):
    _, folder, _ = run
    one, other, aside = folder / "step-000000100.pt", folder / "step-000000200.pt", folder / "aside"
    one.rename(aside), other.rename(one), aside.rename(other)
    with pytest.raises(ValueError, match=r"got .*100\.pt of step 200; name it step-000000200\.pt"):
        reconstruct(folder, TARGETS["EMA"])


def test_reset_begins_another_run_in_the_same_folder(tmp_path):
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=EVERY)
    _train(model, snapshots, last=25)
    _step(model, 99)  # as if weights were loaded
    snapshots.reset()
    assert (snapshots.steps, files_in(tmp_path)) == (0, {})
    kept = Belay(model, TARGETS["critical"])
    _train(model, snapshots, kept)
    found = reconstruct(tmp_path, TARGETS["critical"])
    torch.testing.assert_close(found.weights["0.weight"], kept.state_dict()["average"]["0.weight"], rtol=0, atol=0.02)


def test_a_first_update_that_fails_leaves_no_start_behind(tmp_path):
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=EVERY)
    with torch.no_grad():
        kept = model[0].bias.clone()
        model[0].bias.fill_(float("nan"))
        with pytest.raises(FloatingPointError):
            snapshots.update()
        model[0].bias.copy_(kept)
    assert not files_in(tmp_path)
    Snapshots(model, tmp_path, every=EVERY).update()  # the folder is free
    assert set(files_in(tmp_path)) == {0}


def test_infinite_weights_are_in_the_average_as_they_are(tmp_path):
    model = _model()
    with torch.no_grad():
        model[0].bias[0] = float("-inf")
    snapshots = Snapshots(model, tmp_path, every=EVERY)
    _train(model, snapshots, last=60)
    bias = reconstruct(tmp_path, TARGETS["critical"]).weights["0.bias"]
    assert bias[0] == float("-inf")
    assert bias[1:].isfinite().all()


def test_damaged_missing_and_foreign_files(tmp_path, run):
    _, folder, _ = run
    with pytest.raises(FileNotFoundError, match="`folder` must hold the start weights and a snapshot"):
        reconstruct(tmp_path / "nowhere", TARGETS["EMA"])
    with pytest.raises(ValueError, match=re.escape("`step` must be that of a snapshot")):
        reconstruct(folder, TARGETS["EMA"], step=7)
    path = folder / "step-000000100.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"got .*step-000000100.pt, which is damaged; delete it"):
        reconstruct(folder, TARGETS["EMA"])
    torch.save({"other": 1}, path)
    with pytest.raises(ValueError, match=r"must hold what belay.Snapshots wrote"):
        reconstruct(folder, TARGETS["EMA"])
    path.unlink()
    assert reconstruct(folder, TARGETS["EMA"], tolerance=0.5).step == STEPS
    path.mkdir()
    with pytest.raises(OSError, match=r"step-000000100\.pt"):
        reconstruct(folder, TARGETS["EMA"])


@pytest.mark.parametrize(("options", "message"), [
    ({"every": 0}, "`every` must be a whole number"),
    ({"every": 2, "emas": []}, "must hold at least one"),
    ({"every": 2, "emas": [Oscillator(0.9, 0.5)]}, "`emas` must have damping 1"),
    ({"every": 2, "emas": [Oscillator.ema(0.0)]}, "`emas` must have damping 1 and a decay above 0"),
    ({"every": 2, "buffers": "all"}, "`buffers` must be one of"),
])  # fmt: skip
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Snapshots(_model(), tmp_path, **options)


def test_a_state_of_something_else_is_refused(tmp_path):
    model = _model()
    snapshots, other = (Snapshots(model, tmp_path / str(every), every=every) for every in (2, 3))
    for state, message in (
        ({"run": 1}, r"must come from Snapshots.state_dict \(version 2\), got dict with run"),
        (other.state_dict(), "`state` must be of the EMAs"),
        ({**snapshots.state_dict(), "bank": {}}, "must come from Bank.state_dict"),
    ):
        with pytest.raises(ValueError, match=message):
            snapshots.load_state_dict(state)


@pytest.mark.parametrize(("target", "kind", "message"), [
    (Oscillator(0.9, coupling=0.1), ValueError, "`target` must have coupling 0"),
    (0.9, TypeError, "`target` must be a belay.Oscillator or belay.PowerProfile, got float"),
])  # fmt: skip
def test_a_target_that_no_snapshots_can_make(run, target, kind, message):
    _, folder, _ = run
    with pytest.raises(kind, match=message):
        reconstruct(folder, target)
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        reconstruct(folder, TARGETS["EMA"], tolerance=0)


def test_a_write_that_fails_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=2)
    _train(model, snapshots, last=3)

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        snapshots.update()
    monkeypatch.undo()
    assert list(files_in(tmp_path)) == [0, 2]
    snapshots.save()
    assert list(files_in(tmp_path)) == [0, 2, 4]


@pytest.fixture
def process_group():
    """Makes this process one of several, whose others are not there."""
    yield lambda rank, size: torch.distributed.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_alone_writes(process_group, tmp_path, rank):
    process_group(rank, 2)
    model = _model()
    snapshots = Snapshots(model, tmp_path, every=2)
    _train(model, snapshots, last=2)
    assert list(files_in(tmp_path)) == ([0, 2] if rank == 0 else [])
    assert repr(snapshots) == f"Snapshots('{tmp_path}', every=2, steps=2)"
    again = Snapshots(_model(), tmp_path, every=2)  # another process than the first may not even see the folder
    again.load_state_dict(snapshots.state_dict())
    assert again.steps == 2


def test_shards_are_refused(process_group, tmp_path):
    process_group(0, 1)
    model = fully_shard(nn.Linear(9, 9), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="`model` must have whole weights to be written, got shards"):
        Snapshots(model, tmp_path, every=2)

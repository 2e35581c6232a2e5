"""`Bank`: K averages of one run are what K `Belay` objects keep."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from belay import Bank, Belay, Oscillator, flat

EMA, SLOW, UNDERDAMPED, ALTERNATING = (
    Oscillator.ema(0.9),
    Oscillator.ema(0.999),
    Oscillator(0.9, 0.1),
    Oscillator(0.9, 1.5),
)
OSCILLATORS = [
    EMA,
    SLOW,
    Oscillator.critical(lag=5),
    UNDERDAMPED,
    ALTERNATING,
    Oscillator.ema(0.0),
    Oscillator(0.999, 0.5),
]
GENTLE = [oscillator for oscillator in OSCILLATORS if oscillator.damping <= 1]
ROUNDING = {torch.float32: 2e-7, torch.float64: 5e-16, torch.complex64: 2e-7}  # of sums in another order at a tail


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(flat, "BLOCK", 64)  # so that small models have large weights, and several blocks


def _model(dtype=torch.float32):
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 30), nn.Linear(30, 1, bias=False))
    model.register_parameter("conv", nn.Parameter(torch.randn(3, 2, 5, 6).to(memory_format=torch.channels_last)))
    model.register_parameter("scalar", nn.Parameter(torch.tensor(1.0)))
    model.register_parameter("empty", nn.Parameter(torch.ones(0, 3)))
    return model.to(dtype)


def _step(model, index):
    generator = torch.Generator().manual_seed(index)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype), alpha=0.1)


def _bank(oscillators=OSCILLATORS, weights=torch.float32, **options):
    model = _model(weights)
    return model, Bank(model, oscillators, **{"buffers": "average", **options})


def _train(model, *averages, first=0, last=6):
    for index in range(first, last):
        _step(model, index)
        for average in averages:
            average.update()


def _copy(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _flattened(state):
    return {f"{index}.{kind}.{name}": tensor for index, one in enumerate(state["averages"])
            for kind in ("average", "velocity", "buffers") for name, tensor in one[kind].items()}  # fmt: skip


def _assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def _assert_what_belay_keeps(bank, separate):
    for mine, average in zip(bank.state_dict()["averages"], separate, strict=True):
        theirs = average.state_dict()
        for kind in ("average", "velocity", "buffers"):
            assert list(mine[kind]) == list(theirs[kind])
            for name, tensor in theirs[kind].items():
                rounding = ROUNDING[tensor.dtype]
                torch.testing.assert_close(mine[kind][name], tensor, rtol=rounding, atol=rounding)
        plain = [name for name in mine if name not in ("average", "velocity", "buffers")]
        assert [mine[name] for name in plain] == [theirs[name] for name in plain]
    assert (bank.steps, bank.skipped) == (separate[0].steps, separate[0].skipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize(
    ("oscillators", "options"),
    [
        (OSCILLATORS, {}),
        (OSCILLATORS, {"update_every": 3}),
        (OSCILLATORS, {"dtype": torch.float64}),
        (OSCILLATORS, {"buffers": "ignore", "nonfinite": "propagate"}),
        (OSCILLATORS[:1], {"parameters": lambda name, _: "0" not in name}),
        (GENTLE, {"warmup": 4}),
    ],
    ids=["all", "every 3", "kept in float64", "unchecked", "one", "warmup"],
)
def test_it_keeps_what_separate_averages_keep(dtype, oscillators, options):
    if dtype.is_complex:
        options = {**options, "buffers": "copy"}
    model, bank = _bank(oscillators, dtype, **options)
    separate = [Belay(model, one, **{"buffers": "average", **options}) for one in oscillators]
    _train(model, bank, *separate)
    _assert_what_belay_keeps(bank, separate)


def test_large_weights_are_equal_to_separate_averages_bit_for_bit(monkeypatch):
    monkeypatch.setattr(flat, "BLOCK", 1024)
    model = nn.Linear(128, 64, bias=False)
    bank, separate = Bank(model, OSCILLATORS), [Belay(model, one) for one in OSCILLATORS]
    _train(model, bank, *separate)
    for mine, average in zip(bank.state_dict()["averages"], separate, strict=True):
        for kind in ("average", "velocity"):
            _assert_equal(mine[kind], average.state_dict()[kind])


def test_a_model_converted_and_laid_out_anew_goes_on_with_the_averages_it_has():
    model, bank = _bank()
    separate = [Belay(model, one, buffers="average") for one in OSCILLATORS]
    model.double()
    model.conv.data = model.conv.data.contiguous()  # no longer channels-last
    _train(model, bank, *separate)
    _assert_what_belay_keeps(bank, separate)


def test_a_swap_shows_the_average_asked_for_and_restores_bit_for_bit_after_an_exception():
    model, bank = _bank()
    _train(model, bank)
    before = _copy(model)

    def evaluate():
        with bank.average_parameters(3):
            shown = bank.averaged_state_dict(3)
            _assert_equal(_copy(model), shown)
            with bank.average_parameters(3):
                pass
            with (
                pytest.raises(RuntimeError, match=r"^`average_parameters` .* got a block of another average"),
                bank.average_parameters(1),
            ):
                pass
            with pytest.raises(RuntimeError, match="outside `average_parameters`"):
                bank.update()
            with pytest.raises(RuntimeError, match="outside `average_parameters`"):
                bank.reset()
            with pytest.warns(UserWarning, match="a checkpoint written inside") as warned:
                bank.state_dict()
            assert warned[0].filename == __file__
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    _assert_equal(_copy(model), before)
    assert not torch.equal(before["0.weight"], bank.averaged_state_dict(3)["0.weight"])
    with bank.average_parameters(0, readout=0.0):
        torch.testing.assert_close(_copy(model), before)
    bank.update()


def test_copy_to_fills_a_model_of_its_kind():
    model, bank = _bank()
    _train(model, bank)
    target = _model()
    bank.copy_to(target, 2)
    _assert_equal(_copy(target), bank.averaged_state_dict(2))


@pytest.mark.parametrize("name", ["saved", "deep copied", "pickled"])
def test_a_bank_that_was_saved_or_copied_goes_on_bit_for_bit(name):
    model, bank = _bank(GENTLE, warmup=5)
    _train(model, bank, last=3)
    if name == "saved":
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "bank": bank.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        twin, resumed = _bank(GENTLE[::-1])
        twin.load_state_dict(saved["model"])
        resumed.load_state_dict(saved["bank"])
    else:
        twin, resumed = (
            copy.deepcopy((model, bank)) if name == "deep copied" else pickle.loads(pickle.dumps((model, bank)))
        )
    before = _flattened(copy.deepcopy(bank.state_dict()))
    _train(twin, resumed, first=3)
    _assert_equal(_flattened(bank.state_dict()), before)
    _train(model, bank, first=3)
    _assert_equal(_flattened(resumed.state_dict()), _flattened(bank.state_dict()))
    assert repr(resumed) == repr(bank)
    assert resumed.oscillators == bank.oscillators


def test_one_average_of_a_bank_goes_on_by_itself_as_belay():
    model, bank = _bank()
    _train(model, bank, last=3)
    alone = Belay(model, EMA, buffers="average")
    alone.load_state_dict(bank.state_dict()["averages"][3])
    _train(model, bank, alone, first=3)
    assert alone.oscillator == UNDERDAMPED
    theirs = alone.state_dict()["average"]
    for name, tensor in bank.state_dict()["averages"][3]["average"].items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-7, atol=2e-7)


def test_reset_starts_again_from_the_model_as_it_is():
    model, bank = _bank()
    _train(model, bank)
    model[0].weight = nn.Parameter(torch.ones(5, 3))
    with pytest.raises(RuntimeError, match=r"got replaced 0\.weight; call `reset"):
        bank.update()
    bank.reset()
    fresh = Bank(model, OSCILLATORS, buffers="average")
    _train(model, bank, fresh)
    _assert_equal(_flattened(bank.state_dict()), _flattened(fresh.state_dict()))
    assert bank.steps == 6


def test_new_settings_in_the_middle_of_a_run_are_taken_up():
    model, bank = _bank()
    separate = [Belay(model, one, buffers="average") for one in OSCILLATORS]
    _train(model, bank, *separate, last=3)
    bank.oscillators = OSCILLATORS[::-1]
    for average, oscillator in zip(separate, OSCILLATORS[::-1], strict=True):
        average.oscillator = oscillator
    _train(model, bank, *separate, first=3)
    _assert_what_belay_keeps(bank, separate)
    assert bank.oscillators == tuple(OSCILLATORS[::-1])
    with pytest.raises(ValueError, match=r"^`oscillators` must be 7, one an average, got 1; make a new Bank\.$"):
        bank.oscillators = [EMA]


@pytest.mark.parametrize("loaded", [False, True])
def test_infinite_values_that_averages_started_with_stay_as_they_are(loaded):
    model, bank = _bank()
    with torch.no_grad():
        model.conv[0, 0, 0, 0] = -float("inf")
    state = Bank(model, OSCILLATORS, buffers="average").state_dict()
    bank.load_state_dict(state) if loaded else bank.reset()
    separate = [Belay(model, one, buffers="average") for one in OSCILLATORS]
    _train(model, bank, *separate)
    _assert_what_belay_keeps(bank, separate)
    assert bank.averaged_state_dict(3)["conv"].isinf().sum() == 1


def test_weights_that_are_not_finite_are_refused_or_skipped():
    model, bank = _bank()
    skipping = Bank(model, OSCILLATORS, nonfinite="skip")
    _train(model, bank, skipping)
    before = _flattened(copy.deepcopy(bank.state_dict()))
    with torch.no_grad():
        model.scalar.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="after 6 steps: scalar"):
        bank.update()
    skipping.update()
    assert (bank.steps, bank.skipped, skipping.steps, skipping.skipped) == (6, 0, 6, 1)
    _assert_equal(_flattened(bank.state_dict()), before)


def test_weights_loaded_after_the_bank_was_made_are_warned_of():
    model, bank = _bank()
    with torch.no_grad():
        model[0].weight.add_(100.0)
    with pytest.warns(UserWarning, match="the model's weights changed by") as warned:
        bank.update()
    assert warned[0].filename == __file__


def test_it_goes_on_after_work_in_inference_mode():
    model = _model()
    with torch.inference_mode():
        bank = Bank(model, OSCILLATORS, buffers="average")
        bank.update()
    _train(model, bank)
    assert bank.steps == 7


def test_it_tells_its_size_and_settings_and_moves():
    model, bank = _bank(update_every=2, nonfinite="propagate")
    assert (len(bank), bank.oscillators, bank.update_every) == (7, tuple(OSCILLATORS), 2)
    size = sum(weight.numel() for weight in model.parameters())
    assert repr(bank) == f"Bank(7 oscillators, update_every=2, steps=0, weights={size})"
    assert bank.to("meta") is bank
    bank.steps = 2  # past the first update, which compares weights and averages
    _train(model, bank)
    assert {tensor.device.type for tensor in _flattened(bank.state_dict()).values()} == {"meta"}


def test_the_shards_of_fsdp2_are_averaged_as_separate_averages_do(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = fully_shard(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 1)), mesh=init_device_mesh("cpu", (1,)))
        bank, separate = Bank(model, OSCILLATORS), [Belay(model, one) for one in OSCILLATORS]
        for _ in range(6):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.1)
            for average in (bank, *separate):
                average.update()
        target = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 1))
        for index, average in enumerate(separate):
            bank.copy_to(target, index)
            for name, tensor in target.state_dict().items():
                torch.testing.assert_close(
                    tensor, average.averaged_state_dict()[name].full_tensor(), rtol=2e-7, atol=2e-7
                )
        bank.load_state_dict(bank.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def _edited(**changes):
    state = _bank()[1].state_dict()
    state["averages"][3] = {**state["averages"][3], **changes}
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: {"shadow": 1}, r"`state` must come from Bank\.state_dict \(version 1\), got dict with shadow\."),
        (lambda: None, r"`state` must come from Bank\.state_dict \(version 1\), got NoneType with nothing\."),
        (lambda: {**_edited(), "version": 2}, r"`state` must come from Bank\.state_dict \(version 1\), got .*"),
        (lambda: {**_edited(), "averages": 1}, r"`state` must hold 7 averages, as this bank does, got int\."),
        (lambda: _bank([EMA])[1].state_dict(), r"`state` must hold 7 averages, as this bank does, got 1 in a list\."),
        (lambda: _edited(steps=2), r"`state` must have one `update_every`, .* for all averages, got several\."),
        (lambda: _edited(average={}), r"`state` must have the names and .* of the model's average, got missing .*"),
        (lambda: _edited(velocity={}), r"`state` must have the names and .* of the model's velocity, got .*"),
        (
            lambda: _edited(oscillator={"decay": 0.9, "damping": 0.1, "coupling": 0.1}),
            r"`oscillators` must have coupling 0, .*; train it alone with Belay\.",
        ),
        (lambda: _bank(weights=torch.float64)[1].state_dict(), r"`state` must fit this average's dtype, got .*"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_before_anything_is_changed(state, message):
    model, bank = _bank()
    _train(model, bank)
    before, told = _flattened(copy.deepcopy(bank.state_dict())), repr(bank)
    with pytest.raises(ValueError, match=f"^{message}$"):
        bank.load_state_dict(state())
    _assert_equal(_flattened(bank.state_dict()), before)
    assert repr(bank) == told


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _bank([]), ValueError, r"`oscillators` must hold at least one, got none\."),
        (
            lambda: _bank(Oscillator.ema(0.9)),
            TypeError,
            "`oscillators` must be a sequence of Oscillators, got a single one; put it into a list.",
        ),
        (lambda: _bank([0.9]), TypeError, r"`oscillator` must be a belay\.Oscillator, got float\."),
        (
            lambda: _bank([EMA, Oscillator(0.9, 1, 0.1)]),
            ValueError,
            r"`oscillators` must have coupling 0, as one run follows one pull only, got Oscillator\(decay=0\.9, "
            r"damping=1\.0, coupling=0\.1\); train it alone with Belay\.",
        ),
        (lambda: _bank(warmup=4), ValueError, r"`warmup` needs a damping of at most 1, got .*"),
        (lambda: _bank(buffers="mean"), ValueError, r"`buffers` must be one of copy, average, ignore .*"),
        (lambda: _bank(nonfinite="no"), ValueError, r"`nonfinite` must be one of raise, skip, propagate, got .*"),
        (lambda: _bank(update_every=0), ValueError, r"`update_every` must be a whole number .*"),
        (lambda: Bank(nn.Linear(1, 1), [EMA], dtype=torch.half), ValueError, r"`dtype` must be torch\.float32, .*"),
        (lambda: _bank()[1].copy_to(_model(), 7), ValueError, r"`index` must be below 7, .*, got index=7\."),
        (lambda: _bank()[1].averaged_state_dict(-1), ValueError, r"`index` must be a whole number of at least 0, .*"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        make()

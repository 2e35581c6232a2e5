"""Runs side by side come to what each comes to alone, and what cannot be stacked is found out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from studies import small

from study.design.config import parse_config
from study.design.schema import SeedResult, Setting
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import train_pack
from study.execute.train.alone import train_alone
from study.execute.train.rows import CROWD
from study.execute.train.stacked import NotStackable, train_stacked
from study.execute.train.traced import TRACED

AVERAGES: tuple[dict[str, float], ...] = (
    {"decay": 0.9, "damping": 1.0, "coupling": 0.0},
    {"decay": 0.95, "damping": 0.3, "coupling": 0.0},
    {"decay": 0.9, "damping": 0.5, "coupling": 0.1},
    {"decay": 0.8, "damping": 1.0, "coupling": -0.1},
)
OWN = "execute.train.stackable_tasks"


def study_of(
    task: str | Mapping[str, Any], metric: str = "average/val_loss", mode: str = "min", **changes: Any
) -> Study:
    space, objective = {"decay": 0.9, "lr": {"choice": [0.01, 0.05]}}, {"metric": metric, "mode": mode}
    return Study.of(parse_config(small(task=task, objective=objective, space=space, **changes)))


def runs_of(study: Study, *differing: Mapping[str, Any]) -> list[tuple[Setting, int]]:
    """Two seeds of a setting for each average, with these hyperparameters in turn."""
    settings = [
        study.setting(number, {**average, **differing[number % len(differing)]})
        for number, average in enumerate(AVERAGES)
    ]
    return [(setting, seed) for setting in settings for seed in (0, 1)]


def assert_as_alone(study: Study, runs: list[tuple[Setting, int]], within: float) -> list[SeedResult]:
    together = train_stacked(study, runs)
    for (setting, seed), result in zip(runs, together, strict=True):
        (alone,) = train_alone(study, [setting], seed)
        assert (result.seed, result.state, result.message) == (seed, alone.state, alone.message)
        assert result.diverged_at == alone.diverged_at
        assert [step for step, _ in result.history] == [step for step, _ in alone.history]
        for (_, ours), (_, theirs) in zip(result.history, alone.history, strict=True):
            assert ours == pytest.approx(theirs, rel=within, abs=within)
    return together


@pytest.mark.parametrize(("options", "differing"), [
    ({}, [{"lr": 0.01, "noise": 0.0}, {"lr": 0.1, "noise": 0.5}]),
    ({"weight_decay": 0.1}, [{"lr": 0.01}, {"lr": 0.1}]),
    ({}, [{"lr": 0.01}, {"lr": 0.03, "momentum": 0.9}, {"lr": 0.02, "momentum": 0.8, "nesterov": True}]),
    ({"kind": "adam"}, [{"lr": 0.01}, {"lr": 0.003, "beta1": 0.5, "beta2": 0.9}, {"lr": 0.01, "weight_decay": 0.1}]),
    ({"kind": "adamw"}, [{"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.003}]),
    ({}, [{"lr": 0.1, "warmup": 20}, {"lr": 0.05}, {"lr": 0.1, "warmup": 40, "momentum": 0.9}]),
    ({"kind": "adam"}, [{"lr": 0.01, "warmup": 20}, {"lr": 0.003}]),
    ({"kind": "adamw"}, [{"lr": 0.01, "weight_decay": 0.1, "warmup": 50}, {"lr": 0.003, "warmup": 10}]),
], ids=["sgd", "sgd-decay", "momentum", "adam", "adamw", "sgd-falling", "adam-falling", "adamw-falling"])  # fmt: skip
@pytest.mark.parametrize(("double", "within"), [(True, 1e-8), (False, 1e-4)], ids=["float64", "float32"])
def test_side_by_side_every_optimizer_comes_to_what_it_comes_to_alone(
    options: dict[str, Any], differing: list[dict[str, Any]], double: bool, within: float
) -> None:
    study = study_of({"name": f"{OWN}:Net", "double": double, **options}, steps=200)
    runs = runs_of(study, *({"lr": 0.05, "noise": 0.1, **each} for each in differing))
    assert {result.state for result in assert_as_alone(study, runs, within)} == {"complete"}


@pytest.mark.parametrize(("task", "options", "differing"), [
    ("Quadratic", {"dimensions": 8}, [{"lr": 0.1}, {"lr": 0.5, "noise": 0.3}]),
    ("Digits", {}, [{"lr": 0.1, "label_noise": 0.2}, {"lr": 0.3, "schedule": "cosine"}]),
    ("Digits", {"optimizer": "momentum", "depth": 2}, [{"lr": 0.01}, {"lr": 0.02}]),
    ("Digits", {"optimizer": "adam"}, [{"lr": 0.001}, {"lr": 0.003}]),
    ("Digits", {"optimizer": "adamw"}, [{"lr": 0.001}, {"lr": 0.003}]),
    ("MyTask", {}, [{"lr": 0.01, "noise": 0.5}, {"lr": 0.02}]),
])  # fmt: skip
@pytest.mark.parametrize(("prefix", "within"), [  # of float32 a thousandth is one image of 1,197
    ("Double", 1e-8), ("", 1e-3)], ids=["float64", "float32"],
)  # fmt: skip
def test_side_by_side_every_built_in_task_comes_to_what_it_comes_to_alone(
    task: str, options: dict[str, Any], differing: list[dict[str, Any]], prefix: str, within: float
) -> None:
    metric = "average/distance" if task == "Quadratic" else "average/val_loss"
    study = study_of({"name": f"{OWN}:{prefix}{task}", **options}, metric, steps=200)
    assert_as_alone(study, runs_of(study, *differing), within)


@pytest.mark.parametrize(("task", "options", "differing"), [
    ("Attentive", {"kind": "adam"}, [{"lr": 0.01}, {"lr": 0.003}]),
    ("Attentive", {"kind": "adamw"}, [{"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.003}]),
    ("Unread", {}, [{"lr": 0.05}, {"lr": 0.1, "weight_decay": 0.5}]),
    ("Unread", {"kind": "adamw"}, [{"lr": 0.01, "weight_decay": 0.5}, {"lr": 0.003}]),
    ("Asleep", {}, [{"lr": 0.05}, {"lr": 0.1}]),
    ("Gappy", {}, [{"lr": 0.05}, {"lr": 0.1}]),
    ("Listing", {}, [{"lr": 0.01, "betas": [0.9, 0.99]}, {"lr": 0.003, "betas": [0.5, 0.9]}]),
])  # fmt: skip
@pytest.mark.filterwarnings("error:There is a performance drop")
def test_side_by_side_it_comes_to_the_same_whatever_the_model(
    task: str, options: dict[str, Any], differing: list[dict[str, Any]]
) -> None:
    study = study_of({"name": f"{OWN}:{task}", **options}, steps=100, evaluations=4)
    assert_as_alone(study, runs_of(study, *({"noise": 0.1, **each} for each in differing)), within=1e-4)


def test_modules_that_train_in_evaluation_mode_stay_in_it_however_often_they_are_measured() -> None:
    values = set()
    for evaluations in (1, 5):
        study = study_of(f"{OWN}:Asleep", steps=50, evaluations=evaluations)
        (result,) = train_alone(study, [study.setting(0, {**AVERAGES[2], "lr": 0.05})], 0)
        values.add(result.last("average/val_loss"))
    assert len(values) == 1


@pytest.mark.parametrize("differing", [
    [{"lr": 0.05}, {"lr": 0.05, "weight_decay": 0.1}],
    [{"lr": 0.05, "momentum": 0.9}, {"lr": 0.05}],
    [{"lr": 0.05}],  # whose uncoupled averages watch one row
])  # fmt: skip
def test_a_run_has_the_same_digits_whatever_shares_its_pack(differing: list[dict[str, Any]]) -> None:
    """As packs are handed out in parts where a worker died, and others belong to them as a study grows."""
    study = study_of(f"{OWN}:Net")
    runs = runs_of(study, *({"noise": 0.1, **each} for each in differing))
    together = train_stacked(study, runs)
    for start in range(0, len(runs), 2):
        assert train_stacked(study, runs[start : start + 2]) == together[start : start + 2]


@pytest.mark.parametrize(
    "lrs",
    [(40.0, 0.1), (0.1, 40.0, 30.0, 50.0), (40.0,), (1e5, 0.1, 1e5, 1e5), (1e5, 1e5, 1e5, 0.1)],
    ids=["half", "most", "all", "most at once", "the first at once"],
)
def test_runs_that_diverge_end_at_the_same_step_and_leave_the_others_alone(lrs: tuple[float, ...]) -> None:
    study = study_of({"name": "quadratic", "dimensions": 4}, "average/distance")
    results = assert_as_alone(study, runs_of(study, *({"lr": lr} for lr in lrs)), within=1e-5)
    assert [result.state == "diverged" for result in results] == [lrs[n // 2 % len(lrs)] > 1 for n in range(8)]


@pytest.mark.parametrize(("task", "differing", "said"), [
    ("Dropping", {}, "^`loss` draws random numbers, as dropout does, or data that is made at each call$"),
    ("Branching", {}, r"item\(\)"),
    ("Normalising", {}, r"`loss` changes the model's 1\.running_mean, as BatchNorm does its statistics"),
    ("Clamping", {}, r"`loss` changes the model's 1\.weight, "),
    ("ReadsMore", {"lr": 0.5}, "the gradient of step 1 is .* `loss` reads more than `stackable` says"),
    ("ReadsLittle", {"noise": 0.5}, "the gradient of step 1 is .* `loss` reads more than `stackable` says"),
    ("MeasuresMore", {"noise": 0.5}, r"val_loss is 0\.1 side by side and 0\.5 alone: `evaluate` reads more"),
    ("MeasuresLittle", {"lr": 0.5}, r"val_loss is .* side by side and .* alone: `evaluate` reads more"),
    ("Fading", {}, r"val_loss is .* side by side and .* alone: `evaluate` reads more"),
    ("MeasuresRows", {}, r"`evaluate` must return 0-d tensors, got shape \(3,\) for 'val_loss'"),
    ("Shaped", {"width": 5}, "the models differ"),
    ("Uneven", {}, "`batches` gives batches of different shapes"),
    ("Breaking", {"lr": 0.5}, "RuntimeError: no optimizer at 0.5"),
    ("Backwards", {}, "ValueError: `lr_factor` must be finite and at least 0, got -1.0 at step 4 of 10"),
    ("Net", {"width": 5}, "the settings differ in more than `stackable` names"),
])  # fmt: skip
def test_what_cannot_be_stacked_is_found_out(task: str, differing: dict[str, Any], said: str) -> None:
    study = study_of(f"{OWN}:{task}", steps=10, evaluations=1)
    ends = study.setting(0, AVERAGES[2] | {"lr": 0.05}), study.setting(1, AVERAGES[0] | {"lr": 0.05} | differing)
    with pytest.raises(NotStackable, match=said):
        train_stacked(study, [(setting, 0) for setting in ends])


def test_a_pack_that_differs_in_numbers_alone_goes_through_operations_that_were_noted_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    TRACED.clear()
    monkeypatch.setattr("study.execute.train.traced.MOST", 12)

    def gradients() -> int:
        return sum(function == "_loss" for function, *_ in TRACED)  # type: ignore[misc, has-type]

    first, others = study_of(f"{OWN}:Net"), [study_of({"name": f"{OWN}:Net", "double": True}), study_of("digits")]
    for lr in (0.05, 0.02):
        assert_as_alone(first, runs_of(first, {"lr": lr, "noise": 0.1}), within=1e-4)
        assert gradients() == 1
    for count, other in enumerate(others, start=2):
        train_stacked(other, runs_of(other, {"lr": 0.05}))
        assert gradients() == count
    for curvature in (1.0, 2.0):  # which the loss reads, for weights of one shape
        quadratic = study_of({"name": "quadratic", "curvature": curvature}, "average/distance")
        assert_as_alone(quadratic, runs_of(quadratic, {"lr": 0.1}), within=1e-3)
    short = study_of(f"{OWN}:Net", steps=4)
    setting = short.setting(0, {**AVERAGES[0], "lr": 0.05})
    train_stacked(short, [(setting, 0)])
    assert len(TRACED) == 12  # the oldest have left


def test_averages_without_coupling_watch_one_trajectory() -> None:
    """Also beside others, of which most diverge and are left behind."""
    study = study_of({"name": "quadratic", "dimensions": 4}, "average/distance")
    averages = [average | {"lr": lr} for lr in (0.1, 40.0, 50.0, 60.0) for average in AVERAGES]
    settings = [study.setting(number, average) for number, average in enumerate(averages)]
    assert len({setting.trajectory for setting in settings}) == 4 * 3
    results = assert_as_alone(study, [(setting, seed) for setting in settings for seed in (0, 1)], within=1e-5)
    assert [result.state for result in results] == ["complete"] * 8 + ["diverged"] * 24


@pytest.mark.parametrize(("prefix", "within"), [("Double", 1e-8), ("", 1e-5)], ids=["float64", "float32"])
def test_averages_that_watch_many_steps_at_a_time_come_to_the_same(prefix: str, within: float) -> None:
    """Beside coupled ones, of which most diverge and are left behind, and with fewer averages on another trajectory."""
    study = study_of({"name": f"{OWN}:{prefix}Quadratic", "dimensions": 4}, "average/distance", steps=200)
    watching = [
        {"decay": 1 - 0.3 / n, "damping": damping} for n, damping in enumerate((1.0, 0.3, 1.0, 0.7, 1.2), start=1)
    ]
    first = [*watching[:3], AVERAGES[2], *watching[3:]]
    assert len(watching) > CROWD > len(watching[:3])
    averages = [{"coupling": 0.0, **average, "lr": 0.1} for average in first]
    averages += [{**average, "lr": lr} for lr in (40.0, 50.0, 60.0) for average in AVERAGES[2:]]
    averages += [{"coupling": 0.0, **average, "lr": lr} for lr in (50.0, 0.2) for average in watching]
    averages += [{"coupling": 0.0, **average, "lr": 0.05} for average in watching[:3]]
    settings = [study.setting(number, average) for number, average in enumerate(averages)]
    results = assert_as_alone(study, [(setting, seed) for setting in settings for seed in (0, 1)], within)
    assert Counter(result.state for result in results) == {"complete": 2 * (6 + 5 + 3), "diverged": 2 * (6 + 5)}


def test_a_pack_that_cannot_be_stacked_is_trained_one_by_one_and_says_why() -> None:
    study = study_of(f"{OWN}:ReadsMore", steps=10, evaluations=1)
    settings = tuple(study.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in enumerate((0.05, 0.5)))
    outcomes = list(train_pack(study, Pack(settings, (0, 1), side_by_side=True)))
    for setting, outcome in zip(settings, outcomes, strict=True):
        assert [result.history for result in outcome.seeds] == [
            train_alone(study, [setting], seed)[0].history for seed in (0, 1)
        ]
        (note,) = outcome.notes
        assert note.startswith("runs are trained one by one: the gradient of step 1 is ")


@pytest.mark.filterwarnings("error")
def test_a_setting_without_an_optimizer_fails_and_keeps_no_other_from_its_pack() -> None:
    study = study_of(f"{OWN}:Breaking", steps=10, evaluations=1)
    first, _, last = settings = tuple(
        study.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in ((3, 0.05), (4, 0.5), (7, 0.1))
    )
    outcomes = list(train_pack(study, Pack(settings, (0, 1), side_by_side=True)))
    assert [outcome.setting for outcome in outcomes] == [3, 4, 7]
    assert [result.message for result in outcomes[1].seeds] == ["RuntimeError: no optimizer at 0.5"] * 2
    together = list(train_pack(study, Pack((first, last), (0, 1), side_by_side=True)))
    for ours, theirs in zip((outcomes[0], outcomes[2]), together, strict=True):
        assert [result.history for result in ours.seeds] == [result.history for result in theirs.seeds]


@pytest.mark.parametrize(("where", "said"), [
    ("gpu", "OutOfMemoryError: Tried to allocate 12 GiB"),
    ("processor", "RuntimeError: .* you tried to allocate 1152921504606846976 bytes"),
    ("python", "MemoryError"),
])  # fmt: skip
def test_runs_that_do_not_fit_into_memory_side_by_side_are_taken_in_halves(where: str, said: str) -> None:
    large, small_ones = study_of({"name": f"{OWN}:Large", "where": where}, steps=20), study_of(f"{OWN}:Net", steps=20)
    settings = tuple(large.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in enumerate((0.05, 0.1, 0.2)))
    halves = list(train_pack(large, Pack(settings, (0, 1), side_by_side=True)))
    whole = list(train_pack(small_ones, Pack(settings, (0, 1), side_by_side=True)))
    for ours, theirs in zip(halves, whole, strict=True):
        assert [result.history for result in ours.seeds] == [result.history for result in theirs.seeds]
        (note,) = ours.notes
        assert re.match(f"runs do not fit into memory side by side: of 6 {said}", note)
        assert not theirs.notes


def test_a_pack_side_by_side_gives_each_setting_its_own_seeds_in_order() -> None:
    study = study_of(f"{OWN}:Net", steps=10, evaluations=1)
    settings = tuple(study.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in ((4, 0.05), (2, 0.1)))
    outcomes = list(train_pack(study, Pack(settings, (7, 3), side_by_side=True)))
    assert [(each.setting, [result.seed for result in each.seeds]) for each in outcomes] == [(4, [7, 3]), (2, [7, 3])]
    apart = list(train_pack(study, Pack(settings, (7, 3))))
    for ours, theirs in zip(outcomes, apart, strict=True):
        assert ours.value("average/val_loss") == pytest.approx(theirs.value("average/val_loss"), rel=1e-5)
        assert ours.seconds > 0

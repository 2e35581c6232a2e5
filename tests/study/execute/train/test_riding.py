"""Riders come to what their averages come to as settings, side by side and one by one."""

from __future__ import annotations

from typing import Any

import pytest
from execute.train import counting
from execute.train.test_stacked import AVERAGES, OWN, study_of

from study.design.riders import rider
from study.design.schema import Outcome, Setting
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import train_pack
from study.execute.train.alone import train_alone

GRID = {"memory": [0.02, 0.1, 0.5], "damping_ratio": ["inf", 1, 0.5]}
SEEDS = (0, 1)


def carrying(task: str | dict[str, Any], metric: str = "average/val_loss", **changes: Any) -> Study:
    return study_of(task, metric, search={"sampler": "random", "settings": 4, "riders": GRID}, **changes)


def settings_of(study: Study, *drawn: dict[str, Any]) -> tuple[Setting, ...]:
    return tuple(study.setting(number, each) for number, each in enumerate(drawn))


@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize(("double", "within"), [(True, 1e-8), (False, 1e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("steps", [200, 64, 10])  # blocks of 64 and a rest, one block, less than one
def test_a_rider_comes_to_what_its_average_comes_to_as_a_setting(
    side_by_side: bool, double: bool, within: float, steps: int
) -> None:
    search = {"sampler": "random", "settings": 4, "riders": {"memory": [0.2, 0.5], "damping_ratio": ["inf", 1, 0.5]}}
    study = study_of({"name": f"{OWN}:Net", "double": double}, steps=steps, search=search)
    pulling, first, other = settings_of(study, *({"lr": 0.05, **AVERAGES[place]} for place in (2, 0, 1)))
    pack = Pack((pulling, other, first), SEEDS, side_by_side, hosts=(first.number,))
    outcomes = {outcome.setting: outcome for outcome in train_pack(study, pack)}
    assert [bool(outcomes[setting.number].seeds[0].riders) for setting in (pulling, first, other)] == [0, 1, 0]
    for place in range(len(study.riders)):
        for seed, result in zip(SEEDS, outcomes[first.number].seeds, strict=True):
            (alone,) = train_alone(study, [rider(study, first, place)], seed)
            assert result.riders["average/val_loss"][place] == pytest.approx(
                alone.last("average/val_loss"), rel=within, abs=within
            )


def riders_of(outcome: Outcome) -> list[dict[str, list[float]]]:
    return [result.riders for result in outcome.seeds]


def test_riders_have_the_same_digits_whatever_shares_the_pack() -> None:
    study = carrying("digits")
    settings = settings_of(study, *({"lr": lr, **AVERAGES[place]} for lr in (0.1, 0.2) for place in (0, 2)))
    together = list(train_pack(study, Pack(settings, SEEDS, True, hosts=(0, 2))))
    (alone,) = train_pack(study, Pack(settings[2:3], SEEDS, True, hosts=(2,)))
    assert riders_of(alone) == riders_of(together[2])


@pytest.mark.parametrize("side_by_side", [True, False])
def test_where_a_training_diverges_there_are_no_riders_and_others_keep_theirs(side_by_side: bool) -> None:
    study = carrying({"name": "quadratic", "dimensions": 4}, "average/distance")
    settings = settings_of(study, *({"lr": lr, **AVERAGES[0]} for lr in (40.0, 0.1, 50.0, 60.0)))
    outcomes = list(train_pack(study, Pack(settings, SEEDS, side_by_side, hosts=(0, 1, 2, 3))))
    assert [outcome.state for outcome in outcomes] == ["diverged", "complete", "diverged", "diverged"]
    assert [bool(riders_of(outcome)[0]) for outcome in outcomes] == [False, True, False, False]
    (alone,) = train_pack(study, Pack(settings[1:2], SEEDS, side_by_side, hosts=(1,)))
    assert riders_of(outcomes[1]) == riders_of(alone)


def test_riders_that_do_not_fit_into_memory_stay_away() -> None:
    study = carrying("execute.train.counting:Riderless")
    settings = settings_of(study, {"lr": 0.05, **AVERAGES[0]}, {"lr": 0.05, **AVERAGES[1]})
    counting.TRAININGS.clear()
    outcomes = list(train_pack(study, Pack(settings, (0,), hosts=(0,))))
    assert [outcome.state for outcome in outcomes] == ["complete"] * 2
    assert riders_of(outcomes[0]) == [{}]
    assert outcomes[0].notes == [
        "riders are left out: they do not fit into memory, OutOfMemoryError: 12 GiB are missing"
    ]
    assert counting.TRAININGS == [0, 0]


@pytest.mark.parametrize(("task", "said"), [
    ("Picky", "RuntimeError: not this one"),
    ("Uneven", "ValueError: `evaluate` must give every model the same metrics, got 'average/odd' of some."),
])  # fmt: skip
def test_riders_that_cannot_be_measured_do_not_cost_their_host(task: str, said: str) -> None:
    study = carrying(f"execute.train.counting:{task}", evaluations=1)
    (outcome,) = train_pack(study, Pack(settings_of(study, {"lr": 0.05, **AVERAGES[0]}), (0,), hosts=(0,)))
    assert (outcome.state, riders_of(outcome)) == ("complete", [{}])
    assert outcome.notes == [f"riders are left out: {said}"]

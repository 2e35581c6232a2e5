"""Which averages ride along, as the config says, and what they are as settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
from studies import small

from belay import Oscillator
from study.design.config import parse_config
from study.design.riders import place_of, rider, riders_of, values_of
from study.design.schema import Outcome, SeedResult, host_of, natural, role_of
from study.design.study import Study
from study.errors import BadInput


def study_of(riders: Any = None, **changes: Any) -> Study:
    search = {"sampler": "random", "settings": 4} | ({} if riders is None else {"riders": riders})
    return Study.of(parse_config(small(search=search, **changes)))


def test_by_default_they_are_a_grid_of_memories_and_damping_ratios() -> None:
    averages = study_of(steps=1000).riders
    assert len(averages) == 32
    found = [natural(average, 1000) for average in averages]
    assert {round(each["memory"], 9) for each in found} == {0.005 * 2**power for power in range(8)}
    assert {round(each["damping_ratio"], 9) for each in found} == {0.5, 1.0, 3.0, math.inf}
    assert {average.coupling for average in averages} == {0.0}


def test_by_default_none_has_a_memory_of_less_than_two_steps() -> None:
    lags = [average.lag for average in study_of(steps=60).riders]
    assert len(lags) == 5 * 4
    assert min(lags) == pytest.approx(0.04 * 60 - 1)


def test_pairs_that_come_to_the_same_average_are_one_rider() -> None:
    averages = study_of({"memory": [0.05, 0.5], "damping_ratio": ["inf", 10]}, steps=100).riders
    assert averages[0] == Oscillator.ema(0.8)  # also at a damping ratio of 10, whose fast mode ends within a step
    assert len(averages) == 3


def test_a_grid_that_is_given_is_taken_whole() -> None:
    study = study_of({"memory": [0.1, 0.02], "damping_ratio": ["inf", 1]}, steps=100)
    assert study.config.search.riders.carried == "always"
    assert study.riders == (
        *(Oscillator.ema(0.9), Oscillator.from_damping_ratio(1, lag=9)),
        *(Oscillator.ema(0.5), Oscillator.from_damping_ratio(1, lag=1)),
    )


@pytest.mark.parametrize(("riders", "changes"), [
    ("none", {}),
    (None, {"objective": {"metric": "live/excess_loss"}}),
    (None, {"task": "tasks_of_tests:parabola", "objective": {"metric": "average/score", "mode": "max"}}),
])  # fmt: skip
def test_there_are_none_where_none_are_asked_or_could_be_measured(riders: Any, changes: dict[str, Any]) -> None:
    assert study_of(riders, **changes).riders == ()


@pytest.mark.parametrize(("riders", "said"), [
    ("some", "`search.riders.carried` must be 'auto', 'none' or 'always', got 'some'"),
    (3, "`search.riders` must be a mapping, got 3"),
    ({"memories": [0.1]}, "`search.riders.memories` is not a key here (did you mean `memory`?), got [0.1]"),
    ({"memory": []}, "`search.riders.memory`"),
    ({"memory": [1.5]}, "`search.riders.memory.0` must be at most 1, got 1.5"),
    ({"damping_ratio": [0.01]}, "`search.riders.damping_ratio.0"),
    ({"memory": [0.1, 0.01]}, "`search.riders.memory` must be above 1 / steps = 0.0166667, got 0.01; raise it."),
    ({"memory": [0.1, 0.1]}, "`search.riders.memory` must name each value once, got [0.1, 0.1]; remove one."),
])  # fmt: skip
def test_a_grid_that_cannot_be_is_refused(riders: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        study_of(riders)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1


def test_a_rider_is_its_host_with_another_average_and_a_number_that_says_so() -> None:
    study = study_of(steps=1000)
    host = study.setting(12, {"decay": 0.9, "damping": 0.5, "lr": 0.25})
    one = rider(study, host, 7)
    assert (one.number, host_of(one.number), place_of(one.number)) == (10_012_007, 12, 7)
    assert one.oscillator == study.riders[7]
    assert (one["lr"], one.trajectory) == (0.25, host.trajectory)
    assert (host_of(12), role_of(3, 12), role_of(3, one.number)) == (None, "search", "rider")
    assert role_of(10_000, one.number) == "confirmation"


def outcome_of(*values: list[float], state: Any = "complete") -> Outcome:
    """A setting's, with what its riders measured on each seed."""
    metric = "average/excess_loss"
    return Outcome(
        3, [SeedResult(seed, [(60, {metric: 1.0})], state, riders={metric: each}) for seed, each in enumerate(values)]
    )


def test_riders_that_were_finite_on_every_seed_are_settings_with_outcomes_of_their_own() -> None:
    study = study_of({"memory": [0.1, 0.2, 0.4], "damping_ratio": ["inf"]})
    host = study.setting(3, {"decay": 0.9, "damping": 0.5, "lr": 0.25})
    (first, one), (last, other) = riders_of(study, host, outcome_of([1.0, 2.0, 3.0], [3.0, math.nan, 5.0]))
    assert (place_of(first.number), place_of(last.number)) == (0, 2)
    assert (one.value("average/excess_loss"), other.value("average/excess_loss")) == (2.0, 4.0)
    assert [result.seed for result in one.seeds] == [0, 1]


@pytest.mark.parametrize("outcome", [outcome_of([1.0] * 3, []), outcome_of([1.0] * 3, state="diverged")])
def test_a_setting_that_did_not_complete_every_seed_has_none(outcome: Outcome) -> None:
    study = study_of({"memory": [0.1, 0.2, 0.4], "damping_ratio": ["inf"]})
    outcome.seeds[-1].riders.clear()
    assert values_of(study, outcome) == []

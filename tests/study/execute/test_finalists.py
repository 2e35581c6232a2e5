"""Which settings are measured once more on fresh seeds."""

from __future__ import annotations

import math

from studies import small

from study.design.config import parse_config
from study.design.schema import PARAMETERS, Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.finalists import finalists

EMA, DAMPED, PULL, PUSH = (0.9, 1.0, 0.0), (0.9, 0.5, 0.0), (0.9, 0.5, 0.1), (0.9, 0.5, -0.1)
Tried = tuple[
    tuple[float, float, float], float, float
]  # average, what it came to, what the model's own weights came to


def chosen(tried: list[Tried], states: dict[int, str] | None = None, **changes: object) -> list[int]:
    """The numbers of the finalists of settings that came to these values; less is better."""
    study = Study.of(parse_config(small(**{"confirm": {"finalists": 4, "seeds": 2}} | changes)))
    searched = [
        (setting_of(n, average), outcome(n, value, live, (states or {}).get(n, "complete")))
        for n, (average, value, live) in enumerate(tried)
    ]
    return [setting.number for setting, _ in finalists(study, searched)]


def setting_of(number: int, average: tuple[float, float, float]) -> Setting:
    return Setting(number, {**dict(zip(PARAMETERS, average, strict=True)), "lr": 0.1, "steps": 60})


def outcome(number: int, value: float, live: float, state: str, *riders: float) -> Outcome:
    last = [(60, {"average/excess_loss": value, "live/excess_loss": live})]
    ridden = {"average/excess_loss": list(riders)} if riders else {}
    seeds = [SeedResult(0, last, riders=ridden), SeedResult(1, last, state, riders=ridden)]  # type: ignore[arg-type]
    return Outcome(number, seeds)


def test_the_best_the_best_ema_and_the_best_without_averaging_are_always_among_them():
    tried = [
        (PULL, 0.1, 0.9),
        (PULL, 0.2, 0.9),
        (EMA, 0.5, 0.8),
        (EMA, 0.4, 0.9),
        (DAMPED, 0.6, 0.3),
        (PUSH, 0.01, 0.1),
    ]
    assert chosen(tried, confirm={"finalists": 3, "seeds": 2}) == [5, 3, 4]


def test_then_come_the_best_of_other_families_and_then_the_next_best():
    tried = [
        (PULL, 0.1, 0.9),
        (PULL, 0.2, 0.9),
        (EMA, 0.5, 0.3),
        (DAMPED, 0.6, 0.9),
        (PUSH, 0.7, 0.9),
        (PULL, 0.3, 0.9),
    ]
    assert chosen(tried, confirm={"finalists": 5, "seeds": 2}) == [0, 2, 3, 4, 1]


def test_a_setting_that_is_several_of_these_at_once_leaves_room_for_the_next_best():
    tried = [(EMA, 0.1, 0.1), (EMA, 0.2, 0.2), (EMA, 0.4, 0.4), (EMA, 0.3, 0.3)]
    assert chosen(tried, confirm={"finalists": 3, "seeds": 2}) == [0, 1, 3]


def test_what_did_not_complete_every_seed_is_none():
    tried = [(PULL, 0.1, 0.9), (PULL, 0.2, 0.9), (EMA, 0.5, 0.8)]
    assert chosen(tried, {0: "diverged", 2: "failed"}) == [1]
    assert chosen(tried, {0: "diverged", 1: "diverged", 2: "failed"}) == []


def test_where_more_is_better_the_most_is_the_best():
    changes = {
        "task": {"name": "tasks_of_tests:parabola"},
        "objective": {"metric": "average/excess_loss", "mode": "max"},
        "confirm": {"finalists": 3, "seeds": 2},
    }
    assert chosen([(PULL, 0.1, 0.9), (PULL, 0.2, 0.9), (EMA, 0.5, 0.8), (EMA, 0.3, 0.85)], **changes) == [2, 3, 1]


def test_where_the_model_s_own_weights_decide_no_averaging_is_no_opponent():
    tried = [(PULL, 0.1, 0.3), (PULL, 0.2, 0.1), (EMA, 0.5, 0.9), (DAMPED, 0.5, 0.2)]
    assert chosen(tried, objective={"metric": "live/excess_loss"}, confirm={"finalists": 3, "seeds": 2}) == [1, 2, 3]


RIDERS = {"memory": [0.1, 0.2], "damping_ratio": ["inf", 1]}  # two EMAs and two that are not, in turn


def with_riders(*searched: tuple[Setting, Outcome], count: int = 3, **changes: object) -> list[int]:
    search = {"sampler": "random", "settings": 4, "riders": RIDERS}
    study = Study.of(parse_config(small(search=search, confirm={"finalists": count, "seeds": 2}, **changes)))
    return [setting.number for setting, _ in finalists(study, searched)]


def test_a_rider_may_be_the_best_and_the_best_of_its_family() -> None:
    pulling = setting_of(0, PULL), outcome(0, 0.2, 0.9, "complete")
    host = setting_of(1, EMA), outcome(1, 0.5, 0.3, "complete", 0.4, 0.6, 0.3, 0.1)
    assert with_riders(pulling, host) == [10_001_003, 10_001_002, 1]  # the best, the best EMA, no averaging
    assert with_riders(pulling, host, count=9) == [10_001_003, 10_001_002, 1, 0]  # the other two are second to these


def test_a_rider_that_was_not_finite_or_whose_host_failed_is_none() -> None:
    one = setting_of(0, EMA), outcome(0, 0.5, 0.3, "complete", 0.4, math.nan, 0.6, math.nan)
    other = setting_of(1, EMA), outcome(1, 0.1, 0.1, "failed", 0.1, 0.1, 0.1, 0.1)
    assert with_riders(one, other) == [10_000_000, 0]


def test_there_are_none_where_nothing_is_to_be_confirmed():
    assert chosen([(EMA, 0.1, 0.1)], confirm=None) == []

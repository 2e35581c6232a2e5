"""Which settings are measured once more on fresh seeds."""

from __future__ import annotations

from studies import small

from study.design.config import parse_config
from study.design.schema import CONFIRMATION, Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.finalists import finalists

EMA, DAMPED, PULL, PUSH = (0.9, 1.0, 0.0), (0.9, 0.5, 0.0), (0.9, 0.5, 0.1), (0.9, 0.5, -0.1)
Tried = tuple[
    tuple[float, float, float], float, float
]  # average, what it came to, what the model's own weights came to


def chosen(tried: list[Tried], states: dict[int, str] | None = None, **changes: object) -> list[int]:
    """The numbers of the finalists of settings that came to these values; less is better."""
    study = Study.of(parse_config(small(**{"confirm": {"finalists": 4, "seeds": 2}} | changes)))
    settings = [
        Setting(n, {"decay": decay, "damping": damping, "coupling": coupling, "lr": 0.1, "steps": 60})
        for n, ((decay, damping, coupling), _, _) in enumerate(tried)
    ]
    outcomes = {
        n: outcome(n, value, live, (states or {}).get(n, "complete")) for n, (_, value, live) in enumerate(tried)
    }
    return [setting.number for setting in finalists(study, settings, outcomes)]


def outcome(number: int, value: float, live: float, state: str) -> Outcome:
    last = [(60, {"average/excess_loss": value, "live/excess_loss": live})]
    return Outcome(number, [SeedResult(0, last), SeedResult(1, last, state)])  # type: ignore[arg-type]


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


def test_they_are_chosen_by_the_seeds_of_the_search_alone():
    study = Study.of(parse_config(small(confirm={"finalists": 3, "seeds": 2})))
    settings = [Setting(n, {"decay": 0.9, "damping": 1.0, "coupling": 0.0, "lr": 0.1, "steps": 60}) for n in range(2)]
    outcomes = {n: outcome(n, 0.1 + n, 0.1 + n, "complete") for n in range(2)}
    outcomes[0].seeds.append(SeedResult(CONFIRMATION, [(60, {"average/excess_loss": 99.0})]))
    assert [setting.number for setting in finalists(study, settings, outcomes)] == [0, 1]


def test_there_are_none_where_nothing_is_to_be_confirmed():
    assert chosen([(EMA, 0.1, 0.1)], confirm=None) == []

"""Training a pack, without Ray."""

from __future__ import annotations

import math

import pytest
from studies import small

from belay import Oscillator
from study.design.config import parse_config
from study.design.schema import Outcome
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import train_pack


def outcome_of(lr: float, seeds: tuple[int, ...] = (0, 1), **changes: object) -> Outcome:
    study = Study.of(parse_config(small(**changes)))
    setting = study.setting(3, {"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": lr})
    (outcome,) = train_pack(study, Pack((setting,), seeds))
    return outcome


def own(function: str) -> dict[str, object]:
    return {"task": {"name": f"tasks_of_tests:{function}"}, "objective": {"metric": "average/score", "mode": "max"}}


def test_a_pack_measures_live_and_averaged_weights_at_even_steps() -> None:
    outcome = outcome_of(0.1)
    assert outcome.state == "complete"
    assert [step for step, _ in outcome.seeds[0].history] == [30, 60]
    names = {prefix + name for prefix in ("live/", "average/") for name in ("excess_loss", "distance")}
    assert set(outcome.seeds[1].history[-1][1]) == names


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    first, second = outcome_of(0.1).seeds
    assert [result.history for result in outcome_of(0.1).seeds] == [first.history, second.history]
    assert first.history != second.history


def test_a_seed_gives_the_same_noise_to_every_setting() -> None:
    """Without coupling the average cannot touch training: the model's own weights must come out the same."""
    study = Study.of(parse_config(small()))
    settings = [study.setting(0, {"decay": decay, "damping": 0.5, "coupling": 0.0, "lr": 0.1}) for decay in (0.8, 0.99)]
    one, other = train_pack(study, Pack(tuple(settings), (0,)))
    assert one.seeds[0].last("live/distance") == other.seeds[0].last("live/distance")
    assert one.seeds[0].last("average/distance") != other.seeds[0].last("average/distance")


def test_divergence_is_a_result_with_its_step_and_without_a_value() -> None:
    outcome = outcome_of(40.0)
    assert outcome.state == "diverged"
    growth = Oscillator(0.9, 0.5, 0.1).spectral_radius(40.0)  # of the steepest of curvatures at most 1
    assert 1 < (outcome.seeds[0].diverged_at or 0) <= 2 + math.log(1e6) / (2 * math.log(growth)) + 3
    assert math.isnan(outcome.value("average/excess_loss"))


def test_a_plain_train_function_makes_its_own_loop() -> None:
    outcome = outcome_of(0.5, **own("parabola"))
    assert outcome.state == "complete"
    assert -0.1 < outcome.value("average/score") < 0


def test_a_task_that_raises_fails_its_setting_with_the_message() -> None:
    outcome = outcome_of(1.5, **own("breaks_above_one"))
    assert outcome.state == "failed"
    assert outcome.message == "RuntimeError: no batch fits here"


@pytest.mark.parametrize(("name", "found"), [("Floats", "0.5"), ("Rows", "shape (3,)")])
def test_a_metric_that_is_no_0d_tensor_fails_the_setting_and_says_the_rule(name: str, found: str) -> None:
    outcome = outcome_of(0.01, task=f"design.own_tasks:{name}", objective={"metric": "average/val_loss"})
    assert outcome.message == (
        f"TypeError: `evaluate` must return 0-d tensors, got {found} for 'val_loss'; leave out `float` or `item()`."
    )


def test_a_metric_that_turns_nan_is_divergence_at_that_step() -> None:
    outcome = outcome_of(1.5, **own("turns_nan"))
    assert (outcome.state, outcome.seeds[0].diverged_at) == ("diverged", 7)


def test_an_objective_that_is_never_reported_fails_the_setting_and_names_what_was() -> None:
    outcome = outcome_of(0.5, **own("says_something_else"))
    assert outcome.message == "objective.metric must be reported, got average/loss: no 'average/score'."


def test_a_metric_without_its_prefix_fails_the_setting_and_says_the_rule() -> None:
    outcome = outcome_of(0.5, **own("reports_a_bare_name"))
    assert outcome.message == "ValueError: `report` takes metrics named average/NAME or live/NAME, got 'score'."

"""Training a pack, without Ray."""

from __future__ import annotations

import json
import math
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from execute.train import counting
from studies import small
from tasks_of_tests import LOGGER

from belay import Oscillator
from study.design.config import parse_config
from study.design.faults import shown
from study.design.schema import METRIC_NAMES, Outcome, Printed, Setting
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import train_pack
from study.execute.train.apart import trainer
from study.execute.train.log import Diverged, Log, raised

VAL_LOSS = {"objective": {"metric": "average/val_loss"}}


def outcome_of(lr: float, seeds: tuple[int, ...] = (0, 1), **changes: object) -> Outcome:
    study = Study.of(parse_config(small(**changes)))
    setting = study.setting(3, {"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": lr})
    (outcome,) = train_pack(study, Pack((setting,), seeds))
    return outcome


def own(function: str) -> dict[str, object]:
    return {"task": {"name": f"tasks_of_tests:{function}"}, "objective": {"metric": "average/score", "mode": "max"}}


def study_of_a_function(function: str = "parabola") -> Study:
    return Study.of(parse_config(small(**own(function))))


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


def settings_without_coupling(study: Study, count: int, lr: float = 0.1) -> tuple[Setting, ...]:
    averages = [{"decay": 1 - 0.2 / (1 + number), "damping": 0.5, "coupling": 0.0} for number in range(count)]
    return tuple(study.setting(number, average | {"lr": lr}) for number, average in enumerate(averages))


@pytest.mark.parametrize("task", ["Counted", "Drawing"])
def test_averages_without_coupling_watch_one_training_and_come_to_what_each_comes_to_alone(task: str) -> None:
    study = Study.of(parse_config(small(task=f"execute.train.counting:{task}", **VAL_LOSS)))
    settings = settings_without_coupling(study, 3)
    counting.TRAININGS.clear()
    together = list(train_pack(study, Pack(settings, (0, 1))))
    assert counting.TRAININGS == [0, 1]
    for setting, outcome in zip(settings, together, strict=True):
        (alone,) = train_pack(study, Pack((setting,), (0, 1)))
        assert [result.history for result in outcome.seeds] == [result.history for result in alone.seeds]
    assert len({outcome.value("average/val_loss") for outcome in together}) == 3


def test_an_average_that_cannot_be_measured_fails_alone() -> None:
    study = Study.of(parse_config(small(task="execute.train.counting:Choosy", **VAL_LOSS)))
    states = [outcome.state for outcome in train_pack(study, Pack(settings_without_coupling(study, 3), (0,)))]
    assert sorted(states) == ["complete", "complete", "failed"]


@pytest.mark.parametrize("where", ["gpu", "processor"])
def test_averages_that_do_not_fit_into_memory_together_are_taken_in_halves(where: str) -> None:
    task = {"name": "execute.train.counting:Cramped", "where": where}
    study = Study.of(parse_config(small(task=task, **VAL_LOSS)))
    counting.TRAININGS.clear()
    outcomes = list(train_pack(study, Pack(settings_without_coupling(study, 5), (0,))))
    assert [outcome.state for outcome in outcomes] == ["complete"] * 5
    assert len(counting.TRAININGS) > 3  # 5 did not fit, nor did 3; 2, 1 and 2 did
    assert {note.partition(": ")[0] for outcome in outcomes for note in outcome.notes} == {
        "averages of one training do not fit into memory together"
    }


def test_one_average_that_does_not_fit_into_memory_fails() -> None:
    study = Study.of(parse_config(small(task="execute.train.counting:TooLarge", **VAL_LOSS)))
    outcomes = list(train_pack(study, Pack(settings_without_coupling(study, 2), (0,))))
    assert [outcome.message for outcome in outcomes] == ["OutOfMemoryError: 12 GiB are missing"] * 2


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


def test_a_seed_draws_the_same_from_global_generators_and_finds_torch_as_it_was_whatever_ran_before_it() -> None:
    study = Study.of(parse_config(small(**own("disturbs"))))
    settings = [study.setting(number, {"decay": 0.9, "lr": 0.1}) for number in (0, 1)]
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()
    one, other = train_pack(study, Pack(tuple(settings), (0, 1)))
    assert [result.history for result in one.seeds] == [result.history for result in other.seeds]
    assert one.seeds[0].history != one.seeds[1].history
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()) == before[1:]


def test_a_task_may_leave_the_process_in_a_folder_that_is_gone() -> None:
    study, before = Study.of(parse_config(small(**own("leaves_a_deleted_folder")))), Path.cwd()
    settings = [study.setting(number, {"decay": 0.9, "lr": 0.1}) for number in (0, 1)]
    outcomes = list(train_pack(study, Pack(tuple(settings), (0,))))
    assert [outcome.state for outcome in outcomes] == ["complete", "complete"]
    assert Path.cwd() == before


def test_a_task_that_raises_fails_its_setting_with_the_message() -> None:
    outcome = outcome_of(1.5, **own("breaks_above_one"))
    assert outcome.state == "failed"
    assert outcome.message == "RuntimeError: no batch fits here"


def test_of_what_a_pack_prints_in_whatever_way_the_end_is_kept_and_the_rest_is_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    study = study_of_a_function("prints")
    settings = tuple(study.setting(number, {"decay": 0.9, "lr": 30.0}) for number in (0, 1))
    said = "by a logger\nin bytes\nby a program\n"
    try:
        with trainer(study) as train:
            long, other = train(Pack(settings, (0,)))
            (short,) = train(Pack((study.setting(2, {"decay": 0.9, "lr": 0.5}),), (1,)))
    finally:
        LOGGER.handlers.clear()
    assert long.printed is not None
    first, end = long.printed.text.split("\n", 1)
    assert (first, len(end)) == ("[of 60,068 bytes the first 40,068 are left out]", 20_000)
    assert end.endswith(f"{'x' * 999}\n{said}")
    assert (long.printed.settings, other.printed) == ((0, 1), None)
    assert short.printed == Printed(said, (2,))  # also by the logger, which has its stream from before
    assert Outcome.from_json(json.loads(json.dumps(long.to_json()))) == long
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_pack_apart_is_what_it_is_here_and_one_that_ends_its_process_is_trained_setting_by_setting() -> None:
    space = {"decay": {"choice": [0.9]}, "lr": {"choice": [0.05, 0.01]}}
    task, limits = "execute.train.counting:Deadly", {"setting_seconds": 600}
    study = Study.of(parse_config(small(task=task, limits=limits, space=space, **VAL_LOSS)))
    settings = [study.setting(number, {"decay": 0.9, "lr": lr}) for number, lr in enumerate((0.05, 0.01, 3.0))]
    pack = Pack(tuple(settings[:2]), (0, 1), side_by_side=True)
    with trainer(study) as train:
        ours = train(pack)
        *_, dead = both = train(Pack((settings[0], settings[2]), (0, 1)))
    for mine, here in zip(ours, train_pack(study, pack), strict=True):
        assert [result.history for result in mine.seeds] == [result.history for result in here.seeds]
    assert [outcome.state for outcome in both] == ["complete", "failed"]
    assert [result.message for result in dead.seeds] == ["the process that trained it ended with exit code -9."] * 2


def test_a_setting_from_before_its_task_got_a_hyperparameter_is_trained_with_the_task_s_own_value() -> None:
    study = Study.of(parse_config(small()))
    setting = study.setting(0, {"decay": 0.9, "damping": 0.5, "lr": 0.1})
    before = Setting(0, {name: value for name, value in setting.items() if name not in ("noise", "dimensions")})
    one, other = (list(train_pack(study, Pack((each,), (0,)))) for each in (setting, before))
    assert one[0].seeds[0].history == other[0].seeds[0].history


def test_a_schedule_below_0_fails_the_setting_and_says_the_rule() -> None:
    outcome = outcome_of(0.01, task="execute.train.stackable_tasks:Backwards", **VAL_LOSS)
    said = "ValueError: `lr_factor` must be finite and at least 0, got -1.0 at step 4 of 60."
    assert outcome.message == said


@pytest.mark.parametrize(("name", "found"), [("Floats", "0.5"), ("Rows", "shape (3,)")])
def test_a_metric_that_is_no_0d_tensor_fails_the_setting_and_says_the_rule(name: str, found: str) -> None:
    outcome = outcome_of(0.01, task=f"design.own_tasks:{name}", objective={"metric": "average/val_loss"})
    assert outcome.message == (
        f"TypeError: `evaluate` must return 0-d tensors, got {found} for 'val_loss'; leave out `float` or `item()`."
    )


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("name", "said"), [
    ("EndsEarly", "ValueError: `batches` must yield one for each of 60 steps, got 20; begin the data anew at its end."),
    ("GivesNoBatches", "TypeError: `batches` must yield batches, got None."),
    ("GivesNoModel", "TypeError: `build_model` must return a torch.nn.Module, got None."),
    ("DescribesNoOptimizer", "TypeError: `describe_optimizer` must return an OptimizerSpec, got <class "),
    ("HasManyLosses", "TypeError: `loss` must return a 0-d tensor, got shape (16,)."),
    ("HasNoLoss", "TypeError: `loss` must return a 0-d tensor, got None."),
    ("LosesItsGradient", "ValueError: `loss` must depend on a weight that is trained, got one without a gradient."),
    ("MeasuresAList", "TypeError: `evaluate` must return tensors by metric, got [tensor("),
    ("ForgetsAMetric", "ValueError: `evaluate` must give every one of `metrics` each time, got none of 'accuracy'."),
    ("ShrinksWhatItMeasures", "ValueError: `evaluate` must leave the model as it is, got a change of 3.weight."),
    ("KeepsItsModel", "ValidationError: a task keeps nothing between calls, got `self.model` assigned; keep it in the"),
])  # fmt: skip
def test_a_part_of_a_task_that_gives_what_no_run_can_go_on_with_fails_it_by_its_name(
    name: str, said: str, side_by_side: bool
) -> None:
    study = Study.of(parse_config(small(task=f"execute.train.careless_tasks:{name}", **VAL_LOSS)))
    setting = study.setting(3, {"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": 0.01})
    (outcome,) = train_pack(study, Pack((setting,), (0, 1), side_by_side))
    assert (outcome.state, outcome.message[: len(said)]) == ("failed", said)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_batches_beyond_the_run_are_left_alone(side_by_side: bool) -> None:
    studies = [
        Study.of(parse_config(small(task=f"execute.train.{name}", **VAL_LOSS)))
        for name in ("careless_tasks:GoesOn", "stackable_tasks:Net")
    ]
    setting = studies[0].setting(3, {"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": 0.01})
    ours, theirs = (list(train_pack(study, Pack((setting,), (0,), side_by_side))) for study in studies)
    assert ours[0].message == ""
    assert ours[0].seeds[0].history == theirs[0].seeds[0].history


@pytest.mark.parametrize(("steps", "said"), [
    ([30, 20], "up to the run's last, 60, got 20 after 30"), ([61], "up to the run's last, 60, got 61 after 0"),
])  # fmt: skip
def test_steps_that_fall_or_lie_beyond_the_run_are_refused(steps: list[int], said: str) -> None:
    log = Log(0, study_of_a_function())
    for step in steps[:-1]:
        log.report(step, {"average/score": 0.5})
    with pytest.raises(ValueError, match=re.escape(f"`report` takes steps in their order, {said}; change it.")):
        log.report(steps[-1], {"average/score": 0.5})


def test_an_objective_that_is_missing_at_the_last_step_is_not_taken_from_an_earlier_one() -> None:
    log = Log(0, study_of_a_function())
    log.report(20, {"average/score": 0.5})
    log.report(30, {"live/score": 0.5})
    said = "'average/score' must be reported at the last step that is, 30, got it at 20 last."
    assert (log.result().state, log.result().message) == ("failed", said)
    log.report(30, {"average/score": 0.7})
    assert (log.result().state, log.result().last("average/score")) == ("complete", 0.7)


@pytest.mark.parametrize("value", [float("nan"), -1.8e308, 10**400, torch.tensor(1e200, dtype=torch.float64)])
def test_a_metric_that_turns_nan_or_leaves_its_range_is_divergence_at_that_step(value: Any) -> None:
    log = Log(0, study_of_a_function())
    log.report(1, {"average/score": 0.5})
    with pytest.raises(Diverged) as ended:
        log.report(7, {"average/score": value})
    log.end(ended.value)
    assert (log.result().state, log.result().diverged_at) == ("diverged", 7)


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor([3])])
@pytest.mark.parametrize("value", [2, True * 2, np.float32(2), torch.tensor(2.0, requires_grad=True), Fraction(2)])
def test_steps_and_values_of_any_numeric_type_are_kept_as_plain_numbers(step: Any, value: Any) -> None:
    log = Log(0, study_of_a_function())
    log.report(step, {np.str_("average/score"): value})
    assert repr(log.result().history) == "[(3, {'average/score': 2.0})]"


@pytest.mark.parametrize(("step", "metrics", "said"), [
    (1.5, {}, "a whole number from 0 to 2,147,483,647 as step, got 1.5; change it."),
    ("1", {}, "a whole number from 0 to 2,147,483,647 as step, got '1'; change it."),
    (-1, {}, "a whole number from 0 to 2,147,483,647 as step, got -1; change it."),
    (2**31, {}, "a whole number from 0 to 2,147,483,647 as step, got 2147483648; change it."),
    (torch.tensor([1, 2]), {}, "a whole number from 0 to 2,147,483,647 as step, got tensor([1, 2]); change it."),
    (None, {}, "a whole number from 0 to 2,147,483,647 as step, got None; change it."),
    (1, 0.5, "a mapping of metrics to numbers, got 0.5; change it."),
    (1, {"average/score": "0.5"}, "one number for each metric, got '0.5' for 'average/score'; change it."),
    (1, {"average/score": None}, "one number for each metric, got None for 'average/score'; change it."),
    (1, {"average/score": 1j}, "one number for each metric, got 1j for 'average/score'; change it."),
    (1, {"average/score": torch.ones(2)}, "one number for each metric, got tensor([1., 1.]) for 'average/score'; "
                                          "change it."),
    *((1, {name: 1.0}, f"metrics named average/NAME or live/NAME, of {METRIC_NAMES}, got {shown(name)}; rename it.")
      for name in ("score", "average/top//5", "live/../x", "average/" + "x" * 250, "average/score.se", 5)),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused_where_it_is_reported(step: Any, metrics: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^`report` takes {re.escape(said)}$"):
        Log(0, study_of_a_function()).report(step, metrics)


def test_an_objective_that_is_never_reported_fails_the_setting_and_names_what_was() -> None:
    outcome = outcome_of(0.5, **own("says_something_else"))
    assert outcome.message == "objective.metric must be reported, got average/loss: no 'average/score'."


def test_what_is_refused_where_it_is_reported_fails_the_setting_and_says_the_rule() -> None:
    outcome = outcome_of(0.5, **own("reports_a_bare_name"))
    assert outcome.message.startswith("ValueError: `report` takes metrics named average/NAME or live/NAME, of letters,")


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise KeyError("no such text")


@pytest.mark.parametrize(("error", "kept"), [
    (SystemExit("no such data"), "SystemExit: no such data"),
    (OSError("cannot read " + os.fsdecode(b"gr\xfc\xdfe.npy")), "OSError: cannot read gr\\udcfc\\udcdfe.npy"),
    (RuntimeError("mismatch " * 50_000 + "of layer 3"), f"RuntimeError: {'mismatch ' * 554}...{'mismatch ' * 554}of l"),
    (Mute(), "Mute: a text that cannot be made (KeyError)"),
])  # fmt: skip
def test_what_a_task_raises_is_kept_as_one_line_with_its_beginning_and_its_end(error: BaseException, kept: str) -> None:
    assert raised(error)[:4000] == kept[:4000]
    assert raised(error)[-10:] == ("of layer 3" if "mismatch" in kept else kept[-10:])
    assert len(raised(error)) <= 10_003

"""How many runs of a study's task train side by side is found before it is relied on."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from execute.train.test_stacked import OWN, study_of
from studies import small

from study.design.config import parse_config
from study.design.study import Study
from study.execute.train.probe import Room, room


@pytest.mark.parametrize("task", [f"{OWN}:Net", "digits", "study.design.tasks.template:MyTask"])
def test_a_task_that_keeps_its_word_trains_side_by_side(task: str) -> None:
    assert room(study_of(task)) == Room(64)
    assert room(study_of(task, resources={"side_by_side": 8})) == Room(8)


@pytest.mark.parametrize(("task", "changes", "reason"), [
    (f"{OWN}:Silent", {}, "Silent does not say in what its runs may differ (`stackable`)"),
    (f"{OWN}:Net", {"resources": {"side_by_side": 1}}, "resources.side_by_side is 1"),
    ({"name": "digits", "width": 1024}, {}, "its models have 76,810 weights: with more than 32,768 a processor gains"),
    ({"name": "digits", "width": 128, "batch_size": 600}, {}, "a step takes 24,268,800 operations: with more than"),
])  # fmt: skip
def test_what_is_not_stacked_says_why(task: str | dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    found = room(study_of(task, **changes))
    assert (found.runs, found.broken) == (1, False)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("widths", [[8, 1024], [1024, 8], [8, 1024, 16]])
def test_models_that_are_too_large_are_found_wherever_they_are_in_the_space(widths: list[int]) -> None:
    space = {"decay": 0.9, "lr": {"log": [0.01, 0.1]}, "width": {"choice": widths}, "depth": {"choice": [1, 2]}}
    study = Study.of(parse_config(small(task="digits", objective={"metric": "average/val_loss"}, space=space)))
    assert room(study).reason.startswith("its models have 76,810 weights")


def test_a_hyperparameter_that_may_not_differ_is_tried_at_its_other_end_too() -> None:
    space = {"decay": 0.9, "lr": {"log": [0.01, 0.1]}, "drops": {"choice": [False, True]}}
    study = Study.of(
        parse_config(small(task=f"{OWN}:DropsLater", objective={"metric": "average/val_loss"}, space=space))
    )
    assert room(study) == Room(
        1, "`loss` draws random numbers, as dropout does, or data that is made at each call", broken=True
    )


def test_a_loss_that_takes_a_gradient_of_its_own_is_tried_all_the_same() -> None:
    found = room(study_of(f"{OWN}:Bending"))
    assert (found.runs, found.broken) == (1, True)
    assert "Tensor.requires_grad_()" in found.reason


def test_trying_leaves_torch_s_defaults_alone() -> None:
    room(study_of(f"{OWN}:Widening"))
    assert torch.get_default_dtype() == torch.float32


def test_a_train_function_is_not_stacked() -> None:
    study = study_of("tasks_of_tests:parabola", "average/score", "max")
    assert room(study) == Room(1, "a train function makes its own loop")


@pytest.mark.parametrize(("task", "reason"), [
    ("ReadsMore", "reads more than `stackable` says"),
    ("Normalising", "as BatchNorm does"),
    ("Dropping", "`loss` draws random numbers, as dropout does"),
    ("Shuffling", "draws from a global random generator"),
])  # fmt: skip
def test_a_task_that_breaks_its_word_is_told(task: str, reason: str) -> None:
    found = room(study_of(f"{OWN}:{task}"))
    assert (found.runs, found.broken) == (1, True)
    assert reason in found.reason


def test_what_a_task_prints_as_it_is_tried_comes_between_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert room(study_of(f"{OWN}:Talking")) == Room(64)
    assert capsys.readouterr() == ("", "")


def test_a_task_that_cannot_train_here_is_taken_at_its_word_as_the_workers_try_it_again() -> None:
    assert room(study_of({"name": "design.own_tasks:CannotTrain"})) == Room(64)


@pytest.mark.faults
def test_a_task_that_hangs_as_it_is_tried_is_trained_one_by_one_where_it_may_not_take_for_ever() -> None:
    limits = {"setting_seconds": 15}  # what torch's imports for it may take, and a long pause
    found = room(study_of(f"{OWN}:Stuck", limits=limits))
    assert (found.runs, found.broken) == (1, True)
    assert re.match(
        r"a setting must train within `limits\.setting_seconds`, got no end after 15 s in threading.py:\d+ wait < "
        r".*stackable_tasks.py:\d+ describe_optimizer",
        found.reason,
    )


def test_a_task_that_ends_its_process_as_it_is_tried_is_trained_one_by_one_where_it_has_one_of_its_own() -> None:
    found = room(study_of({"name": f"{OWN}:Stuck", "exit_code": 3}, limits={"setting_seconds": 600}))
    assert found == Room(1, "the process that trained it ended with exit code 3.", broken=True)


def test_where_a_setting_may_not_take_for_ever_as_much_is_found() -> None:
    limits = {"setting_seconds": 600}
    assert room(study_of(f"{OWN}:Net", limits=limits)) == Room(64)
    assert room(study_of({"name": "digits", "width": 1024}, limits=limits)).reason.startswith("its models have 76,810")

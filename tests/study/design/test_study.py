"""A config checked against its task: settings are completed, searches laid out, and what cannot work is refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.design.config import parse_config
from study.design.schema import METRIC_NAMES, NATURAL, RESERVED, from_natural
from study.design.study import Study
from study.errors import BadInput


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def study(**changes: Any) -> Study:
    """A digits study, with top-level entries of its config changed."""
    return Study.of(
        parse_config(
            {
                "name": "digits-damping",
                "task": {"name": "digits", "label_noise": 0.2},
                "steps": 600,
                "objective": {"metric": "average/val_accuracy"},
                "space": {
                    "decay": {"log_gap": [0.9, 0.9999]},
                    "damping": {"uniform": [0.1, 1]},
                    "lr": {"log": [0.1, 1]},
                },
                "search": {"settings": 8},
            }
            | changes
        )
    )


def own(name: str, **changes: Any) -> Study:
    """A study of one of the tests' own tasks."""
    defaults = {
        "task": f"own_tasks:{name}",
        "objective": {"metric": "average/val_loss"},
        "space": {"decay": 0.9, "lr": {"log": [0.1, 1]}},
    }
    return study(**defaults | changes)


def refusal(call: Any, *arguments: Any, **changes: Any) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments, **changes)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_setting_is_completed_with_what_is_fixed_and_with_defaults():
    setting = study().setting(5, {"decay": 0.99, "lr": 0.5})
    assert setting.number == 5
    assert dict(setting) == {
        "decay": 0.99,
        "damping": 1.0,
        "coupling": 0.0,
        "lr": 0.5,
        "label_noise": 0.2,
        "width": 64,
        "depth": 1,
        "optimizer": "sgd",
        "schedule": "constant",
        "batch_size": 32,
        "steps": 600,
    }
    assert list(setting)[:3] == ["decay", "damping", "coupling"]


def test_values_of_a_setting_have_the_types_that_are_declared():
    setting = study().setting(0, {"decay": 0, "damping": 1, "lr": 1, "width": 32.0, "label_noise": 0})
    assert {name: type(setting[name]) for name in ("decay", "damping", "lr", "width", "label_noise", "steps")} == {
        "decay": float,
        "damping": float,
        "lr": float,
        "width": int,
        "label_noise": float,
        "steps": int,
    }


def test_two_ways_to_write_a_setting_are_the_same_setting():
    assert study().setting(1, {"decay": 0.9, "lr": 1}) == study().setting(1, {"decay": 0.9, "lr": 1.0, "damping": 1})


def test_a_setting_of_a_train_function_has_what_was_drawn_and_fixed():
    found = own(
        "train", task={"name": "own_tasks:train", "data": "here"}, objective={"metric": "live/x", "mode": "min"}
    )
    assert dict(found.setting(0, {"decay": 0.9, "lr": 0.5})) == {
        "decay": 0.9,
        "damping": 1.0,
        "coupling": 0.0,
        "data": "here",
        "lr": 0.5,
        "steps": 600,
    }
    assert found.task_of(found.setting(0, {"decay": 0.9, "lr": 0.5})) is found.task


def test_the_task_of_a_setting_has_its_hyperparameters():
    task = study().task_of(study().setting(0, {"decay": 0.9, "lr": 0.7}))
    assert (task.lr, task.label_noise, task.width) == (0.7, 0.2, 64)


def test_a_hyperparameter_without_a_default_may_be_varied():
    found = own("Whole")
    setting = found.setting(0, {"decay": 0.9, "lr": 0.3})
    assert (setting["lr"], setting["width"]) == (0.3, 8)
    assert found.task_of(setting).lr == 0.3


def test_a_hyperparameter_without_a_default_must_be_given():
    assert refusal(own, "Whole", space={"decay": 0.9}) == "`task.lr` must be given, got nothing; add it."


def test_a_setting_is_plain_data_whatever_the_task_s_types():
    setting = own("Whole").setting(0, {"decay": 0.9, "lr": 0.3})
    assert json.loads(json.dumps(dict(setting))) == dict(setting)
    assert own("Whole").task_of(setting).sizes == (4, 2)


def test_values_that_the_task_refuses_together_stay_for_training_to_fail():
    found = own("Whole", space={"decay": 0.9, "lr": {"uniform": [1, 8]}, "width": {"integers": [1, 8]}})
    setting = found.setting(0, {"decay": 0.9, "lr": 8.0, "width": 9})
    assert (setting["lr"], setting["width"], setting["sizes"]) == (8.0, 9, [4, 2])
    with pytest.raises(ValueError, match="lr times width must stay below 64"):
        found.task_of(setting)


# --- searches ---------------------------------------------------------------------------------------------------------


def test_plain_ema_is_searched_beside_the_space():
    spaces = study().spaces
    assert list(spaces) == ["main", "ema"]
    assert spaces["main"] == study().config.space
    assert spaces["ema"]["decay"] == spaces["main"]["decay"]
    assert spaces["ema"]["lr"] == spaces["main"]["lr"]
    assert (spaces["ema"]["damping"].choice, spaces["ema"]["coupling"].choice) == ((1.0,), (0.0,))


@pytest.mark.parametrize("averages", [{}, {"damping": 1}, {"damping": 1.0, "coupling": 0}])
def test_a_study_of_plain_ema_alone_has_no_second_search(averages):
    assert list(study(space={"decay": {"log_gap": [0.9, 0.99]}} | averages).spaces) == ["main"]


def test_the_search_of_plain_ema_can_be_left_out():
    assert list(study(search={"settings": 8, "baseline": 0}).spaces) == ["main"]


# --- direction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("average/val_accuracy", "max"),
        ("average/val_loss", "min"),
        ("live/val_accuracy", "max"),
        ("live/val_loss", "min"),
    ],
)
def test_the_task_says_which_direction_is_better(metric, mode):
    assert study(objective={"metric": metric}).mode == mode
    assert study(objective={"metric": metric, "mode": mode}).mode == mode


def test_the_config_says_which_direction_is_better_for_a_train_function():
    assert own("train", objective={"metric": "average/score", "mode": "max"}).mode == "max"
    message = refusal(own, "train", objective={"metric": "average/score"})
    assert message == "`objective.mode` must be max or min where the task is a function, got nothing; add it."


def test_the_metric_of_a_train_function_must_say_which_weights_it_measures():
    message = refusal(own, "train", objective={"metric": "score", "mode": "max"})
    assert message == (
        f"`objective.metric` must be average/NAME or live/NAME, of {METRIC_NAMES}, got 'score'; change it."
    )


# --- what is refused (the rest is in test_config.py) ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(RESERVED - NATURAL.keys()), "a b", "2nd", "x" * 200, "lr%"])
def test_a_hyperparameter_that_the_records_cannot_hold_is_refused(name):
    objective = {"metric": "average/x", "mode": "max"}
    message = refusal(own, "train", objective=objective, space={"decay": 0.9, name: 1})
    assert re.search(
        r"a hyperparameter's name must be letters, digits and `_` and none of the study's own .*; rename", message
    )
    assert refusal(own, "train", objective=objective, task={"name": "own_tasks:train", name: 1}) == message


def test_decay_is_no_option_of_the_task():
    message = refusal(
        own, "train", task={"name": "own_tasks:train", "damping": 0.5}, objective={"metric": "average/x", "mode": "max"}
    )
    assert message == "`damping` must be given in `space`, got `task.damping`; move it there."


def test_hyperparameters_of_a_train_function_are_its_own_affair():
    found = own(
        "train", space={"decay": 0.9, "whatever": {"choice": ["a", 1]}}, objective={"metric": "live/x", "mode": "max"}
    )
    assert found.setting(0, {"decay": 0.9, "whatever": 1})["whatever"] == 1


def test_a_damping_that_only_the_study_s_own_decay_allows_is_accepted():
    assert study(space={"decay": {"log_gap": [0.99995, 0.99999]}, "damping": 1.9999}).mode == "max"


def test_the_worst_corner_counts_and_no_other():
    corner = {"damping": {"uniform": [0.1, 1.9]}, "coupling": {"uniform": [0.0, 0.5]}}  # needs 1 - decay < 0.15
    assert study(space={"decay": {"log_gap": [0.8501, 0.99]}} | corner).mode == "max"
    message = refusal(study, space={"decay": {"log_gap": [0.8499, 0.99]}} | corner)
    assert "got decay=0.8499, damping=1.9, coupling=0.5; raise `decay` or lower `damping`." in message


PUSHES = {"decay": {"uniform": [0.5, 0.9]}, "damping": {"uniform": [0.2, 1.2]}, "coupling": {"uniform": [-0.08, 0.5]}}


def test_a_space_may_push_and_pull_as_far_as_every_one_of_its_settings_is_admissible():
    assert study(space=PUSHES).setting(0, {"decay": 0.9, "damping": 1.2, "coupling": -0.08})["coupling"] == -0.08


@pytest.mark.parametrize(
    ("changes", "broken", "corner"),
    [
        (
            {"coupling": {"uniform": [-0.09, 0.5]}},  # needs 0.1 > 0.09 * 1.2
            "1 - decay + coupling * damping > 0",
            "decay=0.9, damping=1.2, coupling=-0.09; raise `coupling` above -0.0833333.",
        ),
        (
            {"damping": {"uniform": [0.07, 1.2]}},  # needs 1.08 * (1 - damping) < 1
            "(1 - coupling) * (1 - damping) < 1",
            "decay=0.9, damping=0.07, coupling=-0.08; raise `coupling` above -0.0752688 or raise `damping`.",
        ),
        (
            {"damping": {"uniform": [0.2, 1.7]}, "coupling": {"uniform": [-0.05, 0.5]}},  # needs 0.5 < 0.3 * 1.5
            "1 - decay < (2 - damping) * (2 - coupling)",
            "decay=0.5, damping=1.7, coupling=0.5; raise `decay` or lower `damping`.",
        ),
    ],
)
def test_each_condition_is_checked_in_its_own_worst_corner(changes, broken, corner):
    message = refusal(study, space=PUSHES | changes)
    assert message == (
        f"`space`: model and average must stay together without a gradient, `{broken}`, got {corner} Change its values."
    )


def test_no_corner_misses_what_a_search_may_draw():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        ends = {
            "decay": sorted(rng.uniform(0, 1, 2)),
            "damping": sorted(rng.uniform(0.01, 1.99, 2)),
            "coupling": sorted(rng.uniform(-0.5, 0.9, 2)),
        }
        corners = [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
        allowed = all(map(admissible, corners))
        space = {name: {"uniform": list(map(float, pair))} for name, pair in ends.items()}
        if allowed:
            assert study(space=space).mode == "max"
        else:
            refused += 1
            refusal(study, space=space)
    assert 20 < refused < 280


def admissible(values):
    k, c, kappa = 1 - values["decay"], values["damping"], values["coupling"]
    return abs(np.linalg.eigvals([[1 - kappa - k, -(1 - c)], [k, 1 - c]])).max() < 1


def test_an_average_that_only_a_push_keeps_stable_is_accepted():
    assert study(space={"decay": 0.1, "damping": 1.6, "coupling": -0.5}).mode == "max"


# --- natural coordinates ----------------------------------------------------------------------------------------------

IN_NATURAL = {
    "memory": {"log": [0.02, 0.5]},
    "damping_ratio": {"log": [0.5, 30]},
    "mass_ratio": {"uniform": [-0.9, 6]},
    "lr": {"log": [0.1, 1]},
}


def test_a_setting_drawn_in_natural_coordinates_holds_decay_damping_and_coupling():
    drawn = {"memory": 0.1, "damping_ratio": 0.5, "mass_ratio": 2.0}
    setting = study(space=IN_NATURAL).setting(3, drawn | {"lr": 0.5})
    assert setting.oscillator == from_natural(drawn, 600)
    assert list(setting)[:3] == ["decay", "damping", "coupling"]
    assert not NATURAL.keys() & setting.keys()


def test_plain_ema_in_natural_coordinates_varies_in_memory_alone():
    found = study(space=IN_NATURAL)
    spaces = found.spaces
    assert spaces["main"] == found.config.space
    assert spaces["ema"]["memory"] == spaces["main"]["memory"]
    fixed = {name: spaces["ema"][name].choice[0] for name in ("damping_ratio", "mass_ratio")}
    assert found.setting(0, {"memory": 0.1, "lr": 1} | fixed) == found.setting(0, {"memory": 0.1, "lr": 1})
    assert found.setting(0, {"memory": 0.1, "lr": 1} | fixed).oscillator.damping == 1


@pytest.mark.parametrize("averages", [{}, {"damping_ratio": "inf"}, {"damping_ratio": "inf", "mass_ratio": 0}])
def test_a_study_of_plain_ema_alone_in_natural_coordinates_has_no_second_search(averages):
    assert list(study(space={"memory": {"log": [0.02, 0.5]}} | averages).spaces) == ["main"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"decay": 0.9, "mass_ratio": 1},
            "`space` must hold either decay, damping, coupling or memory, damping_ratio, mass_ratio, got both decay "
            "and mass_ratio; keep one system.",
        ),
        (
            {"damping_ratio": 1},
            "`space.memory` must be given beside damping_ratio, got nothing; add e.g. `memory: {log: [0.02, 0.5]}`.",
        ),
        (
            {"lr": 1},
            "`space.decay` must be given, got nothing; add e.g. `decay: {log_gap: [0.9, 0.9999]}`, or "
            "`memory: {log: [0.02, 0.5]}`.",
        ),
        ({"memory": 0.001}, "`space.memory` must be above 1 / steps = 0.00166667, got 0.001; raise it."),
        ({"memory": "long"}, "`space.memory` must be numbers, got 'long'; change it."),
        (
            {"memory": 0.1, "damping_ratio": {"uniform": [0, 1]}},
            "`space.damping_ratio` must be above 0, got 0; raise it.",
        ),
        (
            {"memory": 0.1, "damping_ratio": {"choice": [1, "ema"]}},
            "`space.damping_ratio` must be numbers or inf, got 'ema'; change it.",
        ),
        ({"memory": 0.1, "mass_ratio": -1}, "`space.mass_ratio` must be above -1, got -1; raise it."),
        (
            {"memory": {"log": [0.005, 0.5]}, "mass_ratio": {"uniform": [0, 6]}},
            "`space`: coupling = mass_ratio / (lag + 1) must stay below 1, got mass_ratio 6 with memory 0.005 of 600 "
            "steps (lag + 1 = 3); raise `memory` above 0.01 or lower `mass_ratio` below 3.",
        ),
        (
            {"memory": 1e6, "damping_ratio": {"log": [0.1, 1]}},
            "`space`: 1 - decay must stay above 1e-12, where decay still tells memories apart, got about 1.1e-19 with "
            "memory 1e+06 of 600 steps and damping_ratio 0.1; lower `memory` or raise `damping_ratio`.",
        ),
        (
            {"memory": 0.5, "damping_ratio": {"log": [0.3, 30]}, "mass_ratio": {"uniform": [-0.9, 0]}},
            "`space`: mass_ratio must stay above -0.359856 (about -4 damping_ratio^2), where model and average stay "
            "together without a gradient, got -0.9 with damping_ratio 0.3 and memory 0.5 of 600 steps; raise "
            "`mass_ratio` or `damping_ratio`.",
        ),
    ],
)
def test_what_is_not_possible_in_natural_coordinates_is_refused_with_the_numbers(space, message):
    assert refusal(study, space=space) == message


def test_natural_coordinates_are_no_options_of_the_task():
    message = refusal(
        own, "train", task={"name": "own_tasks:train", "memory": 1}, objective={"metric": "average/x", "mode": "max"}
    )
    assert message == "`memory` must be given in `space`, got `task.memory`; move it there."


def test_no_corner_of_natural_coordinates_misses_what_a_search_may_draw():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        ends = {
            "memory": np.sort(np.exp(rng.uniform(-6, 1, 2))),
            "damping_ratio": np.sort(np.exp(rng.uniform(-2.5, 3, 2))),
            "mass_ratio": np.sort(rng.uniform(-1, 1, 2) * [1, 8]),
        }
        space = {name: {"uniform": list(map(float, pair))} for name, pair in ends.items()}
        grids = [np.linspace(*pair, 4) for pair in ends.values()]
        points = [dict(zip(ends, map(float, point), strict=True)) for point in itertools.product(*grids)]
        if all(possible(point, 600) for point in points):
            assert study(space=space).mode == "max"
        else:
            refused += 1
            refusal(study, space=space)
    assert 15 < refused < 135


def test_a_push_is_bounded_at_the_longest_memory_and_a_pull_at_the_shortest():
    push = {"damping_ratio": 0.3, "mass_ratio": -0.37}  # the bound is -0.36 at a memory of 300 steps, -0.397 at 2
    assert study(space=push | {"memory": 2 / 600}).mode == "max"
    assert "got -0.37" in refusal(study, space=push | {"memory": {"log": [2 / 600, 0.5]}})
    assert study(space={"memory": 0.5, "mass_ratio": 2.5}).mode == "max"
    assert "got mass_ratio 2.5" in refusal(study, space={"memory": {"log": [2 / 600, 0.5]}, "mass_ratio": 2.5})


def possible(point, steps):
    try:
        return admissible(
            {name: getattr(from_natural(point, steps), name) for name in ("decay", "damping", "coupling")}
        )
    except ValueError:
        return False


# --- data -------------------------------------------------------------------------------------------------------------


def test_the_data_s_digest_is_the_task_s():
    assert own("Whole").data_digest() == "0123"
    assert re.fullmatch(r"[0-9a-f]{16}", study().data_digest())


def test_a_train_function_has_no_data_s_digest():
    assert own("train", objective={"metric": "live/x", "mode": "max"}).data_digest() == ""


def test_data_that_cannot_be_read_is_refused():
    message = refusal(own("DataMissing").data_digest)
    assert message == (
        "the task's data must be readable, got FileNotFoundError: no images.npy from own_tasks:DataMissing; mend it."
    )


def test_a_task_that_does_not_take_its_hyperparameters_is_refused():
    assert refusal(own, "MakesItself").startswith(
        "`task.name` must be a Task that is made of its hyperparameters, got 'own_tasks:MakesItself': AttributeError: "
    )


def test_a_default_optimizer_that_does_not_exist_harms_no_study_whose_settings_have_others():
    space = {"decay": 0.9, "lr": 0.1, "kind": {"choice": ["sgd", "adam"]}}
    assert not own("UnsetOptimizer", space=space).is_plain_sgd
    assert not own("UnsetOptimizer").is_plain_sgd  # nor one in which every training fails, and says why

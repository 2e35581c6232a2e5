"""Parameters that vary only where others have certain values: `when`."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from studies import small

from study.design.config import parse_config
from study.design.dimension import Choice, Dimension
from study.design.space import Space, applying, combinations, grid, needs, ordered
from study.design.study import Study
from study.errors import BadInput

SPACE = {
    "decay": 0.9,
    "optimizer": {"choice": ["sgd", "adam", "adamw"]},
    "momentum": {"uniform": [0.0, 0.99], "when": {"optimizer": "sgd"}},
    "betas": {"choice": [[0.9, 0.99], [0.9, 0.999]], "when": {"optimizer": ["adam", "adamw"]}},
    "weight_decay": {"log": [1e-5, 0.1], "when": {"optimizer": "adamw"}},
}
FUNCTION = {"name": "tasks_of_tests:parabola"}
SCORE = {"metric": "average/score", "mode": "max"}
DIGITS = {
    "task": {"name": "digits", "label_noise": 0.2},
    "objective": {"metric": "average/val_accuracy"},
    "space": {
        "decay": 0.9,
        "schedule": {"choice": ["constant", "cosine"]},
        "label_noise": {"uniform": [0.3, 0.5], "when": {"schedule": "cosine"}},
    },
}


def space_of(**plain: Any) -> Space:
    adapter: TypeAdapter[Any] = TypeAdapter(Dimension)
    return ordered({name: adapter.validate_python(each) for name, each in plain.items()})


def study_of(**changes: Any) -> Study:
    return Study.of(parse_config(small(**changes)))


# --- the space --------------------------------------------------------------------------------------------------------


def test_a_parameter_comes_behind_those_that_it_depends_on_whatever_the_order_in_the_config() -> None:
    study = study_of(task=FUNCTION, objective=SCORE, space=SPACE)
    assert list(study.spaces["main"]) == ["decay", "optimizer", "betas", "momentum", "weight_decay"]
    backwards = study_of(task=FUNCTION, objective=SCORE, space=dict(reversed(SPACE.items())))
    assert list(backwards.spaces["main"]) == list(study.spaces["main"])


def test_values_whose_conditions_do_not_hold_are_left_out_and_what_depends_on_them_too() -> None:
    space = space_of(
        a={"choice": [1, 2]},
        b={"integers": [0, 9], "when": {"a": 1}},
        c={"uniform": [0, 1], "when": {"b": [3, 4]}},
    )
    assert applying(space, {"a": 1, "b": 3, "c": 0.5}) == {"a": 1, "b": 3, "c": 0.5}
    assert applying(space, {"a": 1, "b": 5, "c": 0.5}) == {"a": 1, "b": 5}
    assert applying(space, {"a": 2, "b": 3, "c": 0.5}) == {"a": 2}
    assert needs(space)["c"] == {"a": [1], "b": [3, 4]}


def test_a_whole_number_may_be_written_with_a_point() -> None:
    space = space_of(n={"integers": [1, 3]}, m={"choice": [0.5, 2.0]}, x={"choice": [7], "when": {"n": 2.0, "m": 2}})
    assert [setting for setting in grid(space) if "x" in setting] == [{"m": 2.0, "n": 2, "x": 7}]


def test_a_value_is_told_from_another_of_its_text_or_size() -> None:
    space = space_of(
        flag={"choice": [True, 1, "1", None, [1]]},
        x={"choice": [0], "when": {"flag": True}},
        y={"choice": [0], "when": {"flag": [[1], None]}},
    )
    assert [sorted(setting.keys() - {"flag"}) for setting in grid(space)] == [["x"], [], [], ["y"], ["y"]]


@st.composite
def conditional_spaces(draw: Any) -> Space:
    """Up to five parameters of up to four values, each with conditions on any before it."""
    names = list("abcde")[: draw(st.integers(1, 5))]
    counts = {name: draw(st.integers(1, 4)) for name in names}
    plain: dict[str, Any] = {}
    for place, name in enumerate(names):
        dimension: dict[str, Any] = {"choice": list(range(counts[name]))}
        for other in names[:place]:
            if draw(st.booleans()):
                wanted = draw(st.sets(st.integers(0, counts[other] - 1), min_size=1))
                dimension.setdefault("when", {})[other] = sorted(wanted)
        plain[name] = dimension
    try:
        return space_of(**plain)
    except BadInput:  # conditions that leave no value
        return space_of(a={"choice": [1]})


@given(conditional_spaces())
@settings(deadline=None)
def test_a_grid_has_each_setting_once_as_many_as_are_counted_and_of_each_what_varies_there(space: Space) -> None:
    listed = grid(space)
    assert len({str(setting) for setting in listed}) == len(listed) == combinations(space)
    for setting in listed:
        for name, dimension in space.items():
            holds = all(setting.get(other) in wanted for other, wanted in dimension.when.items())
            assert (name in setting) == holds


def test_settings_are_counted_where_they_are_too_many_to_list() -> None:
    switches = {f"on{i}": {"choice": [0, 1]} for i in range(30)}
    behind = {f"x{i}": {"integers": [1, 10**9], "when": {f"on{i}": 1}} for i in range(30)}
    assert combinations(space_of(**switches, **behind)) == pytest.approx((1 + 1e9) ** 30)
    behind["x0"] = {"uniform": [0, 1], "when": {"on0": 1}}
    assert combinations(space_of(**switches, **behind)) == math.inf


def test_a_study_without_conditions_is_the_question_that_it_was() -> None:
    assert Choice(choice=("sgd",)).model_dump() == {"choice": ("sgd",)}
    assert Choice(choice=("sgd",), when={"a": 1}).model_dump() == {"choice": ("sgd",), "when": {"a": (1,)}}
    config = study_of(task=FUNCTION, objective=SCORE, space=SPACE).config
    assert parse_config(config.plain()) == config


# --- its settings -----------------------------------------------------------------------------------------------------


def test_where_a_condition_does_not_hold_the_parameter_is_as_the_config_or_the_task_has_it() -> None:
    study = study_of(**DIGITS)
    assert study.setting(0, {"decay": 0.9, "schedule": "cosine", "label_noise": 0.4})["label_noise"] == 0.4
    assert study.setting(0, {"decay": 0.9, "schedule": "constant"})["label_noise"] == 0.2
    study = study_of(**DIGITS | {"task": "digits"})
    assert study.setting(0, {"decay": 0.9, "schedule": "constant"})["label_noise"] == 0.0


def test_a_train_function_gets_null_for_what_does_not_vary() -> None:
    study = study_of(task=FUNCTION | {"weight_decay": 0.0}, objective=SCORE, space=SPACE)
    setting = study.setting(0, {"decay": 0.9, "optimizer": "sgd", "momentum": 0.5})
    assert (setting["momentum"], setting["betas"], setting["weight_decay"]) == (0.5, None, 0.0)


# --- what is refused --------------------------------------------------------------------------------------------------


def when(**conditions: Any) -> dict[str, Any]:
    return {"choice": [0, 1], "when": conditions}


OTHERS = r"must be a mapping of other parameters to their values, as \{optimizer: adam\}, got "
NAMES = r"must name hyperparameters in `space` that are a choice or whole numbers \(optimizer, betas.*\), got "
OPTIMIZERS = r"\(choice \['sgd', 'adam', 'adamw'\]\), got "
LIST = r"must name a value of optimizer, or a list of them, got "


@pytest.mark.parametrize(("name", "dimension", "message"), [
    ("x", {"uniform": [0, 1], "when": {}}, rf"`space.x.when` {OTHERS}\{{\}}; change it"),
    ("x", {"log_gap": [0, 0.5], "when": "adam"}, rf"`space.x.when` {OTHERS}'adam'; change it"),
    ("x", {"integers": [1, 9], "step": 2, "when": ["adam"]}, rf"`space.x.when` {OTHERS}\['adam'\]; change it"),
    ("x", when(optimizer=[]), rf"`space.x.when` {LIST}\[\]"),
    ("x", when(optimizer={"a": 1}), rf"`space.x.when` {LIST}\{{'a': 1\}}"),
    ("x", when(optimiser="sgd"), rf"`space.x.when` {NAMES}'optimiser'; change it\.$"),
    ("x", when(momentum=0.5), rf"`space.x.when` {NAMES}'momentum'"),
    ("x", when(decay=0.9), rf"`space.x.when` {NAMES}'decay'"),
    ("x", when(x=1), r"`space` must have parameters that do not depend on themselves, got `when` in a circle of x"),
    ("x", when(optimizer="rms"), rf"`space.x.when` must have values of `space.optimizer` {OPTIMIZERS}'rms'"),
    ("x", when(betas=[0.9, 0.99]), r"values of `space.betas` .*, got 0.9; change it \(a list stands for any of "),
    ("x", when(betas=[[0.9, 0.99]], optimizer="sgd"), r"`space.x` must be able to vary, .* no value of optimizer"),
    ("damping", when(optimizer="sgd"), r"`space.damping` must have no `when`, as every setting has an average; remove"),
    ("x", when(optimizer="sgd") | {"unless": 1}, r"`space.x` must be one value or one of"),
    ("x", {"uniform": [0, 1], "wen": {"optimizer": "sgd"}}, r"`space.x` must be .*, which may have `when: "),
    ("x", {"choice": [0, 1], "when": {1: 2}}, r"`space.x.when.1` must be text, got 1; change it"),
])  # fmt: skip
def test_conditions_that_cannot_be_meant_are_refused(name: str, dimension: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        study_of(task=FUNCTION, objective=SCORE, space=SPACE | {name: dimension})


def test_a_circle_is_refused_by_its_parameters_without_those_that_depend_on_it() -> None:
    circle = {"x": {"choice": [1, 2], "when": {"y": 1}}, "y": {"choice": [1, 2], "when": {"x": 1}}}
    behind = {"a": {"choice": [1, 2], "when": {"optimizer": "sgd", "x": 1}}, "b": {"uniform": [0, 1], "when": {"a": 1}}}
    with pytest.raises(BadInput, match=r"`when` in a circle of (x, y|y, x); leave one out\.$"):
        study_of(task=FUNCTION, objective=SCORE, space=SPACE | circle | behind)


def test_gaussian_processes_take_no_conditions() -> None:
    with pytest.raises(
        BadInput, match=r"`space.momentum` must have no `when` for the gp sampler, which would draw it at"
    ):
        study_of(task=FUNCTION, objective=SCORE, space=SPACE, search={"sampler": "gp", "settings": 8})


def test_a_task_must_have_a_value_where_a_condition_does_not_hold() -> None:
    changes = {"objective": {"metric": "average/val_loss"}}
    space = {"decay": 0.9, "width": {"choice": [4, 8]}, "lr": {"uniform": [0.1, 1], "when": {"width": 8}}}
    with pytest.raises(
        BadInput, match=r"`space.lr` must have a value where its `when` does not hold, got none; add `task"
    ):
        study_of(task="own_tasks:Whole", space=space, **changes)
    study = study_of(task={"name": "own_tasks:Whole", "lr": 0.01}, space=space, **changes)
    assert study.setting(0, {"decay": 0.9, "width": 4})["lr"] == 0.01


def test_values_are_checked_beside_those_at_which_they_vary() -> None:
    space = {"decay": 0.9, "lr": {"choice": [10.0, 1.0]}}
    changes = {"task": {"name": "own_tasks:Whole", "width": 1}, "objective": {"metric": "average/val_loss"}}
    study_of(**changes, space=space | {"width": {"integers": [1, 64], "when": {"lr": 1.0}}})
    with pytest.raises(BadInput, match=r"lr times width must stay below 64"):
        study_of(**changes, space=space | {"width": {"integers": [1, 64], "when": {"lr": 10.0}}})


@pytest.mark.parametrize("known", [{"optimizer": "adam", "momentum": 0.5}, {"momentum": 0.5}])
def test_a_known_setting_must_be_one_of_the_space(known: dict[str, Any]) -> None:
    shown = f"got momentum 0.5 in {dict(sorted(known.items()))} where `space.momentum` is uniform [0.0, 0.99], when"
    with pytest.raises(
        BadInput, match=rf"^`search.start` must give a parameter with `when` beside .*{re.escape(shown)}"
    ):
        study_of(task=FUNCTION, objective=SCORE, space=SPACE, search={"settings": 8, "start": [known]})

"""Dimensions: what they draw stays inside, and is spread as they say; Optuna is the real one."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from pydantic import TypeAdapter
from scipy import stats

from study.design.dimension import (
    Choice,
    Dimension,
    Integers,
    Log,
    LogGap,
    LogIntegers,
    SteppedIntegers,
    Uniform,
    label,
    only,
)
from study.design.schema import identity
from study.design.space import combinations, grid

optuna.logging.set_verbosity(optuna.logging.WARNING)

DIMENSIONS = {
    "uniform": Uniform(uniform=(-2.0, 0.7)),
    "log": Log(log=(1e-4, 3.0)),
    "log_gap": LogGap(log_gap=(0.9, 0.9999)),
    "integers": Integers(integers=(3, 9)),
    "stepped": SteppedIntegers(integers=(-4, 8), step=4),
    "log_integers": LogIntegers(log_integers=(1, 40)),
    "choice": Choice(choice=("sgd", 2, 0.5, True)),
}
DRAWS = 400
SIGNIFICANCE = 1e-3  # of the tests of distribution; the seed is fixed, so they pass always or never

finite = st.floats(-1e6, 1e6)
shares = st.floats(0, 1)


def draws(dimension: Any, name: str = "x", seed: int = 0) -> list[Any]:
    study = optuna.create_study(sampler=RandomSampler(seed))
    return [dimension.suggest(name, study.ask()) for _ in range(DRAWS)]


@st.composite
def intervals(draw: Any, ends: st.SearchStrategy[float]) -> tuple[float, float]:
    low, high = sorted((draw(ends), draw(ends)))
    assume(low < high)
    return low, high


# --- what Optuna draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "log", "log_gap", "integers", "log_integers"])
def test_every_draw_stays_inside(kind):
    dimension = DIMENSIONS[kind]
    low, high = getattr(dimension, kind)
    assert all(low <= value <= high for value in draws(dimension))


def test_a_choice_draws_each_of_its_values():
    drawn = draws(DIMENSIONS["choice"])
    assert {(type(value), value) for value in drawn} == {(str, "sgd"), (int, 2), (float, 0.5), (bool, True)}


def test_a_choice_may_have_null_and_lists_and_tells_true_from_1_and_from_their_texts():
    values = [None, "null", [64, 64], "[64, 64]", [], 1, True, "1", "true"]
    dimension = Choice(choice=values)
    assert {identity(value) for value in draws(dimension)} == {identity(value) for value in values}
    for value in values:
        trial = optuna.trial.FixedTrial({"x": dimension.drawn_as(value)})
        assert identity(dimension.suggest("x", trial)) == identity(value)
    assert dimension.drawn_as([]) == "[]"
    assert Choice(choice=[None, 0.1]).drawn_as(None) is None  # by its own name where Optuna has one


def test_integers_draw_both_ends_and_everything_between():
    assert set(draws(DIMENSIONS["integers"])) == {3, 4, 5, 6, 7, 8, 9}
    assert set(draws(DIMENSIONS["stepped"])) == {-4, 0, 4, 8}


def test_integers_in_the_logarithm_are_spread_as_evenly_over_1_to_6_as_over_6_to_40():
    drawn, computed = draws(DIMENSIONS["log_integers"]), [DIMENSIONS["log_integers"].at(u / 400) for u in range(401)]
    assert {min(drawn), max(drawn), computed[0], computed[-1]} == {1, 40}
    middle = math.log(6.5 / 0.5) / math.log(40.5 / 0.5)
    for values in (drawn, computed):
        assert all(isinstance(value, int) for value in values)
        assert sum(value <= 6 for value in values) / len(values) == pytest.approx(middle, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("uniform", lambda x: x), ("log", math.log), ("log_gap", lambda x: math.log(1 - x))],
)
def test_draws_are_uniform_on_the_scale_that_the_dimension_names(kind, scale):
    dimension = DIMENSIONS[kind]
    low, high = sorted(map(scale, getattr(dimension, kind)))
    scaled = [(scale(value) - low) / (high - low) for value in draws(dimension)]
    assert stats.kstest(scaled, "uniform").pvalue > SIGNIFICANCE


def test_log_gap_is_far_from_uniform_in_the_value_itself():
    low, high = DIMENSIONS["log_gap"].log_gap
    assert (
        stats.kstest([(value - low) / (high - low) for value in draws(DIMENSIONS["log_gap"])], "uniform").pvalue < 1e-9
    )


def test_optuna_knows_a_gap_by_its_own_name():
    study = optuna.create_study(sampler=RandomSampler(0))
    trial = study.ask()
    value = DIMENSIONS["log_gap"].suggest("decay", trial)
    assert trial.params == {"1 - decay": pytest.approx(1 - value)}
    assert [label("decay", dimension) for dimension in DIMENSIONS.values()] == [
        "decay",
        "decay",
        "1 - decay",
        "decay",
        "decay",
        "decay",
        "decay",
    ]


@given(intervals(st.floats(-10, 1, exclude_max=True)), shares)
@settings(deadline=None)
def test_log_gap_never_leaves_its_range_whatever_gap_is_drawn(interval, share):
    dimension = LogGap(log_gap=interval)
    trial = optuna.trial.FixedTrial({"1 - decay": dimension.at(share)})
    low, high = interval
    assert low <= dimension.suggest("decay", trial) <= high


# --- shares of a range ------------------------------------------------------------------------------------------------


@given(intervals(finite), shares, shares)
def test_uniform_at_a_share_is_inside_and_rises(interval, one, other):
    dimension = Uniform(uniform=interval)
    first, second = (dimension.at(share) for share in sorted((one, other)))
    assert interval[0] <= first <= second <= interval[1]


@given(intervals(st.floats(1e-9, 1e9)), shares, shares)
def test_log_at_a_share_is_inside_and_rises(interval, one, other):
    dimension = Log(log=interval)
    first, second = (dimension.at(share) for share in sorted((one, other)))
    assert interval[0] <= first <= interval[1]
    assert first <= second * (1 + 1e-12)


@given(intervals(st.floats(-10, 1, exclude_max=True)), shares, shares)
def test_log_gap_at_a_share_is_a_gap_inside_and_falls(interval, one, other):
    dimension = LogGap(log_gap=interval)
    first, second = (dimension.at(share) for share in sorted((one, other)))
    assert 1 - interval[1] <= second <= 1 - interval[0]
    assert second <= first * (1 + 1e-12)


@given(st.tuples(st.integers(-50, 50), st.integers(1, 50)), shares, shares)
def test_integers_at_a_share_is_inside_and_rises(range_, one, other):
    low, high = range_[0], range_[0] + range_[1]
    dimension = Integers(integers=(low, high))
    first, second = (dimension.at(share) for share in sorted((one, other)))
    assert isinstance(first, int)
    assert low <= first <= second <= high


@pytest.mark.parametrize(
    ("kind", "share", "value"),
    [
        ("uniform", 0.5, -0.65),
        ("log", 0.5, math.sqrt(3e-4)),
        ("log_gap", 0.5, math.sqrt(0.1 * 1e-4)),
        ("log_gap", 0.0, 0.1),
        ("log_gap", 1.0, 1e-4),
    ],
)
def test_half_of_a_range_lies_below_its_middle(kind, share, value):
    assert DIMENSIONS[kind].at(share) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("kind", ["integers", "stepped", "choice"])
def test_equal_shares_fall_on_each_value_of_a_list(kind):
    dimension = DIMENSIONS[kind]
    values = list(dimension.values)
    assert [dimension.at((place + 0.5) / len(values)) for place in range(len(values))] == values
    assert (dimension.at(0.0), dimension.at(1.0)) == (values[0], values[-1])


# --- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "log", "log_gap"])
def test_a_range_is_probed_at_its_ends_and_at_one_value_that_is_not_round(kind):
    dimension = DIMENSIONS[kind]
    low, high, between = dimension.probes()
    assert (low, high) == getattr(dimension, kind)
    assert low < between < high


def test_a_list_is_probed_at_all_of_its_values_and_integers_at_their_ends():
    assert DIMENSIONS["choice"].probes() == ("sgd", 2, 0.5, True)
    assert DIMENSIONS["integers"].probes() == (3, 9)
    assert DIMENSIONS["stepped"].probes() == (-4, 8)


@pytest.mark.parametrize(("kind", "there", "not_there"), [
    ("integers", (3, 9), (2, 10, 3.5)),
    ("stepped", (-4, 0, 8), (-8, 2, 12, 0.5)),
    ("log_integers", (1, 40), (0, 41, 1.5)),
])  # fmt: skip
def test_whole_numbers_hold_their_values_and_no_other(kind, there, not_there):
    assert all(map(DIMENSIONS[kind].holds, there))
    assert not any(map(DIMENSIONS[kind].holds, not_there))


def test_each_combination_of_a_finite_space_is_listed_once():
    space = {name: DIMENSIONS[name] for name in ("integers", "stepped", "log_integers", "choice")}
    settings = grid(space)
    assert combinations(space) == len(settings) == 7 * 4 * 40 * 4
    assert len(set(map(str, settings))) == len(settings)


# --- reading and combining --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIMENSIONS)
def test_a_dimension_is_read_from_plain_data_by_its_kind(kind):
    adapter: TypeAdapter[Any] = TypeAdapter(Dimension)
    assert adapter.validate_python(DIMENSIONS[kind].model_dump()) == DIMENSIONS[kind]
    assert adapter.validate_python(DIMENSIONS[kind]) is DIMENSIONS[kind]
    assert adapter.validate_json(DIMENSIONS[kind].model_dump_json()) == DIMENSIONS[kind]


def test_values_of_a_choice_keep_their_types():
    assert [type(value) for value in Choice(choice=[True, 0, 0.5, "1"]).choice] == [bool, int, float, str]


def test_a_grid_is_every_combination_with_the_last_name_varying_fastest():
    space = {"decay": Choice(choice=(0.9, 0.99)), "lr": only(1.0), "optimizer": Choice(choice=("sgd", "adam"))}
    assert grid(space) == [
        {"decay": 0.9, "lr": 1.0, "optimizer": "sgd"},
        {"decay": 0.9, "lr": 1.0, "optimizer": "adam"},
        {"decay": 0.99, "lr": 1.0, "optimizer": "sgd"},
        {"decay": 0.99, "lr": 1.0, "optimizer": "adam"},
    ]
    assert grid({}) == [{}]

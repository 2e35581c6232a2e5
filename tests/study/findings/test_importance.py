"""Which parameters matter, on surfaces where that is known."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import recorded

from study.design.schema import PARAMETERS, family, from_natural, natural
from study.errors import FailedWork
from study.findings.collect import Records
from study.findings.importance import FANOVA, HALVES, PED_ANOVA, Importances, _interval, importances
from study.insights import importance_tables, importance_text

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

STEPS, LR = 600, "lr"


def study(count: int, truth: Any, lr: bool = True, seed: int = 0) -> Records:
    """Records of averages and learning rates spread evenly, whose quality is a function of shares of their ranges."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        memory, ratio, rate = rng.uniform(size=3)
        coordinates = {"memory": 0.02 * 20**memory, "damping_ratio": 0.5 * 20**ratio if lr else 2.0, "mass_ratio": 0.0}
        average = from_natural(coordinates, STEPS)
        shared = {name: getattr(average, name) for name in PARAMETERS} | natural(average, STEPS)
        shared |= {
            "setting": number,
            "state": "complete",
            "message": "",
            "diverged_at": np.nan,
            "family": family(average),
            LR: 0.1 * 10**rate if lr else 1.0,
        }
        value = truth(memory, ratio, rate)
        rows += [shared | {"seed": seed, recorded.AVERAGE: value + 0.02 * rng.normal()} for seed in range(3)]
    names = [*PARAMETERS, LR]
    table = pd.DataFrame(rows)
    return Records("made", "", recorded.AVERAGE, "max", STEPS, 3, count, {}, {}, table, pd.DataFrame(), names)


@pytest.fixture(scope="module")
def found() -> Importances:
    """The learning rate matters most, memory acts together with it, the damping ratio does nothing."""
    return importances(study(60, lambda memory, ratio, rate: 2 * rate + 2 * (memory - 0.5) * (rate - 0.5)))


def test_what_matters_most_is_first_by_either_evaluator_and_what_does_nothing_is_small(found: Importances) -> None:
    for evaluator in (FANOVA, PED_ANOVA):
        assert hasattr(optuna.importance, evaluator)
        single = [one for one in found.single if one.evaluator == evaluator]
        assert single[0].parameter == LR
        assert {one.parameter for one in single} == {LR, "memory", "damping_ratio"}  # no mass ratio varies
        assert sum(one.importance for one in single) == pytest.approx(1)
        assert all(first.importance >= second.importance for first, second in pairwise(single))
        assert all(0 <= one.low <= one.importance <= one.high <= 1 for one in single)
    fanova = {one.parameter: one for one in found.single if one.evaluator == FANOVA}
    assert fanova[LR].low > 0.5
    assert fanova["damping_ratio"].low < 0.05


def test_the_pair_that_acts_together_is_first(found: Importances) -> None:
    assert {found.pairs[0].first, found.pairs[0].second} == {LR, "memory"}
    assert found.pairs[0].share > 3 * found.pairs[1].share
    assert found.predicted is not None
    assert found.predicted.low > 0.5
    assert "noise" not in importance_text(found)


def test_the_system_is_named_and_the_data_is_strict_json(found: Importances) -> None:
    assert found.system == "natural"
    assert "over 60 settings, riders left out; natural coordinates" in importance_text(found)
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)
    assert [len(table) for table in importance_tables(found)] == [6, 3]


def test_optuna_goes_on_saying_what_it_said_before(found: Importances) -> None:
    assert found.single
    assert optuna.logging.get_verbosity() != optuna.logging.ERROR


def test_importances_of_noise_are_said_to_be_that() -> None:
    noise = importances(study(24, lambda memory, ratio, rate: 0.0, seed=1))
    assert noise.predicted is not None
    assert noise.predicted.low <= 0
    assert "these may be importances of noise" in importance_text(noise)


def test_intervals_by_random_halves_hold_a_known_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held, widths = [], []
    for _ in range(500):
        drawn = rng.beta(2, 3, 60)
        halves = np.array([rng.permutation(drawn)[:30].mean() for _ in range(HALVES)])
        low, high = _interval(float(drawn.mean()), halves)
        held.append(low <= 2 / 5 <= high)
        widths.append(high - low)
    assert 0.93 <= np.mean(held) <= 0.975
    assert np.mean(widths) < 1.25 * 2 * 1.96 * 0.2 / 60**0.5  # of an interval that knows the spread, 0.2


@pytest.mark.parametrize(("settings", "evaluators"), [(39, {FANOVA}), (40, {FANOVA, PED_ANOVA})])
def test_ped_anova_is_left_out_where_its_best_tenth_is_too_few_settings(settings: int, evaluators: set[str]) -> None:
    few = importances(study(settings, lambda memory, ratio, rate: rate))
    assert {one.evaluator for one in few.single} == evaluators
    assert ("left out   PED-ANOVA" in importance_text(few)) == (settings < 40)


def test_few_settings_allow_none_and_it_is_said() -> None:
    few = importances(study(8, lambda memory, ratio, rate: rate))
    assert (few.single, few.pairs, few.predicted) == ([], [], None)
    assert importance_tables(few) == []
    assert "unknown  nothing can be told from 8 trainings" in importance_text(few)


def test_a_parameter_that_varies_alone_cannot_be_weighed() -> None:
    alone = importances(study(25, lambda memory, ratio, rate: memory, lr=False))
    assert alone.unknown == "memory alone varies, so there is nothing to weigh it against"


def test_a_constant_objective_allows_none() -> None:
    assert "measured the same" in importances(recorded.records("constant")).unknown


def test_an_objective_that_one_setting_alone_changes_ends_in_no_fault() -> None:
    table = study(20, lambda memory, ratio, rate: 0.0)
    table.table[recorded.AVERAGE] = 0.5
    table.table.loc[table.table["setting"] == 7, recorded.AVERAGE] = 0.25
    found = importances(table)
    assert all(0 <= one.low <= one.importance <= one.high <= 1 for one in found.single)


def test_where_nothing_was_completed_it_is_failed_work() -> None:
    with pytest.raises(FailedWork, match=r"a setting must have completed every seed .* got none of 'all-failed'"):
        importances(recorded.records("all-failed"))

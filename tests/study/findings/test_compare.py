"""Rankings and paired comparisons, compared with NumPy's and SciPy's on the numbers that were recorded."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import recorded
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from belay import Oscillator, methods
from study import cli
from study.cli import parameters
from study.design.schema import NATURAL, PARAMETERS, family, natural, oscillator_of
from study.errors import BadInput
from study.findings.choose import dunnett, leads, level, row, seeds_needed
from study.findings.compare import (
    ADVISED,
    BASELINES,
    Difference,
    Method,
    against,
    beside,
    best_by,
    best_of,
    comparisons,
    difference,
    members,
    metric_of,
    ranking,
    rivals,
    values,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

AVERAGE, LIVE = recorded.AVERAGE, recorded.LIVE


def measured(setting: int, metric: str = AVERAGE) -> np.ndarray:
    return np.array(recorded.MIXED[setting].values[metric])


def interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """SciPy's own 95 % interval of a paired difference."""
    found = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    return found.low, found.high


# --- the interval -----------------------------------------------------------------------------------------------------


def paired(ours: Sequence[float], theirs: Sequence[float], mode: str = "max") -> Difference:
    """The difference of two settings that were the only ones."""
    return difference(pd.Series(ours), pd.DataFrame([theirs]), 0, mode, chosen_from=2)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=12))
def test_the_interval_of_a_pair_is_scipy_s(pairs):
    ours, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    if np.ptp(ours - theirs) < 1e-6:
        return  # nothing varies: SciPy warns
    found = paired(ours, theirs)
    assert found.mean == pytest.approx(np.mean(ours - theirs), abs=1e-9)
    assert (found.low, found.high) == pytest.approx(interval(ours, theirs), rel=1e-9, abs=1e-9)
    assert found.seeds == len(pairs)


def test_the_interval_of_one_chosen_from_many_is_as_much_wider_as_dunnett_says():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 16))
    one = paired(ours, theirs)
    many = difference(pd.Series(ours), pd.DataFrame([theirs]), 0, "max", chosen_from=5)
    assert many.mean == one.mean
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(dunnett(4, 15) / dunnett(1, 15))


def test_a_difference_is_positive_where_ours_is_better_in_either_mode():
    up, down = paired([3.0, 4.0, 5.0], [1.0, 2.5, 2.0]), paired([3.0, 4.0, 5.0], [1.0, 2.5, 2.0], "min")
    assert up.mean == pytest.approx(13 / 6)
    assert (down.mean, down.low, down.high) == (-up.mean, -up.high, -up.low)
    assert (up.superiority, down.superiority) == (1, 0)


def test_only_seeds_that_both_have_are_paired():
    found = paired([1.0, 2.0, math.nan, 4.0], [math.nan, 1.0, 5.0, 1.0])
    assert (found.mean, found.seeds) == (2.0, 2)


def test_one_seed_has_a_difference_and_no_interval():
    found = paired([2.0], [1.5])
    assert (found.mean, found.seeds, found.settled) == (0.5, 1, False)
    assert all(math.isnan(value) for value in (found.low, found.high, found.superiority, found.p, found.needed))


def test_a_setting_does_not_differ_from_itself():
    assert paired([2.0, 3.0], [2.0, 3.0]) == Difference(0.0, 0.0, 0.0, 2, 0.5, 1.0, math.inf)


def test_fewer_than_six_seeds_settle_nothing_however_clear_they_are():
    rng = np.random.default_rng(1)
    five, six = rng.normal(5, 0.1, 5), rng.normal(5, 0.1, 6)
    assert paired(five, five * 0).low > 0
    assert not paired(five, five * 0).settled
    assert paired(six, six * 0).settled
    assert paired(six * 0, six).settled


# --- the ranking ------------------------------------------------------------------------------------------------------


def test_complete_settings_are_ranked_by_their_mean_over_seeds():
    table = ranking(recorded.records("mixed"))
    assert list(table.index) == sorted(range(5), key=lambda n: -measured(n).mean()) == [3, 4, 1, 2, 0]
    for number, line in table.iterrows():
        assert line["mean"] == pytest.approx(np.mean(measured(number)), rel=1e-12)
        assert line["se"] == pytest.approx(stats.sem(measured(number)), rel=1e-12)


def test_a_setting_that_diverged_or_failed_is_not_ranked_however_good_its_other_seeds():
    records = recorded.records("mixed")
    assert records.table.query("setting == 5")[AVERAGE].mean() > records.table.query("setting == 3")[AVERAGE].mean()
    assert not {5, 6} & set(ranking(records).index)
    assert list(values(records, AVERAGE).index) == [0, 1, 2, 3, 4]


def test_a_setting_that_diverged_is_not_ranked_even_if_every_seed_measured_something():
    records = recorded.records("mixed")
    table = records.table.copy()
    table.loc[table["setting"] == 5, AVERAGE] = 1.0
    assert list(ranking(dataclasses.replace(records, table=table)).index) == [3, 4, 1, 2, 0]


def test_a_complete_setting_is_not_ranked_by_a_metric_that_one_of_its_seeds_lacks():
    records = recorded.records("mixed")
    table = records.table.copy()
    table.loc[(table["setting"] == 4) & (table["seed"] == 2), LIVE] = math.nan
    lacking = dataclasses.replace(records, table=table)
    assert sorted(ranking(lacking, LIVE).index) == [0, 1, 2, 3]
    assert sorted(ranking(lacking).index) == [0, 1, 2, 3, 4]


def test_the_ranking_has_each_setting_s_parameters_and_family():
    table = ranking(recorded.records("mixed"))
    assert list(table["family"]) == ["belay", "belay", "ema", "damped", "ema"]
    assert list(table.columns) == ["mean", "se", "seeds", *recorded.records("mixed").parameters, *NATURAL, "family"]
    assert list(table["optimizer"]) == ["sgd", "sgd", "sgd", "adam", "sgd"]


def test_those_that_were_longer_in_a_race_are_ranked_before_the_others_each_by_all_of_its_seeds():
    table = ranking(recorded.records("raced"))
    assert list(table.index) == [4, 2, 1, 3, 0]
    assert list(table["seeds"]) == [14, 14, 6, 2, 2]
    assert list(table["mean"]) == pytest.approx([0.185, 0.2, 0.205, 0.105, 0.31])
    assert table.loc[4, "se"] == pytest.approx(stats.sem([0.17, 0.20] * 7))


def test_in_a_race_settings_are_compared_on_the_seeds_that_both_have():
    records = recorded.records("raced")
    assert rivals(records, 4) == []  # 2 is worse on every seed, and who left before is none
    found = against(records, 4, "none")
    assert (found.setting, found.difference.seeds) == (2, 14)
    found = against(records, 1, "belay")
    assert (found.setting, found.difference.seeds) == (4, 6)
    assert found.mean == pytest.approx(0.185)  # over all fourteen


def test_another_metric_can_be_ranked():
    table = ranking(recorded.records("mixed"), LIVE)
    assert list(table.index) == sorted(range(5), key=lambda n: -measured(n, LIVE).mean())


def test_the_least_is_best_where_less_is_better():
    assert list(ranking(recorded.records("tiny")).index) == [1, 2, 0]


def test_ties_go_to_the_lower_number():
    assert list(ranking(recorded.records("constant")).index) == [0, 1, 2, 3]
    assert list(ranking(recorded.records("constant"))["se"]) == [0.0] * 4


def test_one_seed_is_ranked_without_a_standard_error():
    table = ranking(recorded.records("one-seed"))
    assert list(table["mean"]) == sorted(table["mean"], reverse=True)
    assert table["se"].isna().all()


@pytest.mark.parametrize("name", ["all-diverged", "all-failed"])
def test_nothing_is_ranked_where_nothing_was_completed(name):
    table = ranking(recorded.records(name))
    assert table.empty
    assert {"mean", "se", "decay", "family"} <= set(table.columns)


def test_a_metric_that_nobody_reported_ranks_nothing():
    assert ranking(recorded.records("mixed"), "average/val_loss").empty


# --- rivals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "best"), [("mixed", 3), ("many", 14)])
def test_rivals_are_the_settings_that_cannot_be_told_from_the_best(name, best):
    records = recorded.records(name)
    table = values(records, AVERAGE)
    assert rivals(records, best) == level(table, "max")[1:]


def test_finalists_are_judged_by_their_fresh_seeds_and_others_by_those_of_the_search():
    records, rng = recorded.records("mixed"), np.random.default_rng(2)
    shared = rng.normal(0, 0.1, 8)
    fresh = [
        {"setting": setting, "seed": 10_000 + seed, "state": "complete", AVERAGE: mean + shared[seed] + noise}
        for setting, mean in ((4, 0.9), (3, 0.5), (0, 0.9))
        for seed, noise in enumerate(rng.normal(0, 0.01, 8))
    ]
    confirmed = dataclasses.replace(records, fresh=pd.DataFrame(fresh))
    assert 3 in rivals(records, 4)
    assert rivals(confirmed, 4) == [0]  # 3 is told from it by fresh seeds, and 0 is not, though the search told it


def test_with_finalists_each_of_the_two_statements_has_half_of_the_error_that_both_may_have():
    noise = np.array([-1.0, 1.0] * 4)
    behind = 2.5 * stats.sem(noise) + noise  # told from the best at 95 %, and not at 97.5 %
    searched, fresh = (
        pd.DataFrame(
            {"setting": setting, "seed": first + seed, "state": "complete", AVERAGE: -value if setting else 0.0}
            for setting in settings
            for seed, value in enumerate(behind)
        )
        for settings, first in (((0, 1, 2), 0), ((0, 1), 10_000))
    )
    records = dataclasses.replace(recorded.records("mixed"), seeds=8, table=searched)
    assert rivals(records, 0) == []
    assert rivals(dataclasses.replace(records, fresh=fresh), 0) == [1, 2]


def test_there_are_rivals_and_others_in_the_study_that_this_is_tested_on():
    assert rivals(recorded.records("mixed"), 3) == [4]


def test_settings_that_measured_exactly_the_same_are_rivals():
    assert rivals(recorded.records("constant"), 0) == [1, 2, 3]


def test_one_seed_has_no_rivals_as_nothing_is_known_of_its_error():
    assert rivals(recorded.records("one-seed"), 3) is None


# --- baselines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baseline", "setting", "metric"),
    [("ema", 1, AVERAGE), ("damped", 2, AVERAGE), ("belay", 3, AVERAGE), ("none", 2, LIVE)],
)
def test_the_best_setting_is_held_against_the_best_of_each_baseline(baseline, setting, metric):
    found = against(recorded.records("mixed"), 3, baseline)
    assert (found.baseline, found.setting, found.metric) == (baseline, setting, metric)
    assert found.mean == pytest.approx(measured(setting, metric).mean())
    assert found.difference.mean == pytest.approx((measured(3) - measured(setting, metric)).mean(), abs=1e-12)
    if setting != 3:
        others = values(recorded.records("mixed"), metric)
        ours = row(values(recorded.records("mixed"), AVERAGE), 3)
        assert found.difference == difference(ours, others, setting, "max", chosen_from=5)


def test_no_averaging_is_the_model_s_own_weights_where_nothing_pulls_them():
    records = recorded.records("mixed")
    pulled = ranking(records, LIVE).index[0]
    assert row(ranking(records), pulled)["coupling"] > 0  # the best live weights of all, though not without a pull
    assert against(records, 3, "none").setting != pulled


def test_differences_are_in_the_better_direction_where_less_is_better():
    found = against(recorded.records("tiny"), 1, "belay")
    ours, theirs = (np.array(recorded.loss(mean, seed)["average/excess_loss"]) for mean, seed in ((1e-6, 2), (2e-6, 3)))
    assert found.difference.mean == pytest.approx((theirs - ours).mean())
    assert found.difference.low > 0


@pytest.mark.parametrize("baseline", ["ema", "damped", "push", "none"])
def test_a_baseline_that_was_not_measured_has_no_comparison(baseline):
    assert against(recorded.records("coupled"), 0, baseline) is None


def test_where_the_model_s_own_weights_decide_all_that_no_average_pulls_is_without_averaging():
    records = recorded.records("live")
    found = against(records, 4, "none")
    assert (found.setting, found.metric, found.itself) == (best_of(records, "none"), LIVE, False)
    assert records.settings.loc[found.setting, "coupling"] == 0
    assert against(records, 4, "ema") is None
    assert against(records, 4, "damped") is None


def test_there_is_no_comparison_with_a_metric_that_was_not_reported():
    assert against(recorded.records("many"), 14, "none") is None


def test_comparisons_have_a_row_for_each_baseline_that_was_measured():
    records = recorded.records("mixed")
    table = comparisons(records, 3)
    assert list(table["baseline"]) == [name for name in BASELINES if name != "push"]
    for line in table.to_dict("records"):
        found = against(records, 3, line["baseline"])
        between = found.difference
        columns = ("low", "high", "seeds", "superiority", "p", "needed", "settled")
        expected = dataclasses.asdict(found) | {"difference": between.mean}
        del expected["itself"]
        assert line == expected | {name: getattr(between, name) for name in columns}
    assert list(comparisons(recorded.records("coupled"), 0)["baseline"]) == ["belay"]


def test_the_seeds_needed_are_fresh_ones_of_a_few_finalists_and_of_a_table_more_of_all_settings():
    records = recorded.records("mixed")
    found, table = (against(dataclasses.replace(records, of_a_study=own), 2, "ema") for own in (True, False))
    lead = leads(row(beside(records, 2), 2), beside(records, 2), "max").loc[found.setting]
    for asked, settings in ((found, ADVISED), (table, 5)):
        needed = seeds_needed(lead["mean"], lead["se"], 5, lead["df"], settings - 1)
        assert asked.difference.needed == needed
    assert found.difference.needed < table.difference.needed
    assert (found.difference.low, found.difference.p) == (table.difference.low, table.difference.p)


def test_a_push_and_a_pull_are_families_of_their_own():
    records = recorded.records("pushed")
    table = comparisons(records, 0).set_index("baseline")
    assert list(table.index) == ["ema", "belay", "push", "none"]
    assert dict(table["setting"]) == {"ema": 0, "belay": 1, "push": 2, "none": 0}
    assert list(comparisons(records, 0, "push")["setting"]) == [2]


def test_one_baseline_can_be_asked_for():
    assert list(comparisons(recorded.records("mixed"), 3, "damped")["setting"]) == [2]


def test_asking_for_the_best_of_a_family_that_was_not_measured_is_refused():
    with pytest.raises(BadInput, match="`family` must have been measured, got 'nesterov': no setting of mixed"):
        best_of(recorded.records("mixed"), "nesterov")


def test_asking_for_a_baseline_that_was_not_measured_is_refused():
    with pytest.raises(BadInput) as caught:
        comparisons(recorded.records("coupled"), 0, "ema")
    assert re.fullmatch(
        r"`baseline` must have been .*, got 'ema': no setting of coupled belongs to it or reports its metric; .*",
        str(caught.value),
    )


def test_a_method_s_settings_are_those_of_its_oscillator():
    averages = {
        "ema": Oscillator.ema(0.9),
        "ema_of_ema": methods.ema_of_ema(0.9, 0.8).oscillator,
        "underdamped": Oscillator(0.9, 0.2),
        "alternating": Oscillator(0.9, 1.2),
        "pace": methods.pace(0.1, 0.05).oscillator,
        "belay": Oscillator(0.9, 0.5, 0.1),
        "primal_averaging": methods.primal_averaging(0.95, 0.5).oscillator,
        "nesterov": methods.nesterov(0.5).oscillator,
        "push": Oscillator(0.9, 0.5, -0.05),
    }
    rows = [{name: getattr(one, name) for name in PARAMETERS} | natural(one, 100) for one in averages.values()]
    table = pd.DataFrame(rows, list(averages)).assign(family=[family(one) for one in averages.values()])
    found = {name: list(table.index[members(table, name)]) for name in (*get_args(Method), "none")}
    assert found == {
        "ema_of_ema": ["ema_of_ema"],
        "pace": ["pace"],
        "primal_averaging": ["primal_averaging", "nesterov"],
        "nesterov": ["nesterov"],
        "none": ["ema", "ema_of_ema", "underdamped", "alternating"],
    }


def test_any_two_families_are_compared_by_the_best_of_each():
    records = recorded.records("mixed")
    assert [best_of(records, name) for name in ("ema", "damped", "belay")] == [1, 2, 3]
    ours, theirs = best_of(records, "ema"), best_of(records, "damped")
    forth, back = comparisons(records, ours, "damped"), comparisons(records, theirs, "ema")
    assert [forth["setting"][0], back["setting"][0]] == [theirs, ours]
    assert forth["difference"][0] == pytest.approx(-back["difference"][0])


def test_no_averaging_is_a_family_too_judged_by_the_model_s_own_weights():
    records = recorded.records("mixed")
    ours, theirs = best_of(records, "none"), best_of(records, "ema")
    assert (ours, theirs) == (2, 1)  # live 0.72 and averaged 0.80
    forth = comparisons(records, ours, "ema", metric_of(records, "none"))
    back = comparisons(records, theirs, "none")
    assert (forth["setting"][0], back["setting"][0]) == (theirs, ours)
    assert forth["difference"][0] == pytest.approx(-back["difference"][0])
    with pytest.raises(BadInput, match="`family` must have been measured, got 'ema': no setting of live belongs to it"):
        best_of(recorded.records("live"), "ema")


def test_the_command_compares_no_averaging_by_its_own_metric():
    recorded.records("mixed")
    options = ["--family", "none", "--baseline", "ema", "--format", "json", "--tracking", recorded.uri()]
    (row,) = json.loads(CliRunner().invoke(cli.app, ["compare", "mixed", *options]).stdout)
    (back,) = comparisons(recorded.records("mixed"), 1, "none").to_dict("records")
    assert (row["setting"], row["difference"]) == (1, pytest.approx(-back["difference"]))


def test_the_best_of_a_family_is_that_of_its_finalists_by_fresh_seeds():
    records = recorded.records("mixed")
    fresh = records.table[records.table["setting"] == 0]
    records = dataclasses.replace(records, fresh=fresh.assign(seed=10_000 + fresh["seed"]))
    assert best_of(recorded.records("mixed"), "ema") == 1
    assert best_of(records, "ema") == 0


def test_the_command_line_names_every_family_and_method_and_no_other():
    named = (*get_args(parameters.FAMILIES), "none", *get_args(parameters.METHODS))
    assert named == (*BASELINES, *get_args(Method))


# --- by a parameter ---------------------------------------------------------------------------------------------------


def test_the_best_setting_of_each_value_of_a_parameter():
    table = best_by(recorded.records("mixed"), "optimizer")
    assert list(table.columns) == ["optimizer", "settings", "best", "se", "setting", "median"]
    assert list(table["optimizer"]) == ["adam", "sgd"]
    assert list(table["settings"]) == [1, 4]
    assert list(table["setting"]) == [2, 3]
    means = [measured(n).mean() for n in (0, 1, 3, 4)]
    assert list(table["best"]) == pytest.approx([measured(2).mean(), max(means)])
    assert list(table["median"]) == pytest.approx([measured(2).mean(), np.median(means)])
    assert table["se"][1] == pytest.approx(stats.sem(measured(3)))


def test_few_values_of_a_number_are_shown_one_by_one_in_their_order():
    assert list(best_by(recorded.records("mixed"), "decay")["decay"]) == [0.9, 0.95, 0.96, 0.99]


def test_many_values_of_a_number_are_shown_by_quarters_with_what_is_in_them():
    records = recorded.records("many")
    table = best_by(records, "lr")
    assert list(table["from"]) == [0.25, 1.25, 2.25, 3.25]
    assert list(table["to"]) == [1, 2, 3, 4]
    assert list(table["lr"]) == list(ranking(records)["lr"][table["setting"]])
    assert list(table["settings"]) == [4, 4, 4, 4]
    ranked = ranking(recorded.records("many"))
    for line, quarter in zip(
        table.to_dict("records"), (range(4), range(4, 8), range(8, 12), range(12, 16)), strict=True
    ):
        inside = ranked.loc[[number for number in ranked.index if number in quarter]]
        assert line["setting"] == inside.index[0]
        assert line["best"] == inside["mean"].max()
        assert line["median"] == pytest.approx(inside["mean"].median())


def test_the_least_is_best_by_a_parameter_where_less_is_better():
    table = best_by(recorded.records("tiny"), "coupling")
    assert list(table["setting"]) == [1, 2]


def test_an_unknown_parameter_is_refused():
    with pytest.raises(
        BadInput,
        match=r"`parameter` must be one of decay, .*, memory, .*, mass_ratio, .*width, got 'learning_rate'",
    ):
        best_by(recorded.records("mixed"), "learning_rate")


@pytest.mark.parametrize("name", NATURAL)
def test_natural_coordinates_are_parameters_of_a_study_in_raw_ones(name):
    table, records = best_by(recorded.records("mixed"), name), recorded.records("mixed")
    settings = ranking(records)[list(PARAMETERS)].to_dict("records")
    found = {natural(oscillator_of(setting), 600)[name] for setting in settings}
    assert list(table[name]) == pytest.approx(sorted({float(f"{value:.6g}") for value in found}))
    assert sum(table["settings"]) == 5
    assert table["best"].max() == ranking(records)["mean"].max()


def test_emas_are_a_group_of_their_own_by_damping_ratio_however_many_values_there_are():
    table = best_by(recorded.records("many-and-emas"), "damping_ratio")
    assert list(table["settings"]) == [4, 4, 4, 4, 3]
    assert list(table["damping_ratio"])[-1] == list(table["from"])[-1] == list(table["to"])[-1] == math.inf
    assert all(table["to"][:4] < math.inf)


def test_memories_that_differ_by_rounding_are_one_value():
    records = recorded.records("natural")
    assert len(set(ranking(records)["memory"])) > 2
    assert list(best_by(records, "memory")["memory"]) == [0.05, 0.1]
    assert list(best_by(records, "damping_ratio")["damping_ratio"]) == [0.3, 0.7, math.inf]


def test_the_settings_of_which_a_parameter_is_null_are_a_line_of_their_own():
    table = best_by(recorded.records("shaped"), "clip")
    assert list(table["clip"]) == [0.1, None]
    assert list(table["settings"]) == [1, 2]


def test_lists_are_values_of_a_parameter_too():
    table = best_by(recorded.records("shaped"), "layers")
    assert list(table["layers"]) == [[32], [64, 64]]
    assert list(table["setting"]) == [1, 0]

"""The recommendation: what is chosen, its evidence as plain data, the defaults file that `belay` loads, the regimes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recorded
import yaml
from scipy import stats

from belay import Oscillator, load_defaults
from study.answer import answer
from study.design.document import read_document
from study.design.schema import CONFIRMATION, FIGURES, NATURAL, PARAMETERS, figures, from_natural, natural, regime_of
from study.errors import FailedWork
from study.findings.collect import Records
from study.findings.compare import ranking
from study.findings.recommend import as_data, defaults_file, recommend
from study.findings.regimes import regimes
from study.report.words import notices
from study.show import show_table

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

RECOMMENDABLE = ["mixed", "tiny", "one-seed", "constant", "live", "coupled", "many"]


def found(name: str) -> Any:
    return recommend(recorded.records(name))


def exported(name: str, folder: Path) -> Path:
    path = folder / "defaults.yaml"
    path.write_text(defaults_file(found(name)), encoding="utf-8")
    return path


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_complete_setting_with_the_best_mean_is_recommended():
    chosen, measured = found("mixed"), recorded.MIXED[3].values[recorded.AVERAGE]
    assert chosen.setting == 3
    assert chosen.mean == pytest.approx(np.mean(measured))
    assert chosen.se == pytest.approx(stats.sem(measured))
    assert chosen.rivals == [4]
    assert chosen.oscillator == Oscillator(0.95, 0.4, 0.1)


def test_of_a_race_the_best_of_those_that_were_longest_in_it_is_recommended():
    chosen = found("raced")
    assert (chosen.setting, chosen.seeds, chosen.left, chosen.rivals) == (4, 14, 3, [])
    assert as_data(chosen)["seeds"] == 14


def test_what_was_tried_is_counted_by_how_it_ended():
    chosen = found("mixed")
    assert (chosen.tried, chosen.diverged, chosen.failed) == (5, 1, 1)


def test_the_parameters_are_plain_values_of_the_types_they_had():
    parameters = found("mixed").parameters
    fixed = {"batch_size": 32, "depth": 1, "label_noise": 0.2, "width": 64, "schedule": "constant"}
    assert parameters == dict(recorded.MIXED[3].drawn) | fixed
    assert {name: type(value) for name, value in parameters.items()} == {
        **dict.fromkeys(("decay", "damping", "coupling", "lr", "label_noise"), float),
        **dict.fromkeys(("batch_size", "depth", "width"), int),
        **dict.fromkeys(("optimizer", "schedule"), str),
    }


@pytest.mark.parametrize(
    ("name", "setting", "baselines"),
    [
        ("mixed", 3, ["ema", "none"]),
        ("tiny", 1, ["ema", "belay", "none"]),  # EMA won: what did BELAY come to?
        ("one-seed", 2, ["ema", "none"]),
        ("live", 4, ["none"]),
        ("coupled", 0, []),
    ],
)
def test_it_is_compared_with_the_best_ema_and_with_no_averaging_where_they_were_measured(name, setting, baselines):
    chosen = found(name)
    assert chosen.setting == setting
    assert [comparison.baseline for comparison in chosen.versus] == baselines


@pytest.mark.parametrize(
    ("name", "count"), [("all-diverged", "3 diverged, 0 failed"), ("all-failed", "0 diverged, 2 failed")]
)
def test_nothing_is_recommended_where_nothing_was_completed(name, count):
    with pytest.raises(FailedWork) as caught:
        found(name)
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"a setting must have completed every seed to be recommended, got none of {name!r} ({count}); "
        "lower the learning rate or mend the task."
    )


# --- plain data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECOMMENDABLE)
def test_the_data_is_strict_json(name):
    data = as_data(found(name))
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_data_says_what_how_well_and_how_sure():
    data, chosen = as_data(found("mixed")), found("mixed")
    assert data["setting"] == chosen.parameters
    assert {name: data[name] for name in ("study", "number", "metric", "mode", "seeds", "rivals", "regime")} == {
        "study": "mixed",
        "number": 3,
        "metric": "average/val_accuracy",
        "mode": "max",
        "seeds": 5,
        "rivals": [4],
        "regime": "critical",
    }
    assert (data["mean"], data["standard_error"]) == (chosen.mean, chosen.se)
    assert [data[name] for name in ("settings_tried", "settings_planned", "diverged", "failed")] == [5, 9, 1, 1]
    assert data["oscillator"] == pytest.approx(figures(Oscillator(0.95, 0.4, 0.1), 600))
    for comparison in chosen.versus:
        told = data["versus"][comparison.baseline]
        assert (told["setting"], told["metric"], told["mean"]) == (
            comparison.setting,
            comparison.metric,
            comparison.mean,
        )
        assert told["difference"] == {
            "mean": comparison.difference.mean,
            "low": comparison.difference.low,
            "high": comparison.difference.high,
            "seeds": 5,
            "superiority": comparison.difference.superiority,
            "p": comparison.difference.p,
            "needed": comparison.difference.needed,
            "settled": False,  # by five seeds
        }


def test_what_json_cannot_hold_is_a_word_or_nothing():
    assert as_data(found("tiny"))["oscillator"]["damping_ratio"] == "inf"
    data = as_data(found("one-seed"))
    assert (data["standard_error"], data["rivals"], data["settled"]) == (None, None, False)
    assert yaml.safe_load(defaults_file(found("one-seed")))["as_good"] is None
    assert data["versus"]["ema"]["difference"]["low"] is None
    assert data["versus"]["ema"]["difference"]["high"] is None


# --- the defaults file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECOMMENDABLE)
def test_belay_loads_the_recommended_oscillator_from_the_file(name, tmp_path):
    assert load_defaults(exported(name, tmp_path)) == found(name).oscillator


def test_belay_fits_the_recommended_oscillator_to_other_runs(tmp_path):
    path, oscillator = exported("mixed", tmp_path), found("mixed").oscillator
    assert load_defaults(path, steps=300) == oscillator.rescale(2)
    assert load_defaults(path, steps=600) == oscillator
    assert load_defaults(path, batch_size=16) == oscillator.rescale(0.5)


def test_an_average_found_in_natural_coordinates_is_loaded_with_the_same_ones(tmp_path):
    path, drawn = exported("natural", tmp_path), {"memory": 0.05, "damping_ratio": 0.3, "mass_ratio": 2.0}
    assert load_defaults(path, steps=600) == from_natural(drawn, 600)
    longer = natural(load_defaults(path, steps=60_000), 60_000)
    assert longer["damping_ratio"] == pytest.approx(0.3)
    assert longer["mass_ratio"] == pytest.approx(2)
    assert longer["memory"] == pytest.approx(0.05, rel=0.05)  # a lag of a few steps is no continuous memory


def test_a_task_without_a_batch_size_says_so_when_one_is_given(tmp_path):
    path = exported("tiny", tmp_path)
    assert load_defaults(path, steps=1200) == found("tiny").oscillator.rescale(0.5)
    with pytest.raises(ValueError, match="`batch_size` cannot be fitted"):
        load_defaults(path, batch_size=16)


def test_the_file_holds_the_setting_its_rivals_range_the_evidence_and_where_it_came_from(tmp_path):
    document, chosen, data = yaml.safe_load(defaults_file(found("mixed"))), found("mixed"), as_data(found("mixed"))
    sections = ["format", "setting", "as_good", "oscillator", "region", "transfer", "evidence", "origin"]
    assert list(document) == sections
    assert document["setting"] == chosen.parameters
    as_good = document["as_good"]
    naturals = [natural(Oscillator(*average, 0.1), 600) for average in ((0.95, 0.4), (0.96, 0.5))]
    for name in NATURAL:
        assert as_good.pop(name) == sorted(one[name] for one in naturals)
    assert as_good == {"settings": 2, "decay": [0.95, 0.96], "damping": [0.4, 0.5], "coupling": [0.1, 0.1]}
    assert document["oscillator"] == {"regime": "critical", **data["oscillator"]}
    assert document["transfer"] == {
        "steps": 600,
        "batch_size": 32,
        **{name: data["oscillator"][name] for name in NATURAL},
    }
    assert document["evidence"] == {
        name: data[name]
        for name in (
            *("metric", "mode", "mean", "standard_error", "seeds", "fresh_seeds"),
            *("settings_tried", "settings_planned", "riders", "left", "versus"),
        )
    }
    origin, records = document["origin"], recorded.records("mixed")
    assert (origin["study"], origin["task"], origin["mlflow_run"]) == ("mixed", records.task, records.run)
    assert re.fullmatch("[0-9a-f]{16}", origin["data"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", origin["exported"])


def test_the_file_begins_with_how_to_use_it():
    head = defaults_file(found("mixed")).splitlines()[0]
    assert head == "# Recommended by the study mixed; load it with belay.load_defaults(path, steps=...)."


def test_hyperparameters_are_exported_as_they_were_tried(tmp_path):
    tried = {"layers": [64, 64], "tag": "1e-3", "power": 1, "clip": None}
    setting = read_document(exported("shaped", tmp_path))["setting"]
    assert setting == as_data(found("shaped"))["setting"]
    assert {name: setting[name] for name in tried} == tried
    assert type(setting["power"]) is int


# --- regimes ----------------------------------------------------------------------------------------------------------


def test_the_best_settings_are_shown_as_oscillators():
    records = recorded.records("mixed")
    table, ranked = regimes(records, 3), ranking(records)
    assert list(table.index) == [3, 4, 1]
    assert list(table.columns) == ["mean", "se", "decay", "damping", "coupling", "regime", *FIGURES]
    for number, line in table.iterrows():
        average = Oscillator(line["decay"], line["damping"], line["coupling"])
        assert line["mean"] == ranked.loc[number, "mean"]
        assert line["regime"] == regime_of(average)
        assert dict(line[list(FIGURES)]) == pytest.approx(figures(average, 600))


def test_the_table_of_regimes_has_a_row_a_line_where_it_is_read_by_a_program(capsys):
    show_table(regimes(recorded.records("many"), 5).reset_index())
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["setting", "mean", "se", *PARAMETERS, "regime", *FIGURES]
    assert [len(row.split()) for row in rows] == [len(head.split())] * 5


def test_no_more_regimes_are_shown_than_there_are_settings():
    assert len(regimes(recorded.records("coupled"), 50)) == 2


def test_an_ema_has_an_infinite_damping_ratio():
    assert regimes(recorded.records("tiny"), 1)["damping_ratio"].iloc[0] == math.inf


# --- confirmation -----------------------------------------------------------------------------------------------------


def confirming(records: Records, values: Mapping[int, Sequence[float]], state: str = "complete") -> Records:
    """The records with fresh seeds of these settings, whose live weights came to 0.1 less."""
    rows = [
        {
            "setting": setting,
            "seed": CONFIRMATION + place,
            "state": state,
            recorded.AVERAGE: value,
            recorded.LIVE: value - 0.1,
        }
        for setting, measured in values.items()
        for place, value in enumerate(measured)
    ]
    return replace(records, fresh=pd.DataFrame(rows))


def test_of_finalists_the_best_by_fresh_seeds_is_chosen_and_told_by_these_alone():
    records = recorded.records("mixed")
    before = recommend(records)
    ema = next(comparison for comparison in before.versus if comparison.baseline == "ema").setting
    assert recommend(confirming(records, {before.setting: [0.5, 0.6], ema: [0.6, 0.6]})).setting == ema
    found = recommend(confirming(records, {before.setting: [0.5, 0.7], ema: [0.6, 0.6]}))  # a tie
    assert found.finalists == 2
    assert (found.setting, found.mean, found.fresh) == (before.setting, pytest.approx(0.6), 2)
    versus = {comparison.baseline: comparison for comparison in found.versus}
    assert versus["ema"].fresh
    assert versus["ema"].difference.mean == pytest.approx(0.0)
    assert versus["ema"].difference.seeds == 2
    assert versus["none"].fresh
    assert "flatter" not in answer(found)
    assert "0.6 (standard error 0.1) on 2 fresh seeds, the best of 2 finalists" in answer(found)
    data = as_data(found)
    assert (data["fresh_seeds"], data["versus"]["ema"]["fresh"]) == (2, True)
    assert yaml.safe_load(defaults_file(found))["evidence"]["fresh_seeds"] == 2


def test_searched_by_one_seed_finalists_are_told_apart_by_fresh_ones_and_others_by_none():
    records = recorded.records("one-seed")
    level = {setting: [0.5 + 0.1 * (seed % 2) for seed in range(8)] for setting in (0, 2)}
    found = recommend(confirming(records, level))
    assert (found.setting, found.rivals, found.settled) == (2, [0, 3, 1], False)
    assert "3 of the other 3 settings cannot be told from it" in answer(found)
    assert "finalists by 8 fresh seeds, others by 1" in answer(found)
    assert not list(notices(records, found))


def test_a_finalist_that_did_not_complete_its_fresh_seeds_is_not_recommended():
    records = recorded.records("mixed")
    order = list(ranking(records).index)
    fresh = confirming(records, {order[0]: [0.9, 0.9]}, "diverged").fresh
    second = confirming(records, {order[1]: [0.5, 0.7]})
    found = recommend(replace(second, fresh=pd.concat([fresh, second.fresh])))
    assert found.setting == order[1]


def test_what_was_not_confirmed_is_compared_on_the_seeds_of_the_search_and_said_to_flatter():
    records = recorded.records("mixed")
    best = recommend(records).setting
    found = recommend(confirming(records, {best: [0.5, 0.7]}))
    versus = {comparison.baseline: comparison for comparison in found.versus}
    assert not versus["ema"].fresh
    assert versus["ema"].difference.seeds == records.seeds
    assert "chosen and measured on the same seeds: " in answer(found)


def test_the_defaults_file_says_where_the_truly_best_setting_lies():
    document = yaml.safe_load(defaults_file(recommend(recorded.records("mixed"))))
    where = document["region"]
    assert where["likely"] <= where["candidates"] == 5
    assert sum(where["regimes"].values()) == pytest.approx(1, abs=1e-3)
    assert set(where["families"]) <= {"ema", "damped", "belay"}
    for name in ("memory", "damping_ratio", "mass_ratio"):
        low, high = (math.inf if end == ".inf" else end for end in where["ranges"][name])
        assert low * (1 - 1e-8) <= document["transfer"][name] <= high * (1 + 1e-8)  # they have nine digits
    assert yaml.safe_load(defaults_file(recommend(recorded.records("one-seed"))))["region"] is None

"""The region of the truly best setting: probabilities and ranges, where the truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import recorded
from numpy.typing import NDArray

from belay import Oscillator
from study.design.schema import (
    CONFIRMATION,
    FIGURES,
    MOST_RIDERS,
    NATURAL,
    PARAMETERS,
    RIDERS,
    family,
    from_natural,
    natural,
    regime_of,
)
from study.findings.collect import Records
from study.findings.explained import explained
from study.findings.recommend import recommend
from study.findings.regimes import Range, Region, region
from study.insights import region_text
from study.show import as_plain

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

Array = NDArray[np.float64]
STEPS = 600
COMPLETE = {"state": "complete", "message": "", "diverged_at": math.nan}


def drawn(count: int, rng: np.random.Generator) -> list[Oscillator]:
    """Averages all over the natural coordinates, some of them without coupling, some EMAs."""
    averages = []
    for number in range(count):
        values = {"memory": 10 ** rng.uniform(-1.7, -0.3), "damping_ratio": 10 ** rng.uniform(-0.3, 1)}
        values["mass_ratio"] = rng.uniform(0.1, 4) if number % 3 else 0.0
        averages.append(from_natural(values | ({"damping_ratio": "inf"} if number % 6 == 0 else {}), STEPS))
    return averages


def study(averages: list[Oscillator], values: Array, fresh: dict[int, Array] | None = None) -> Records:
    """Records of these averages, with an objective's values by setting and seed."""
    rows = [
        {
            "setting": number,
            "seed": seed,
            "state": "complete",
            "message": "",
            "diverged_at": np.nan,
            recorded.AVERAGE: value,
        }
        | {name: getattr(average, name) for name in PARAMETERS}
        | {**natural(average, STEPS), "family": family(average)}
        for number, average in enumerate(averages)
        for seed, value in enumerate(values[number])
    ]
    table = pd.DataFrame(rows)
    again = [
        {
            "setting": number,
            "seed": CONFIRMATION + seed,
            "state": "complete",
            "message": "",
            "diverged_at": np.nan,
            recorded.AVERAGE: value,
        }
        for number, each in (fresh or {}).items()
        for seed, value in enumerate(each)
    ]
    names = ["setting", "seed", "state", recorded.AVERAGE]
    return Records("made", "", recorded.AVERAGE, "max", STEPS, values.shape[1], len(averages), {}, {}, table,
                   pd.DataFrame(again, columns=names), list(PARAMETERS))  # fmt: skip


def found(records: Records) -> Region:
    measured = records.table.groupby("setting")[recorded.AVERAGE].mean()
    where = region(records, int(measured.idxmax()))
    assert where is not None
    return where


def measured(truth: Array, seeds: int, rng: np.random.Generator, noise: float = 0.3) -> Array:
    return truth[:, None] + rng.normal(size=seeds) + noise * rng.normal(size=(len(truth), seeds))


def coordinates(averages: list[Oscillator]) -> Array:
    """Log memory, log damping ratio (an EMA's as 100) and mass ratio, each about 1 wide."""
    each = pd.DataFrame([natural(average, STEPS) for average in averages])
    ratio = np.log10(each["damping_ratio"].clip(upper=100))
    return np.column_stack([np.log10(each["memory"]), ratio / 2, each["mass_ratio"] / 4])


def test_the_ranges_hold_the_truly_best_one_s_coordinates_in_most_of_100_studies() -> None:
    rng = np.random.default_rng(0)
    averages = drawn(30, rng)
    at, studies = coordinates(averages), 100
    hits = dict.fromkeys(NATURAL, 0)
    for number in range(studies):
        optimum = at[rng.integers(len(at))] if number % 2 else at.max(axis=0)  # inside, or at the edge
        truth = -2 * np.square(at - optimum - rng.normal(scale=0.1, size=3)).sum(axis=1)
        where = found(study(averages, measured(truth, 5, rng)))
        best = natural(averages[int(truth.argmax())], STEPS)
        for name in NATURAL:
            hits[name] += where.ranges[name].low <= best[name] <= where.ranges[name].high
    assert min(hits.values()) >= 0.91 * studies, hits  # at 95 % fewer come about once in 35 times


def test_a_flat_surface_leaves_everything_open() -> None:
    rng = np.random.default_rng(1)
    averages = drawn(60, rng)
    where = found(study(averages, measured(np.zeros(60), 6, rng)))
    for name in NATURAL:
        each = [natural(average, STEPS)[name] for average in averages]
        inside = [value for value in each if where.ranges[name].low <= value <= where.ranges[name].high]
        assert len(inside) > 0.9 * len(each), name
    assert where.ranges["damping_ratio"].high == math.inf
    shares = {kind: sum(regime_of(average) == kind for average in averages) / 60 for kind in where.regimes}
    assert where.regimes == pytest.approx(shares, abs=0.25)
    assert max(where.regimes.values()) < 0.95
    assert where.likely > 30


def test_one_setting_that_dominates_is_the_region() -> None:
    rng = np.random.default_rng(2)
    averages = drawn(40, rng)
    truth = np.zeros(40)
    truth[7] = 5.0
    where, best = found(study(averages, measured(truth, 6, rng))), averages[7]
    assert where.likely == 1
    assert where.regimes[regime_of(best)] == pytest.approx(1, abs=1e-4)
    assert where.families[family(best)] == pytest.approx(1, abs=1e-4)
    for name in FIGURES:
        ends = where.ranges[name]
        assert ends.low == ends.median == ends.high
    assert where.ranges["lag"].low == pytest.approx(best.lag)


def test_the_best_one_s_value_is_as_probably_at_most_the_median_as_at_least() -> None:
    averages = [Oscillator.ema(decay) for decay in (0.99, 0.9, 0.95)]
    alike = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 0.0], [2.0, 0.0, 1.0]])  # each is the best as probably as another
    lag = found(study(averages, alike)).ranges["lag"]
    assert (lag.low, lag.median, lag.high) == pytest.approx((9, 19, 99))
    alike[0] += 1  # which is now the best more probably than not
    lag = found(study(averages, alike)).ranges["lag"]
    assert (lag.low, lag.median, lag.high) == pytest.approx((9, 99, 99))


def test_of_finalists_the_fresh_seeds_decide() -> None:
    rng = np.random.default_rng(3)
    averages, truth = drawn(12, rng), np.zeros(12)
    truth[5] = 0.3
    values = measured(truth, 4, rng)
    before = found(study(averages, values))
    fresh = {number: truth[number] + rng.normal(scale=0.3, size=96) for number in (1, 5, 8)}
    where = region(study(averages, values, fresh), 5)
    assert where is not None
    assert (where.candidates, where.seeds, where.fresh) == (12, 4, 96)
    kind = family(averages[5])
    assert where.families[kind] > max(0.7, before.families[kind])
    assert where.likely < before.likely


def test_critical_has_the_tolerance_that_is_stated() -> None:
    ratios = {1.04: "critical", 0.96: "critical", 1.06: "overdamped", 0.94: "underdamped"}
    assert {ratio: regime_of(Oscillator.from_damping_ratio(ratio, 30)) for ratio in ratios} == ratios
    assert regime_of(Oscillator(0.9, 1.5)) == "alternating"
    assert regime_of(Oscillator.ema(0.9)) == "overdamped"


def test_averages_that_alternate_have_no_damping_ratio() -> None:
    averages = [Oscillator(decay, 1.5) for decay in (0.9, 0.95)]
    where = found(study(averages, measured(np.zeros(2), 6, np.random.default_rng(4))))
    assert where.regimes["alternating"] == pytest.approx(1)
    assert math.isnan(where.ranges["damping_ratio"].low)
    assert as_plain(where)["ranges"]["damping_ratio"] == {"low": None, "median": None, "high": None}
    assert "damping_ratio        none: they alternate" in region_text(
        where, explained(study(averages, np.zeros((2, 2))))
    )


def test_settings_that_left_a_race_are_no_candidates() -> None:
    records = recorded.records("raced")
    where = region(records, recommend(records).setting)
    assert where is not None
    assert (where.candidates, where.seeds) == (2, 14)


def test_hyperparameters_that_vary_have_ranges_too() -> None:
    records = recorded.records("mixed")
    where = region(records, recommend(records).setting)
    assert where is not None
    assert set(where.ranges) == {*FIGURES, "lr"}
    assert where.ranges["lr"].low >= 1.0


def test_a_hyperparameter_that_does_not_vary_where_the_best_is_said_to_be_null() -> None:
    made = study([Oscillator.ema(decay) for decay in (0.9, 0.95, 0.99)], np.array([[1.0, 1.1], [0.0, 0.1], [0.2, 0.1]]))
    lr = pd.Series([None, 0.1, 0.2], dtype=object).loc[made.table["setting"]].array
    records = replace(made, table=made.table.assign(lr=lr), parameters=[*PARAMETERS, "lr"])
    where = found(records)
    assert where.likely == 1
    assert "\nlr                   null\n" in region_text(where, explained(records))


def test_with_one_seed_nothing_is_known_and_said_so() -> None:
    records = recorded.records("one-seed")
    assert region(records, recommend(records).setting) is None
    assert region_text(None, explained(records)).startswith("region     nothing is known with one seed")


def test_the_same_study_has_the_same_region_and_it_is_strict_json() -> None:
    records = recorded.records("tiny")
    best = recommend(records).setting
    where = region(records, best)
    assert where is not None
    assert where == region(records, best)
    assert json.loads(json.dumps(as_plain(where), allow_nan=False)) == as_plain(where)
    assert sum(where.families.values()) == pytest.approx(1)
    assert as_plain(where)["ranges"]["damping_ratio"]["high"] == "inf"
    assert asdict(where)["candidates"] == 3


def test_a_region_of_one_setting_is_told_as_one_and_no_probability_is_rounded_to_certainty() -> None:
    records = recorded.records("mixed")
    where = region(records, recommend(records).setting)
    assert where is not None
    nearly = replace(where, families={"belay": 0.998, "ema": 0.002, "damped": 0.0, "push": 0.0}, likely=1)
    text = region_text(nearly, explained(records))
    assert "belay over 99 %, ema under 1 %, damped 0 %, push 0 %" in text
    assert "truly best of 5 candidates is a single one (judged by 5 seeds, their noise taken as normal):" in text
    assert "immediate_lr_factor  0.9\n" in text


def test_a_range_whose_ends_print_the_same_is_told_as_one_number_and_one_candidate_as_one() -> None:
    records = recorded.records("mixed")
    where = region(records, recommend(records).setting)
    assert where is not None
    ranges = where.ranges | {"lr": Range(1.99999, 2.0, 2.00001), "mass_ratio": Range(1.0, 1.5, 2.0)}
    text = region_text(replace(where, ranges=ranges, candidates=1, likely=1), explained(records))
    assert "\nlr                   2\n" in text
    assert "\nmass_ratio           1 to 2, median 1.5\n" in text
    assert "the truly best of 1 candidate is a single one" in text


# --- what coordinates explain -----------------------------------------------------------------------------------------


def test_coordinates_explain_what_depends_on_them_and_not_what_is_noise() -> None:
    rng = np.random.default_rng(5)
    averages = drawn(120, rng)
    shares = explained(study(averages, measured(3 * coordinates(averages)[:, 0], 4, rng)))
    assert shares.natural is not None
    assert shares.raw is not None
    assert 0.8 < shares.natural.low < shares.natural.share < shares.natural.high <= 1
    assert shares.raw.share < shares.natural.share  # memory is a ratio of raw parameters
    noise = explained(study(averages, measured(np.zeros(120), 4, rng)))
    assert noise.natural is not None
    assert noise.natural.low < 0
    assert noise.natural.high < 0.3


def test_few_settings_and_a_constant_objective_explain_nothing() -> None:
    rng = np.random.default_rng(6)
    few = explained(study(drawn(8, rng), measured(np.arange(8.0), 4, rng)))
    assert (few.natural, few.raw) == (None, None)
    assert few.unknown == "nothing can be told from 8 trainings with different parameters; try 20 settings or more"
    assert "the same" in explained(recorded.records("constant")).unknown


def test_an_objective_over_many_powers_of_ten_is_taken_by_its_logarithm() -> None:
    rng = np.random.default_rng(7)
    averages = drawn(60, rng)
    values = 10 ** (4 * coordinates(averages)[:, :1] + rng.normal(scale=0.05, size=(60, 3)))
    shares = explained(study(averages, values))
    assert shares.logarithm
    assert shares.natural is not None
    assert shares.natural.share > 0.8


def test_a_host_and_its_riders_are_held_out_together() -> None:
    """What a training came to is chance, but whoever has seen one of its settings knows the others by their rate."""
    rng, hosts, riders = np.random.default_rng(8), 25, 10
    training = np.repeat(np.arange(hosts), 1 + riders)
    numbers = [host if rider == 0 else RIDERS + MOST_RIDERS * host + rider for host in range(hosts)
               for rider in range(1 + riders)]  # fmt: skip
    records = study(drawn(len(training), rng), rng.normal(size=(hosts, 2))[training])
    at = records.table["setting"]
    table = records.table.assign(setting=np.array(numbers)[at], lr=0.1 + training[at])
    shares = explained(replace(records, table=table, parameters=[*PARAMETERS, "lr"]))
    assert shares.natural is not None
    assert shares.natural.high < 0.3


def test_a_host_and_its_riders_count_as_one_training() -> None:
    rng = np.random.default_rng(8)
    records = study(drawn(30, rng), np.repeat(rng.normal(size=(3, 1)), 10, axis=0) + 0.01 * rng.normal(size=(30, 4)))
    hosts = {
        number: number // 10 if number % 10 == 0 else 10_000_000 + 1000 * (number // 10) + number
        for number in range(30)
    }
    table = records.table.assign(setting=records.table["setting"].map(hosts))
    assert "from 3 trainings" in explained(replace(records, table=table)).unknown

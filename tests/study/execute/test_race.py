"""A race over seeds: who goes on, how much surer the choice is, and that a study races the same after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from studies import CommandLine, small, write

from study.design.config import parse_config
from study.design.schema import CONFIRMATION, PARAMETERS, Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.ledger import Ledger, counts
from study.execute.plan import Pack
from study.execute.race import SHARES, runners
from study.execute.tables import opened

METRIC, OWN = "average/excess_loss", "live/excess_loss"
EMA, PULL = (0.9, 1.0, 0.0), (0.9, 0.5, 0.1)
SEARCH = {"sampler": "random", "settings": 16, "baseline": 4, "race": True}


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(**{"seeds": 4, "search": SEARCH} | changes)))


# --- who goes on ------------------------------------------------------------------------------------------------------


def searched(number: int, average: tuple[float, float, float], *values: float, live: float = 9.0, **ending: object):
    """A setting that came to these values, one for each seed."""
    setting = Setting(number, {**dict(zip(PARAMETERS, average, strict=True)), "lr": 0.1, "steps": 60})
    riders = ending.pop("riders", {})
    seeds = [
        SeedResult(seed, [(60, {METRIC: value, OWN: live})], riders=riders, **ending)
        for seed, value in enumerate(values)
    ]
    return setting, Outcome(number, seeds)


def going_on(share: float, changes: dict[str, object] | None = None, **searches: Sequence) -> list[int]:
    """The numbers of those that go on; less is better."""
    sizes = {name: (len(each), each) for name, each in searches.items()}
    return sorted({setting.number for setting in runners(study_of(**(changes or {})), sizes, share)})


def test_the_best_quarter_of_each_search_goes_on():
    main = [searched(number, PULL, number / 10, number / 10) for number in range(12)]
    emas = [searched(20 + number, PULL, 5 - number, 5) for number in range(8)]
    assert going_on(0.25, main=main, ema=emas) == [0, 1, 2, 26, 27]


def test_two_of_a_search_go_on_at_least_as_one_alone_is_compared_with_none():
    assert going_on(0.25, main=[searched(number, PULL, number) for number in range(4)]) == [0, 1]
    assert going_on(0.25, main=[searched(0, PULL, 1)]) == [0]


def test_a_setting_that_did_not_complete_its_seeds_does_not_go_on():
    bad = [searched(0, PULL, 0.1, state="diverged"), searched(1, PULL, 0.1, state="failed")]
    assert going_on(0.5, main=[*bad, *(searched(number, PULL, number) for number in range(2, 6))]) == [2, 3, 4]


def test_the_best_without_averaging_goes_on_too_as_averages_choose_other_learning_rates():
    tried = [searched(number, EMA, number, live=9 - number) for number in range(8)]
    pulling = searched(8, PULL, 8, live=0.1)  # trains otherwise than without averaging
    assert going_on(0.25, main=[*tried, pulling]) == [0, 1, 2, 7]
    assert going_on(0.25, {"objective": {"metric": OWN}}, main=[*tried, pulling]) == [6, 7, 8]


def test_a_setting_is_as_good_as_its_best_rider():
    search = SEARCH | {"riders": {"memory": [0.2], "damping_ratio": [1, "inf"]}}
    tried = [searched(number, EMA, number) for number in range(1, 8)]
    host = searched(8, EMA, 8, riders={METRIC: [math.nan, 0.5]})
    assert going_on(0.25, {"search": search}, main=[*tried, host]) == [1, 8]


# --- how much surer the choice is -------------------------------------------------------------------------------------


def regrets(settings: int, noise: float, seeds: int, studies: int = 250) -> tuple[float, float]:
    """How much worse than the best the chosen setting truly is, without and with a race of as many runs: means."""
    study = study_of(seeds=seeds, search=SEARCH | {"settings": settings, "baseline": 0})
    rng, plain, raced = np.random.default_rng(settings), [], []
    for _ in range(studies):
        true = rng.exponential(0.03, settings)
        measured = true[:, None] + rng.normal(0, noise, (settings, study.config.stages[-1].stop))
        plain.append(true[measured[:, :seeds].mean(axis=1).argmin()] - true.min())
        raced.append(true[winner(study, measured)] - true.min())
    return float(np.mean(plain)), float(np.mean(raced))


def winner(study: Study, measured: NDArray[np.float64]) -> int:
    """The number of the setting that a race chooses of those that measure these values, by setting and seed."""
    running, stages = list(range(len(measured))), study.config.stages
    for share, stage in zip(SHARES, stages, strict=False):
        tried = [searched(number, PULL, *measured[number, : stage.stop]) for number in running]
        running = [setting.number for setting in runners(study, {"main": (len(measured), tried)}, share)]
    return min(running, key=lambda number: measured[number].mean())


@pytest.mark.parametrize(("settings", "noise"), [(16, 0.005), (64, 0.005), (64, 0.01)])
def test_a_race_chooses_settings_that_are_truly_better_than_as_many_runs_without_one(settings, noise):
    plain, raced = regrets(settings, noise, seeds=4)
    assert raced < 0.7 * plain


@pytest.mark.parametrize("seeds", [4, 6, 10])
def test_a_race_takes_as_many_runs(seeds):
    stages = study_of(seeds=seeds).config.stages
    assert [stage.start for stage in stages[1:]] == [stage.stop for stage in stages[:-1]]
    runs = 64 * len(stages[0]) + sum(64 * share * len(stage) for share, stage in zip(SHARES, stages[1:], strict=True))
    assert runs == 64 * seeds


# --- a study that races -----------------------------------------------------------------------------------------------


def outcomes_of(pack: Pack) -> list[Outcome]:
    """A made-up measurement: the better, the closer lr is to 0.5, with noise of its own for each setting and seed."""
    outcomes = []
    for setting in pack.settings:
        true = abs(math.log(float(setting["lr"]) / 0.5))
        noise = [np.random.default_rng([setting.number, seed]).normal(0, 0.2) for seed in pack.seeds]
        seeds = [
            SeedResult(seed, [(60, {METRIC: true + each, OWN: true + 1})])
            for seed, each in zip(pack.seeds, noise, strict=True)
        ]
        outcomes.append(Outcome(setting.number, seeds))
    return outcomes


def play(study: Study, url: str, workers: int = 2, stop_after: int | None = None) -> tuple[list[Pack], Asker]:
    """Trains a study as so many workers would, the newest pack first; what runs when it is stopped is lost."""
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        asker, running, given = Asker(study, ledger, room=8), [], []
        while True:
            while len(running) < workers and (pack := asker.next()) is not None:
                running.append(pack)
                given.append(pack)
            if not running or len(given) >= (stop_after or math.inf):
                return given, asker
            asker.tell(outcomes_of(running.pop()))


def seeds_of(asker: Asker) -> dict[int, list[int]]:
    return {setting.number: [result.seed for result in outcome.seeds] for setting, outcome in asker.outcomes()}


def table_of(asker: Asker) -> list[tuple[Setting, Outcome]]:
    return sorted(asker.outcomes(), key=lambda each: each[0].number)


def test_all_settings_get_the_first_seeds_and_the_better_ones_more(tmp_path: Path) -> None:
    _, asker = play(study_of(), f"sqlite:///{tmp_path}/ledger.db")
    seeds, searches = seeds_of(asker), asker.plan.searches
    lengths = sorted((searches[number], len(each)) for number, each in seeds.items())
    ema = [("ema", 2)] * 2 + [("ema", 14)] * 2  # two of four go on, and both again
    main = [("main", 2)] * 12 + [("main", 6)] * 2 + [("main", 14)] * 2
    assert lengths == [*ema, *main]
    assert all(each == list(range(len(each))) for each in seeds.values())
    assert asker.finished
    assert asker.race == (4, 4)


def test_finalists_are_chosen_of_those_that_were_longest_in_the_race(tmp_path: Path) -> None:
    _, asker = play(study_of(confirm={"finalists": 3, "seeds": 4}), f"sqlite:///{tmp_path}/ledger.db")
    searched = {number: [seed for seed in seeds if seed < CONFIRMATION] for number, seeds in seeds_of(asker).items()}
    assert [len(searched[setting.number]) for setting in asker.finalists] == [14, 14, 14]
    assert asker.confirmed == 3


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("stop_after", [3, 7, 9, 11, 14])
def test_a_race_that_was_cut_off_ends_as_an_uninterrupted_one(tmp_path: Path, sampler: str, stop_after: int) -> None:
    study = study_of(search=SEARCH | {"sampler": sampler, "in_flight": 8}, confirm={"finalists": 3, "seeds": 4})
    _, whole = play(study, f"sqlite:///{tmp_path}/whole.db", workers=1)
    url = f"sqlite:///{tmp_path}/cut.db"
    _, cut = play(study, url, stop_after=stop_after)
    assert not cut.finished
    assert all(len(seeds) in (2, 6, 14) for seeds in seeds_of(cut).values())  # whole stages alone
    _, resumed = play(study, url)
    assert table_of(resumed) == table_of(whole)
    assert [each.number for each in resumed.finalists] == [each.number for each in whole.finalists]
    assert counts(study, url).raced == counts(study, f"sqlite:///{tmp_path}/whole.db").raced > 0


def test_a_race_that_grows_trains_what_is_missing_and_no_more(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    _, before = play(study_of(), url)
    given, after = play(study_of(search=SEARCH | {"settings": 32}), url)
    kept, grown = seeds_of(before), seeds_of(after)
    assert {number: grown[number][: len(seeds)] for number, seeds in kept.items()} == kept
    trained = [(setting.number, seed) for pack in given for setting in pack.settings for seed in pack.seeds]
    missing = {(n, seed) for n, seeds in grown.items() for seed in seeds if seed not in kept.get(n, ())}
    assert sorted(trained) == sorted(missing)
    mains = [len(seeds) for number, seeds in grown.items() if after.plan.searches[number] == "main"]
    assert len(mains) == 32
    assert sum(length == 14 for length in mains) >= 4


def test_the_command_line_runs_a_race_and_tells_of_it(
    databases: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(databases.parent)
    search = SEARCH | {"riders": "none"}
    config = write(databases.parent / "small.yaml", seeds=4, search=search, confirm={"finalists": 3, "seeds": 4})
    plan = belay_study("run", config, "--dry-run").out
    assert "about 80: 2 seeds of each, 4 more of the best quarter, 8 more of the best eighth, 60 steps" in plan
    ran = belay_study("run", config, "--inline")
    assert ran.code == 0, ran.err
    assert ran.err.startswith("small: 20 settings x 2 to 14 seeds of 60 steps; starting MLflow")
    assert "5 of 5 in the race, 3 of 3 finalists confirmed" in ran.err.splitlines()[-1]
    assert ran.out.startswith("study     small: 20 of 20 settings x 2 to 14 seeds done")
    assert "of the other 4 settings cannot be told from it (95 % over all of them, finalists by 4 fresh " in ran.out
    top = json.loads(belay_study("best", "small", "--top", 20, "--format", "json").out)
    assert [row["seeds"] for row in top] == sorted((row["seeds"] for row in top), reverse=True)
    assert [row["seeds"] for row in top][:5] == [14, 14, 14, 14, 14]
    best = json.loads(belay_study("best", "small", "--format", "json").out)
    assert (best["seeds"], best["number"], best["rider_of"]) == (14, top[0]["setting"], None)
    (row,) = json.loads(belay_study("status", "small", "--format", "json").out)
    assert (row["done"], row["left"], row["confirmed"]) == (20, 0, 3)
    assert row["raced"] == sum(each["seeds"] > 2 for each in top)
    again = belay_study("run", config, "--inline")
    assert (again.code, again.out) == (0, ran.out)

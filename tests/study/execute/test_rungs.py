"""Stopping early at rungs: what has to be reached, that it ends a setting either way of training, and after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from studies import CommandLine, small, write

from study.design.config import parse_config
from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.ledger import Ledger, counts
from study.execute.plan import Pack
from study.execute.rungs import Rungs
from study.execute.search import ending
from study.execute.tables import opened
from study.execute.train import train_pack

METRIC = "average/excess_loss"
SEARCH = {"sampler": "random", "settings": 24, "baseline": 8, "in_flight": 8, "rungs": [0.25, 0.5], "riders": "none"}


def study_of(**changes: Any) -> Study:
    return Study.of(parse_config(small(**{"search": SEARCH} | changes)))


# --- what has to be reached -------------------------------------------------------------------------------------------


def reached(number: int, *values: float, seed: int = 0) -> Outcome:
    """A setting that measured these values, from step 15 on every 15 steps."""
    history = [(15 * (place + 1), {METRIC: value}) for place, value in enumerate(values)]
    return Outcome(number, [SeedResult(seed, history)])


def test_half_of_those_that_got_to_a_rung_is_to_be_reached():
    rungs = Rungs(study_of(), [reached(number, number, 10 - number, 5, 5) for number in range(5)])
    assert rungs.bars(range(5)) == ((15, 2), (30, 8))
    assert rungs.bars([0, 1, 2, 4]) == ((15, 1.5), (30, 8.5))


def test_a_rung_that_few_got_to_lets_all_pass():
    rungs = Rungs(study_of(), [*(reached(number, number, 1) for number in range(3)), reached(3, 3), reached(9, 9, 9)])
    assert rungs.bars(range(4)) == ((15, 1.5),)
    assert rungs.bars(range(3)) == ()


def test_the_first_seed_alone_tells():
    rungs = Rungs(study_of(), [reached(number, number) for number in range(4)])
    for number in range(4):
        rungs.tell(reached(number, 100, seed=1))
    assert rungs.bars(range(4)) == ((15, 1.5),)


def test_what_is_measured_between_rungs_counts_for_the_one_before_and_the_end_for_none():
    late = [Outcome(number, [SeedResult(0, [(20, {METRIC: 1.0}), (60, {METRIC: 0.0})])]) for number in range(4)]
    assert Rungs(study_of(), late).bars(range(4)) == ((15, 1.0),)


# --- training ---------------------------------------------------------------------------------------------------------


def pack_of(
    study: Study, bars: Mapping[int, Any], side_by_side: bool, lrs: tuple[float, ...] = (0.1, 0.2, 0.3)
) -> Pack:
    average = {"decay": 0.9, "damping": 0.5, "coupling": 0.1}
    settings = [study.setting(number, average | {"lr": lr}) for number, lr in enumerate(lrs)]
    return Pack(tuple(settings), (0, 1), side_by_side, bars=bars)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_setting_whose_first_seed_is_worse_than_the_bar_stops_there_with_all_seeds(side_by_side: bool) -> None:
    study, bars = study_of(evaluations=1), {0: ((15, 1e9), (30, 0.0)), 1: ((15, 0.0), (30, 1e9)), 2: ((30, 1e9),)}
    later, first, never = train_pack(study, pack_of(study, bars, side_by_side))
    free = list(train_pack(study, pack_of(study, {}, side_by_side)))
    assert [each.state for each in (later, first, never)] == ["pruned", "pruned", "complete"]
    assert [[step for step, _ in result.history] for result in later.seeds] == [[15, 30], []]
    assert [[step for step, _ in result.history] for result in first.seeds] == [[15], []]
    assert {result.state for outcome in (later, first) for result in outcome.seeds} == {"pruned"}
    assert later.seeds[0].history == free[0].seeds[0].history[:2]
    assert [result.history for result in never.seeds] == [result.history for result in free[2].seeds]


def test_the_better_direction_is_the_objective_s() -> None:
    changes = {"task": {"name": "execute.test_rungs:reports_its_lr"}, "objective": {"metric": "average/score"}}
    for mode, states in (("max", ["pruned", "complete", "complete"]), ("min", ["complete", "complete", "pruned"])):
        study = study_of(**changes | {"objective": changes["objective"] | {"mode": mode}})
        bars = dict.fromkeys(range(3), ((15, 0.2),))
        assert [outcome.state for outcome in train_pack(study, pack_of(study, bars, False))] == states


def reports_its_lr(setting: Mapping[str, Any], seed: int, report: Any) -> None:
    """A train function that goes on until `report` raises."""
    for step in (10, 20, setting["steps"]):
        report(step, {"average/score": setting["lr"]})


def test_a_train_function_is_stopped_by_what_report_raises() -> None:
    objective = {"metric": "average/score", "mode": "max"}
    study = study_of(task={"name": "execute.test_rungs:reports_its_lr"}, objective=objective)
    (outcome,) = train_pack(study, pack_of(study, {0: ((15, 1.0),)}, False, lrs=(0.1,)))
    assert [(result.state, [step for step, _ in result.history]) for result in outcome.seeds] == [
        ("pruned", [10, 20]),
        ("pruned", []),
    ]


# --- a study with rungs -----------------------------------------------------------------------------------------------


def play(study: Study, url: str, room: int = 8, workers: int = 2, stop_after: float = 1e9) -> tuple[list[Pack], Asker]:
    """Trains a study as so many workers would, the newest pack first; what runs when it is stopped is lost."""
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        asker, running, given = Asker(study, ledger, room), [], []
        while True:
            while len(running) < workers and (pack := asker.next()) is not None:
                running.append(pack)
                given.append(pack)
            if not running or len(given) >= stop_after:
                return given, asker
            asker.tell(list(train_pack(study, running.pop())))


def results_of(asker: Asker) -> list[tuple[Setting, str, float]]:
    found = sorted(asker.outcomes(), key=lambda each: each[0].number)
    return [(setting, outcome.state, repr(outcome.value(METRIC))) for setting, outcome in found]


def test_settings_are_judged_by_those_of_their_search_that_were_told_before_they_were_drawn(tmp_path: Path) -> None:
    study = study_of()
    packs, asker = play(study, f"sqlite:///{tmp_path}/ledger.db")
    outcomes = {setting.number: outcome for setting, outcome in asker.outcomes()}
    assert all(not pack.bars for pack in packs for setting in pack.settings if setting.number < 8)  # two waves
    judged = {number: bars for pack in packs for number, bars in pack.bars.items()}
    for number in range(16, 32):
        search = asker.plan.searches[number]
        before = [n for n in range(number // 4 * 4 - 4) if asker.plan.searches[n] == search]
        assert judged.get(number, ()) == Rungs(study, outcomes.values()).bars(before)
    pruned = [number for number, outcome in outcomes.items() if outcome.state == "pruned"]
    assert len(pruned) > 5
    assert min(pruned) >= 8
    assert counts(study, f"sqlite:///{tmp_path}/ledger.db").pruned == len(pruned)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_with_rungs_that_was_cut_off_ends_as_an_uninterrupted_one(tmp_path: Path, sampler: str) -> None:
    study = study_of(search=SEARCH | {"sampler": sampler})
    _, whole = play(study, f"sqlite:///{tmp_path}/whole.db", workers=1)
    for stop_after in (3, 5, 7):
        url = f"sqlite:///{tmp_path}/cut-{stop_after}.db"
        _, cut = play(study, url, stop_after=stop_after)
        assert not cut.finished
        _, resumed = play(study, url)
        assert results_of(resumed) == results_of(whole)


def test_one_by_one_the_same_settings_stop(tmp_path: Path) -> None:
    _, side_by_side = play(study_of(), f"sqlite:///{tmp_path}/one.db", room=8)
    _, one_by_one = play(study_of(), f"sqlite:///{tmp_path}/other.db", room=1)
    ours, theirs = results_of(side_by_side), results_of(one_by_one)
    assert [each[:2] for each in ours] == [each[:2] for each in theirs]


def test_a_training_that_riders_watch_is_not_stopped(tmp_path: Path) -> None:
    packs, asker = play(study_of(search=SEARCH | {"riders": "auto"}), f"sqlite:///{tmp_path}/ledger.db")
    judged = {number for pack in packs for number in pack.bars}
    assert judged
    for setting, outcome in asker.outcomes():
        if setting["coupling"] == 0:
            assert setting.number not in judged
            assert outcome.state != "pruned"


def test_optuna_is_told_of_a_pruned_setting_with_what_it_had_come_to():
    outcome = Outcome(
        3, [SeedResult(0, [(15, {METRIC: 4.0}), (30, {METRIC: 3.0})], "pruned"), SeedResult(1, [], "pruned")]
    )
    assert ending(outcome, study_of()) == {"state": TrialState.PRUNED, "intermediate_values": {30: 3.0}}


def test_the_command_line_tells_of_settings_that_stopped_early(
    databases: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(databases.parent)
    config = write(databases.parent / "small.yaml", search=SEARCH, confirm={"finalists": 3, "seeds": 3})
    assert "rungs       after steps 15, 30 a setting stops" in belay_study("run", config, "--dry-run").out
    ran = belay_study("run", config, "--inline")
    assert ran.code == 0, ran.err
    (row,) = json.loads(belay_study("status", "small", "--format", "json").out)
    assert (row["done"], row["left"]) == (32, 0)
    assert row["pruned"] > 5
    assert ran.out.startswith(f"study     small: 32 of 32 settings x 2 seeds done, {row['pruned']} pruned")
    assert f"{row['pruned']} pruned" in ran.err.splitlines()[-1]
    best = json.loads(belay_study("best", "small", "--format", "json").out)
    assert best["settings_tried"] + best["pruned"] + best["diverged"] == 32
    assert len(json.loads(belay_study("best", "small", "--top", 50, "--format", "json").out)) == best["settings_tried"]
    again = belay_study("run", config, "--inline")
    assert (again.code, again.out) == (0, ran.out)

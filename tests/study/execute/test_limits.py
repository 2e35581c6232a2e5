"""Limits that end a study early: the same settings whatever the timing and after a kill, and what goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from execute.test_ask import asking, play, study_of
from studies import CommandLine, small, write

from study.design.config import parse_config
from study.design.places import Connections
from study.design.schema import Outcome, SeedResult
from study.design.study import Study
from study.errors import BadInput
from study.execute.ask import Asker
from study.execute.gain import Gain
from study.execute.inline import back_end
from study.execute.packs import Progress
from study.execute.plan import Pack
from study.execute.sweep import run
from study.findings.collect import load, studies

SEARCH = {"sampler": "tpe", "settings": 40, "baseline": 0, "in_flight": 4}
MOST, ENDED = 13, 24  # settings that may bring nothing better, and how many are asked before the search ends so


def limited(most: int | None, **changes: object) -> Study:
    return study_of(search=SEARCH, limits={"settings_without_gain": most}, **changes)


# --- settings without gain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["min", "max"])
def test_settings_are_counted_from_the_best_so_far(mode: str) -> None:
    sign = 1 if mode == "min" else -1
    metric = "average/excess_loss" if mode == "min" else "average/val_accuracy"
    task = "quadratic" if mode == "min" else "digits"
    gain = Gain(study_of(task=task, objective={"metric": metric}, space={"decay": 0.9, "lr": {"log": [0.1, 1]}}))
    states = ["diverged", "complete", "complete", "failed", "complete", "complete"]
    for number, (state, value) in enumerate(zip(states, [0.0, 3, 3, 0, 4, 2], strict=True)):
        gain.add(Outcome(number, [SeedResult(0, [(60, {metric: sign * value})], state)]))
    assert [gain.without(settings) for settings in range(7)] == [0, 1, 0, 1, 2, 3, 0]


def test_a_rider_is_a_gain_too() -> None:
    study = study_of(space={"decay": {"uniform": [0.5, 0.9]}, "lr": 0.1})
    metric, gain = "average/excess_loss", Gain(study)
    for number, best in enumerate([1.0, 0.5]):
        riders = {metric: [math.nan, best, *[2.0] * (len(study.riders) - 2)]}
        gain.add(Outcome(number, [SeedResult(0, [(60, {metric: 3.0})], riders=riders)]))
    assert gain.without(2) == 0


@pytest.mark.parametrize(("workers", "newest_first", "cut"), [(1, False, None), (3, True, None), (2, False, 5)])
def test_a_search_ends_where_too_many_settings_bring_nothing_better_whatever_the_timing(
    tmp_path: Path, workers: int, newest_first: bool, cut: int | None
) -> None:
    study, url = limited(MOST, confirm={"finalists": 3, "seeds": 2}), f"sqlite:///{tmp_path}/ledger.db"
    if cut:
        with asking(study, url) as asker:
            play(asker, workers, newest_first, stop_after=cut)
    with asking(study, url) as asker:
        play(asker, workers, newest_first)
        assert asker.ended_early
        assert asker.finished
        assert len(asker.finalists) == 3
        values = [outcome.part("search").value("average/excess_loss") for _, outcome in asker.outcomes()]
    assert len(values) == ENDED
    assert min(values[: ENDED - MOST]) == min(values)


@pytest.mark.parametrize("cut", range(1, 9))
def test_it_ends_there_too_after_a_kill_at_which_all_that_was_asked_was_told(tmp_path: Path, cut: int) -> None:
    """Whatever was asked before the kill: then two waves may follow each other without a result between them."""
    search = {"sampler": "random", "settings": 40, "baseline": 0, "in_flight": 4, "riders": "none"}
    study, url = study_of(search=search, limits={"settings_without_gain": 4}), f"sqlite:///{tmp_path}/ledger.db"
    values = {0: 1.0, 6: 0.5}

    def train(asker: Asker, most: int) -> int:
        asked, running = 0, []
        while asked < most:
            while len(running) < 4 and asked < most and (pack := asker.next()) is not None:
                running.append(pack)
                asked += 1
            if not running:
                break
            tell(asker, running.pop(0))
        for pack in running:
            tell(asker, pack)
        return asked

    def tell(asker: Asker, pack: Pack) -> None:
        (setting,) = pack.settings
        history = [(60, {"average/excess_loss": values.get(setting.number, 2.0)})]
        asker.tell([Outcome(setting.number, [SeedResult(seed, history) for seed in pack.seeds])])

    with asking(study, url) as asker:
        train(asker, most=cut)
    with asking(study, url) as asker:
        train(asker, most=40)
        assert len(list(asker.outcomes())) == 8


def test_a_larger_limit_goes_on_and_none_tries_all(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    for most, asked in ((MOST, ENDED), (MOST, ENDED), (17, ENDED + 4), (None, 40)):
        with asking(limited(most), url) as asker:
            play(asker, workers=1)
            assert asker.finished
            assert len(list(asker.outcomes())) == asked


def test_the_answer_is_as_of_then_and_says_what_goes_on(tmp_path: Path, belay_study: CommandLine) -> None:
    config = write(tmp_path / "small.yaml", limits={"settings_without_gain": 3}, search=SEARCH | {"sampler": "random"})
    answered = belay_study("run", config, "--inline")
    assert answered.code == 0
    assert "3 settings (`limits.settings_without_gain`) came to nothing better: " in answered.err
    assert "extend small --inline --set limits.settings_without_gain=N`" in answered.err
    assert "best      decay" in answered.out
    assert belay_study("run", config, "--inline").out == answered.out
    listed = belay_study("list", "--format", "json").out
    assert '"status": "finished"' in listed


# --- hours ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("databases")
def test_a_study_whose_time_is_up_begins_nothing_more_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def two_hours_later(progress: Progress) -> None:
        if progress.done >= 2:
            progress.started -= 7200

    config = small(search=SEARCH | {"settings": 8, "sampler": "random"}, resources={"side_by_side": 1})
    study = Study.of(parse_config(config | {"limits": {"hours": 1.5}}))
    stopped = run(study, Connections.of(), back_end, two_hours_later, said.append)
    assert 2 <= stopped.done < 8
    assert not stopped.finished
    done = f"the 1.5 hours of `limits.hours` are over: {stopped.done} of 8 settings are done"
    assert said == [f"{done}; `belay-study resume small` goes on"]
    tracking = Connections.of().tracking
    assert studies(tracking)["status"].iloc[0] == "stopped"
    so_far = load("small", tracking)
    assert len(so_far.settings) >= stopped.done
    assert not so_far.finished
    assert run(study, Connections.of(), back_end, lambda progress: None, said.append).finished
    assert studies(tracking)["status"].iloc[0] == "finished"
    assert load("small", tracking).finished
    assert len(said) == 1


@pytest.mark.usefixtures("databases")
def test_a_study_that_is_done_when_its_time_is_up_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []

    def late(progress: Progress) -> None:
        if progress.finished:
            progress.started -= 7200

    study = Study.of(parse_config(small(search=SEARCH | {"settings": 2, "sampler": "random"}, limits={"hours": 1})))
    assert run(study, Connections.of(), back_end, late, said.append).finished
    assert said == []


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"hours": 0}, r"`limits\.hours` must be above 0, got 0"),
        ({"hours": True}, r"`limits\.hours` must not be a truth value"),
        ({"settings_without_gain": 0}, r"`limits\.settings_without_gain` must be at least 1, got 0"),
        ({"settings_without_gain": 2.5}, r"`limits\.settings_without_gain` must be a whole number, got 2\.5"),
        ({"hour": 2}, r"`limits\.hour` is not a key here \(did you mean `hours`"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(limits: dict[str, object], rule: str) -> None:
    with pytest.raises(BadInput, match=rule):
        parse_config(small(limits=limits))

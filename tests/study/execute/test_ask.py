"""Optuna's asking and telling, on real storages."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text
from studies import small

from study.design.config import parse_config
from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.errors import BadInput, FailedWork
from study.execute.ask import Asker
from study.execute.lease import Lease
from study.execute.storage import counts, open_storage, stored_config


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(**changes)))


def outcome_of(setting: Setting, state: str = "complete") -> Outcome:
    """A made-up measurement: the better, the closer lr is to 0.5."""
    value = abs(math.log(float(setting["lr"]) / 0.5))
    seeds = [SeedResult(seed, [(60, {"average/excess_loss": value})], state) for seed in range(2)]
    return Outcome(setting.number, seeds)


def run(asker: Asker, workers: int, newest_first: bool = False, stop_after: int | None = None) -> list[Setting]:
    """Plays Ray Tune: keeps so many settings running and ends the oldest or the newest of them first."""
    running: list[Setting] = []
    asked: list[Setting] = []
    while True:
        while len(running) < workers and (setting := asker.ask()) is not None:
            running.append(setting)
            asked.append(setting)
        if not running or len(asked) == stop_after:
            return asked
        asker.tell(outcome_of(running.pop(-1 if newest_first else 0)))


def by_number(settings: list[Setting]) -> list[Setting]:
    return sorted(settings, key=lambda setting: setting.number)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
def test_the_settings_asked_do_not_depend_on_timing(tmp_path: Path, sampler: str) -> None:
    study = study_of(search={"sampler": sampler, "settings": 16, "baseline": 4, "in_flight": 4, "seed": 3})
    one = run(Asker(study, f"sqlite:///{tmp_path}/one.db"), workers=1)
    many = run(Asker(study, f"sqlite:///{tmp_path}/many.db"), workers=3, newest_first=True)
    assert len(one) == 20
    assert by_number(one) == by_number(many)


def test_a_sampler_that_learns_asks_no_more_than_in_flight_at_once(tmp_path: Path) -> None:
    asker = Asker(study_of(), f"sqlite:///{tmp_path}/optuna.db")
    asked = []
    while (setting := asker.ask()) is not None:
        asked.append(setting)
    assert len(asked) == 4 + 4  # in_flight of the space, and all four of plain EMA
    assert not asker.asked_all


@pytest.mark.parametrize("stop_after", [1, 7, 13])
def test_a_study_that_was_cut_off_asks_what_an_uninterrupted_one_asks(tmp_path: Path, stop_after: int) -> None:
    study = study_of()
    whole = run(Asker(study, f"sqlite:///{tmp_path}/whole.db"), workers=3)
    url = f"sqlite:///{tmp_path}/cut.db"
    run(Asker(study, url), workers=3, stop_after=stop_after)  # what was running then is lost
    later = Asker(study, url)
    kept = [setting for setting, _ in later.outcomes()]
    again = run(later, workers=3)
    assert by_number(kept + again) == by_number(whole)
    assert counts(study, url).finished


def test_the_search_learns_from_what_it_is_told(tmp_path: Path) -> None:
    study = study_of(search={"sampler": "tpe", "settings": 40, "baseline": 0, "in_flight": 4})
    asked = by_number(run(Asker(study, f"sqlite:///{tmp_path}/optuna.db"), workers=1))
    distance = [abs(math.log(float(setting["lr"]) / 0.5)) for setting in asked]
    assert sum(distance[-10:]) < 0.5 * sum(distance[:10])


def test_every_baseline_setting_is_a_plain_ema(tmp_path: Path) -> None:
    asked = run(Asker(study_of(), f"sqlite:///{tmp_path}/optuna.db"), workers=1)
    plain = [setting for setting in asked if setting["damping"] == 1 and setting["coupling"] == 0]
    assert len(plain) == 4
    assert len({setting["lr"] for setting in plain}) == 4


def test_divergence_is_told_as_pruned_and_failure_as_failed_with_no_trial_left_running(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    study = study_of(search={"sampler": "tpe", "settings": 4, "baseline": 0})
    asker = Asker(study, url)
    for state in ("complete", "diverged", "failed", "complete"):
        setting = asker.ask()
        assert setting is not None
        asker.tell(outcome_of(setting, state))
    trials = optuna.load_study(study_name="small", storage=url).get_trials()
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert counts(study, url).diverged == counts(study, url).failed == 1


def test_a_grid_tries_every_combination_once_and_the_emas_it_lacks(tmp_path: Path) -> None:
    study = study_of(
        space={"decay": {"choice": [0.9, 0.99]}, "damping": {"choice": [0.3, 1.0]}, "coupling": 0.1, "lr": 0.5},
        search={"sampler": "grid"},
    )
    asked = run(Asker(study, f"sqlite:///{tmp_path}/optuna.db"), workers=2)
    tried = [(setting["decay"], setting["damping"], setting["coupling"]) for setting in asked]
    assert sorted(tried) == sorted(
        [(decay, damping, 0.1) for decay in (0.9, 0.99) for damping in (0.3, 1.0)] + [(0.9, 1.0, 0.0), (0.99, 1.0, 0.0)]
    )


def test_a_second_asker_cannot_put_a_result_under_another_settings_number(tmp_path: Path) -> None:
    study = study_of()
    whole = run(Asker(study, f"sqlite:///{tmp_path}/whole.db"), workers=3)
    url = f"sqlite:///{tmp_path}/disturbed.db"
    one, other = Asker(study, url), Asker(study, url)
    first = one.ask()
    assert first is not None
    with pytest.raises(FailedWork, match=r"one driver at a time, got 'small', whose trial 0 was asked by another dri"):
        other.ask()
    one.tell(outcome_of(first))
    later = Asker(study, url)
    kept = [setting for setting, _ in later.outcomes()]
    assert kept == [first]
    assert by_number(kept + run(later, workers=3)) == by_number(whole)


@pytest.mark.parametrize("sampler", ["random", "tpe"])  # Optuna is told each result at once, and in order
def test_two_askers_cannot_both_tell_a_setting(tmp_path: Path, sampler: str) -> None:
    study = study_of(search={"sampler": sampler, "settings": 3, "baseline": 0, "in_flight": 2})
    url = f"sqlite:///{tmp_path}/optuna.db"
    run(Asker(study, url), workers=2, stop_after=2)  # both are lost

    def take_turns() -> None:
        askers = Asker(study, url), Asker(study, url)
        for _ in range(3):
            settings = [asker.ask() for asker in askers]
            assert settings[0] == settings[1] is not None
            for asker, setting in zip(askers, settings, strict=True):
                asker.tell(outcome_of(setting))

    with pytest.raises(FailedWork, match=r"got 'small', whose trial 0 was told by another driver; .* resume small`"):
        take_turns()


def test_an_asker_whose_lease_another_driver_has_taken_writes_nothing(tmp_path: Path) -> None:
    study, url = study_of(), f"sqlite:///{tmp_path}/optuna.db"
    engine = open_storage(url).engine
    with Lease("small", engine, pytest.fail) as lease:
        asker = Asker(study, url, lease)
        running = asker.ask()
        assert running is not None
        with engine.begin() as connection:
            connection.execute(text("update belay_leases set expires = 0"))
        with Lease("small", engine, pytest.fail):
            before = dump(tmp_path / "optuna.db")
            for act in (asker.ask, lambda: asker.tell(outcome_of(running)), lambda: Asker(study, url, lease)):
                with pytest.raises(FailedWork, match="another driver took 'small' over"):
                    act()
            assert dump(tmp_path / "optuna.db") == before


def dump(file: Path) -> list[str]:
    """Everything in a database but the times at which leases expire."""
    with contextlib.closing(sqlite3.connect(file, timeout=300)) as database:
        return [line for line in database.iterdump() if 'INTO "belay_leases"' not in line]


def test_a_name_that_is_taken_by_another_question_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    Asker(study_of(), url)
    with pytest.raises(BadInput, match=r"name must be new or its config the same, got 'small' with another config"):
        Asker(study_of(steps=61), url)
    assert stored_config("small", url).steps == 60


def test_an_unknown_study_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the study must exist in sqlite:///.*, got 'nobody'"):
        stored_config("nobody", f"sqlite:///{tmp_path}/optuna.db")


def test_a_storage_that_does_not_answer_is_refused_without_its_password() -> None:
    with pytest.raises(BadInput, match=r"`storage.url` must be a database that answers, got \S+:\*\*\*@") as refused:
        stored_config("small", "postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(refused.value)


def test_a_storage_that_fails_in_the_middle_says_so_in_one_line_and_keeps_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    study = study_of()
    asker = Asker(study, f"sqlite:///{file}")
    first, second = asker.ask(), asker.ask()
    assert first is not None
    assert second is not None
    asker.tell(outcome_of(first))
    alter(file, "alter table trial_user_attributes rename to away")
    with pytest.raises(FailedWork, match=r"`storage.url` must take what .*, got no such table.*; .* resume small`\.$"):
        asker.tell(outcome_of(second))
    alter(file, "alter table away rename to trial_user_attributes")
    assert [setting.number for setting, _ in Asker(study, f"sqlite:///{file}").outcomes()] == [first.number]


def alter(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file, timeout=300)) as database:
        database.execute(statement)

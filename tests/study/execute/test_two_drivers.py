"""Two processes that drive one study: the second is refused, unless the first was killed."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import Process, forked
from studies import CommandLine, copy_databases, write

from study.findings.collect import load

GATED = {"objective": {"metric": "average/score", "mode": "max"}, "search": {"sampler": "tpe", "settings": 6}}


def gated(home: Path, name: str) -> Path:
    """The config of a study whose training waits from its fourth setting on until `open_gate` is called."""
    (home / f"gate-{name}").mkdir()
    task = {"name": "tasks_of_tests:waits_at_a_gate", "gate": str(home / f"gate-{name}")}
    return write(home / f"{name}.yaml", name=name, task=task, **GATED)


def open_gate(home: Path, name: str) -> None:
    (home / f"gate-{name}" / "open").touch()


@contextmanager
def driver_at_the_gate(home: Path, config: Path) -> Iterator[Process]:
    """A process of its own that drives the study, while it waits at the gate."""
    with forked("run", config, "--inline", home=home) as driver:
        while not any((home / f"gate-{config.stem}").glob("waiting-*")):
            assert driver.running, driver.end()
            time.sleep(0.05)
        yield driver


def table(home: Path, name: str) -> pd.DataFrame:
    """What the study measured."""
    return load(name, f"sqlite:///{home}/.belay-study/mlflow.db").table.drop(columns="gate")


def storage(home: Path) -> closing[sqlite3.Connection]:
    """The ledger, also while a driver uses it."""
    return closing(sqlite3.connect(home / ".belay-study" / "ledger.db", timeout=300))


def stored(home: Path) -> list[Any]:
    """Everything in the ledger but the times at which leases expire."""
    with storage(home) as database:
        return [line for line in database.iterdump() if 'INTO "belay_leases"' not in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, made_databases: Path) -> pd.DataFrame:
    """What the study measures when nothing comes between."""
    home = tmp_path_factory.mktemp("undisturbed")
    copy_databases(made_databases, home)
    config = gated(home, "small")
    open_gate(home, "small")
    with forked("run", config, "--inline", home=home) as whole:
        ended = whole.end()
    assert ended.code == 0, ended.err
    return table(home, "small")


@pytest.mark.usefixtures("databases")
def test_a_second_driver_is_refused_and_changes_nothing(
    undisturbed: pd.DataFrame, belay_study: CommandLine, tmp_path: Path
) -> None:
    config = gated(tmp_path, "small")
    with driver_at_the_gate(tmp_path, config) as first:
        before = stored(tmp_path)
        for command in (["run", config], ["resume", "small"]):
            second = belay_study(*command, "--inline")
            assert second.code == 2, second.err
            assert second.out == ""
            assert re.fullmatch(
                rf"belay-study: a study must have one driver at a time, got 'small', which process {first.pid} on \S+ "
                r"has driven since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait for its end \(.*\), or stop it and .*\.",
                second.err.splitlines()[-1],
            )
        assert stored(tmp_path) == before
        open_gate(tmp_path, "small")
        ended = first.end()
        assert ended.code == 0, ended.err
    pd.testing.assert_frame_equal(table(tmp_path, "small"), undisturbed)


@pytest.mark.usefixtures("databases")
def test_a_killed_driver_makes_nobody_wait(undisturbed: pd.DataFrame, belay_study: CommandLine, tmp_path: Path) -> None:
    config = gated(tmp_path, "small")
    with driver_at_the_gate(tmp_path, config) as first:
        first.kill()
    open_gate(tmp_path, "small")
    resumed = belay_study("resume", "small", "--inline")
    assert resumed.code == 0, resumed.err
    assert "waiting" not in resumed.err
    pd.testing.assert_frame_equal(table(tmp_path, "small"), undisturbed)


def said_of_small(belay_study: CommandLine) -> tuple[str, bool]:
    """What `list` and `status` say of whether it runs."""
    listed = {row["study"]: row["status"] for row in json.loads(belay_study("list", "--format", "json").out)}
    (status,) = json.loads(belay_study("status", "small", "--format", "json").out)
    return listed["small"], status["running"]


def test_a_study_runs_until_its_driver_is_killed_and_then_is_said_to_be_stopped(
    belay_study: CommandLine, databases: Path
) -> None:
    home = databases.parent
    with driver_at_the_gate(home, gated(home, "small")) as first:
        assert said_of_small(belay_study) == ("running", True)
        first.kill()
        assert said_of_small(belay_study) == ("stopped", False)
    (databases / "ledger.db").write_text("no database")
    listed = belay_study("list", "--format", "json")
    assert (listed.code, json.loads(listed.out)[0]["status"]) == (0, "running")  # what MLflow says stands
    assert listed.err.startswith("the ledger does not say which studies have no driver any more: `storage.url` must ")
    (databases / "ledger.db").unlink()
    listed = belay_study("list", "--format", "json")
    assert (listed.err, json.loads(listed.out)[0]["status"]) == ("", "running")


@pytest.mark.usefixtures("databases")
def test_a_driver_that_was_taken_over_writes_nothing_more(
    undisturbed: pd.DataFrame, belay_study: CommandLine, tmp_path: Path
) -> None:
    config = gated(tmp_path, "small")
    with driver_at_the_gate(tmp_path, config) as first:
        with storage(tmp_path) as database, database:
            database.execute("update belay_leases set token = 'of another driver', machine = 'another'")
        before = stored(tmp_path)
        open_gate(tmp_path, "small")
        ended = first.end()
    assert ended.code == 1
    assert "did not and another driver took 'small' over; `belay-study status small` says" in ended.err.splitlines()[-1]
    assert stored(tmp_path) == before
    (row,) = json.loads(belay_study("list", "--format", "json").out)[:1]
    assert row["status"] == "running"  # as the other driver would have it
    with storage(tmp_path) as database, database:
        database.execute("delete from belay_leases")
    assert belay_study("resume", "small", "--inline").code == 0
    pd.testing.assert_frame_equal(table(tmp_path, "small"), undisturbed)


def test_of_two_drivers_that_begin_at_once_in_an_empty_folder_one_drives(tmp_path: Path) -> None:
    config = gated(tmp_path, "small")
    command = ("run", config, "--inline")
    with forked(*command, home=tmp_path) as one, forked(*command, home=tmp_path) as other:
        while one.running and other.running:  # the gate holds the one that drives
            time.sleep(0.05)
        refused, drives = (other, one) if one.running else (one, other)
        ended = refused.end()
        assert ended.code == 2, ended.err
        assert "a study must have one driver at a time, got 'small', which process" in ended.err.splitlines()[-1]
        open_gate(tmp_path, "small")
        ended = drives.end()
        assert ended.code == 0, ended.err

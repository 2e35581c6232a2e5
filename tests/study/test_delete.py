"""Deleting a study: what is asked first, what goes, what MLflow keeps, and what is left alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, inspect, text
from studies import CommandLine, write

from study.design.config import load_config
from study.design.study import Study
from study.errors import BadInput
from study.execute.lease import Lease
from study.execute.ledger import Ledger
from study.execute.record import Recorder
from study.execute.tables import METADATA, VERSIONS, opened

FEW = {"sampler": "random", "settings": 1, "baseline": 1}


@pytest.fixture
def client(databases: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{databases}/mlflow.db")


@pytest.fixture
def ledger(databases: Path) -> str:
    return f"sqlite:///{databases}/ledger.db"


@pytest.fixture
def config(tmp_path: Path, databases: Path) -> Path:
    return write(tmp_path / "small.yaml", search=FEW, steps=4, evaluations=1)


def ran(belay_study: CommandLine, config: Path, *options: str) -> str:
    """Runs the study; its answer."""
    answer = belay_study("run", config, "--inline", *options)
    assert answer.code == 0, answer.err
    return answer.out


def begun(config: Path, url: str, client: MlflowClient, *changes: str) -> None:
    """Has both stores know the study, of which nothing is trained yet."""
    study = Study.of(load_config(config, changes))
    recorder = Recorder(study, client.tracking_uri)
    with opened(url, making=True) as engine:
        Ledger(engine, study.config.name, url).begin(study.config)
    recorder.open(2)
    recorder.close("KILLED")


def rows(url: str) -> dict[str, int]:
    """How many rows each table of a ledger has, which says its version too."""
    engine = create_engine(url)
    with engine.connect() as connection:
        assert {*METADATA.tables} <= {*inspect(connection).get_table_names()}
        tables = set(METADATA.tables) - {VERSIONS.name}
        return {table: connection.execute(text(f"select count(*) from {table}")).scalar_one() for table in tables}


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> Iterator[None]:
    """A terminal as stdin, at which this is typed."""
    ours, theirs = os.openpty()
    os.write(ours, typed.encode())
    with os.fdopen(theirs) as stdin, monkeypatch.context() as changed:
        changed.setattr("sys.stdin", stdin)
        yield
    os.close(ours)


@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
def test_a_study_is_deleted_from_both_stores_and_may_run_anew_under_its_name(
    server: str,
    request: pytest.FixtureRequest,
    belay_study: CommandLine,
    config: Path,
    client: MlflowClient,
    ledger: str,
) -> None:
    url = ledger if server == "sqlite" else request.getfixturevalue("postgresql")
    storage = ["--storage", url]
    first = ran(belay_study, config, *storage)
    begun(config, url, client, "name=other")
    (old, kept) = (client.get_experiment_by_name(name).experiment_id for name in ("small", "other"))
    answer = belay_study("delete", "small", "--yes", *storage)
    assert (answer.code, answer.out) == (0, ""), answer.err
    assert answer.err == (
        f"deleted small: 2 settings with 4 results in the ledger {url} and 3 runs in MLflow at {client.tracking_uri}\n"
        f"MLflow keeps them in its trash as the experiment small-deleted-{old}, until `mlflow gc`\n"
    )
    assert {table for table, count in rows(url).items() if count} == {"belay_studies"}
    assert belay_study("status", "other", *storage).code == 0
    assert [each.name for each in client.search_experiments()] == ["other", "Default"]
    assert ran(belay_study, config, *storage) == first
    assert client.get_experiment(kept).lifecycle_stage == "active"
    client.restore_experiment(old)  # as `mlflow experiments restore` does
    assert belay_study("best", f"small-deleted-{old}").out.splitlines()[1] == first.splitlines()[1]


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 130), ("\n", 130), ("\x04", 130)])
def test_a_terminal_is_shown_what_goes_and_asked(
    typed: str, code: int, belay_study: CommandLine, config: Path, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(ledger, making=True) as engine:
        Ledger(engine, "small", ledger).begin(load_config(config))
    with terminal(monkeypatch, typed):
        answer = belay_study("delete", "small")
    asked = f"small: 0 settings with 0 results in the ledger {ledger}\ndelete all of it? [y/N] "
    assert (answer.code, answer.out) == (code, "")
    said = f"deleted small: 0 settings with 0 results in the ledger {ledger}"
    assert answer.err == asked + (f"{said}\n" if code == 0 else "belay-study: nothing was deleted.\n")
    assert rows(ledger)["belay_studies"] == (0 if code == 0 else 1)


def test_without_a_terminal_it_is_to_be_told_yes_and_one_that_is_driven_or_unknown_is_refused(
    belay_study: CommandLine, config: Path, ledger: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(config, ledger, client)
    before = rows(ledger)
    with Path(os.devnull).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        answer = belay_study("delete", "small")
    rule = "belay-study: `delete` must have `--yes` where there is no terminal to ask at, got neither; add it to delete"
    assert (answer.code, answer.err) == (
        2,
        f"{rule} small: 0 settings with 0 results in the ledger {ledger} and 1 run in MLflow at "
        f"{client.tracking_uri}.\n",
    )
    with opened(ledger, making=True) as engine, Lease("small", engine, print):
        driven = belay_study("delete", "small", "--yes")
    assert (driven.code, driven.out) == (2, "")
    assert re.fullmatch(r"belay-study: a study must have one driver at a time, got 'small', which .*\n", driven.err)
    unknown = belay_study("delete", "smal", "--yes")
    assert unknown.code == 2
    assert unknown.err == (
        f"belay-study: the study must exist in {ledger} or {client.tracking_uri}, got 'smal'; `belay-study list` shows "
        "what does.\n"
    )
    assert rows(ledger) == before
    assert client.get_experiment_by_name("small").lifecycle_stage == "active"


def test_a_study_that_one_of_the_stores_has_is_deleted_there_and_the_other_store_is_not_made(
    belay_study: CommandLine, config: Path, ledger: str, client: MlflowClient, databases: Path
) -> None:
    begun(config, ledger, client)
    (databases / "ledger.db").rename(databases / "away.db")
    answer = belay_study("delete", "small", "--yes")
    assert answer.err.startswith(f"deleted small: 1 run in MLflow at {client.tracking_uri}\n"), answer.err
    assert not (databases / "ledger.db").exists()
    (databases / "away.db").rename(databases / "ledger.db")
    (databases / "mlflow.db").rename(databases / "away.db")
    answer = belay_study("delete", "small", "--yes")
    assert answer.err == f"deleted small: 0 settings with 0 results in the ledger {ledger}\n"
    assert not (databases / "mlflow.db").exists()


def test_an_experiment_that_is_in_the_trash_gives_the_study_s_name_free(
    belay_study: CommandLine, config: Path, client: MlflowClient, ledger: str
) -> None:
    """As where it was deleted in MLflow's own page."""
    begun(config, ledger, client)
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    with pytest.raises(BadInput, match="must not be deleted"):
        begun(config, ledger, client)
    assert belay_study("delete", "small", "--yes").code == 0
    begun(config, ledger, client)


@pytest.mark.parametrize("named", ["small", "small-deleted-ID"])
def test_a_deletion_that_was_killed_before_its_experiment_was_in_the_trash_can_be_finished(
    named: str, belay_study: CommandLine, config: Path, client: MlflowClient, ledger: str
) -> None:
    begun(config, ledger, client)
    experiment = client.get_experiment_by_name("small").experiment_id
    in_trash = f"small-deleted-{experiment}"
    client.rename_experiment(experiment, in_trash)
    answer = belay_study("delete", named.replace("ID", experiment), "--yes")
    assert answer.code == 0, answer.err
    assert "1 run in MLflow" in answer.err
    assert f"the experiment {in_trash}, until" in answer.err
    left = client.get_experiment(experiment)
    assert (left.name, left.lifecycle_stage) == (in_trash, "deleted")
    assert rows(ledger)["belay_studies"] == (0 if named == "small" else 1)


def test_what_was_taken_out_of_the_trash_is_left_alone_when_a_new_study_of_its_name_is_deleted(
    belay_study: CommandLine, config: Path, client: MlflowClient, ledger: str
) -> None:
    begun(config, ledger, client)
    old = client.get_experiment_by_name("small").experiment_id
    assert belay_study("delete", "small", "--yes").code == 0
    client.restore_experiment(old)
    begun(config, ledger, client)
    assert belay_study("delete", "small", "--yes").code == 0
    assert client.get_experiment(old).lifecycle_stage == "active"
    assert belay_study("delete", "small", "--yes").code == 2


def test_runs_that_are_no_study_s_are_left_alone(
    belay_study: CommandLine, config: Path, client: MlflowClient, ledger: str
) -> None:
    other = client.create_experiment("other")
    client.create_run(other, run_name="of others")
    unknown = belay_study("delete", "other", "--yes")
    assert (unknown.code, unknown.err.partition(",")[0]) == (
        2,
        f"belay-study: the study must exist in {ledger} or {client.tracking_uri}",
    )
    begun(config, ledger, client)
    client.create_run(client.get_experiment_by_name("small").experiment_id, run_name="of others")
    before = rows(ledger)
    mixed = belay_study("delete", "small", "--yes")
    assert mixed.code == 2
    assert "of 'small' must hold nothing else, got 1 other run, as of others; delete those" in mixed.err
    assert rows(ledger) == before
    assert {each.lifecycle_stage for each in client.search_experiments()} == {"active"}

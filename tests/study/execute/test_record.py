"""The recorder on a real MLflow database: what a run holds, recording twice, and records that cannot be delivered."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from studies import CommandLine, small, write

from study import results
from study.design.config import parse_config
from study.design.riders import riders_of
from study.design.schema import CONFIRMATION, RESULTS_ARTIFACT, Outcome, SeedResult, Setting
from study.design.study import Study
from study.errors import BadInput, FailedWork, TakenOver
from study.execute.record import Recorder
from study.findings.collect import load
from study.tracking import artifacts, runs

METRIC = "average/excess_loss"
REFUSED = "the disk is full, says the test"


@pytest.fixture
def uri(databases: Path) -> str:
    return f"sqlite:///{databases}/mlflow.db"


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(**changes)))


def setting(number: int, **changes: float) -> Setting:
    return study_of().setting(number, {"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": 0.1} | changes)


def result(seed: int, *values: float, **ending: Any) -> SeedResult:
    """One seed that measured these values at even steps up to step 60."""
    steps = [60 * (place + 1) // len(values) for place in range(len(values))]
    history = [(step, {METRIC: value}) for step, value in zip(steps, values, strict=True)]
    return SeedResult(seed, history, **ending, seconds=1.25, finished=1.7e9)


def outcome(number: int, *seeds: SeedResult) -> Outcome:
    return Outcome(number, list(seeds or (result(0, 0.4, 0.2), result(1, 0.6, 0.4))))


def record(uri: str, *outcomes: tuple[Setting, Outcome], **options: Any) -> None:
    recorder = Recorder(study_of(), uri, **options)
    recorder.open(20)
    for each in outcomes:
        recorder.record(*each)
    recorder.close("FINISHED")


def runs_of(uri: str, kind: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`belay.kind` = '{kind}'"))


def child(uri: str) -> Run:
    (run,) = runs_of(uri, "setting")
    return run


def table(uri: str) -> pd.DataFrame:
    """The results on record."""
    return results.read(artifacts(MlflowClient(uri), runs_of(uri, "study")[0].info.run_id))


def results_file(uri: str) -> Path:
    (run,) = runs_of(uri, "study")
    return Path(run.info.artifact_uri.removeprefix("file://")) / RESULTS_ARTIFACT


def values(uri: str) -> list[tuple[int, int, float]]:
    """Setting, seed and value of each row on record."""
    rows = table(uri)
    return list(zip(rows["setting"], rows["seed"], rows[METRIC], strict=True))


def wait_for(recorder: Recorder, reached: Callable[[], bool]) -> None:
    """Waits until the recorder's thread has come to a point."""
    while not reached():
        assert recorder._fault is None
        time.sleep(0.02)


def history(uri: str, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(uri).get_metric_history(child(uri).info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def rows(uri: str) -> dict[str, list[Any]]:
    """Every row of MLflow's tables about settings: a metric written twice shows here."""
    ours = "select run_uuid from tags where key = 'belay.kind' and value = 'setting'"
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=300)) as connection:
        return {
            table: sorted(connection.execute(f"select * from {table} where run_uuid in ({ours})").fetchall(), key=repr)
            for table in ("runs", "metrics", "params", "tags")
        }


@contextmanager
def refusing(uri: str, table: str) -> Iterator[None]:
    """The database takes no row of a table, as one whose disk is full."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=300)) as connection:
        connection.execute(f"create trigger full before insert on {table} begin select raise(abort, '{REFUSED}'); end")
        connection.commit()
        yield
        connection.execute("drop trigger full")
        connection.commit()


# --- what a run holds -------------------------------------------------------------------------------------------------


def test_the_study_s_run_holds_its_question_and_where_it_came_from(uri):
    record(uri)
    (run,) = runs_of(uri, "study")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "small")
    tags = {name.removeprefix("belay."): text for name, text in run.data.tags.items() if name.startswith("belay.")}
    known = {"metric": METRIC, "mode": "min", "steps": "60", "seeds": "2", "planned": "20", "done": "0"}
    assert {name: tags[name] for name in known} == known
    assert tags["identity"] == study_of().config.identity
    assert json.loads(tags["task"]) == {"name": "quadratic", "dimensions": 4}
    assert set(json.loads(tags["versions"])) == {"belay-study", "torch", "ray", "optuna", "mlflow", "pandas"}
    assert [file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id)] == ["config.json"]


def test_a_setting_s_run_holds_means_an_error_history_and_figures(uri):
    record(uri, (setting(3), outcome(3)))
    run = child(uri)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "0003 belay")
    assert (run.info.start_time, run.info.end_time) == (1_699_999_997_500, 1_700_000_000_000)
    assert run.data.tags["mlflow.parentRunId"] == runs_of(uri, "study")[0].info.run_id
    assert (run.data.tags["belay.setting"], run.data.tags["belay.outcome"]) == ("3", "complete")
    assert (run.data.tags["belay.family"], run.data.tags["belay.regime"]) == ("belay", "underdamped")
    assert run.data.params == {name: str(value) for name, value in setting(3).items()}
    assert run.data.params.items() >= {"decay": "0.9", "lr": "0.1", "dimensions": "4", "steps": "60"}.items()
    assert history(uri, METRIC) == [(30, pytest.approx(0.5)), (60, pytest.approx(0.3))]
    assert history(uri, f"{METRIC}.se") == [(30, pytest.approx(0.1)), (60, pytest.approx(0.1))]
    assert run.data.metrics["oscillator/lag"] == pytest.approx(setting(3).oscillator.lag)
    assert run.data.metrics["seconds"] == 2.5


def test_a_figure_that_is_infinite_is_left_out(uri):
    record(uri, (setting(0, damping=1.0, coupling=0.0), outcome(0)))
    assert math.isinf(setting(0, damping=1.0).oscillator.damping_ratio)
    assert "oscillator/damping_ratio" not in child(uri).data.metrics
    assert "oscillator/half_life" in child(uri).data.metrics


@pytest.mark.parametrize(("ending", "status", "tags"), [
    ({"state": "diverged", "diverged_at": 41}, "FINISHED", {"outcome": "diverged", "diverged_at": "41", "message": ""}),
    ({"state": "failed", "message": "OSError: gone"}, "FAILED", {"outcome": "failed", "message": "OSError: gone"}),
])  # fmt: skip
def test_a_setting_with_a_bad_seed_has_its_reason_and_no_mean(uri, ending, status, tags):
    record(uri, (setting(0), outcome(0, result(0, 0.4, 0.2), result(1, 0.6, **ending))))
    run = child(uri)
    assert run.info.status == status
    found = {name: run.data.tags.get(f"belay.{name}") for name in ("outcome", "diverged_at", "message")}
    assert found == {"diverged_at": None} | tags
    assert not [name for name in run.data.metrics if name.startswith(METRIC)]
    assert list(table(uri)["state"]) == ["complete", ending["state"]]
    assert values(uri) == [(0, 0, 0.2), (0, 1, pytest.approx(math.nan, nan_ok=True))]


def test_a_setting_s_run_takes_three_calls(uri, monkeypatch):
    monkeypatch.setattr("study.execute.record.EVERY", 1e9)  # the results wait for the end, however long that takes
    recorder, calls = Recorder(study_of(), uri), []
    recorder.open(20)
    for name in ("create_run", "log_batch", "log_metric", "log_param", "set_tag", "update_run", "set_terminated"):
        real = getattr(MlflowClient, name)
        monkeypatch.setattr(MlflowClient, name, lambda *a, n=name, r=real, **k: (calls.append(n), r(*a, **k))[1])
    recorder.record(setting(0), outcome(0))
    wait_for(recorder, lambda: "set_terminated" in calls)
    assert calls == ["create_run", "log_batch", "set_terminated"]
    recorder.close("FINISHED")
    assert calls[3:] == ["set_tag", "set_terminated"]  # of the study's run, whose results are on record then


def test_a_long_history_is_kept_in_ten_points_from_the_first_to_the_last(uri):
    record(uri, (setting(0), outcome(0, result(0, *map(float, range(60))), result(1, *map(float, range(60))))))
    points = history(uri, METRIC)
    assert (len(points), points[0], points[-1]) == (10, (1, 0.0), (60, 59.0))
    assert {after[0] - before[0] for before, after in itertools.pairwise(points)} == {6, 7}


def test_more_than_mlflow_takes_at_once_is_split(uri):
    names = [METRIC, *(f"average/m{number}" for number in range(900))]
    seeds = [SeedResult(seed, [(60, dict.fromkeys(names, 1.0 + seed))], finished=1.7e9) for seed in (0, 1)]
    given = dict(setting(0)) | {f"other{number}": number for number in range(150)}
    record(uri, (Setting(0, given), outcome(0, *seeds)))
    run = child(uri)
    assert {name for name in run.data.metrics if name.endswith(".se")} == {f"{name}.se" for name in names}
    assert run.data.params == {name: str(value) for name, value in given.items()}


def test_a_metric_that_is_no_number_on_some_seed_has_no_mean(uri):
    """As one of a rider that is a finalist, whose objective alone must be a number."""
    seeds = [
        SeedResult(seed, [(60, {METRIC: 0.5, "average/distance": value})], finished=1.7e9)
        for seed, value in enumerate([0.25, math.nan])
    ]
    record(uri, (setting(0), outcome(0, *seeds)))
    assert child(uri).data.metrics[METRIC] == 0.5
    assert "average/distance" not in child(uri).data.metrics


def test_a_finalist_s_run_gets_the_mean_over_its_fresh_seeds_and_keeps_that_of_the_search(uri):
    searched = [result(0, 0.1, 0.2), result(1, 0.3, 0.4)]
    record(uri, (setting(0), outcome(0, *searched)))
    fresh = [replace(result(CONFIRMATION + place, 0.7), finished=1.8e9) for place in range(3)]
    record(uri, (setting(0), outcome(0, *searched, *fresh)))
    assert history(uri, METRIC) == [(30, pytest.approx(0.2)), (60, pytest.approx(0.3))]
    assert history(uri, f"confirmed/{METRIC}") == [(60, pytest.approx(0.7))]
    assert len(history(uri, "oscillator/lag")) == 1
    assert child(uri).data.tags["belay.confirmed"] == "complete"
    assert list(table(uri)["role"]) == ["search"] * 2 + ["confirmation"] * 3
    (run,) = runs_of(uri, "study")
    assert run.data.tags["belay.done"] == "1"


# --- the results ------------------------------------------------------------------------------------------------------


def test_the_results_name_each_setting_s_run_and_the_study_s_says_how_many_are_done(uri):
    record(uri, (setting(1), outcome(1)), (setting(0), outcome(0)), (setting(2), outcome(2, result(0, 0.5))))
    assert values(uri) == [(0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.2), (1, 1, 0.4), (2, 0, 0.5)]
    assert {run.info.run_id: int(run.data.tags["belay.setting"]) for run in runs_of(uri, "setting")} == dict(
        zip(table(uri)["run"], table(uri)["setting"], strict=True)
    )
    (run,) = runs_of(uri, "study")
    assert run.data.tags["belay.done"] == "2"


def test_the_results_are_written_as_the_study_goes_on_but_seldom(uri, monkeypatch):
    monkeypatch.setattr("study.execute.record.EVERY", 0.05)
    monkeypatch.setattr("study.execute.record.REST", 1e9)
    recorder = Recorder(study_of(), uri)
    recorder.open(20)
    recorder.record(setting(0), outcome(0))
    wait_for(recorder, lambda: runs_of(uri, "study")[0].data.tags["belay.done"] == "1")
    for number in (1, 2):
        recorder.record(setting(number), outcome(number))
    wait_for(recorder, lambda: len(runs_of(uri, "setting")) == 3)
    assert len(table(uri)) == 2
    recorder.close("FINISHED")
    assert len(table(uri)) == 6


def test_a_recorder_looks_only_for_settings_that_the_results_lack(uri, monkeypatch):
    record(uri, *[(setting(number), outcome(number)) for number in range(3)])
    looked_at = []
    monkeypatch.setattr(
        "study.execute.record.runs",
        lambda *query, **tags: (looked_at.append(run) or run for run in runs(*query, **tags)),
    )
    recorder = Recorder(study_of(), uri)
    assert [run.data.tags["belay.kind"] for run in looked_at] == ["study"]
    assert [recorder.lacks(number, outcome(number)) for number in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(("every", "rest", "written"), [(1e9, 0, 0), (0, 1e9, 2), (0, 0, 6)])
def test_a_recorder_that_was_killed_leaves_nothing_that_is_written_twice(uri, monkeypatch, every, rest, written):
    monkeypatch.setattr("study.execute.record.EVERY", every)
    monkeypatch.setattr("study.execute.record.REST", rest)
    done = [(setting(number), outcome(number)) for number in range(3)]
    killed = Recorder(study_of(), uri)
    killed.open(20)
    for each in done:
        killed.record(*each)
    wait_for(killed, lambda: [run.info.status for run in runs_of(uri, "setting")] == ["FINISHED"] * 3)
    wait_for(killed, lambda: (len(table(uri)) if results_file(uri).exists() else 0) == written)
    before = rows(uri)
    record(uri, *done)
    assert rows(uri) == before
    assert values(uri) == [(number, seed, value) for number in range(3) for seed, value in enumerate((0.2, 0.4))]


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-50])])
def test_results_that_are_gone_or_damaged_are_written_anew_and_nothing_else(uri, damage):
    done = [(setting(number), outcome(number)) for number in range(3)]
    record(uri, *done)
    before, whole = rows(uri), results_file(uri).read_bytes()
    damage(results_file(uri))
    record(uri, *done)
    assert rows(uri) == before
    assert results_file(uri).read_bytes() == whole


def test_a_recorder_that_is_to_trust_nothing_replaces_rows_and_writes_a_run_that_is_gone(uri):
    record(uri, (setting(0), outcome(0)), (setting(1), outcome(1)))
    MlflowClient(uri).delete_run(table(uri)["run"].iloc[0])
    record(uri, (setting(0), outcome(0)), (setting(1), outcome(1, result(0, 0.7), result(1, 0.8))), anew=True)
    assert values(uri) == [(0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.7), (1, 1, 0.8)]
    assert sorted(run.data.tags["belay.setting"] for run in runs_of(uri, "setting")) == ["0", "1"]


def test_a_setting_with_more_seeds_has_the_same_run_and_a_new_mean(uri):
    record(uri, (setting(0), outcome(0, result(0, 0.2))), (setting(1), outcome(1)))
    longer = [replace(result(seed, value), finished=1.8e9) for seed, value in enumerate((0.2, 0.3, 0.7))]
    for _ in range(2):
        record(uri, (setting(0), outcome(0, *longer)))
    assert values(uri) == [(0, 0, 0.2), (0, 1, 0.3), (0, 2, 0.7), (1, 0, 0.2), (1, 1, 0.4)]
    run = next(run for run in runs_of(uri, "setting") if run.data.tags["belay.setting"] == "0")
    assert (run.data.metrics[METRIC], run.data.tags["belay.seeds"]) == (pytest.approx(0.4), "3")
    assert set(table(uri)["run"]) == {run.info.run_id for run in runs_of(uri, "setting")}


# --- again ------------------------------------------------------------------------------------------------------------


def test_a_setting_that_is_recorded_is_left_as_it_is(uri):
    record(uri, *[(setting(number), outcome(number)) for number in range(3)])
    before = rows(uri)
    record(uri, *[(setting(number), outcome(number, result(0, 9.0), result(1, 8.0))) for number in range(3)])
    assert rows(uri) == before
    assert len(runs_of(uri, "study")) == 1


def test_another_question_under_the_same_name_is_refused_and_nothing_is_changed(uri):
    record(uri, (setting(0), outcome(0)))
    before = rows(uri)
    with pytest.raises(BadInput, match="name must be new or its config the same, got 'small' with another config"):
        Recorder(study_of(steps=61), uri)
    assert rows(uri) == before


def test_a_study_whose_data_has_changed_is_refused(uri, monkeypatch):
    monkeypatch.setattr(Study, "data_digest", lambda study: "cafe")
    record(uri, (setting(0), outcome(0)))
    record(uri, (setting(1), outcome(1)))  # the same data
    monkeypatch.setattr(Study, "data_digest", lambda study: "feed")
    with pytest.raises(
        BadInput, match="must be what the study began with, got a digest of 'feed' in place of 'cafe'; "
    ):
        record(uri, (setting(2), outcome(2)))


def test_an_experiment_in_mlflow_s_trash_is_refused(uri):
    record(uri)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    with pytest.raises(BadInput, match="must not be deleted, got 'small' in its trash; change `name`"):
        Recorder(study_of(), uri)


def test_the_database_of_a_server_that_keeps_the_artifacts_is_refused_by_who_writes_and_who_reads(uri):
    MlflowClient(uri).create_experiment("small", artifact_location="mlflow-artifacts:/1")
    rule = r"must be the MLflow server that keeps the artifacts of 'small', got its database sqlite:.*; name the server"
    with pytest.raises(BadInput, match=f"`tracking.uri` {rule}"):
        Recorder(study_of(), uri)
    with pytest.raises(BadInput, match=f"`tracking` {rule}"):
        load("small", uri)


# --- records that cannot be delivered ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["runs", "params", "metrics"])  # before a setting's run, and amid it
def test_what_could_not_be_delivered_is_told_at_the_end_and_a_later_recorder_delivers_the_rest_once(uri, place):
    done = [(setting(number), outcome(number)) for number in range(3)]
    recorder = Recorder(study_of(), uri)
    recorder.open(20)
    with refusing(uri, place):
        for each in done:
            recorder.record(*each)
        with pytest.raises(FailedWork) as caught:
            recorder.close("FINISHED")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith("MLflow must take the records, got ")
    assert REFUSED in text
    assert text.endswith(f"from {uri}: no result is lost, `belay-study resume small` delivers the rest.")
    record(uri, *done)
    runs = runs_of(uri, "setting")
    assert sorted((run.data.tags["belay.setting"], run.info.status) for run in runs) == [
        ("0", "FINISHED"), ("1", "FINISHED"), ("2", "FINISHED"),
    ]  # fmt: skip
    for run in runs:
        points = MlflowClient(uri).get_metric_history(run.info.run_id, METRIC)
        assert sorted(point.step for point in points) == [30, 60]


def test_a_study_whose_records_are_refused_is_trained_to_its_end_and_resume_records_it(
    belay_study: CommandLine, databases: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.live.EVERY", math.inf)
    config = write(databases.parent / "small.yaml")
    with refusing(uri, "metrics"):
        answer = belay_study("run", config, "--inline")
    *progress, error = answer.err.splitlines()
    assert (answer.code, answer.out) == (1, "")
    assert [line.split(",")[0] for line in progress] == [
        "small: 20 settings x 2 seeds of 60 steps; starting MLflow", "20/20 settings",
    ]  # fmt: skip
    assert error.startswith("belay-study: MLflow must take the records, got ")
    assert error.endswith("no result is lost, `belay-study resume small --inline` delivers the rest.")
    resumed = belay_study("resume", "small", "--inline")
    assert resumed.code == 0, resumed.err
    assert "small: 20 of 20 settings x 2 seeds done" in resumed.out
    assert sorted(int(run.data.tags["belay.setting"]) for run in runs_of(uri, "setting")) == list(range(20))
    assert {run.info.status for kind in ("setting", "study") for run in runs_of(uri, kind)} == {"FINISHED"}


def test_a_recorder_whose_study_another_driver_has_taken_over_writes_nothing_more(uri):
    allowed = iter([True] * 3)  # the study's run, and two settings

    def check() -> None:
        if not next(allowed, False):
            raise TakenOver("another driver took 'small' over.")

    recorder = Recorder(study_of(), uri, check)
    recorder.open(20)
    for number in range(4):
        recorder.record(setting(number), outcome(number))
    with pytest.raises(TakenOver, match="another driver"):
        recorder.close("FINISHED")
    assert sorted(run.data.tags["belay.setting"] for run in runs_of(uri, "setting")) == ["0", "1"]
    assert [run.info.status for run in runs_of(uri, "study")] == ["RUNNING"]


def test_where_the_ledger_cannot_say_whose_the_study_is_the_ledger_is_blamed(uri):
    def check() -> None:
        raise FailedWork("the ledger must answer, got a closed connection.")

    with pytest.raises(FailedWork, match=r"^the ledger must answer, got a closed connection\.$"):
        Recorder(study_of(), uri, check).open(20)


@pytest.fixture
def server(uri: str, databases: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real MLflow server over the database: its address and its process, which leads a group of its own."""
    kept = ["--backend-store-uri", uri, "--no-serve-artifacts", "--default-artifact-root", databases.as_uri()]
    for _ in range(3):  # another process may take the port before the server does, which then ends
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        with (databases / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *place, *kept],
                stdout=log, stderr=log, start_new_session=True, cwd=databases,
            )  # fmt: skip
        try:
            if answers(f"http://127.0.0.1:{port}/health", process):
                yield f"http://127.0.0.1:{port}", process
                return
        finally:
            end(process)
    pytest.fail((databases / "server.log").read_text())


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server comes to answer; False if its process ends before."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()  # whoever has the port; asked again
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process with its group, if it lives."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_takes_more_metrics_than_fit_a_batch_and_when_it_goes_away_in_mid_study_no_record_is_lost(
    server, uri, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address, process = server
    names = [METRIC, *(f"average/m{number}" for number in range(1000))]  # a server takes 1,000 at once
    many = [SeedResult(seed, [(60, dict.fromkeys(names, 1.0))]) for seed in (0, 1)]
    done = [(setting(0), outcome(0, *many)), (setting(1), outcome(1)), (setting(2), outcome(2))]
    recorder = Recorder(study_of(), address)
    recorder.open(20)
    recorder.record(*done[0])
    while not any(run.info.status == "FINISHED" for run in runs_of(uri, "setting")):
        assert recorder._fault is None
        time.sleep(0.1)
    assert set(names) <= child(uri).data.metrics.keys()
    end(process)
    recorder.record(*done[1])
    recorder.record(*done[2])
    with pytest.raises(FailedWork) as told:
        recorder.close("FINISHED")
    text = str(told.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"MLflow must take the records, got API request to {address}/api")
    assert text.endswith(f"from {address}: no result is lost, `belay-study resume small` delivers the rest.")
    assert [run.data.tags["belay.setting"] for run in runs_of(uri, "setting")] == ["0"]
    record(uri, *done)
    assert sorted(run.data.tags["belay.setting"] for run in runs_of(uri, "setting")) == ["0", "1", "2"]
    assert {run.info.status for kind in ("setting", "study") for run in runs_of(uri, kind)} == {"FINISHED"}


@pytest.mark.slow
def test_a_study_whose_records_a_server_takes_prints_its_answer_and_nothing_else(server, belay_study, databases):
    address, _ = server
    config = write(databases.parent / "small.yaml")
    beside_it = belay_study("run", config, "--inline")
    (databases / "ledger.db").unlink()
    by_server = belay_study("run", config, "--inline", "--tracking", address, "--set", "name=other")
    assert by_server.code == 0, by_server.err
    said = beside_it.out.replace("small", "other")
    for command in ("export other", "extend other --inline"):
        assert command in said
        said = said.replace(command, f"{command} --tracking {address}")
    assert by_server.out == said


# --- riders -----------------------------------------------------------------------------------------------------------


def hosting(number: int, *riders: list[float]) -> tuple[Setting, Outcome]:
    """A setting without coupling and what it came to, with what riders measured on each seed."""
    seeds = [replace(result(seed, 0.5, 0.4), riders={METRIC: each}) for seed, each in enumerate(riders)]
    return setting(number, coupling=0.0), Outcome(number, seeds)


def test_riders_are_rows_of_the_table_without_runs_of_their_own(uri: str) -> None:
    record(uri, (setting(0), outcome(0)), hosting(1, [0.3, math.nan], [0.5, 0.2]))
    rows = table(uri)
    ridden = rows[rows["role"] == "rider"]
    assert list(zip(ridden["setting"], ridden["seed"], ridden["run"], ridden[METRIC], strict=True)) == [
        (10_001_000, 0, "", 0.3),
        (10_001_000, 1, "", 0.5),
    ]
    assert json.loads(ridden["parameters"].iloc[0])["lr"] == 0.1
    assert len(runs_of(uri, "setting")) == 2
    assert runs_of(uri, "study")[0].data.tags["belay.done"] == "2"


def test_a_rider_that_was_confirmed_gets_a_run_also_by_a_later_recorder(uri: str) -> None:
    host, came_to = hosting(1, [0.3, 0.1], [0.5, 0.2])
    record(uri, (host, came_to))
    one, ridden = list(riders_of(study_of(), host, came_to))[1]
    whole = Outcome(one.number, [*ridden.seeds, result(CONFIRMATION, 0.15), result(CONFIRMATION + 1, 0.25)])
    for _ in range(2):
        record(uri, (host, came_to), (one, whole))
    rows = table(uri)
    mine = rows[rows["setting"] == one.number]
    assert list(mine["role"]) == ["rider", "rider", "confirmation", "confirmation"]
    (run,) = [run for run in runs_of(uri, "setting") if run.data.tags["belay.setting"] == str(one.number)]
    assert set(mine["run"]) == {run.info.run_id}
    assert run.data.metrics[METRIC] == pytest.approx(0.15)
    assert run.data.metrics[f"confirmed/{METRIC}"] == pytest.approx(0.2)


def test_recording_anew_records_riders_anew(uri: str) -> None:
    host, came_to = hosting(1, [0.3, 0.1], [0.5, 0.2])
    record(uri, (host, came_to))
    before = table(uri)
    record(uri, (host, came_to), anew=True)
    pd.testing.assert_frame_equal(table(uri), before)

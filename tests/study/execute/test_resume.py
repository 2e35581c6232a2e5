"""A driver killed or stopped: `resume` ends with an undisturbed run's table, nothing twice, nothing left running."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from doomed import doom
from mlflow import MlflowClient
from mlflow.entities import Run
from processes import Process, forked
from studies import CommandLine, copy_databases, write

from study.execute.ledger import Ledger
from study.execute.tables import opened
from study.findings.collect import load

# Where the driver dies: (function, which call), in the order in which a setting passes them.
PLACES = {
    "before anything is asked": ("study.execute.record:Recorder.open+", 1),
    "between drawing two parameters of a setting": ("optuna.trial:Trial.suggest_float", 30),
    "after drawing, before a wave is kept": ("study.execute.ledger:Ledger.ask", 4),
    "after a wave is kept": ("study.execute.ledger:Ledger.ask+", 3),
    "in the middle of keeping a result": ("study.execute.ledger:_history_row", 5),
    "before a result is kept": ("study.execute.ask:Asker.tell", 5),
    "after a result is kept, before it is recorded": ("study.execute.ask:Asker.tell+", 6),
    "after MLflow has begun a setting's run": ("mlflow:MlflowClient.create_run+", 6),
    "before MLflow has what a setting measured": ("mlflow:MlflowClient.log_batch", 4),
    "after MLflow has what a setting measured": ("mlflow:MlflowClient.log_batch+", 5),
    "before a setting's run is ended": ("mlflow:MlflowClient.set_terminated", 8),
    "before the results are written": ("study.results:write", 1),
    "after the results are written": ("study.results:write+", 1),
    "before the study's own run is ended": ("study.execute.record:Recorder.close", 1),
}
# All of them are in the driver, which is the same on both back ends; on Ray two stand for the rest.
ON_RAY = ["before a result is kept", "after MLflow has begun a setting's run"]


@dataclass(frozen=True)
class Records:
    """What a study has on record, a table of what it measured and each setting's run, and what it printed."""

    table: pd.DataFrame
    settings: dict[str, Any]
    answer: str


def driver(home: Path, ray: str, first: Callable[[], None] | None = None) -> AbstractContextManager[Process]:
    """A process of its own that does `run small.yaml`, on the Ray at this address or, where that is "", inline."""
    line = ["run", "small.yaml", *([] if ray else ["--inline"])]
    return forked(*line, home=home, first=first, RAY_ADDRESS=ray)


def end_of(process: Process, code: int = 0) -> str:
    """Waits for its end with this exit code; what it printed, stdout before stderr."""
    ended = process.end()
    assert ended.code == code, ended
    return ended.out + ended.err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, made_databases: Path) -> Records:
    """What an undisturbed run, inline, has on record."""
    home = tmp_path_factory.mktemp("undisturbed")
    copy_databases(made_databases, home)
    write(home / "small.yaml")
    with driver(home, ray="") as whole:
        ended = whole.end()
    assert ended.code == 0, ended.err
    assert_nothing_twice_or_left_running(home)
    records = Records(table_of(home), records_of(home), ended.out)
    assert all(points for _, _, points in records.settings.values())
    return records


def table_of(home: Path) -> pd.DataFrame:
    """What the study measured, without when."""
    return load("small", f"sqlite:///{home}/.belay-study/mlflow.db").table


def runs_of(home: Path) -> list[Run]:
    """All of MLflow's runs of the study."""
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def records_of(home: Path) -> dict[str, Any]:
    """Everything recorded of each setting but when, with every point of every metric: one written twice shows here."""
    found, records = points_of(home), {}
    for run in runs_of(home):
        if run.data.tags["belay.kind"] == "setting":
            tags = {name: value for name, value in run.data.tags.items() if name.startswith("belay.")}
            del tags["belay.after"]  # how many rows there were, which timing decides
            records[tags["belay.setting"]] = (tags, run.data.params, found[run.info.run_id])
    return records


def points_of(home: Path) -> dict[str, list[tuple[str, int, float, bool]]]:
    """Every point of every metric of each run, from MLflow's own table: its client asks for one metric at a time."""
    query = "select run_uuid, key, step, value, is_nan from metrics where key != 'seconds' order by key, step, value"
    found = defaultdict(list)
    with closing(sqlite3.connect(home / ".belay-study" / "mlflow.db", timeout=300)) as database:
        for run, *point in database.execute(query):
            found[run].append(tuple(point))
    return found


def assert_nothing_twice_or_left_running(home: Path) -> None:
    runs = runs_of(home)
    assert {run.info.status for run in runs} == {"FINISHED"}
    numbers = [run.data.tags.get("belay.setting", "parent") for run in runs]
    assert sorted(numbers) == sorted(["parent", *map(str, range(20))])
    url = f"sqlite:///{home}/.belay-study/ledger.db"
    with opened(url, making=False) as engine:
        ledger = Ledger(engine, "small", url)
        assert [asked.setting.number for asked in ledger.asked()] == list(range(20))
        assert {number: len(outcome.seeds) for number, outcome in ledger.outcomes().items()} == dict.fromkeys(
            range(20), 2
        )


def assert_same_records(home: Path, undisturbed: Records) -> None:
    pd.testing.assert_frame_equal(table_of(home), undisturbed.table)
    assert records_of(home) == undisturbed.settings


@pytest.mark.slow
@pytest.mark.usefixtures("databases")
def test_a_driver_killed_again_and_again(undisturbed: Records, belay_study: CommandLine, tmp_path: Path) -> None:
    """A study that dies at each place in turn, and at the next one when it goes on."""
    write(tmp_path / "small.yaml")
    for place, (function, call) in PLACES.items():
        with driver(tmp_path, ray="", first=partial(doom, function, min(call, 2))) as doomed:
            ended = doomed.end()
        assert ended.code == -signal.SIGKILL, (place, ended)
    resumed = belay_study("resume", "small", "--inline")
    assert (resumed.code, resumed.out) == (0, undisturbed.answer), resumed.err
    assert_same_records(tmp_path, undisturbed)
    assert_nothing_twice_or_left_running(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("databases")
def test_a_driver_killed(place: str, undisturbed: Records, belay_study: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "small.yaml")
    with driver(tmp_path, ray="", first=partial(doom, *PLACES[place])) as doomed:
        end_of(doomed, -signal.SIGKILL)
    resumed = belay_study("resume", "small", "--inline")
    assert resumed.code == 0, resumed.err
    assert_same_records(tmp_path, undisturbed)
    assert_nothing_twice_or_left_running(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("place", ON_RAY)
@pytest.mark.usefixtures("databases")
def test_a_driver_killed_on_ray(
    place: str, undisturbed: Records, belay_study: CommandLine, ray_cluster: str, tmp_path: Path
) -> None:
    write(tmp_path / "small.yaml")
    with driver(tmp_path, ray_cluster, first=partial(doom, *PLACES[place])) as doomed:
        end_of(doomed, -signal.SIGKILL)
    resumed = belay_study("resume", "small")
    assert resumed.code == 0, resumed.err
    assert_same_records(tmp_path, undisturbed)
    assert_nothing_twice_or_left_running(tmp_path)


@pytest.mark.usefixtures("databases", "ray_cluster")
def test_ray_and_this_process_come_to_the_same_records_and_answer(
    undisturbed: Records, belay_study: CommandLine, tmp_path: Path
) -> None:
    done = belay_study("run", write(tmp_path / "small.yaml"))
    assert (done.code, done.out) == (0, undisturbed.answer.replace(" --inline", "")), done.err
    assert done.err.startswith("small: 20 settings x 2 seeds of 60 steps; starting Ray and MLflow\n")
    assert_same_records(tmp_path, undisturbed)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("databases")
def test_a_study_stopped_by_a_signal_says_how_to_go_on_and_does(
    stop: signal.Signals, belay_study: CommandLine, tmp_path: Path
) -> None:
    assert_stops_and_goes_on(stop, "", belay_study, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("databases")
def test_a_study_on_ray_stopped_by_a_signal_says_how_to_go_on_and_does(
    stop: signal.Signals, belay_study: CommandLine, ray_cluster: str, tmp_path: Path
) -> None:
    assert_stops_and_goes_on(stop, ray_cluster, belay_study, tmp_path)


def assert_stops_and_goes_on(stop: signal.Signals, ray: str, belay_study: CommandLine, home: Path) -> None:
    write(
        home / "small.yaml",
        task={"name": "tasks_of_tests:waits_at_a_gate", "gate": str(home)},
        objective={"metric": "average/score", "mode": "max"},
    )
    waiting = 2 if ray else 1  # settings at a time
    with driver(home, ray) as running:
        wait_for(running, lambda: len(list(home.glob("waiting-*"))) == waiting)
        running.send_signal(stop)
        said = end_of(running, 130)
    assert "Traceback" not in said
    resume = "belay-study resume small" + ("" if ray else " --inline")
    assert said.strip().splitlines()[-1] == (
        f"belay-study: interrupted with 3 of 20 settings done, all kept; `{resume}` does the rest."
    )
    (status,) = json.loads(belay_study("status", "small", "--format", "json").out)
    assert status["done"] == 3
    (listed,) = json.loads(belay_study("list", "--format", "json").out)
    assert listed["status"] == "stopped"
    (home / "open").touch()
    resumed = belay_study("resume", "small", *([] if ray else ["--inline"]))
    assert resumed.code == 0, resumed.err
    assert_nothing_twice_or_left_running(home)


def wait_for(running: Process, reached: Callable[[], bool]) -> None:
    """Waits until the driver has reached a point, which it must before its end."""
    while not reached():
        assert running.running, running.end()
        time.sleep(0.05)

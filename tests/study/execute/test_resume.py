"""A driver killed or stopped: `resume` ends with the table of an undisturbed run, nothing twice, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState
from studies import write

from study.findings.collect import load

DRIVER = Path(__file__).parent / "doomed.py"
UNDISTURBED = ("never", 0)

# Where the driver dies: (function, which call), in the order in which a setting passes them.
PLACES = {
    "before anything is asked": ("study.execute.record:Recorder.open+", 1),
    "between drawing two parameters of a setting": ("optuna.trial:Trial.suggest_float", 30),
    "after drawing, before the setting is kept": ("study.execute.ask:_Search._sampler+", 9),
    "before a result is kept": ("study.execute.ask:Asker.tell", 5),
    "after a result is kept, before it is recorded": ("study.execute.ask:Asker.tell+", 6),
    "after telling Optuna, before asking the next": ("optuna:Study.tell+", 4),
    "after MLflow has begun a setting's run": ("mlflow:MlflowClient.create_run+", 6),
    "between the batches of a setting's run": ("mlflow:MlflowClient.log_batch+", 11),
    "before a setting's run is ended": ("mlflow:MlflowClient.set_terminated", 8),
    "before the study's own run is ended": ("study.execute.record:Recorder.close", 1),
}
# All of them are in the driver, which is the same on both back ends; on Ray two stand for the rest.
ON_RAY = ["before a result is kept", "after MLflow has begun a setting's run"]


Driver = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def back_end(request: pytest.FixtureRequest) -> str:
    """Trained by the driver itself, or by the session's Ray."""
    return str(request.param)


@pytest.fixture
def start(back_end: str, request: pytest.FixtureRequest) -> Driver:
    """Starts belay-study in a process of its own: ``start(home, "run", config, doom=("never", 0))``."""
    address = request.getfixturevalue("ray_cluster") if back_end == "ray" else ""
    return lambda *arguments, **named: driver(*arguments, **named, address=address)


def driver(home: Path, *command: object, doom: tuple[str, int] = UNDISTURBED, address: str) -> subprocess.Popen[str]:
    """The driver's process, on the Ray at an address or without one."""
    trains = command[0] in ("run", "resume")
    line = [sys.executable, DRIVER, doom[0], doom[1], *command, *(["--inline"] if trains and not address else [])]
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.Popen(
        list(map(str, line)), cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end_of(process: subprocess.Popen[str], code: int = 0) -> str:
    """Waits for its end with this exit code; what it printed, stdout before stderr."""
    with process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    return out + err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of an undisturbed run."""
    home = tmp_path_factory.mktemp("undisturbed")
    end_of(driver(home, "run", write(home / "small.yaml"), address=""))
    assert_nothing_twice_or_left_running(home)
    return home


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
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    records = {}
    for run in runs_of(home):
        if run.data.tags["belay.kind"] == "setting":
            tags = {name: value for name, value in run.data.tags.items() if name.startswith("belay.")}
            points = {
                name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
                if name != "seconds"
            }
            records[tags["belay.setting"]] = (tags, run.data.params, points)
    return records


def assert_nothing_twice_or_left_running(home: Path) -> None:
    runs = runs_of(home)
    assert {run.info.status for run in runs} == {"FINISHED"}
    numbers = [run.data.tags.get("belay.setting", "parent") for run in runs]
    assert sorted(numbers) == sorted(["parent", *map(str, range(20))])
    url = f"sqlite:///{home}/.belay-study/optuna.db"
    studies = [optuna.load_study(study_name=name, storage=url) for name in ("small", "small/ema")]
    trials = [trial for study in studies for trial in study.trials]
    assert len(trials) == 20
    assert not any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)


def assert_same_records(home: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(table_of(home), table_of(other))
    assert records_of(home) == records_of(other)


def assert_resumes_after_a_kill(place: str, start: Driver, undisturbed: Path, home: Path) -> None:
    end_of(start(home, "run", write(home / "small.yaml"), doom=PLACES[place]), -signal.SIGKILL)
    end_of(start(home, "resume", "small"))
    assert_same_records(home, undisturbed)
    assert_nothing_twice_or_left_running(home)


@pytest.mark.parametrize("back_end", ["inline"], indirect=True)
@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed(place: str, start: Driver, undisturbed: Path, tmp_path: Path) -> None:
    assert_resumes_after_a_kill(place, start, undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("back_end", ["ray"], indirect=True)
@pytest.mark.parametrize("place", ON_RAY)
def test_a_driver_killed_on_ray(place: str, start: Driver, undisturbed: Path, tmp_path: Path) -> None:
    assert_resumes_after_a_kill(place, start, undisturbed, tmp_path)


@pytest.mark.parametrize("back_end", ["ray"], indirect=True)
def test_ray_and_this_process_come_to_the_same_records(start: Driver, undisturbed: Path, tmp_path: Path) -> None:
    end_of(start(tmp_path, "run", write(tmp_path / "small.yaml")))
    assert_same_records(tmp_path, undisturbed)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_study_stopped_by_a_signal_says_how_to_go_on_and_does(
    stop: signal.Signals, back_end: str, start: Driver, tmp_path: Path
) -> None:
    config = write(
        tmp_path / "small.yaml",
        task={"name": "tasks_of_tests:waits_at_a_gate", "gate": str(tmp_path)},
        objective={"metric": "average/score", "mode": "max"},
    )
    running = start(tmp_path, "run", config)
    wait_for(running, lambda: len(list(tmp_path.glob("waiting-*"))) == (2 if back_end == "ray" else 1))
    running.send_signal(stop)
    said = end_of(running, 130)
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1] == (
        "belay-study: interrupted with 3 of 20 settings done, all kept; `belay-study resume small` does the rest."
    )
    (status,) = json.loads(end_of(start(tmp_path, "status", "small", "--format", "json")))
    assert status["done"] == 3
    (tmp_path / "open").touch()
    end_of(start(tmp_path, "resume", "small"))
    assert_nothing_twice_or_left_running(tmp_path)


def wait_for(running: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Waits until the driver has reached a point, which it must before its end."""
    while not reached():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)

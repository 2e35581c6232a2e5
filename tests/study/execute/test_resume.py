"""A killed driver: `resume` ends with the table of an undisturbed run, with nothing twice and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from studies import write

from study.findings.collect import load

DOOMED = Path(__file__).parent / "doomed.py"
COMMAND = [sys.executable, "-m", "study"]
# As at a terminal, also where the tests run in the background, whose processes inherit an ignored SIGINT.
LISTENING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("study", run_name="__main__")
"""

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


def table_of(home: Path) -> pd.DataFrame:
    """What the study measured, without when."""
    return load("small", f"sqlite:///{home}/.belay-study/mlflow.db").table


Ended = subprocess.CompletedProcess[str]


def run(home: Path, *command: object, address: str, doom: tuple[str, int] | None = None) -> Ended:
    """Calls belay-study in a process of its own, on the session's Ray."""
    head = [sys.executable, str(DOOMED), doom[0], str(doom[1])] if doom else COMMAND
    environment = os.environ | {"RAY_ADDRESS": address}
    line = [*head, *map(str, command)]
    return subprocess.run(line, cwd=home, env=environment, capture_output=True, text=True, timeout=200)


def assert_nothing_twice_or_left_running(home: Path) -> None:
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    numbers = [run.data.tags.get("belay.setting", "parent") for run in runs]
    assert sorted(numbers) == sorted(["parent", *map(str, range(20))])
    url = f"sqlite:///{home}/.belay-study/optuna.db"
    studies = [optuna.load_study(study_name=name, storage=url) for name in ("small", "small/ema")]
    trials = [trial for study in studies for trial in study.trials]
    assert len(trials) == 20
    assert not any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)


def metric_history(home: Path) -> dict[str, list[tuple[int, float]]]:
    """Every recorded point of the objective, by setting: a batch written twice would show here."""
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], "tags.`belay.kind` = 'setting'")
    return {
        run.data.tags["belay.setting"]: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, "average/excess_loss")
        ]
        for run in children
    }


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of an undisturbed run."""
    home = tmp_path_factory.mktemp("undisturbed")
    done = run(home, "run", write(home / "small.yaml"), address=ray_cluster)
    assert done.returncode == 0, done.stderr
    assert_nothing_twice_or_left_running(home)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_driver_killed(place: str, undisturbed: Path, ray_cluster: str, tmp_path: Path) -> None:
    config = write(tmp_path / "small.yaml")
    killed = run(tmp_path, "run", config, address=ray_cluster, doom=PLACES[place])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run(tmp_path, "resume", "small", address=ray_cluster)
    assert resumed.returncode == 0, resumed.stderr
    pd.testing.assert_frame_equal(table_of(tmp_path), table_of(undisturbed))
    assert metric_history(tmp_path) == metric_history(undisturbed)
    assert_nothing_twice_or_left_running(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_study_stopped_by_a_signal_says_how_to_go_on_and_does(
    stop: signal.Signals, undisturbed: Path, ray_cluster: str, tmp_path: Path
) -> None:
    config = write(tmp_path / "small.yaml", steps=3000)
    environment = os.environ | {"RAY_ADDRESS": ray_cluster}
    line = [sys.executable, "-c", LISTENING, "run", str(config)]
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        wait_for_results(tmp_path, 3)
        driver.send_signal(stop)
        _, err = driver.communicate(timeout=100)
    assert driver.returncode == 130, err
    last = err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert "of 20 settings done, all kept; `belay-study resume small` does the rest." in last
    status = json.loads(run(tmp_path, "status", "small", "--format", "json", address=ray_cluster).stdout)[0]
    assert 3 <= status["done"] < 20
    resumed = run(tmp_path, "resume", "small", address=ray_cluster)
    assert resumed.returncode == 0, resumed.stderr
    assert_nothing_twice_or_left_running(tmp_path)


def wait_for_results(home: Path, count: int) -> None:
    """Waits until MLflow holds so many settings."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (home / ".belay-study" / "mlflow.db").exists() and recorded(home) >= count:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{count} settings must be recorded within 120 s")


def recorded(home: Path) -> int:
    import sqlite3

    connection: Any = sqlite3.connect(f"file:{home}/.belay-study/mlflow.db?mode=ro", uri=True)
    try:
        query = "select count(*) from tags where key = 'belay.outcome'"
        return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # its tables are still being made
        return 0
    finally:
        connection.close()

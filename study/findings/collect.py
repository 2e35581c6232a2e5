"""Reads MLflow's records as tables: the list of studies, and of one study a row for each setting and seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from study.design.places import sqlite_file, without_password
from study.design.schema import CONFIRMATION, PARAMETERS, SETTING_RUN, STUDY_RUN, Scalar, Tag, role_of, tagged_values
from study.design.tasks.base import Direction
from study.errors import BadInput
from study.findings.coordinates import with_natural
from study.tracking import answering, connect, pages, runs

ADVICE = "--tracking", "name another"  # what names the tracking store, and what else to do than to start it
SEED_METRIC = re.compile(r"(?P<metric>.+)\.seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Records:
    """One study's records.

    Attributes:
        name: The study.
        run: Id of its MLflow run.
        metric: The objective.
        mode: Its better direction.
        steps: Optimizer steps of each run.
        seeds: Seeds of each setting.
        planned: Settings that the study tries.
        task: The config's ``task`` entry.
        tags: The parent run's tags, as written.
        table: A row for each setting and seed: ``setting`` (its number), ``seed``, ``state`` (complete, diverged or
            failed, of the setting), ``message``, ``diverged_at``; the names in `parameters`; memory, damping_ratio and
            mass_ratio; and every metric's last value, nan where the seed has none.
        fresh: The same of the finalists' fresh seeds, which took no part in choosing: a row for each seed that was
            completed; ``state`` is that of all of them.
        parameters: Columns of `table` that hold the setting: the oscillator's, and the hyperparameters as recorded.
    """

    name: str
    run: str
    metric: str
    mode: Direction
    steps: int
    seeds: int
    planned: int
    task: dict[str, Any]
    tags: dict[str, str]
    table: pd.DataFrame
    fresh: pd.DataFrame
    parameters: list[str]


def studies(uri: str) -> pd.DataFrame:
    """All studies in the tracking store, newest first: a row for each, with the time (UTC) it was started."""
    client = _connect(uri)
    with answering(uri, *ADVICE):
        found = [
            (run, experiment.name, len(_finished(client, experiment.experiment_id)))
            for experiment in pages(client.search_experiments)
            for run in runs(client, experiment.experiment_id, STUDY_RUN)
        ]
    columns = ["study", "status", "done", "planned", "task", "metric", "mode", "started"]
    newest_first = sorted(found, key=lambda study: study[0].info.start_time, reverse=True)
    return pd.DataFrame([_study_row(*study) for study in newest_first], columns=columns)


def _study_row(run: Run, name: str, done: int) -> dict[str, Any]:
    tags = run.data.tags
    started = pd.Timestamp(run.info.start_time, unit="ms").strftime("%Y-%m-%dT%H:%MZ")
    row = {"study": name, "status": run.info.status.lower(), "done": done, "planned": int(tags[Tag.PLANNED])}
    row |= {"task": json.loads(tags[Tag.TASK])["name"], "metric": tags[Tag.METRIC], "mode": tags[Tag.MODE]}
    return row | {"started": started}


def check_tracking(uri: str) -> None:
    """Raises BadInput unless the tracking store answers."""
    _connect(uri)


def load(name: str, uri: str) -> Records:
    """The records of a study, finished or not.

    Raises:
        BadInput: The tracking store does not answer or has no such study, or none of its settings is done.
    """
    client = _connect(uri)
    with answering(uri, *ADVICE):
        experiment = client.get_experiment_by_name(name)
        parents = list(runs(client, experiment.experiment_id, STUDY_RUN)) if experiment else []
        finished = _finished(client, experiment.experiment_id) if experiment else []
    if not parents:
        raise BadInput(
            f"the study must exist in {without_password(uri)}, got {name!r}; `belay-study list` shows what does."
        )
    children = sorted(finished, key=lambda run: int(run.data.tags[Tag.SETTING]))
    tags = parents[0].data.tags
    seeds = int(tags[Tag.SEEDS])
    if not children:
        raise BadInput(
            f"the study must have a setting that is done, got none of {name!r}; wait, or `belay-study resume {name}`."
        )
    parameters = list(
        dict.fromkeys([*PARAMETERS, *sorted({name for run in children for name in _values(run)} - {"steps"})])
    )
    rows = _as_recorded([row for run in children for row in _rows(run, seeds)], parameters)
    rows = with_natural(rows, int(tags[Tag.STEPS]))
    fresh = rows["seed"] >= CONFIRMATION
    return Records(
        name=name,
        run=parents[0].info.run_id,
        metric=tags[Tag.METRIC],
        mode="max" if tags[Tag.MODE] == "max" else "min",
        steps=int(tags[Tag.STEPS]),
        seeds=seeds,
        planned=int(tags[Tag.PLANNED]),
        task=json.loads(tags[Tag.TASK]),
        tags=dict(tags),
        table=rows[~fresh].reset_index(drop=True),
        fresh=rows[fresh].reset_index(drop=True),
        parameters=parameters,
    )


def _as_recorded(rows: list[dict[str, Any]], parameters: list[str]) -> pd.DataFrame:
    """The rows as a table whose hyperparameters are the recorded values: pandas would make 1 and 0.5 two floats."""
    table = pd.DataFrame(rows)
    for name in parameters:
        if name not in PARAMETERS:
            table[name] = pd.Series([row.get(name) for row in rows], dtype=object)
    return table


def _rows(run: Run, seeds: int) -> Iterator[dict[str, Any]]:
    """The rows of one setting."""
    tags = run.data.tags
    setting = {name: value for name, value in _values(run).items() if name != "steps"}
    shared = {"setting": int(tags[Tag.SETTING]), "state": tags[Tag.OUTCOME], "message": tags.get(Tag.MESSAGE, "")}
    shared["diverged_at"] = float(tags.get(Tag.DIVERGED_AT, "nan"))
    measured: dict[int, dict[str, float]] = {seed: {} for seed in range(seeds)}
    for key, value in run.data.metrics.items():
        if found := SEED_METRIC.fullmatch(key):
            measured.setdefault(int(found["seed"]), {})[found["metric"]] = value
    for seed, metrics in sorted(measured.items()):
        if role_of(seed) == "search":
            yield {**shared, "seed": seed, **setting, **metrics}
        else:
            yield {**shared, "state": tags[Tag.CONFIRMED], "seed": seed, **setting, **metrics}


def _values(run: Run) -> dict[str, Scalar | None]:
    """A setting's values as they were tried."""
    values = tagged_values(run.data.tags)
    if not values:
        raise BadInput(
            f"a setting's values must be on record with their types, got none of {run.info.run_name!r}, which an "
            "earlier version recorded; resume the study with `--tracking` of another store, which records it anew."
        )
    return values


def _connect(uri: str) -> MlflowClient:
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise BadInput(
            f"the records must exist, got no {file}; run a study here first, or name another with `--tracking`."
        )
    return connect(uri, *ADVICE)


def _finished(client: MlflowClient, experiment: str) -> list[Run]:
    """The first run of each setting of an experiment, without those that are still being written.

    A setting has several where drivers with storages of their own share the tracking store.
    """
    done = [run for run in runs(client, experiment, SETTING_RUN) if run.info.status != "RUNNING"]
    newest_first = sorted(done, key=lambda run: (run.info.start_time, run.info.run_id), reverse=True)
    return list({run.data.tags[Tag.SETTING]: run for run in newest_first}.values())

"""Reads MLflow's records as tables: the list of studies, and of one study a row for each setting and seed."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from study import results
from study.design.places import sqlite_file, without_password
from study.design.schema import (
    AVERAGE,
    CONFIG_ARTIFACT,
    LIVE,
    NATURAL,
    PARAMETERS,
    RESULTS_ARTIFACT,
    SETTING_RUN,
    STATES,
    STUDY_RUN,
    Direction,
    Tag,
    error_metric,
    identity,
)
from study.errors import BadInput
from study.tracking import answering, artifacts, check_artifacts, connect, pages, runs

ADVICE = "tracking", "name another"  # what names the tracking store, and what else to do than to start it


@dataclass(frozen=True, eq=False)
class Records:
    """One study's records.

    Attributes:
        name: The study, or the file of a table that is none (`study.findings.table`).
        run: Id of its MLflow run; "" of a table.
        metric: The objective.
        mode: Its better direction.
        steps: Optimizer steps of each run; of a table 0 if they are not known.
        seeds: Seeds that every setting has; in a race some have more.
        planned: Settings that the study tries.
        task: The config's ``task`` entry.
        tags: The parent run's tags, as written.
        table: A row for each setting and seed: ``setting`` (its number), ``seed``, ``state`` (complete, pruned,
            diverged or failed, of the setting), ``message``, ``diverged_at``; the names in `parameters`; memory,
            damping_ratio, mass_ratio and family; and every metric's last value, nan where the seed has none. Riders are
            settings too, with numbers of their own (`study.design.schema.host_of`) and averaged weights' values alone.
        fresh: The same of the finalists' fresh seeds, which took no part in the search: a row for each seed that was
            completed; ``state`` is that of all of them.
        parameters: Columns of `table` that hold the setting: the oscillator's, and the hyperparameters as recorded. A
            table without a decay has no oscillator's, nor memory, damping_ratio, mass_ratio and family.
        notes: What was left out or renamed as a table was read, a sentence each.
        uri: The tracking URI that they were read from; "" of a table.
        finished: Whether nothing of the study is left to run.
        of_a_study: Whether they are a study's, as those of a table are too that was exported of one.
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
    notes: tuple[str, ...] = ()
    uri: str = ""
    finished: bool = True
    of_a_study: bool = True

    @property
    def derived(self) -> list[str]:
        """Columns of `table` that follow from the oscillator; none if there is none."""
        return [*NATURAL, "family"] if "decay" in self.parameters else []

    @functools.cached_property
    def settings(self) -> pd.DataFrame:
        """What each setting and rider is: a row for each, by its number, with what is one for all its seeds."""
        shared = ["state", "message", "diverged_at", *self.parameters, *self.derived]
        return self.table.drop_duplicates("setting").set_index("setting")[shared]

    @functools.cached_property
    def varied(self) -> list[str]:
        """The parameters that are not the same in all settings."""
        return [name for name in self.parameters if self.settings[name].map(identity).nunique() > 1]


def studies(uri: str) -> pd.DataFrame:
    """All studies in the tracking store, newest first: a row for each, with the time (UTC) it was started."""
    client = _connect(uri, "run a study here first")
    with answering(uri, *ADVICE):
        names = {experiment.experiment_id: experiment.name for experiment in pages(client.search_experiments)}
        found = [(run, names[run.info.experiment_id]) for run in runs(client, list(names), STUDY_RUN)]
    columns = ["study", "status", "done", "planned", "task", "metric", "mode", "started"]
    return pd.DataFrame([_study_row(*study) for study in found], columns=columns)


def _study_row(run: Run, name: str) -> dict[str, Any]:
    tags = run.data.tags
    started = pd.Timestamp(run.info.start_time, unit="ms").strftime("%Y-%m-%dT%H:%MZ")
    row = {"study": name, "status": "stopped" if run.info.status == "KILLED" else run.info.status.lower()}
    row |= {"done": int(tags.get(Tag.DONE, 0)), "planned": int(tags[Tag.PLANNED])}
    row |= {"task": json.loads(tags[Tag.TASK])["name"], "metric": tags[Tag.METRIC], "mode": tags[Tag.MODE]}
    return row | {"started": started}


def check_tracking(uri: str) -> None:
    """Raises BadInput unless the tracking store answers."""
    _connect(uri, "run a study here first")


def load(name: str, uri: str) -> Records:
    """The records of a study, finished or not.

    Raises:
        BadInput: The tracking store does not answer or has no such study, none of its settings is done, or its table of
            results is missing or damaged.
    """
    client, parent = _parent(name, uri)
    tags = parent.data.tags
    table, fresh, parameters = tidy(_results(client, parent, name, uri), int(tags[Tag.SEEDS]))
    return Records(
        name=name,
        uri=uri,
        run=parent.info.run_id,
        metric=tags[Tag.METRIC],
        mode="max" if tags[Tag.MODE] == "max" else "min",
        steps=int(tags[Tag.STEPS]),
        seeds=int(tags[Tag.SEEDS]),
        planned=int(tags[Tag.PLANNED]),
        task=json.loads(tags[Tag.TASK]),
        tags=dict(tags),
        table=table,
        fresh=fresh,
        parameters=parameters,
        finished=parent.info.status == "FINISHED",
    )


def load_rows(name: str, uri: str) -> tuple[pd.DataFrame, int]:
    """The table of results of a study as it is on record (`study.results`), and how many seeds every setting gets.

    Raises:
        BadInput: As `load`.
    """
    client, parent = _parent(name, uri)
    return _results(client, parent, name, uri), int(parent.data.tags[Tag.SEEDS])


def tidy(rows: pd.DataFrame, seeds: int) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """What `Records` holds of a table of results: `table`, `fresh` and `parameters`.

    Args:
        rows: A row for each setting and seed (`study.results`).
        seeds: Seeds that every setting has.
    """
    settings, parameters = _settings(rows)
    confirming = rows["role"] == "confirmation"
    table = _searched(rows[~confirming], settings, parameters, seeds)
    return table, _confirmed(rows[confirming], settings, parameters), parameters


def _parent(name: str, uri: str) -> tuple[MlflowClient, Run]:
    """A study's run, and the client that reads it."""
    client = _connect(uri, f"run it here first, write it from the ledger with `belay-study sync {name}`")
    with answering(uri, *ADVICE):
        experiment = client.get_experiment_by_name(name)
        parents = list(runs(client, [experiment.experiment_id], STUDY_RUN)) if experiment else []
    if experiment is not None:
        check_artifacts(experiment, uri, ADVICE[0])
    if not parents:
        raise BadInput(
            f"the study must exist in {without_password(uri)}, got {name!r}; `belay-study list` shows what does, and "
            f"`belay-study sync {name}` writes one that the ledger has."
        )
    return client, parents[-1]


def asked(records: Records) -> dict[str, Any]:
    """The study's config as it was recorded.

    Raises:
        BadInput: The tracking store does not answer or has lost it.
    """
    client = _connect(records.uri, "run the study here first")
    with answering(records.uri, *ADVICE), tempfile.TemporaryDirectory() as folder:
        file = artifacts(client, records.run).download_artifacts(CONFIG_ARTIFACT, folder)  # type: ignore[no-untyped-call]
        config: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return config


def curves(records: Records, settings: Sequence[int]) -> pd.DataFrame:
    """How some settings' metrics went over the run: a row for each setting, metric and evaluation on record.

    Args:
        records: The study's records.
        settings: Numbers of settings with MLflow runs of their own, as all that were asked have.

    Returns:
        Columns ``setting``, ``metric``, ``step``, ``mean`` over the seeds of the search and its standard error ``se``,
        nan where it is not on record.

    Raises:
        BadInput: The tracking store does not answer.
    """
    client = _connect(records.uri, "run the study here first")
    rows: list[dict[str, Any]] = []
    with answering(records.uri, *ADVICE):
        experiment = client.get_run(records.run).info.experiment_id
        for setting in settings:
            for run in runs(client, [experiment], SETTING_RUN, **{Tag.SETTING: str(setting)}):
                rows += _curves(client, run, setting)
    return pd.DataFrame(rows, columns=["setting", "metric", "step", "mean", "se"])


def _curves(client: MlflowClient, run: Run, setting: int) -> Iterator[dict[str, Any]]:
    def history(metric: str) -> dict[int, float]:
        return {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, metric)}

    for metric in run.data.metrics:
        if metric.startswith((AVERAGE, LIVE)) and not metric.endswith(error_metric("")):
            errors = history(error_metric(metric))
            for step, mean in sorted(history(metric).items()):
                row = {"setting": setting, "metric": metric, "step": step, "mean": mean}
                yield row | {"se": errors.get(step, math.nan)}


def _results(client: MlflowClient, parent: Run, name: str, uri: str) -> pd.DataFrame:
    """The rows on record."""
    try:
        with answering(uri, *ADVICE):
            rows = results.read(artifacts(client, parent.info.run_id))
    except results.Unreadable as error:
        if parent.data.tags.get(Tag.DONE) != "0":
            raise BadInput(
                f"the records of {name!r} must have a whole {RESULTS_ARTIFACT}, got {error}; "
                f"`belay-study sync {name}` writes it anew from the ledger."
            ) from error
        rows = results.table()
    if rows.empty:
        raise BadInput(
            f"the study must have a setting that is done, got none of {name!r}; wait, or `belay-study resume {name}`."
        )
    return rows


def _settings(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A row for each setting, with hyperparameters, both systems' coordinates and the family; the parameters' names.

    Hyperparameters are the recorded values: pandas would make 1 and 0.5 two floats.
    """
    first = rows.drop_duplicates("setting").set_index("setting")
    tried = [json.loads(text) for text in first["parameters"]]
    parameters = [*PARAMETERS, *sorted({name for values in tried for name in values} - {"steps", *PARAMETERS})]
    columns = {
        name: pd.Series(
            [values.get(name) for values in tried], first.index, dtype=float if name in PARAMETERS else object
        )
        for name in parameters
    }
    return pd.concat([pd.DataFrame(columns), first[[*NATURAL, "family"]]], axis=1), parameters


def _searched(rows: pd.DataFrame, settings: pd.DataFrame, parameters: list[str], seeds: int) -> pd.DataFrame:
    """`Records.table`; of the seeds that every setting has, one that a setting lacks has a row without values."""
    index = pd.MultiIndex.from_product([rows["setting"].unique(), range(seeds)], names=results.KEY)
    return _tidy(rows, index.union(pd.MultiIndex.from_frame(rows[results.KEY])), settings, parameters)


def _confirmed(rows: pd.DataFrame, settings: pd.DataFrame, parameters: list[str]) -> pd.DataFrame:
    """`Records.fresh`."""
    complete = rows[rows["state"] == "complete"]
    return _tidy(rows, pd.MultiIndex.from_frame(complete[results.KEY]), settings, parameters)


def _tidy(rows: pd.DataFrame, index: pd.MultiIndex, settings: pd.DataFrame, parameters: list[str]) -> pd.DataFrame:
    """A table of these settings and seeds: what each setting is, how it ended by all its rows, the seed's metrics."""
    metrics = [name for name in rows if name not in results.COLUMNS and rows[name].notna().any()]
    measured = rows.set_index(results.KEY)[metrics].reindex(index).reset_index()
    shared = settings.join(_endings(rows)).loc[measured["setting"]].reset_index(drop=True)
    first = ["state", "message", "diverged_at", *parameters]
    return pd.concat([measured[results.KEY], shared[first], measured[metrics], shared[[*NATURAL, "family"]]], axis=1)


def _endings(rows: pd.DataFrame) -> pd.DataFrame:
    """By setting: the state of its worst seed, the first message, the first step of divergence."""
    rank = rows["state"].map({state: place for place, state in enumerate(STATES)})
    ranked = rows.assign(state=rank, message=rows["message"].mask(rows["message"] == "")).groupby("setting")
    endings = ranked.agg({"state": "max", "message": "first", "diverged_at": "min"})
    return endings.assign(state=endings["state"].map(dict(enumerate(STATES))), message=endings["message"].fillna(""))


def _connect(uri: str, mend: str) -> MlflowClient:
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise BadInput(f"`tracking` must lead to records, got no {file}; {mend}, or name another.")
    return connect(uri, *ADVICE)

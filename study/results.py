"""The table of a study's results, a row for each setting and seed, as an artifact of the study's MLflow run.

`study.execute` writes it and `study.findings` reads it; people may read it too, with `pandas.read_parquet`.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from study.design.schema import NATURAL, RESULTS_ARTIFACT, Outcome, Setting, family, natural, role_of
from study.errors import reason

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

COLUMNS = {  # before one for each metric, its value at the end, nan where the seed has none
    "setting": "int64",
    "seed": "int64",
    "role": "str",
    "family": "str",
    **dict.fromkeys(NATURAL, "float64"),
    "state": "str",  # of the seed, as all that follows
    "message": "str",
    "diverged_at": "float64",
    "seconds": "float64",
    "run": "str",  # id of the setting's own MLflow run; a rider has one if it was confirmed
    "parameters": "str",  # the setting as JSON, which keeps the types of its values
}
KEY = ["setting", "seed"]
TRIES, PAUSE = 3, 0.2  # reads of a table that looks damaged, and seconds between them: it may be replaced just now


class Unreadable(Exception):
    """The table is not on record, or damaged."""


def rows(setting: Setting, outcome: Outcome, run: str) -> Iterator[dict[str, Any]]:
    """The rows of one setting; of a rider with a run of its own if it was confirmed, else with none."""
    average = setting.oscillator
    shared: dict[str, Any] = {"setting": setting.number, "run": run, "parameters": json.dumps(dict(setting))}
    shared |= {"family": family(average), **natural(average, int(setting["steps"]))}
    for result in outcome.seeds:
        names = dict.fromkeys(name for _, metrics in result.history for name in metrics)
        yield {
            **shared,
            "seed": result.seed,
            "role": role_of(result.seed, setting.number),
            "state": result.state,
            "message": result.message,
            "diverged_at": math.nan if result.diverged_at is None else result.diverged_at,
            "seconds": result.seconds,
            **{name: value for name in names if not math.isnan(value := result.last(name))},
        }


def table(new: Sequence[dict[str, Any]] = (), old: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows as a table, in the order of settings and seeds; new ones replace old ones of the same setting and seed."""
    added = pd.DataFrame(new) if new else pd.DataFrame(columns=list(COLUMNS))
    whole = added if old is None or old.empty else pd.concat([old, added], ignore_index=True)
    whole = whole.drop_duplicates(KEY, keep="last").sort_values(KEY, ignore_index=True)
    metrics = sorted(set(whole.columns) - COLUMNS.keys())
    return whole[[*COLUMNS, *metrics]].astype(COLUMNS | dict.fromkeys(metrics, "float64"))


def write(artifacts: ArtifactRepository, results: pd.DataFrame) -> None:
    """Puts the table among the artifacts of a study's run, in place of the one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RESULTS_ARTIFACT
        results.to_parquet(file, engine="pyarrow", compression="zstd", index=False, write_page_checksum=True)
        artifacts.log_artifact(str(file))  # type: ignore[no-untyped-call]


def read(artifacts: ArtifactRepository) -> pd.DataFrame:
    """The table among the artifacts of a study's run.

    Raises:
        Unreadable: There is none, or it is damaged; its text says which.
    """
    if RESULTS_ARTIFACT not in [file.path for file in artifacts.list_artifacts()]:
        raise Unreadable("none")
    for _ in range(TRIES - 1):
        with suppress(Unreadable):
            return _downloaded(artifacts)
        time.sleep(PAUSE)
    return _downloaded(artifacts)


def _downloaded(artifacts: ArtifactRepository) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        file = artifacts.download_artifacts(RESULTS_ARTIFACT, folder)  # type: ignore[no-untyped-call]
        try:
            return pd.read_parquet(file, engine="pyarrow", page_checksum_verification=True).astype(COLUMNS)
        except Exception as error:  # whatever a damaged file makes pandas and pyarrow raise
            raise Unreadable(f"a damaged one ({reason(error)})") from error

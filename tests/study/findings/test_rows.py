"""A study's results as a table: what it holds, and that it says when it is read back what the study says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded import WARNINGS, records, uri

from study.errors import BadInput
from study.findings.collect import Records, load_rows
from study.findings.compare import ranking
from study.findings.failures import failures
from study.findings.recommend import as_data, recommend
from study.findings.rows import TableForm, export
from study.findings.table import read_table

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]
OF_THE_STUDY = ("study", "settings_planned")  # what a table does not know
AVERAGE, LIVE = "average/val_accuracy", "live/val_accuracy"
READ: dict[str, Callable[[Path], pd.DataFrame]] = {"csv": pd.read_csv, "parquet": pd.read_parquet}


def written(name: str, folder: Path, form: TableForm = "csv") -> Path:
    """The file of a recorded study's rows."""
    studied = records(name)
    path = folder / f"{name}.{form}"
    path.write_bytes(export(load_rows(studied.name, uri()), form))
    return path


def said(found: Records) -> dict[str, Any]:
    return {key: value for key, value in as_data(recommend(found)).items() if key not in OF_THE_STUDY}


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["mixed", "raced", "shaped"])
def test_an_exported_study_comes_to_its_own_answer_when_it_is_read_back_also_through_pandas(name, form, tmp_path):
    path, studied = written(name, tmp_path, form), records(name)
    again = tmp_path / "again.parquet"
    READ[form](path).to_parquet(again)
    for file in (path, again) if form == "parquet" else (path,):
        found = read_table(file, studied.metric, studied.mode)
        assert repr(said(found)) == repr(said(studied))  # types of values included
        pd.testing.assert_frame_equal(ranking(found), ranking(studied))


def test_an_exported_row_has_the_setting_the_seed_how_it_ended_and_all_last_values(tmp_path):
    rows = pd.read_csv(written("mixed", tmp_path), keep_default_na=False)
    own = ["setting", "seed", "role", "state", "message", "diverged_at", "rider_of", "decay", "damping", "coupling"]
    assert list(rows)[: len(own)] == own
    assert list(rows)[-2:] == [AVERAGE, LIVE]
    assert len(rows) == 7 * 5
    (diverged,) = rows[rows["state"] == "diverged"].to_dict("records")
    assert (diverged["setting"], diverged["seed"], diverged["diverged_at"], diverged[AVERAGE]) == (5, 4, "17", "")
    assert rows["message"].iloc[-1] == "RuntimeError: no batch fits\nhere"
    assert pd.read_parquet(written("mixed", tmp_path, "parquet")).dtypes[["lr", "steps"]].tolist() == [
        "float64",
        "int64",
    ]


def test_an_exported_table_tells_of_failures_and_of_every_other_metric(tmp_path):
    path = written("mixed", tmp_path)
    studied, live = records("mixed"), read_table(path, LIVE, "max")
    assert failures(live).to_dict("records") == failures(studied).to_dict("records")
    assert ranking(live).index.tolist() == ranking(studied, LIVE).index.tolist()
    assert live.parameters == studied.parameters


CELLS = "setting,seed,role,state,decay,damping,coupling,steps,average/acc"
ROW = "0,0,search,complete,0.9,1.0,0.0,100,0.5"


@pytest.mark.parametrize(("text", "rule"), [
    (f"{CELLS}\n{ROW}\n{ROW}\n", "must have one row for a setting and seed, got several of setting 0 and seed 0; "),
    (f"{CELLS}\n{ROW}\n0,1,search,complete,0.8,1.0,0.0,100,0.5\n", "must have the same decay in all rows of a setting, "
                                                                    "got 0.9 and 0.8 in those of setting 0; "),
    (f"{CELLS}\n{ROW}\n1,10000,confirmation,complete,0.9,1.0,0.0,100,0.5\n", "must have the rows of the search of each "
                                                                             "setting, got none of setting 1; "),
    (f"{CELLS}\n{ROW.replace('complete', 'done')}\n", "must have complete, pruned, diverged, failed as state, got "),
    (f"{CELLS}\n{ROW.replace('0,0,', '0,a,')}\n", "must have whole numbers as seed, got 'a'; export it again."),
    (f"{CELLS}\n{ROW.replace('0.9', '1.9')}\n", "must have averages as settings, got setting 0: "),
    (f"{CELLS.replace('steps', 'n')}\n{ROW}\n", "got no steps; export it again, or remove these if it is no study's."),
    (f"{CELLS.replace('acc', 'loss')}\n{ROW}\n", "must be one of the table's metrics ['average/loss'], got "),
])  # fmt: skip
def test_an_exported_table_that_was_damaged_is_refused_in_one_line(text, rule, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_table(tmp_path / "t.csv", "average/acc", "max")
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)

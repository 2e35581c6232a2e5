"""A study's results as a table: what it holds, and that it says when it is read back what the study says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded import MIXED, STEPS, STUDIES, WARNINGS, measured, records, uri

from study.design.config import parse_config
from study.design.study import Study
from study.errors import BadInput, FailedWork
from study.findings.collect import Records, load_rows
from study.findings.compare import ranking
from study.findings.failures import failures
from study.findings.recommend import as_data, recommend
from study.findings.rows import TableForm, export
from study.findings.table import read_table

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]
OF_THE_STUDY = ("study", "settings_planned", "finished")  # what a table does not know
AVERAGE, LIVE = "average/val_accuracy", "live/val_accuracy"
READ: dict[str, Callable[[Path], pd.DataFrame]] = {"csv": pd.read_csv, "parquet": pd.read_parquet}


def written(name: str, folder: Path, form: TableForm = "csv") -> Path:
    """The file of a recorded study's rows."""
    studied = records(name)
    path = folder / f"{name}.{form}"
    rows, seeds = load_rows(studied.name, uri())
    path.write_bytes(export(rows, form, seeds))
    return path


def extended(name: str, before: int, seeds: int) -> None:
    """Records a study that was extended to more seeds, which two settings lack; one of them was the best before."""
    from study.execute.record import Recorder

    config = {"name": name, "task": "digits", "steps": STEPS, "seeds": seeds, "objective": {"metric": AVERAGE}}
    space = {"decay": {"uniform": [0.5, 0.99]}, "lr": {"log": [0.01, 4]}}
    study = Study.of(parse_config(config | {"space": space, "search": {"settings": len(MIXED)}}))
    recorder = Recorder(study, uri())
    recorder.open(len(MIXED))
    for number, one in enumerate(MIXED):
        if one.values:
            one = replace(one, values=measured(number, 0.95 - abs(number - 3) / 50, 0.7, seeds=seeds))
        recorder.record(study.setting(number, one.drawn), one.outcome(number, before if number in (2, 3) else seeds))
    recorder.close("KILLED")


STUDIES["extended"] = lambda: extended("extended", 3, 5)
STUDIES["tripled"] = lambda: extended("tripled", 2, 6)  # as a race of two seeds would have it


def said(found: Records) -> dict[str, Any]:
    return {key: value for key, value in as_data(recommend(found)).items() if key not in OF_THE_STUDY}


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["mixed", "raced", "shaped", "extended", "tripled"])
def test_an_exported_study_comes_to_its_own_answer_when_it_is_read_back_also_through_pandas(name, form, tmp_path):
    path, studied = written(name, tmp_path, form), records(name)
    again = tmp_path / "again.parquet"
    READ[form](path).to_parquet(again)
    for file in (path, again) if form == "parquet" else (path,):
        found = read_table(file, studied.metric, studied.mode)
        assert repr(said(found)) == repr(said(studied))  # types of values included
        pd.testing.assert_frame_equal(ranking(found), ranking(studied))


def test_an_unfinished_study_s_export_counts_the_settings_that_lack_seeds(tmp_path):
    found = recommend(read_table(written("extended", tmp_path), AVERAGE, "max"))
    assert (found.seeds, found.tried, found.unfinished, found.diverged, found.failed) == (5, 3, 2, 1, 1)
    assert found.left == 0


@pytest.mark.parametrize(("name", "ended"), [
    ("all-diverged", "3 diverged, 0 failed"), ("all-failed", "0 diverged, 2 failed"),
])  # fmt: skip
def test_an_exported_study_without_a_complete_setting_says_how_they_ended(name, ended, tmp_path):
    records = read_table(written(name, tmp_path), AVERAGE, "max")
    with pytest.raises(FailedWork, match=rf"got none of '{name}.csv' \({ended}\)"):
        recommend(records)


def test_riders_are_no_part_of_a_table_by_a_metric_that_they_have_not(tmp_path):
    path, studied = written("ridden", tmp_path), records("ridden")
    assert repr(said(read_table(path, AVERAGE, "max"))) == repr(said(studied))
    found = recommend(read_table(path, LIVE, "max"))
    assert (found.tried, found.riders, found.unfinished) == (2, 0, 1)  # the third setting's is not on record


def test_an_exported_row_has_the_setting_the_seed_how_it_ended_and_all_last_values(tmp_path):
    rows = pd.read_csv(written("mixed", tmp_path), keep_default_na=False)
    own = ["setting", "seed", "role", "state", "seeds_planned", "message", "diverged_at", "rider_of"]
    assert list(rows)[: len(own) + 3] == [*own, "decay", "damping", "coupling"]
    assert {*rows["seeds_planned"]} == {5}
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


CELLS = "setting,seed,role,state,seeds_planned,decay,damping,coupling,steps,average/acc"
ROW = "0,0,search,complete,1,0.9,1.0,0.0,100,0.5"


@pytest.mark.parametrize(("text", "rule"), [
    (f"{CELLS}\n{ROW}\n{ROW}\n", "must have one row for a setting and seed, got several of setting 0 and seed 0; "),
    (f"{CELLS}\n{ROW}\n0,1,search,complete,1,0.8,1.0,0.0,100,0.5\n",
     "must have the same decay in all rows of a setting, got 0.9 and 0.8 in those of setting 0; "),
    (f"{CELLS}\n{ROW}\n1,10000,confirmation,complete,1,0.9,1.0,0.0,100,0.5\n",
     "must have the rows of the search of each setting, got none of setting 1; "),
    (f"{CELLS}\n{ROW.replace('complete', 'done')}\n", "must have complete, pruned, diverged, failed as state, got "),
    (f"{CELLS}\n{ROW.replace('0,0,', '0,a,')}\n", "must have whole numbers as seed, got 'a'; export it again."),
    (f"{CELLS}\n{ROW.replace('0.9', '1.9')}\n", "must have averages as settings, got setting 0: "),
    (f"{CELLS}\n{ROW}\n{ROW.replace('0,0', '0,1', 1).replace('complete,1', 'complete,2')}\n",
     "must have the same number in all rows as seeds_planned, from 1 to 9,999, got [1, 2]; export it again."),
    (f"{CELLS}\n{ROW.replace('complete,1', 'complete,10000')}\n", "from 1 to 9,999, got [10000]; export it again."),
    (f"{CELLS}\n{ROW.replace('complete,1', 'complete,a')}\n", "must have whole numbers as seeds_planned, got 'a'; "),
    (f"{CELLS.replace('steps', 'n')}\n{ROW}\n", "got no steps; export it again, or remove these if it is no study's."),
    (f"{CELLS.replace('acc', 'loss')}\n{ROW}\n", "must be one of the table's metrics ['average/loss'], got "),
])  # fmt: skip
def test_an_exported_table_that_was_damaged_is_refused_in_one_line(text, rule, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_table(tmp_path / "t.csv", "average/acc", "max")
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repeated_row_is_found_among_many(tmp_path):
    rows = "".join(f"{ROW.replace('0,0,', f'{number},0,')}\n" for number in [*range(3_000), 2_999])
    (tmp_path / "t.csv").write_text(f"{CELLS}\n{rows}")
    with pytest.raises(BadInput, match="got several of setting 2999 and seed 0; "):
        read_table(tmp_path / "t.csv", "average/acc", "max")

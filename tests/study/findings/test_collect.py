"""MLflow's records as tidy tables: what the recorder wrote is what is read, and what cannot be read says why."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import recorded
from mlflow import MlflowClient

from study import tracking
from study.design.config import parse_config
from study.design.document import plain
from study.design.schema import CONFIRMATION, NATURAL, RESULTS_ARTIFACT, SETTING_RUN, Outcome, SeedResult, Tag
from study.design.study import Study
from study.errors import BadInput
from study.execute.record import Recorder
from study.findings.collect import Records, load, studies
from study.tracking import runs

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

MIXED = recorded.MIXED


def refusal(call, *arguments):
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- one study --------------------------------------------------------------------------------------------------------


def test_the_study_s_own_figures_are_those_of_its_config():
    records = recorded.records("mixed")
    assert (records.name, records.metric, records.mode) == ("mixed", "average/val_accuracy", "max")
    assert (records.steps, records.seeds, records.planned) == (600, 5, 9)
    assert records.task == {"name": "digits", "label_noise": 0.2}
    assert re.fullmatch("[0-9a-f]{32}", records.run)
    assert re.fullmatch("[0-9a-f]{16}", records.tags[Tag.DATA])
    assert (recorded.records("tiny").mode, recorded.records("live").metric) == ("min", "live/val_accuracy")


def test_there_is_a_row_for_each_setting_and_seed():
    table = recorded.records("mixed").table
    assert list(zip(table["setting"], table["seed"], strict=True)) == [(n, seed) for n in range(7) for seed in range(5)]


def test_the_columns_are_the_setting_its_state_its_parameters_and_the_metrics():
    records = recorded.records("mixed")
    assert records.parameters == [
        *("decay", "damping", "coupling"),
        *("batch_size", "depth", "label_noise", "lr", "optimizer", "schedule", "width"),
    ]
    assert set(records.table.columns) == {
        *("setting", "seed", "state", "message", "diverged_at"),
        *records.parameters,
        *NATURAL,
        "family",
        *("average/val_accuracy", "live/val_accuracy"),
    }


def test_every_column_has_the_type_of_what_it_holds():
    table = recorded.records("mixed").table
    kinds = {name: table[name].dtype.kind for name in table.columns if pd.api.types.is_numeric_dtype(table[name])}
    assert kinds == {
        **dict.fromkeys(("setting", "seed"), "i"),
        **dict.fromkeys(("diverged_at", "decay", "damping", "coupling", *NATURAL), "f"),
        **dict.fromkeys(("average/val_accuracy", "live/val_accuracy"), "f"),
    }
    assert {name: type(table.loc[0, name]) for name in ("batch_size", "lr", "optimizer")} == {
        "batch_size": int,
        "lr": float,
        "optimizer": str,
    }


@pytest.mark.parametrize("metric", ["average/val_accuracy", "live/val_accuracy"])
def test_the_last_value_of_every_seed_is_read_as_it_was_measured(metric):
    table = recorded.records("mixed").table
    for number in range(5):
        assert list(table.loc[table["setting"] == number, metric]) == MIXED[number].values[metric]


def test_parameters_are_those_that_were_tried():
    table = recorded.records("mixed").table.drop_duplicates("setting").set_index("setting")
    for number, tried in enumerate(MIXED):
        assert {name: table.loc[number, name] for name in tried.drawn} == dict(tried.drawn)


def test_a_setting_that_diverged_has_the_step_and_only_the_seeds_that_did_not_have_values():
    rows = recorded.records("mixed").table.query("setting == 5")
    assert set(rows["state"]) == {"diverged"}
    assert set(rows["diverged_at"]) == {17.0}
    assert list(rows["average/val_accuracy"])[:4] == MIXED[5].values["average/val_accuracy"][:4]
    assert math.isnan(list(rows["average/val_accuracy"])[4])


def test_a_setting_that_failed_has_its_message_and_no_values():
    rows = recorded.records("mixed").table.query("setting == 6")
    assert set(rows["state"]) == {"failed"}
    assert set(rows["message"]) == {"RuntimeError: no batch fits\nhere"}
    assert rows[["average/val_accuracy", "live/val_accuracy", "diverged_at"]].isna().all(axis=None)


def test_a_complete_setting_has_neither_message_nor_step_of_divergence():
    rows = recorded.records("mixed").table.query("setting < 5")
    assert set(rows["state"]) == {"complete"}
    assert set(rows["message"]) == {""}
    assert rows["diverged_at"].isna().all()


def test_seeds_that_a_setting_lacks_have_rows_without_values_and_those_that_confirm_have_a_table_of_their_own():
    space = {"decay": {"uniform": [0.5, 0.99]}, "lr": {"log": [0.01, 4]}}
    config = {"name": "growing", "task": "digits", "steps": 10, "seeds": 3, "space": space, "search": {"settings": 2}}
    study = Study.of(parse_config(config | {"objective": {"metric": "average/val_loss"}}))
    recorder = Recorder(study, recorded.uri())
    recorder.open(2)
    for number, seeds in enumerate([(0, 1, 2, CONFIRMATION), (0, 1)]):
        measured = [SeedResult(seed, [(10, {"average/val_loss": 0.5 + number})]) for seed in seeds]
        recorder.record(study.setting(number, {"decay": 0.9, "lr": 0.1}), Outcome(number, measured))
    recorder.close("FINISHED")
    records = load("growing", recorded.uri())
    table, fresh = records.table, records.fresh
    assert list(zip(table["setting"], table["seed"], strict=True)) == [(n, seed) for n in range(2) for seed in range(3)]
    assert list(table["average/val_loss"])[:5] == [0.5, 0.5, 0.5, 1.5, 1.5]
    assert math.isnan(table["average/val_loss"].iloc[5])
    assert set(table["state"]) == {"complete"}
    assert list(zip(fresh["setting"], fresh["seed"], fresh["average/val_loss"], strict=True)) == [(0, 10_000, 0.5)]
    assert list(fresh.columns) == list(table.columns)


# --- the types of hyperparameters -------------------------------------------------------------------------------------

KINDS = {
    **{
        "padded": "007",
        "underscored": "1_000",
        "not_a_number": "nan",
        "truth_as_text": "True",
        "number_as_text": "1.0",
    },
    **{"empty": "", "lines": "two\nlines", "quoted": 'it\'s "so" \u00e9', "long": "x" * 7000},
    **{"truth": True, "whole": 3, "huge": 10**30, "real": 3.0, "small": 1e-05, "nothing": None},
}


@pytest.fixture(scope="module")
def kinds() -> Records:
    """A study of one setting that has a hyperparameter of every kind, more than MLflow takes at once."""
    many = {f"other{number}": number for number in range(200)}
    config = {"name": "kinds", "task": {"name": "tasks_of_tests:parabola"}, "steps": 10, "seeds": 1}
    config |= {"objective": {"metric": "average/score", "mode": "max"}, "space": {"decay": 0.9}}
    study = Study.of(parse_config(config | {"search": {"settings": 1}}))
    recorder = Recorder(study, recorded.uri())
    recorder.open(1)
    seeds = [SeedResult(0, [(10, {"average/score": 1.0})])]
    recorder.record(study.setting(0, {"decay": 0.9, "layers": [1, 2], **KINDS, **many}), Outcome(0, seeds))
    recorder.close("FINISHED")
    return load("kinds", recorded.uri())


@pytest.mark.parametrize("name", KINDS)
def test_a_hyperparameter_gets_back_the_value_and_the_type_it_had(kinds, name):
    read = plain(kinds.table.loc[0, name])
    assert (read, type(read)) == (KINDS[name], type(KINDS[name]))


def test_a_hyperparameter_that_is_a_list_is_read_as_one(kinds):
    assert kinds.table.loc[0, "layers"] == [1, 2]


def test_numbers_of_one_hyperparameter_are_whole_or_not_as_they_were_tried():
    tried = list(recorded.records("shaped").table["power"])
    assert [(value, type(value)) for value in tried] == [(1, int), (0.5, float), (2, int)]


def test_all_of_many_hyperparameters_are_read(kinds):
    assert [kinds.table.loc[0, f"other{number}"] for number in range(200)] == list(range(200))


def test_hyperparameters_stand_as_mlflow_s_own_parameters_too_for_people_to_read(kinds):
    client = MlflowClient(tracking_uri=recorded.uri())
    (run,) = runs(client, [client.get_experiment_by_name("kinds").experiment_id], SETTING_RUN)
    assert (run.data.params["padded"], run.data.params["layers"]) == ("007", "[1, 2]")
    assert run.data.params["long"] == "x" * 6000  # as much as MLflow keeps
    assert run.data.params.keys() == {"steps", *kinds.parameters}


# --- a study that has only begun -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun() -> str:
    """A study none of whose settings is done."""
    config = {"name": "begun", "task": "digits", "steps": 10, "seeds": 1, "search": {"settings": 2, "baseline": 0}}
    config |= {"objective": {"metric": "average/val_loss"}, "space": {"decay": 0.9, "lr": {"log": [0.1, 1]}}}
    Recorder(Study.of(parse_config(config)), recorded.uri()).open(2)
    return "begun"


def test_a_study_none_of_whose_settings_is_done_is_refused(begun):
    assert refusal(load, begun, recorded.uri()) == (
        "the study must have a setting that is done, got none of 'begun'; wait, or `belay-study resume begun`."
    )


def test_the_list_of_studies_counts_settings_that_are_done(begun):
    recorded.records("mixed")
    listed = studies(recorded.uri()).set_index("study")
    assert (listed.loc["begun", "done"], listed.loc["begun", "planned"]) == (0, 2)
    assert (listed.loc["mixed", "done"], listed.loc["mixed", "planned"]) == (7, 9)


def test_the_list_of_studies_reads_no_setting_s_run(monkeypatch):
    recorded.records("mixed")
    read = []
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: read.extend(found := search(*a, **k)) or found)
    assert len(studies(recorded.uri())) == len(read)


# --- results that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "damage", "got"), [
    ("gone", Path.unlink, "none"),
    ("damaged", lambda file: file.write_bytes(file.read_bytes()[:-50]), r"a damaged one \(.+\)"),
])  # fmt: skip
def test_results_that_are_missing_or_damaged_are_refused(name, damage, got):
    recorded.accuracy(name, MIXED[:2])
    run = MlflowClient(tracking_uri=recorded.uri()).get_run(load(name, recorded.uri()).run)
    damage(Path(run.info.artifact_uri.removeprefix("file://")) / RESULTS_ARTIFACT)
    assert re.fullmatch(
        rf"the records of '{name}' must have a whole results\.parquet, got {got}; `belay-study sync {name}` writes it "
        r"anew from the ledger\.",
        refusal(load, name, recorded.uri()),
    )


# --- all studies ------------------------------------------------------------------------------------------------------


def test_the_list_of_studies_says_what_each_asked_and_how_far_it_is():
    for name in ("mixed", "tiny", "live"):
        recorded.records(name)
    listed = studies(recorded.uri())
    assert list(listed.columns) == ["study", "status", "done", "planned", "task", "metric", "mode", "started"]
    row = listed.set_index("study").loc["tiny"]
    assert list(row)[:-1] == ["finished", 3, 3, "quadratic", "average/excess_loss", "min"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\dZ", row["started"])


def test_the_newest_study_is_listed_first(monkeypatch):
    for name in ("mixed", "tiny", "live"):
        recorded.records(name)
    monkeypatch.setattr(tracking, "PAGE", 1)  # also page by page
    client = MlflowClient(tracking_uri=recorded.uri())
    began = {name: client.get_run(recorded.records(name).run).info.start_time for name in ("mixed", "tiny", "live")}
    listed = [name for name in studies(recorded.uri())["study"] if name in began]
    assert listed == sorted(began, key=began.__getitem__, reverse=True)


def test_a_store_without_studies_has_an_empty_list(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(tracking_uri=uri).create_experiment("somebody else's")
    listed = studies(uri)
    assert listed.empty
    assert "started" in listed.columns
    assert json.loads(listed.to_json(orient="records")) == []


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nope", "Default", "", "../mixed", "mixed' or '1'='1"])
def test_an_unknown_study_is_refused(name):
    recorded.records("mixed")
    assert re.fullmatch(
        rf"the study must exist in sqlite:///.*/mlflow\.db, got {re.escape(repr(name))}; `belay-study list` shows what "
        rf"does, and `belay-study sync {re.escape(name)}` writes one that the ledger has\.",
        refusal(load, name, recorded.uri()),
    )


def test_records_that_do_not_exist_are_refused_and_not_made(tmp_path):
    message = refusal(studies, f"sqlite:///{tmp_path}/none.db")
    assert message == (
        f"`tracking` must lead to records, got no {tmp_path}/none.db; run a study here first, or name another."
    )
    assert refusal(load, "small", f"sqlite:///{tmp_path}/none.db") == (
        f"`tracking` must lead to records, got no {tmp_path}/none.db; run it here first, write it from the ledger with "
        "`belay-study sync small`, or name another."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_refused_at_once():
    assert re.fullmatch(
        r"`tracking` must be an MLflow server or database that answers, got http://u:\*\*\*@127\.0\.0\.1:1: "
        r"\[Errno 111\] Connection refused; start it, or name another\.",
        refusal(studies, "http://u:secret@127.0.0.1:1"),
    )


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, though longer than one's header: " + "x" * 200)
    assert "file is not a database; start it, or name another." in refusal(studies, f"sqlite:///{tmp_path}/mlflow.db")


def test_a_folder_is_refused_at_once(tmp_path):
    assert "unable to open database file; start it" in refusal(studies, f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("uri", ["nonsense://x", "./mlruns"])
def test_a_kind_of_store_that_mlflow_does_not_take_is_refused(uri):
    assert re.search(
        r"`tracking` must be an MLflow server or database .*; start it, or name another\.$", refusal(studies, uri)
    )

"""The doctor: what it finds good, what it finds bad and what it says then, and that it changes nothing."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from study import doctor
from study.doctor import Check, examine

RAY_S_OWN = "ignore::DeprecationWarning:ray"  # importing ray.util.state


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)


def checks(tracking: str | None = None, storage: str | None = None) -> dict[str, Check]:
    found = examine(tracking, storage)
    for check in found:
        assert len(check.text.splitlines()) == 1
    return {check.name: check for check in found}


def test_all_is_well_where_the_tests_run_and_nothing_is_made(tmp_path):
    found = checks()
    assert list(found) == [
        *("python", "belay", "torch", "ray", "optuna", "mlflow", "pandas"),
        *("processors", "ray cluster", "folder", "tracking", "storage"),
    ]
    assert all(check.good for check in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_is_found_is_named():
    found = checks()
    assert found["python"].text == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(rf"{os.cpu_count()} CPU cores, .+", found["processors"].text)
    assert found["ray cluster"].text == "a local one for each run (RAY_ADDRESS names another)"
    assert found["tracking"].text == f"sqlite:///{Path.cwd()}/.belay-study/mlflow.db (made by the first run)"
    assert found["storage"].text == f"sqlite:///{Path.cwd()}/.belay-study/optuna.db (made by the first run)"
    assert found["folder"].text == f"{Path.cwd()} is writable"


def test_a_package_that_is_missing_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    found = checks()
    assert found["torch"].good
    assert not found["no-such-package"].good
    assert found["no-such-package"].text == "must be installed, found none; pip install no-such-package"


def test_a_python_that_is_too_old_is_bad(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert not checks()["python"].good


def test_a_working_directory_that_cannot_be_written_is_bad(monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # the superuser may write everywhere
    found = checks()["folder"]
    assert not found.good
    assert found.text == f"the working directory must be writable, got {Path.cwd()}: Permission denied"


# --- databases --------------------------------------------------------------------------------------------------------


def test_an_optuna_database_that_is_there_answers(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    RDBStorage(url).engine.dispose()
    before = (tmp_path / "optuna.db").read_bytes()
    assert checks(storage=url)["storage"] == Check("storage", True, f"{url} answers")
    assert (tmp_path / "optuna.db").read_bytes() == before


def test_a_server_that_does_not_answer_is_bad_and_its_password_stays_hidden():
    found = checks(tracking="http://u:secret@127.0.0.1:1")["tracking"]
    assert not found.good
    assert "must be an MLflow server or database that answers, got http://u:***@127.0.0.1:1" in found.text
    assert "secret" not in found.text


@pytest.mark.parametrize("name", ["tracking", "storage"])
def test_a_file_that_is_no_database_is_bad(tmp_path, name):
    (tmp_path / "notes.txt").write_text("not a database, though longer than one's header: " + "x" * 200)
    found = checks(**{name: f"sqlite:///{tmp_path}/notes.txt"})[name]
    assert not found.good
    assert "file is not a database" in found.text


@pytest.mark.parametrize("name", ["tracking", "storage"])
def test_a_database_that_could_not_be_made_is_bad(tmp_path, name):
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path}/file/study.db"
    found = checks(**{name: url})[name]
    assert found == Check(name, False, f"{url} must lie in a writable folder, got {tmp_path}/file; name another")


def test_a_database_may_be_made_in_a_folder_that_is_still_to_be_made(tmp_path):
    assert checks(storage=f"sqlite:///{tmp_path}/new/folder/study.db")["storage"].good
    assert not (tmp_path / "new").exists()


def test_the_tracking_store_is_asked_what_reading_commands_will_ask(tmp_path, monkeypatch):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("create table runs (id)")
    connection.close()
    asked = []
    monkeypatch.setattr("study.findings.collect._connect", asked.append)
    url = f"sqlite:///{tmp_path}/mlflow.db"
    assert checks(tracking=url)["tracking"] == Check("tracking", True, f"{url} answers")
    assert asked == [url]


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_bad_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = checks()["ray cluster"]
    assert not found.good
    assert found.text == (
        f"RAY_ADDRESS must answer, got {address}: [Errno 111] Connection refused; start it or unset it"
    )


def test_a_cluster_that_answers_is_good(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.util.state.list_nodes", lambda address: [address, "another"])
    assert checks()["ray cluster"] == Check("ray cluster", True, "2 nodes at auto")


def test_an_error_of_ray_without_words_is_named(monkeypatch):
    def fail(address: str) -> None:
        raise RuntimeError

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.util.state.list_nodes", fail)
    found = checks()["ray cluster"]
    assert found == Check("ray cluster", False, "RAY_ADDRESS must answer, got auto: RuntimeError; start it or unset it")

"""The doctor: what it finds good, what it finds bad and what it says then, and that it changes nothing."""

from __future__ import annotations

import os
import re
import socket
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from processes import forked
from studies import Answer

from study import doctor
from study.doctor import Check, examine
from study.execute.connection import HURRY
from study.execute.tables import opened


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
        *("python", "belay-study", "torch", "ray", "optuna", "mlflow", "pandas"),
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
    assert found["storage"].text == f"sqlite:///{Path.cwd()}/.belay-study/ledger.db (made by the first run)"
    assert found["folder"].text == f"{Path.cwd()} is writable"


def test_a_package_that_is_missing_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    found = checks()
    assert found["torch"].good
    assert not found["no-such-package"].good
    assert found["no-such-package"].text == "must be installed, found none; pip install no-such-package"


def test_this_project_is_not_to_be_installed_from_the_index_where_the_name_could_be_anybody_s(monkeypatch):
    def find_nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", find_nothing)
    assert checks()["belay-study"].text == "must be installed, found none; pip install -e . in its clone"


def test_a_python_that_is_too_old_is_bad(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert not checks()["python"].good


def test_a_working_directory_that_cannot_be_written_is_bad():
    os.chdir("/proc/self")  # where not even the superuser may make files
    found = checks()["folder"]
    assert not found.good
    assert re.fullmatch(r"the working directory must be writable, got /proc/\d+: No such file or directory", found.text)


# --- databases --------------------------------------------------------------------------------------------------------


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


def test_databases_with_their_tables_answer_and_stay_as_they_are(databases):
    with opened(f"sqlite:///{databases}/ledger.db", making=True):
        pass
    before = {file.name: file.read_bytes() for file in databases.iterdir()}
    found = checks()
    for name, file in (("tracking", "mlflow.db"), ("storage", "ledger.db")):
        assert found[name] == Check(name, True, f"sqlite:///{databases}/{file} answers")
    assert {file.name: file.read_bytes() for file in databases.iterdir()} == before


# --- Ray --------------------------------------------------------------------------------------------------------------


def doctor_at(address: str, folder: Path, **environment: str) -> Answer:
    """The doctor in a process of its own, which knows no Ray yet: in this one a Ray may be connected already."""
    with forked("doctor", home=folder, first=_forget_how_to_log_in, RAY_ADDRESS=address, **environment) as process:
        return process.end()


def _forget_how_to_log_in() -> None:
    """Takes back what a local Ray of this session, if there is one, has set for it and its children."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        del os.environ["RAY_AUTH_MODE"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_bad_at_once(tmp_path, address):
    said = f"RAY_ADDRESS must answer, got {address}: [Errno 111] Connection refused; start it or unset it."
    done = doctor_at(address, tmp_path)
    assert (done.code, done.err) == (1, "")
    assert f"BAD  ray cluster {said}" in done.out.splitlines()


def test_a_port_at_which_no_ray_answers_is_bad(tmp_path, monkeypatch):
    for name in HURRY:
        monkeypatch.setenv(name, "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = doctor_at(address, tmp_path)
    assert (done.code, done.err) == (1, "")
    said = f"BAD  ray cluster RAY_ADDRESS must answer, got {address}: Timed out"
    assert any(line.startswith(said) for line in done.out.splitlines()), done.out


@pytest.mark.parametrize(
    ("address", "found"),
    [("{}", "{}"), ("auto", r"\S+:\d+")],  # any Ray of this machine, which the tests may not be alone on
    ids=["named", "auto"],
)
def test_a_cluster_that_answers_is_good_also_where_only_the_token_s_file_tells_how_to_log_in(
    ray_cluster, tmp_path, address, found
):
    done = doctor_at(address.format(ray_cluster), tmp_path)
    assert (done.code, done.err) == (0, "")
    assert re.search(rf"^ok   ray cluster 1 node at {found.format(re.escape(ray_cluster))}$", done.out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_wants_a_token_which_is_not_shown_is_bad(ray_cluster, tmp_path):
    done = doctor_at(ray_cluster, tmp_path, RAY_AUTH_MODE="disabled")
    assert (done.code, done.err) == (1, "")
    said = f"the cluster must accept Ray's token, got another or none at {ray_cluster}; set RAY_AUTH_MODE=token and"
    assert f"BAD  ray cluster {said} RAY_AUTH_TOKEN_PATH to the file that holds the cluster's." in done.out.splitlines()


def test_a_local_ray_that_is_asked_for_is_none_to_connect_to(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert checks()["ray cluster"].text == "a local one for each run (RAY_ADDRESS names another)"

"""Where the records are: defaults, folders made when needed, passwords never shown, silence noticed at once."""

from __future__ import annotations

import re
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from study.design.places import (
    check_answers,
    make_room,
    secrets,
    sqlite_file,
    storage_url,
    tracking_uri,
    with_password,
    without_password,
)
from study.errors import BadInput, reason


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_tracking_uri_is_as_given_then_the_environment_s_then_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri("http://given") == "http://given"
    assert tracking_uri(None) == "http://environment"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/.belay-study/mlflow.db"


def test_the_storage_is_as_given_or_a_file(tmp_path):
    assert storage_url("postgresql://host/db") == "postgresql://host/db"
    assert storage_url(None) == f"sqlite:///{tmp_path}/.belay-study/ledger.db"


def test_a_relative_path_is_taken_from_the_working_directory_once_and_for_all(tmp_path):
    assert tracking_uri("sqlite:///here/mlflow.db") == f"sqlite:///{tmp_path}/here/mlflow.db"
    assert storage_url("sqlite:////there/optuna.db") == "sqlite:////there/optuna.db"
    assert storage_url("sqlite:///:memory:") == "sqlite:///:memory:"


@pytest.mark.parametrize("folder", ["que?ry", "per%cent", "per%41"])
def test_a_folder_whose_name_means_another_in_a_url_is_refused(folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    for resolve in (storage_url, tracking_uri):
        with pytest.raises(
            BadInput, match=rf"must be a file whose path has no \?, .*, got {re.escape(str(Path.cwd()))}/"
        ):
            resolve(None)
        assert resolve(f"sqlite:///{tmp_path}/50% off.db?timeout=5") == f"sqlite:///{tmp_path}/50% off.db?timeout=5"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///a/b.db", Path("a/b.db")),
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///b.db?timeout=5", Path("b.db")),
        ("postgresql://host/db", None),
        ("http://host:5000", None),
    ],
)
def test_the_file_of_an_sqlite_url_is_found(url, file):
    assert sqlite_file(url) == file


def test_room_is_made_for_a_file(tmp_path):
    make_room("storage.url", f"sqlite:///{tmp_path}/new/folder/study.db")
    assert (tmp_path / "new" / "folder").is_dir()
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_server_needs_no_room(tmp_path):
    make_room("tracking.uri", "http://host:5000")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(
        BadInput, match=rf"`storage\.url` must name a file, got {url}; give e\.g\. sqlite:///study\.db\."
    ):
        make_room("storage.url", url)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        BadInput, match=r"`tracking\.uri` must lie in a writable folder, got sqlite:.*; choose another\.$"
    ):
        make_room("tracking.uri", f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"must lie in a writable folder, got sqlite:.*: Is a directory; choose another"):
        make_room("tracking.uri", f"sqlite:///{tmp_path}")


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write everywhere
    with pytest.raises(BadInput, match=r"must lie in a writable folder, got .*: not writable; choose another"):
        make_room("tracking.uri", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:p@ss:w/rd@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://host/db?user=u&password=secret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("sqlite:////a:b/c@d.db", "sqlite:////a:b/c@d.db"),
        ("postgresql://user:p%40ss@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:p?a@ss#w@host/db", "postgresql://user:***@host/db"),
        ("postgresql://us/er:secret@host/db", "postgresql://us/er:***@host/db"),
        ("postgresql://host/db?sslpassword=secret", "postgresql://host/db?sslpassword=***"),
        ("mssql://?odbc_connect=PWD%3Dsecret", "mssql://?odbc_connect=***"),
        ("postgresql://user:${PGPASSWORD}@host/db", "postgresql://user:${PGPASSWORD}@host/db"),
        ("postgresql://user:a${PGPASSWORD}@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:@host/db", "postgresql://user:@host/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql://one:1,two:2/db?x=y", "postgresql://one:1,two:2/db?x=y"),
        ("http://${HOST}:${PORT}/mlflow", "http://${HOST}:${PORT}/mlflow"),
        ("sqlite:///a b.db?password=secret", "sqlite:///a b.db?password=***"),
        ("postgresql://host/db?key=secret", "postgresql://host/db?key=***"),
        ("postgresql://host/db?sslkey=file", "postgresql://host/db?sslkey=file"),
        ("http://secret@host", "http://***@host"),
        ("https://${TOKEN}@host", "https://${TOKEN}@host"),
        ("file:///a/b", "file:///a/b"),
        ("./mlruns", "./mlruns"),
        ("databricks", "databricks"),
        ("${URL}", "${URL}"),
        ("postgresql://me:secret", "postgresql:***"),
        ("postgresql://me/secret@host/db", "postgresql:***"),
        ("postgresql:me:secret@host/db", "postgresql:***"),
        ("postgresql:/me:secret@host/db", "postgresql:***"),
        ("databricks://me:secret", "databricks:***"),
        ("sqlite://me:secret@host/db", "sqlite://me:***@host/db"),
        ("me:secret@host/db", "me:***"),
        ("secret@host/db", "***"),
        ("host=host password=secret dbname=x", "***"),
    ],
)
def test_a_password_is_never_shown(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("given", "kept", "used"),
    [
        ("pg://u:${WORD}@h/db", "pg://u:${WORD}@h/db", "pg://u:p%40%2F%25%7B@h/db"),
        ("pg://h/db?password=${WORD}&x=1", "pg://h/db?password=${WORD}&x=1", "pg://h/db?password=p%40%2F%25%7B&x=1"),
        ("pg://u:${WORD}@${HOST}/db", "pg://u:${WORD}@h:5432/db", "pg://u:p%40%2F%25%7B@h:5432/db"),
        ("${URL}", "pg://u:w@h/db", "pg://u:w@h/db"),
        ("sqlite:////${HOST}/a@b.db", "sqlite:////h:5432/a@b.db", "sqlite:////h:5432/a@b.db"),
        ("pg://u:$WORD@h/db", "pg://u:$WORD@h/db", "pg://u:$WORD@h/db"),
    ],
)
def test_a_variable_of_the_login_is_read_when_a_connection_is_made_and_others_at_once(monkeypatch, given, kept, used):
    for name, value in {"WORD": "p@/%{", "HOST": "h:5432", "URL": "pg://u:w@h/db"}.items():
        monkeypatch.setenv(name, value)
    assert storage_url(given) == tracking_uri(given) == kept
    assert with_password(kept) == used


@pytest.mark.parametrize("given", ["pg://u:${NONE}@h/db", "sqlite:///${NONE}/x.db", "pg://h/db?password=${NONE}"])
def test_a_variable_that_is_not_set_is_refused_by_name(given):
    with pytest.raises(BadInput, match=r"must name environment variables that are set, got \$\{NONE\}, which is not"):
        storage_url(given)


@pytest.mark.parametrize("password", ["p@ss", "pa/ss", "p?ss", "p#ss"])
def test_a_password_that_runs_into_the_rest_of_the_url_is_refused_without_being_shown(password):
    with pytest.raises(
        BadInput, match=r"the tracking URI must have @ / \? # in its password written as .*:\*\*\*@h"
    ) as no:
        tracking_uri(f"http://me:{password}@h")
    assert password not in str(no.value)


def test_every_form_of_a_password_is_taken_out_of_another_library_s_words():
    url = "http://me:p%40%2Fss@host?token=%22x'y"
    text = "no p@/ss, no p%40%2Fss, no \"x'y, no %22x'y, no %22x%27y" + "-" * 1000
    assert reason(Exception(text), secrets(url)).startswith("no ***, no ***, no ***, no ***, no ***---")


class _Answers404(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_any_answer_of_a_server_will_do():
    server = HTTPServer(("127.0.0.1", 0), _Answers404)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    check_answers(f"http://127.0.0.1:{server.server_port}")
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("url", "reason"), [("http://127.0.0.1:1", "refused"), ("http://a b", "control characters")])
def test_a_server_that_does_not_answer_is_noticed(url, reason):
    with pytest.raises(OSError, match=reason):
        check_answers(url)


def test_an_sqlite_file_answers(tmp_path):
    with sqlite3.connect(tmp_path / "some.db") as connection:
        connection.execute("create table some (thing)")
    connection.close()
    check_answers(f"sqlite:///{tmp_path}/some.db")


def test_a_file_that_is_no_database_is_noticed(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, though longer than one's header: " + "x" * 200)
    with pytest.raises(OSError, match="file is not a database"):
        check_answers(f"sqlite:///{tmp_path}/notes.txt")


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(OSError, match="unable to open database file"):
        check_answers(f"sqlite:///{tmp_path}")


def test_what_is_neither_server_nor_database_is_taken_on_trust():
    check_answers("databricks")


@pytest.mark.parametrize("url", ["postgresql://me:secret", "host=h password=secret", "postgresql://me/secret@h/db"])
def test_what_is_no_url_of_a_known_form_is_refused_before_any_library_can_show_it(url):
    with pytest.raises(
        BadInput, match=r"the storage URL must be SCHEME://HOST or .*, got (postgresql:)?\*\*\*; "
    ) as no:
        storage_url(url)
    assert "secret" not in str(no.value)


def test_a_password_for_a_file_is_refused():
    with pytest.raises(BadInput, match=r"must have no password for an SQLite file, got .*\?password=\*\*\*; remove it"):
        storage_url("sqlite:///study.db?password=secret")


def test_a_token_in_place_of_a_login_is_taken_out_of_another_library_s_words():
    assert reason(Exception("no secret"), secrets("http://secret@host")) == "no ***"

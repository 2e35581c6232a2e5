"""A client of the tracking store: what answers, what does not, and everything that is found over several pages."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from study import tracking
from study.errors import BadInput
from study.tracking import connect, pages, runs


def refused(uri: str) -> str:
    with pytest.raises(BadInput) as caught:
        connect(uri, "tracking.uri", "leave it out")
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith("`tracking.uri` must be an MLflow server or database that answers, got ")
    assert text.endswith("; start it, or leave it out.")
    return text


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def other_server() -> Iterator[str]:
    """The URL of a web server that is no MLflow."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    Nothing.do_POST = Nothing.do_GET  # type: ignore[attr-defined]
    with HTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_database_that_mlflow_made_answers(databases):
    client = connect(f"sqlite:///{databases}/mlflow.db", "tracking.uri", "leave it out")
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def test_a_server_that_is_not_there_is_refused_without_its_password():
    text = refused("http://u:secret@127.0.0.1:1")
    assert "got http://u:***@127.0.0.1:1: [Errno 111] Connection refused;" in text
    assert "secret" not in text


def test_a_web_server_that_is_no_mlflow_is_refused(other_server):
    assert "404" in refused(other_server)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, though longer than one's header: " + "x" * 200)
    assert "file is not a database" in refused(f"sqlite:///{tmp_path}/notes.txt")


def test_tables_of_another_mlflow_are_refused_with_the_command_that_mends_them(databases):
    file = databases / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    assert "found version 451aebb31d03, but expected" in (text := refused(f"sqlite:///{file}"))
    assert "run 'mlflow db upgrade <database_uri>'" in text
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("update alembic_version set version_num = 'of a newer one'")
    assert "of a newer one" in refused(f"sqlite:///{file}")


def test_a_database_of_postgresql_that_is_not_there_is_refused():
    assert "no_such_database_of_belay" in refused(
        "postgresql+psycopg://postgres@127.0.0.1:5432/no_such_database_of_belay"
    )


def test_a_scheme_that_mlflow_does_not_know_is_refused():
    assert "gopher" in refused("gopher://127.0.0.1/runs")


def test_all_runs_of_a_kind_are_found_however_many_pages_they_fill(databases, monkeypatch):
    monkeypatch.setattr(tracking, "PAGE", 2)
    client = connect(f"sqlite:///{databases}/mlflow.db", "tracking.uri", "leave it out")
    experiment = client.create_experiment("many", artifact_location=databases.as_uri())
    made = [client.create_run(experiment, tags={"belay.kind": "setting"}).info.run_id for _ in range(5)]
    client.create_run(experiment, tags={"belay.kind": "study"})
    elsewhere = client.create_experiment("elsewhere", artifact_location=databases.as_uri())
    client.create_run(elsewhere, tags={"belay.kind": "setting"})
    assert sorted(run.info.run_id for run in runs(client, [experiment], "setting")) == sorted(made)
    assert len(list(runs(client, [experiment, elsewhere], "setting"))) == 6
    client.set_tag(made[3], "belay.after", "8")
    assert [run.info.run_id for run in runs(client, [experiment], "setting", **{"belay.after": "8"})] == [made[3]]
    assert sorted(one.name for one in pages(client.search_experiments)) == ["Default", "elsewhere", "many"]

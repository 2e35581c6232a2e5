"""PostgreSQL and MLflow as servers: logins, servers that refuse, and drivers that start at once, each of them real."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import postgresql_server
import psycopg
import pytest
from studies import Answer, CommandLine, copy_databases, environment_with, started, write

PASSWORD = "p@ss/w:rd%41 'x"
FEW = {"sampler": "random", "settings": 3, "baseline": 0}
LONG = 600  # seconds that a server may take to start


def refused(answer: Answer, *parts: str) -> None:
    """Asserts that bad input was told in one line, a run's first line of progress aside, without the password."""
    lines = [line for line in answer.err.splitlines() if "; starting MLflow" not in line]
    assert (answer.code, answer.out, len(lines)) == (2, "", 1), answer
    for part in parts:
        assert part in lines[0], answer.err
    assert PASSWORD not in answer.err


@pytest.fixture(scope="module")
def asking() -> Iterator[str]:
    """HOST:PORT of a server that asks for passwords, with the databases `ledger` and `mlflow`."""
    if lacking := postgresql_server.missing():
        assert not os.environ.get("BELAY_REQUIRE_POSTGRESQL"), lacking
        pytest.skip(lacking)
    with postgresql_server.server(PASSWORD) as place:
        host, port = place.split(":")
        login = {"host": host, "port": port, "user": "postgres", "password": PASSWORD}
        with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:
            for name in ("ledger", "mlflow"):
                connection.execute(f"create database {name}")
            connection.execute("create role narrow login connection limit 0 password 'narrow'")
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("way", ["variable", "environment", "file"])
def test_a_password_reaches_both_stores_from_the_environment_or_from_a_file(
    way: str, asking: str, belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "file":
        escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        (tmp_path / "pgpass").write_text(f"{asking}:*:postgres:{escaped}\n")
        (tmp_path / "pgpass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    else:
        monkeypatch.setenv("PGPASSWORD" if way == "environment" else "MY_PASSWORD", PASSWORD)
    login = "postgres:${MY_PASSWORD}" if way == "variable" else "postgres"
    storage, tracking = (f"postgresql+psycopg://{login}@{asking}/{name}" for name in ("ledger", "mlflow"))
    config = write(tmp_path / "small.yaml", name=way, search=FEW)
    ran = belay_study("run", config, "--inline", "--storage", storage, "--tracking", tracking)
    assert (ran.code, ran.out.splitlines()[0]) == (0, f"study     {way}: 3 of 3 settings x 2 seeds done"), ran.err
    (row,) = json.loads(belay_study("status", way, "--storage", storage, "--format", "json").out)
    assert (row["done"], row["left"]) == (3, 0)
    assert PASSWORD not in ran.out + ran.err


@pytest.mark.slow
def test_a_wrong_password_a_database_that_is_not_there_and_a_server_without_connections_are_told_in_one_line(
    asking: str, belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "small.yaml", search=FEW)
    cases = [  # the login with its password, the database, what PostgreSQL says
        ("postgres", "wrong", "ledger", 'password authentication failed for user "postgres"'),
        ("nobody", PASSWORD, "ledger", 'password authentication failed for user "nobody"'),
        ("postgres", PASSWORD, "nowhere", 'database "nowhere" does not exist'),
        ("narrow", "narrow", "ledger", 'too many connections for role "narrow"'),
    ]
    for user, password, name, said in cases:
        monkeypatch.setenv("PGPASSWORD", password)
        url = f"postgresql+psycopg://{user}@{asking}/{name}"
        for command in (["status", "small"], ["run", config, "--inline"], ["resume", "small", "--inline"]):
            refused(belay_study(*command, "--storage", url), "`storage.url` must be a database that answers", said)
        for command in (["list"], ["best", "small"], ["run", config, "--inline"]):
            refused(belay_study(*command, "--tracking", url), "must be an MLflow server or database that answers", said)


@pytest.mark.slow
def test_one_database_may_hold_the_ledger_and_mlflow_s_records(
    new_postgresql: Callable[[], str], belay_study: CommandLine, tmp_path: Path
) -> None:
    config = write(tmp_path / "small.yaml", search=FEW)
    for url in (new_postgresql(), f"sqlite:///{tmp_path}/one.db"):
        places = ["--storage", url, "--tracking", url]
        ran = belay_study("run", config, "--inline", *places)
        assert ran.code == 0, ran.err
        again = belay_study("resume", "small", "--inline", *places)
        assert (again.code, again.out) == (0, ran.out)


@pytest.mark.faults
@pytest.mark.parametrize("server", ["postgresql", "sqlite"])
@pytest.mark.parametrize("names", [["one", "two", "three", "four"], ["same"] * 4], ids=["four studies", "one study"])
def test_four_drivers_that_start_at_once_on_empty_databases_do_the_right_thing(
    names: list[str], server: str, belay_study: CommandLine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = []
    if server == "postgresql":
        make = request.getfixturevalue("new_postgresql")
        places = ["--storage", make(), "--tracking", make()]
    for name in set(names):
        write(tmp_path / f"{name}.yaml", name=name, search=FEW)
    with ExitStack() as running:
        line = [sys.executable, "-m", "study", "run"]
        drivers = [
            running.enter_context(
                started(
                    [*line, f"{name}.yaml", "--inline", *places],
                    cwd=tmp_path,
                    env=environment_with(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            for name in names
        ]
        ended = [(driver.communicate()[1], driver.returncode) for driver in drivers]
    assert "Traceback" not in "".join(err for err, _ in ended)
    codes = [code for _, code in ended]
    if len(set(names)) == 4:
        assert codes == [0] * 4, ended
    else:
        assert 0 in codes, ended
        for err, code in ended:
            assert code == 0 or (code == 2 and "a study must have one driver at a time, got 'same'" in err), ended
    for name in set(names):
        table = json.loads(belay_study("best", name, *places[2:], "--top", 9, "--format", "json").out)
        assert sorted(row["setting"] for row in table) == [0, 1, 2]


@pytest.fixture
def mlflow_server(made_databases: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of MLflow's own server with logins, as `admin` with PASSWORD."""
    home = copy_databases(made_databases, tmp_path)
    (home / "auth.ini").write_text(
        "[mlflow]\nadmin_username = admin\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{home}/auth.db\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    line = [sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}"]
    line += ["--workers=1", f"--backend-store-uri=sqlite:///{home}/mlflow.db", f"--artifacts-destination={home}/kept"]
    environment = environment_with(
        MLFLOW_AUTH_CONFIG_PATH=str(home / "auth.ini"),
        MLFLOW_FLASK_SERVER_SECRET_KEY="of this test",
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
    )
    url = f"http://127.0.0.1:{port}"
    with (home / "log").open("w") as log, started(line, env=environment, stdout=log, stderr=log) as server:
        began = time.monotonic()
        while not answers(f"{url}/health"):
            assert server.poll() is None, (home / "log").read_text()
            assert time.monotonic() - began < LONG, (home / "log").read_text()
            time.sleep(0.1)
        yield url
        server.terminate()  # its own workers end with it, as they would not if it were killed
        server.wait(LONG)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=LONG).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_login_that_mlflow_s_server_refuses_is_told_in_one_line_and_a_right_one_is_taken(
    mlflow_server: str, belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "small.yaml", search=FEW)
    rule = "must be an MLflow server or database that takes the login"
    advice = "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to one it knows, or "
    for login in ({}, {"USERNAME": "admin", "PASSWORD": "wrong"}, {"USERNAME": "nobody", "PASSWORD": PASSWORD}):
        for name, value in login.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        for command in (["list"], ["best", "small"], ["run", config, "--inline"]):
            refused(belay_study(*command, "--tracking", mlflow_server), rule, "401", advice)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    ran = belay_study("run", config, "--inline", "--tracking", mlflow_server)
    assert (ran.code, ran.out.splitlines()[0]) == (0, "study     small: 3 of 3 settings x 2 seeds done"), ran.err
    assert not re.search(rf"{re.escape(PASSWORD)}|of this test", ran.out + ran.err)

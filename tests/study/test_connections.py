"""Passwords: they are used to connect and found nowhere else; and `--storage` and `--tracking` hold throughout."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import yaml
from studies import CommandLine, environment_with, started, write

from study.design.config import parse_config
from study.design.places import Connections
from study.errors import BadInput
from study.execute.tables import opened

STRANGE = "kJ8vPz3QmX"  # nothing but the password holds these letters
PASSWORD = f"{STRANGE}@/:%41"


Databases = tuple[str, str]


@pytest.fixture
def two_databases(new_postgresql: Callable[[], str]) -> Databases:
    """The URLs of two empty databases on a server that trusts its callers."""
    return new_postgresql(), new_postgresql()


def with_login(url: str, login: str) -> str:
    """The URL with another user, or user and password."""
    return f"postgresql://{login}@{url.rpartition('@')[2]}"


def holds(path: Path) -> bool:
    """Whether a file holds the password; one that has gone meanwhile does not."""
    try:
        return path.is_file() and STRANGE.encode() in path.read_bytes()
    except OSError:
        return False


def leaks(*folders: Path) -> set[str]:
    """Files below folders, and command lines of running processes, that hold the password."""
    commands = [process / "cmdline" for process in Path("/proc").iterdir() if process.name.isdecimal()]
    below = [Path(at, name) for folder in folders for at, _, names in os.walk(folder) for name in names]
    return {str(path) for path in (*commands, *below) if holds(path)}


def rows_with_password(url: str, expected: set[str]) -> list[str]:
    """Tables of a database, the expected among them, that have a row with the password in any column."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        assert expected <= {name for (name,) in tables}
        query = "select count(*) from {} as kept where kept::text like %s"
        return [name for (name,) in tables if connection.execute(query.format(name), [f"%{STRANGE}%"]).fetchone()[0]]


@pytest.mark.slow
def test_a_password_is_found_nowhere_but_in_the_config(
    two_databases: Databases, ray_cluster: str, tmp_path: Path
) -> None:
    import ray

    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    storage, tracking = (with_login(url, f"postgres:{quote(PASSWORD, safe='')}") for url in two_databases)
    search = {"sampler": "tpe", "settings": 4, "baseline": 2, "in_flight": 2}
    config = write(tmp_path / "small.yaml", storage={"url": storage}, tracking={"uri": tracking}, search=search)
    line = [sys.executable, "-m", "study", "run", str(config)]
    environment = environment_with(RAY_ADDRESS=ray_cluster, TMPDIR=str(scratch))
    found: set[str] = set()
    with (
        (home / "output").open("w") as output,
        started(line, cwd=home, env=environment, stdout=output, stderr=output) as driver,
    ):
        while driver.poll() is None:
            found |= leaks(home, scratch)  # what Tune writes while it runs is removed at the end
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(0.5)
    said = (home / "output").read_text()
    assert driver.returncode == 0, said
    assert "6 of 6 settings x 2 seeds done" in said
    assert f"--tracking '{with_login(two_databases[1], 'postgres:***')}'" in said
    session = Path(ray.worker.global_worker.node.get_session_dir_path())
    assert session.is_dir()
    assert found | leaks(home, scratch, session) == set()
    assert rows_with_password(two_databases[0], {"belay_studies", "belay_settings", "belay_results"}) == []
    assert rows_with_password(two_databases[1], {"experiments", "runs", "params", "tags"}) == []


def test_a_password_that_a_variable_or_the_environment_gives_reaches_the_server(
    two_databases: Databases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def used(login: str) -> str:
        url = Connections.of(with_login(two_databases[0], login)).storage
        with opened(url, making=True) as engine, engine.connect() as connection:
            return connection.connection.driver_connection.info.password

    monkeypatch.setenv("SECRET", PASSWORD)
    assert used("postgres:${SECRET}") == PASSWORD
    monkeypatch.setenv("PGPASSWORD", "from-" + PASSWORD)
    assert used("postgres") == "from-" + PASSWORD
    monkeypatch.delenv("PGPASSWORD")
    (tmp_path / "pgpass").write_text("*:*:*:*:of-a-file")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert used("postgres") == "of-a-file"


def test_connections_show_no_password_and_cannot_be_pickled() -> None:
    connections = Connections.of(f"postgresql://me:{STRANGE}@host/db", f"http://me:{STRANGE}@host")
    assert repr(connections) == "Connections(storage='postgresql://me:***@host/db', tracking='http://me:***@host')"
    with pytest.raises(TypeError, match="must not be pickled: they may hold a password"):
        pickle.dumps(connections)


@pytest.mark.parametrize("key", ["storage.url", "tracking.uri"])
@pytest.mark.parametrize("place", ["127.0.0.1:1", "127.0.0.1:port", "[half"])
@pytest.mark.parametrize("scheme", ["postgresql", "http", "nonsense", "mysql+absent"])
def test_an_error_of_whatever_library_shows_no_password(
    scheme: str, place: str, key: str, tmp_path: Path, belay_study: CommandLine
) -> None:
    config = write(tmp_path / "small.yaml")
    group, entry = key.split(".")
    written = yaml.safe_load(config.read_text()) | {group: {entry: f"{scheme}://me:{STRANGE}%40@{place}/db"}}
    config.write_text(yaml.safe_dump(written))
    answer = belay_study("run", config, "--inline")
    assert (answer.code, answer.out) == (2, ""), answer
    assert f"{scheme}://me:***@{place}/db" in answer.err
    assert STRANGE not in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("changes", [
    {"storage": {"ulr": f"postgresql://me:{STRANGE}@host/db"}},
    {"storage": f"postgresql://me:{STRANGE}@host/{'x' * 200}"},
    {"tracking": {"uri": [f"http://me:{STRANGE}@host"]}},
    {"tracking": {f"http://me:{STRANGE}@host": 1}},
    {"storage": {"url": {"of": [f"postgresql://host/db?user=me&password={STRANGE}"]}}},
])  # fmt: skip
def test_a_config_that_is_refused_shows_no_password(tmp_path: Path, belay_study: CommandLine, changes: object) -> None:
    answer = belay_study("run", write(tmp_path / "bad.yaml", **changes), "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert "***" in answer.err
    assert STRANGE not in answer.err


def test_a_config_shows_no_password_and_has_none_in_what_is_stored() -> None:
    from studies import small

    url = f"postgresql://me:{STRANGE}@host/db"
    config = parse_config(small(storage={"url": url}, tracking={"uri": url}))
    assert (config.storage.url, config.tracking.uri) == (url, url)
    assert STRANGE not in f"{config!r} {config} {config.plain()}"
    assert parse_config(config.plain()).question == config.question
    with pytest.raises(BadInput) as refused:
        parse_config(small(storage={"url": url, "more": url}))
    assert STRANGE not in str(refused.value.__cause__)


@pytest.mark.parametrize("option", ["--storage", "--tracking", "--set"])
def test_a_password_on_the_command_line_is_refused(tmp_path: Path, belay_study: CommandLine, option: str) -> None:
    url = f"postgresql://me:{STRANGE}@host/db"
    given = f"storage.url={url}" if option == "--set" else url
    answer = belay_study("run", write(tmp_path / "small.yaml"), option, given)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert f"`{option}` must hold no password, as others can read a command line, got " in answer.err
    assert STRANGE not in answer.err


def test_the_storage_and_tracking_of_a_command_hold_to_its_end(
    tmp_path: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {"sampler": "random", "settings": 3, "baseline": 0}
    places = [f"--storage=sqlite:///{tmp_path}/there/s.db", "--tracking=sqlite:///${THERE}/t.db"]
    monkeypatch.setenv("THERE", f"{tmp_path}/there")
    ran = belay_study("run", write(tmp_path / "small.yaml", search=search), "--inline", *places)
    assert ran.code == 0, ran.err
    option = f"--tracking sqlite:///{tmp_path}/there/t.db"
    assert f"belay-study export small {option} -o defaults.yaml" in ran.out
    resumed = belay_study("resume", "small", "--inline", places[0], "--tracking=sqlite:///${THERE}/again.db")
    assert (resumed.code, resumed.out) == (0, ran.out.replace("/t.db", "/again.db")), resumed.err
    assert {path.name for path in (tmp_path / "there").glob("*.db")} == {"s.db", "t.db", "again.db"}
    assert not (tmp_path / ".belay-study").exists()
    said = ran.out.replace(f" --inline --storage sqlite:///{tmp_path}/there/s.db", "")  # of which `best` knows nothing
    assert belay_study("best", "small", places[1]).out == said
    assert f"`belay-study list {option}` shows" in belay_study("best", "smal", places[1]).err


def test_the_environment_names_the_storage(tmp_path: Path, belay_study: CommandLine, monkeypatch) -> None:
    monkeypatch.setenv("BELAY_STORAGE_URL", f"sqlite:///{tmp_path}/elsewhere.db")
    answer = belay_study("status", "small")
    assert f"the study must exist in sqlite:///{tmp_path}/elsewhere.db, got 'small'; `belay-study list` " in answer.err


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, belay_study: CommandLine) -> None:
    config = write(tmp_path / "small.yaml", storage={"url": "postgresql://me:${NOT_SET}@host/db"})
    for options in ([], ["--dry-run"]):
        answer = belay_study("run", config, *options)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == (
            "belay-study: a URL must name environment variables that are set, got ${NOT_SET}, which is not; set it.\n"
        )

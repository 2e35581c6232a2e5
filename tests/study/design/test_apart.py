"""Two stores, two databases: what is one database however it is written, and tables of the other store in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.design.apart import MLFLOW_TABLE, OPTUNA_TABLE, check_tables, same_database
from study.design.places import Connections
from study.errors import BadInput


@pytest.fixture(autouse=True)
def _no_defaults_of_postgresql(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "MLFLOW_TRACKING_URI", "BELAY_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///x.db", "sqlite:///./x.db"),
        ("sqlite:///x.db", "sqlite:///link.db"),
        ("sqlite:///x.db?timeout=5", "sqlite+pysqlite:///sub/../x.db"),
        ("postgresql://h/db", "postgresql+psycopg://h:5432/db"),
        ("postgresql://me:a@h/db", "postgresql://you:b@h/db"),
        ("postgresql://localhost/db", "postgresql://127.0.0.1/db"),
        ("postgresql://h/db", "postgresql:///db?host=h"),
        ("postgresql://me@h", "postgresql://h/me"),
        ("mysql://h/db", "mysql+pymysql://h/db"),
    ],
)
def test_one_database_is_known_however_it_is_written(one: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    assert same_database(one, other)
    assert same_database(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///x.db", "sqlite:///y.db"),
        ("sqlite://", "sqlite://"),
        ("postgresql://h/db", "postgresql://h/other"),
        ("postgresql://h:1/db", "postgresql://h:2/db"),
        ("postgresql://127.0.0.1/db", "postgresql://127.0.0.2/db"),
        ("postgresql://h/db?options=-csearch_path%3Da", "postgresql://h/db?options=-csearch_path%3Db"),
        ("postgresql://h/db", "mysql://h/db"),
        ("postgresql://h/db", "http://h/db"),
        ("postgresql://h:port/db", "postgresql://h:port/db"),
    ],
)
def test_two_databases_are_two_and_what_cannot_be_read_is_left_to_who_connects(one: str, other: str) -> None:
    assert not same_database(one, other)


def test_the_environment_s_host_and_port_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.3")
    monkeypatch.setenv("PGPORT", "6000")
    assert same_database("postgresql:///db", "postgresql://127.0.0.3:6000/db")
    assert not same_database("postgresql:///db", "postgresql://127.0.0.3:5432/db")


def test_connections_to_one_database_are_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    with pytest.raises(BadInput) as refused:
        Connections.of("postgresql://me:${PGPASSWORD}@h/db", "postgresql://h/db")
    assert str(refused.value) == (
        "`storage.url` and `tracking.uri` must name two databases, as their tables have names in common, got "
        "postgresql://me:${PGPASSWORD}@h/db for both; make a second one (`createdb`, or another file) and name it for "
        "one of them."
    )
    monkeypatch.setenv("BELAY_STORAGE_URL", "sqlite:///one.db")
    with pytest.raises(BadInput, match=r"must name two databases, .* got sqlite:///.*/one\.db for both"):
        Connections.of(tracking="sqlite:///one.db")
    assert list(tmp_path.iterdir()) == []


def test_the_other_store_s_tables_are_found(databases: Path) -> None:
    optuna, mlflow = f"sqlite:///{databases}/optuna.db", f"sqlite:///{databases}/mlflow.db"
    check_tables(optuna, MLFLOW_TABLE, optuna)
    check_tables(mlflow, OPTUNA_TABLE, mlflow)
    with pytest.raises(BadInput, match=r"must name two databases, .*, got optuna here, which holds Optuna's; make"):
        check_tables(optuna, OPTUNA_TABLE, "optuna here")
    with pytest.raises(BadInput, match=r"got mlflow here, which holds MLflow's; make"):
        check_tables(mlflow, MLFLOW_TABLE, "mlflow here")
    check_tables("http://127.0.0.1:1", OPTUNA_TABLE, "a server")

"""Keeps Optuna's storage and MLflow's tracking store in two databases: their tables have names in common."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import BadInput

if TYPE_CHECKING:
    from sqlalchemy import URL

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
OPTUNA_TABLE, MLFLOW_TABLE = "trials", "experiments"  # tables that tell whose database it is


def same_database(one: str, other: str) -> bool:
    """Whether two URLs, variables filled in, lead to one database, as far as they say it; connects to none."""
    if not (one.startswith(DATABASES) and other.startswith(DATABASES)):
        return False
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        places = [make_url(url) for url in (one, other)]
    except (ArgumentError, ValueError):  # the latter of a port that is no number; who connects says it
        return False
    (backend, file), (_, other_file) = ((place.get_backend_name(), place.database or "") for place in places)
    if backend != places[1].get_backend_name():
        return False
    if backend == "sqlite":
        return bool(file) and Path(file).resolve() == Path(other_file).resolve()
    (hosts, *rest), (other_hosts, *other_rest) = (_server(place) for place in places)
    return bool(hosts & other_hosts) and rest == other_rest


def _server(place: URL) -> tuple[set[str], int, str, object]:
    """Where a database is: its host's addresses, port, name, and PostgreSQL's options, which may name a schema."""
    query, postgresql = place.query, place.get_backend_name() == "postgresql"
    environment = os.environ if postgresql else {}
    host = str(place.host or query.get("host") or environment.get("PGHOST") or "localhost")
    port = place.port or query.get("port") or environment.get("PGPORT") or (5432 if postgresql else 0)
    user = place.username or environment.get("PGUSER") or getpass.getuser()
    try:
        hosts = {str(address[4][0]) for address in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # a folder of sockets, several hosts, a name that is not known
        hosts = {host}
    name = place.database or query.get("dbname") or environment.get("PGDATABASE") or user
    return hosts, int(str(port)) if str(port).isdecimal() else 0, str(name), query.get("options")


def shared(found: str) -> str:
    """What is said where Optuna's storage and MLflow's store are one database."""
    return (
        f"`storage.url` and `tracking.uri` must name two databases, as their tables have names in common, got {found}; "
        "make a second one (`createdb`, or another file) and name it for one of them."
    )


def check_tables(url: str, foreign: str, shown: str) -> None:
    """Refuses a database that holds the other store's tables; makes nothing.

    Args:
        url: Of the database, variables filled in; of a server that is none, nothing is checked.
        foreign: A table that only the other store has: `MLFLOW_TABLE` or `OPTUNA_TABLE`.
        shown: The URL without its password.

    Raises:
        BadInput: It is there.
        SQLAlchemyError: The database does not answer, or has no connection left.
    """
    if not url.startswith(DATABASES):
        return
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.pool import NullPool

    with create_engine(url, poolclass=NullPool).connect() as connection:
        taken = inspect(connection).has_table(foreign)
    if taken:
        store = "MLflow" if foreign == MLFLOW_TABLE else "Optuna"
        raise BadInput(shared(f"{shown}, which holds {store}'s"))

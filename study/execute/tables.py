"""The tables of the ledger's database, their version, and how they are made and brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from study.design.places import PATIENCE, alone, make_room, secrets, sqlite_file, with_password, without_password
from study.errors import BadInput, reason

BUSY = 300  # seconds to wait for another process's write to an SQLite file

METADATA = MetaData()
VERSIONS = Table("belay_version", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))
STUDIES = Table(
    "belay_studies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("folded", String(100), nullable=False, unique=True),  # the name in lower case
    Column("config", Text, nullable=False),  # JSON
)
SETTINGS = Table(
    "belay_settings",
    METADATA,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("search", String(20), nullable=False),
    Column("drawn", Text, nullable=False),  # JSON: what the sampler drew
    Column("parameters", Text, nullable=False),  # JSON: the setting that came of it
    sqlite_with_rowid=False,
)
RESULTS = Table(
    "belay_results",
    METADATA,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("setting", Integer, primary_key=True, autoincrement=False),
    Column("seed", Integer, primary_key=True, autoincrement=False),
    Column("state", String(10), nullable=False),
    Column("message", Text, nullable=False),
    Column("diverged_at", Integer),
    Column("step", Integer),  # at which the objective was last reported
    Column("value", Float(53)),  # of the objective then
    Column("live", Float(53)),  # of the model's own weights then, where the objective is their average's
    Column("seconds", Float(53), nullable=False),
    Column("finished", Float(53), nullable=False),  # seconds since 1970
    sqlite_with_rowid=False,
)
HISTORIES = Table(
    "belay_histories",
    METADATA,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("setting", Integer, primary_key=True, autoincrement=False),
    Column("seed", Integer, primary_key=True, autoincrement=False),  # the first of those that the row holds
    Column(
        "histories", LargeBinary, nullable=False
    ),  # JSON, compressed by zlib: {metrics: names, seeds: [[seed, rows]]}
)
RIDERS = Table(
    "belay_riders",
    METADATA,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("setting", Integer, primary_key=True, autoincrement=False),  # their host
    Column("seed", Integer, primary_key=True, autoincrement=False),  # the first of those that the row holds
    Column("riders", LargeBinary, nullable=False),  # JSON, compressed by zlib: {seed: {metric: values, null for nan}}
    sqlite_with_rowid=False,
)
PRINTED = Table(
    "belay_printed",
    METADATA,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("setting", Integer, primary_key=True, autoincrement=False),
    Column("seed", Integer, primary_key=True, autoincrement=False),  # the first of those that trained
    Column("first", Integer, nullable=False),  # of the settings that trained together: the one whose row has the page
    Column("page", LargeBinary),  # JSON, compressed by zlib: {seeds: numbers, text: what was printed}
    sqlite_with_rowid=False,
)
LEASES = Table(
    "belay_leases",
    METADATA,
    Column("study", String(200), primary_key=True),
    Column("token", String(32), nullable=False),  # of this one holding
    Column("host", String(255), nullable=False),
    Column("process", Integer, nullable=False),
    Column("machine", String(255), nullable=False),
    Column("began", String(32), nullable=False),
    Column("since", Float(53), nullable=False),  # seconds since 1970, as `expires`
    Column("expires", Float(53), nullable=False),
)

OF_STUDIES = (SETTINGS, RESULTS, HISTORIES, RIDERS, PRINTED)  # whose rows are each a study's

UPGRADES: tuple[Callable[[Connection], None], ...] = (  # the n-th brings tables of version n to version n + 1
    lambda _: None,  # riders came, whose table is made as any that is missing
    lambda _: None,  # what settings print came, likewise
)


@contextmanager
def opened(url: str, making: bool) -> Iterator[Engine]:
    """The ledger's database for as long as the context lasts.

    Args:
        url: Of an SQLite file or of PostgreSQL.
        making: Whether to make what is missing of it and bring it up to date; otherwise it is only read, and may be
            read-only or of an older version.

    Raises:
        BadInput: It does not answer, or was written by a newer version.
    """
    if making:
        make_room("storage.url", url)
    engine = None
    try:
        engine = _engine(url, making)
        if making:
            with alone(url), engine.begin() as connection:
                METADATA.create_all(connection)
                _bring_up_to_date(connection, url)
        else:
            with engine.connect() as connection:
                if inspect(connection).has_table(VERSIONS.name):
                    _check_version(connection, url)
    except (SQLAlchemyError, ImportError, ValueError) as error:  # the latter of a port that is no number
        if engine is not None:
            engine.dispose()
        raise BadInput(
            f"`storage.url` must be a database that answers, got {without_password(url)}: "
            f"{reason(error, secrets(url))}; start or mend it."
        ) from None  # as its text may hold the password
    try:
        yield engine
    finally:
        engine.dispose()


def _engine(url: str, making: bool) -> Engine:
    file = sqlite_file(url)
    if file is None:
        return create_engine(with_password(url), pool_pre_ping=True, connect_args={"connect_timeout": PATIENCE})
    if making:
        return create_engine(url, connect_args={"timeout": BUSY})
    # `rw` makes no file that is missing, as SQLite does otherwise, and undoes what a killed driver left half written.
    there = f"file:{quote(make_url(url).database or '')}"
    again = URL.create("sqlite", database=there, query={"mode": "rw", "uri": "true"})
    return create_engine(again, connect_args={"timeout": BUSY}, poolclass=NullPool)


def _check_version(connection: Connection, url: str) -> int | None:
    """The version of the tables; None where they are new.

    Raises:
        BadInput: They are of a newer version.
    """
    version, newest = connection.execute(select(VERSIONS.c.version)).scalar(), len(UPGRADES) + 1
    if version is not None and version > newest:
        raise BadInput(
            f"the ledger must be of version {newest} or older, got {version} in {without_password(url)}; install the "
            "belay-study that wrote it, or name another `storage.url`."
        )
    return version


def _bring_up_to_date(connection: Connection, url: str) -> None:
    version, newest = _check_version(connection, url), len(UPGRADES) + 1
    if version is None:
        connection.execute(insert(VERSIONS).values(version=newest))
        return
    for upgrade in UPGRADES[version - 1 :]:
        upgrade(connection)
    connection.execute(update(VERSIONS).values(version=newest))

"""Where a study keeps its records unless told otherwise: SQLite files under ``.belay-study``, where it is run."""

from __future__ import annotations

import errno
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from study.errors import BadInput

HOME = Path(".belay-study")
SQLITE, IN_MEMORY = "sqlite:///", "sqlite://"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PATIENCE = 5  # seconds


def tracking_uri(given: str | None) -> str:
    """MLflow's tracking URI: as given, else the environment's MLFLOW_TRACKING_URI, else the embedded file."""
    return _anchored(given or os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + str(HOME / "mlflow.db"))


def storage_url(given: str | None) -> str:
    """Optuna's storage URL: as given, else the embedded file."""
    return _anchored(given or SQLITE + str(HOME / "optuna.db"))


def _anchored(url: str) -> str:
    """The URL with an SQLite file's path made absolute: MLflow keeps one store a URL, wherever it is asked from."""
    path = url.removeprefix(SQLITE)
    return url if path in (url, "", ":memory:") else SQLITE + str(Path.cwd() / path)


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL, or None if it is no such URL."""
    return Path(url.removeprefix(SQLITE).partition("?")[0]) if url.startswith(SQLITE) else None


def make_room(key: str, url: str) -> None:
    """Creates the folder of an SQLite file.

    Args:
        key: The entry of the config that gives the URL.
        url: Any database's URL.

    Raises:
        BadInput: It cannot be created or written, or the database would live in memory and end with the run.
    """
    file = sqlite_file(url)
    if url == IN_MEMORY or file in (Path(), Path(":memory:")):
        raise BadInput(f"`{key}` must name a file, got {url}; give e.g. {SQLITE}study.db.")
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError as error:
        raise BadInput(
            f"`{key}` must lie in a writable folder, got {url}: {error.strerror}; choose another."
        ) from error


def knock(url: str) -> None:
    """Makes sure that something answers at an HTTP or database URL; what is neither is taken on trust.

    Raises:
        OSError: Nothing does within a few seconds; MLflow itself would try for minutes.
    """
    if url.startswith(("http://", "https://")):
        place = urlsplit(url)
        plain = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()  # urllib takes no login there
        try:
            urllib.request.urlopen(plain, timeout=PATIENCE).close()
        except urllib.error.HTTPError as answer:  # all the same; later requests tell its meaning
            answer.close()
        except (urllib.error.URLError, http.client.HTTPException) as error:
            raise OSError(str(getattr(error, "reason", error))) from error
    elif url.startswith(DATABASES):
        _ask_database(url)


def _ask_database(url: str) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    local = url.startswith("sqlite")
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args={} if local else {"connect_timeout": PATIENCE})
        with engine.connect() as connection:
            connection.execute(text("PRAGMA schema_version" if local else "SELECT 1"))
    except SQLAlchemyError as error:
        raise OSError(str(getattr(error, "orig", None) or error)) from error


def without_password(url: str) -> str:
    """The URL as it may be shown: a password is replaced by stars."""
    scheme, separator, rest = url.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{scheme}{separator}{user}{colon}{'***' if colon else ''}{at}{host}" if at else url
    return re.sub(r"(password=)[^&]*", r"\1***", shown)

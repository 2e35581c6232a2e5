"""Where a study keeps its records unless told otherwise: SQLite files under ``.belay-study``, where it is run."""

from __future__ import annotations

import os
from pathlib import Path

from study.errors import BadInput

HOME = Path(".belay-study")
SQLITE = "sqlite:///"


def tracking_uri(given: str | None) -> str:
    """MLflow's tracking URI: as given, else the environment's MLFLOW_TRACKING_URI, else the embedded file."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + str(HOME / "mlflow.db")


def storage_url(given: str | None) -> str:
    """Optuna's storage URL: as given, else the embedded file."""
    return given or SQLITE + str(HOME / "optuna.db")


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL, or None if it is no such URL."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def make_room(key: str, url: str) -> None:
    """Creates the folder of an SQLite file.

    Raises:
        BadInput: It cannot be created or written.
    """
    file = sqlite_file(url)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise BadInput(
            f"`{key}` must lie in a writable folder, got {url}: {error.strerror}; choose another."
        ) from error


def without_password(url: str) -> str:
    """The URL as it may be shown: a password is replaced by stars."""
    scheme, separator, rest = url.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}{colon}{'***' if colon else ''}{at}{host}" if at else url

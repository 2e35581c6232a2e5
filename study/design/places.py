"""Where a study keeps its records: the URLs of the ledger and of MLflow's tracking store.

Unless told otherwise these are SQLite files under ``.belay-study`` in the working directory. A URL may name environment
variables, as in ``postgresql://user:${PGPASSWORD}@host/db``. Those of its login and query stay unread until a
connection is made, so that a password named in this way is held nowhere. A password that stands in the URL itself is
never shown.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from study.errors import BadInput, reason

HOME = Path(".belay-study")
SQLITE, IN_MEMORY = "sqlite:///", "sqlite://"
PATIENCE = 30  # seconds that a server may take to answer; one that refuses is told at once
MAKING = 0x62656C6179  # number of the lock that whoever makes the tables in a PostgreSQL database holds

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # kinds that MLflow keeps its records in

VARIABLE = re.compile(r"\$\{(\w*)\}")
# A password, in group 2: of a login all up to the last @ of a URL; of HTTP also a login of one word, which is a token.
LOGIN = re.compile(r"((?:(?<!sqlite)://|sqlite://(?!/))[^:]*:)(.*)(?=@)", re.DOTALL)
TOKEN = re.compile(r"(https?://)([^:]*)(?=@)", re.DOTALL)
QUERY = re.compile(r"([?&;][^=&;]*(?:pass|pwd|secret|token|odbc|(?<!ssl)key)[^=&;]*=)([^&;]*)", re.IGNORECASE)
PASSWORDS = (LOGIN, TOKEN, QUERY)

SCHEME = re.compile(r"[a-zA-Z][\w+.-]*:")
HOST = r"(?:\[[^]@/]*\]|[^:/?#@,\s]*)(?::(?:\d|\$\{\w*\})*)?"
PLACE = re.compile(  # what can be told from a password: a file, a name, a URL with a login, a URL without an @
    rf"sqlite:///.*|sqlite://|file:[^@]*|[\w./~${{}}-]*|{SCHEME.pattern}//"
    rf"(?:[^:]*:.*@.*|[^:@/?#]*@[^@]*|{HOST}(?:,{HOST})*(?:[/?#][^@]*)?)",
    re.DOTALL,
)


@dataclass(frozen=True, repr=False)
class Connections:
    """Where one study's records are.

    Attributes:
        storage: URL of the ledger's database, as `storage_url` gives it.
        tracking: MLflow's tracking URI, as `tracking_uri` gives it.
    """

    storage: str
    tracking: str

    @classmethod
    def of(cls, storage: str | None = None, tracking: str | None = None) -> Connections:
        """The connections that are given, each by default the environment's or an SQLite file.

        Raises:
            BadInput: A URL names an environment variable that is not set, or has unclear bounds of its password.
        """
        return cls(storage_url(storage), tracking_uri(tracking))

    def __repr__(self) -> str:
        shown = [f"{name}={without_password(url)!r}" for name, url in vars(self).items()]
        return f"Connections({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled: what Ray takes to its workers or to disk must hold no password."""
        raise TypeError("Connections must not be pickled: they may hold a password; connect where they are.")


def tracking_uri(given: str | None) -> str:
    """MLflow's tracking URI: as given, else the environment's MLFLOW_TRACKING_URI, else the embedded file.

    Raises:
        BadInput: It names an environment variable that is not set, or its password cannot be told from the rest.
    """
    return _resolved("tracking URI", given or os.environ.get("MLFLOW_TRACKING_URI"), HOME / "mlflow.db")


def storage_url(given: str | None) -> str:
    """The ledger's URL: as given, else the environment's BELAY_STORAGE_URL, else the embedded file.

    Raises:
        BadInput: It names an environment variable that is not set, or its password cannot be told from the rest.
    """
    return _resolved("storage URL", given or os.environ.get("BELAY_STORAGE_URL"), HOME / "ledger.db")


def database_url(given: str) -> str:
    """The URL of a database to connect to, with its environment variables filled in.

    Raises:
        BadInput: It names an environment variable that is not set, or its password cannot be told from the rest.
    """
    return with_password(_resolved("database's URL", given, HOME))


def _resolved(what: str, given: str | None, default: Path) -> str:
    url = _filled(given or SQLITE + str(default), private=False)
    with_password(url)  # says now if a variable is not set
    if not url.isprintable():
        raise BadInput(f"the {what} must have no control characters, got {without_password(url)}; remove them.")
    if not PLACE.fullmatch(url):
        raise BadInput(
            f"the {what} must be SCHEME://HOST or SCHEME://USER:PASSWORD@HOST and what follows, got "
            f"{without_password(url)}; write it so, with @ / ? # in other places than these as %40 %2F %3F %23."
        )
    if any(set("@/?#") & set(login[2]) for pattern in (LOGIN, TOKEN) if (login := pattern.search(url))):
        raise BadInput(
            f"the {what} must have @ / ? # in its password written as %40 %2F %3F %23, got {without_password(url)}; "
            "write them so, or name an environment variable in its place, as in ${PGPASSWORD}, which may hold them."
        )
    if url.startswith("sqlite") and QUERY.search(url):
        raise BadInput(f"the {what} must have no password for an SQLite file, got {without_password(url)}; remove it.")
    return _anchored(what, url)


def with_password(url: str) -> str:
    """The URL to connect by: the environment variables of its login and query are replaced by their values.

    Raises:
        BadInput: One of them is not set.
    """
    return _filled(url, private=True)


def _filled(url: str, private: bool) -> str:
    """Replaces environment variables in a URL.

    Args:
        url: The URL.
        private: Whether to replace those of its login and query, percent-encoded, or all others, as they are.
    """
    start = url.find("://")
    login_ends = -1 if start < 0 or url.startswith(SQLITE) else url.rfind("@")
    query = url.find("?", max(start, login_ends, 0)) if start >= 0 else -1

    def value(found: re.Match[str]) -> str:
        is_private = start < found.start() < login_ends or 0 <= query < found.start()
        if is_private != private:
            return found[0]
        if found[1] not in os.environ:
            raise BadInput(f"a URL must name environment variables that are set, got {found[0]}, which is not; set it.")
        return quote(os.environ[found[1]], safe="") if private else os.environ[found[1]]

    return VARIABLE.sub(value, url)


def _anchored(what: str, url: str) -> str:
    """The URL with an SQLite file's path made absolute, so that it names the same file in every directory.

    Raises:
        BadInput: SQLAlchemy or MLflow would take the path for another: a query begins at ?, and %41 may stand for A.
    """
    path, mark, query = url.removeprefix(SQLITE).partition("?")
    if not url.startswith(SQLITE) or path in ("", ":memory:"):
        return url
    file = str(Path.cwd() / path)
    if "?" in file or unquote(file) != file:
        raise BadInput(
            f"the {what} must be a file whose path has no ?, and no % before two hexadecimal digits, got {file}; "
            "rename its folder, or name a file elsewhere."
        )
    return f"{SQLITE}{file}{mark}{query}"


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
        raise BadInput(f"`{key}` must name a file, got {without_password(url)}; give e.g. {SQLITE}study.db.")
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
            f"`{key}` must lie in a writable folder, got {without_password(url)}: {error.strerror}; choose another."
        ) from error


def check_answers(url: str, patience: float = PATIENCE) -> None:
    """Makes sure that something answers at an HTTP or database URL; other URLs are not checked.

    Args:
        url: The URL.
        patience: Seconds that an HTTP server may take.

    Raises:
        OSError: Nothing does in time; MLflow itself would try for minutes. Its text holds no password.
    """
    url = with_password(url)
    if url.startswith(("http://", "https://")):
        place = urlsplit(url)
        plain = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()  # urllib takes no login there
        try:
            urllib.request.urlopen(plain, timeout=patience).close()
        except urllib.error.HTTPError as answer:  # an answer too: something listens there
            answer.close()
        except (urllib.error.URLError, http.client.HTTPException, ValueError) as error:
            raise OSError(reason(getattr(error, "reason", None) or error, secrets(url))) from None
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
    except (SQLAlchemyError, ValueError) as error:  # the latter of a port that is no number
        raise OSError(reason(error, secrets(url))) from None


def without_password(url: str) -> str:
    """The URL as it may be shown: with stars in place of a password; the name of an environment variable stays.

    Of a text whose password cannot be told from the rest only the scheme is shown.
    """
    if PLACE.fullmatch(url):
        return without_passwords(url)
    scheme = SCHEME.match(url)
    return f"{scheme[0] if scheme else ''}***"


def without_passwords(text: str) -> str:
    """Any text with stars in place of the passwords of well-formed URLs."""

    def hidden(found: re.Match[str]) -> str:
        return found[0] if VARIABLE.fullmatch(found[2]) or not found[2] else f"{found[1]}***"

    for pattern in PASSWORDS:
        text = pattern.sub(hidden, text)
    return text


def secrets(url: str) -> list[str]:
    """Every way in which the password of a URL may stand in another library's text, longest first."""
    found = [match[2] for pattern in PASSWORDS for match in pattern.finditer(with_password(url)) if match[2]]
    plain = [unquote(password) for password in found]
    forms = {*found, *plain, *(quote(password, safe="") for password in plain), *(repr(one)[1:-1] for one in plain)}
    return sorted(forms, key=len, reverse=True)


@contextmanager
def alone(url: str) -> Iterator[None]:
    """Keeps other processes from making the tables of a database meanwhile, which MLflow does not.

    Args:
        url: Of an SQLite file or a PostgreSQL database; any other is left to its server.
    """
    file = sqlite_file(url)
    if file is not None:
        name = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"belay-study-{os.getuid()}-{name}.lock"):
            yield
    elif url.startswith("postgresql"):
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        engine = create_engine(with_password(url), poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(f"select pg_advisory_lock({MAKING})"))  # given back with the connection
            yield
    else:
        yield
